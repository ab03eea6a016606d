"""A formula as people type it, as a graph: ``(x + y) * z`` with numbers for x, y and z.

The text is parsed by Python's own parser and then read by a small grammar of ours: numbers, names, ``+ - * / **``,
brackets, and calls of elementwise operations. Nothing is ever evaluated as Python.
"""

import ast
import functools
import math
import unicodedata
import warnings
from collections.abc import Mapping
from typing import NoReturn

import numpy as np

from nabi import ops
from nabi._tensor import Tensor, tensor
from nabi.errors import SettingError
from nabi.graph.operation import Operation, registry

LONGEST = 2000
"""Characters of an expression; this bounds how deep it can be nested, too."""

_CONSTANTS = {"pi": math.pi, "e": math.e}
_ALIASES = {"max": "maximum", "min": "minimum", "ln": "log"}
_OPERATORS: dict[type[ast.AST], str] = {
    ast.Add: "add",
    ast.Sub: "subtract",
    ast.Mult: "multiply",
    ast.Div: "divide",
    ast.Pow: "pow",
}
_INSTEAD = {ast.BitXor: "a power is written **", ast.MatMult: "a product is written *"}


def functions() -> list[str]:
    """The names that an expression may call: elementwise operations of numbers, and max, min and ln.

    Examples
    --------
    >>> {"sigmoid", "exp", "max"} <= set(functions()), "open" in functions()
    (True, False)
    """
    return sorted([*_ALIASES, *(name for name in registry if _callable(name))])


def _callable(name: str) -> bool:
    operation = registry[name]
    return (
        operation.kind == "elementwise"
        and operation.differentiable
        and operation.plain
        and all(setting in operation.defaults for setting in operation.setting_names)
        and name not in ("identity", "clip")
    )


def parse(expression: str, variables: Mapping[str, float]) -> Tensor:
    """Compute an expression, and give the number with the graph that it was made by.

    Parameters
    ----------
    expression : str
        Such as ``"(x + y) * z"`` or ``"sigmoid(w * x + b)"``; names in any script.
    variables : mapping of str to float
        A number for each name in it. ``pi`` and ``e`` are known unless they are given.

    Returns
    -------
    Tensor
        A float64 number; its graph's leaves carry the names, and gradients flow to them.

    Raises
    ------
    SettingError
        Where the expression is not in the grammar, with the column; or names and variables do not match.

    Examples
    --------
    >>> f = parse("(x + y) * z", {"x": -2, "y": 5, "z": -4})
    >>> f
    tensor(-12., dtype=float64)
    >>> parse("2x", {"x": 1})
    Traceback (most recent call last):
    nabi.errors.SettingError: column 1 of '2x': invalid decimal literal
    """
    if len(expression) > LONGEST:
        raise SettingError(f"an expression has at most {LONGEST:,} characters, not {len(expression):,}")
    source = "".join(" " if c in "\r\n\t\f\v" else c for c in expression).rstrip()
    stripped = source.lstrip()
    if not stripped:
        raise SettingError("the expression is empty")
    body = _tree(stripped, source)
    leaves = {unicodedata.normalize("NFKC", name): value for name, value in variables.items()}
    reader = _Reader(stripped, source, leaves)
    result = reader.read(body)
    for name in leaves:
        if name not in reader.used:
            raise SettingError(f"{name} is given a number, but does not stand in {_quoted(source)}")
    if not reader.used:
        raise SettingError(f"no name stands in {_quoted(source)}: there is nothing to differentiate by")
    return result


def _tree(stripped: str, source: str) -> ast.expr:
    shift = len(source) - len(stripped)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of literals that newer versions of Python frown upon
            return ast.parse(stripped, mode="eval").body
    except SyntaxError as error:
        column = min(max(1, (error.offset or 1)), len(stripped) + 1) + shift
        raise SettingError(f"column {column} of {_quoted(source)}: {error.msg}") from None
    except (ValueError, MemoryError, RecursionError, OverflowError) as error:
        raise SettingError(f"{_quoted(source)} cannot be read: {error or 'it is nested too deeply'}") from None


class _Reader:
    """Reads a tree without recursion, however deep it is: inputs before what uses them."""

    def __init__(self, stripped: str, source: str, variables: Mapping[str, float]) -> None:
        self._bytes = stripped.encode("utf-8", "replace")
        self._source = source
        self._shift = len(source) - len(stripped)
        self._variables = variables
        self.used: dict[str, Tensor] = {}

    def read(self, body: ast.expr) -> Tensor:
        pending = [body]
        order = []
        while pending:
            node = pending.pop()
            self._check(node)
            order.append(node)
            pending.extend(_inputs(node))
        values: dict[int, Tensor] = {}
        with np.errstate(all="ignore"):
            for node in reversed(order):
                values[id(node)] = self._value(node, [values[id(source)] for source in _inputs(node)])
        return values[id(body)]

    def _check(self, node: ast.expr) -> None:
        """Refuse what is not in the grammar."""
        if isinstance(node, ast.Call):
            self._check_call(node)
        elif isinstance(node, ast.BinOp):
            if type(node.op) not in _OPERATORS:
                instead = _INSTEAD.get(type(node.op), "there are + - * / **")
                self._refuse(node.right, f"the operator before it is not known here: {instead}")
        elif not isinstance(node, ast.Name | ast.Constant) and not (
            isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd)
        ):
            self._refuse(node, "only numbers, names, + - * / **, brackets and functions can stand here")

    def _check_call(self, node: ast.Call) -> None:
        if not isinstance(node.func, ast.Name) or node.func.id not in functions():
            what = node.func.id if isinstance(node.func, ast.Name) else "this"
            self._refuse(node.func, f"{what} is not a function here; there are {', '.join(functions())}")
        if node.keywords:
            self._refuse(node.keywords[0].value, "functions take numbers alone here, no settings")
        name, count = node.func.id, len(node.args)
        wanted = len(_operation(name).arrays)
        if count != wanted and not (name in ("max", "min") and count > 2):
            self._refuse(node, f"{name} takes {wanted} numbers, not {count}")

    def _value(self, node: ast.expr, inputs: list[Tensor]) -> Tensor:
        if isinstance(node, ast.Constant):
            return self._number(node)
        if isinstance(node, ast.Name):
            return self._name(node)
        if isinstance(node, ast.UnaryOp):
            return ops.negative(*inputs) if isinstance(node.op, ast.USub) else inputs[0]
        if isinstance(node, ast.BinOp):
            return registry[_OPERATORS[type(node.op)]](*inputs)  # type: ignore[no-any-return]
        assert isinstance(node, ast.Call)
        assert isinstance(node.func, ast.Name)
        function = _operation(node.func.id)
        return function(*inputs) if len(inputs) < 3 else functools.reduce(function, inputs)

    def _number(self, node: ast.Constant) -> Tensor:
        if isinstance(node.value, bool) or not isinstance(node.value, int | float):
            self._refuse(node, "only decimal numbers can stand here")
        try:
            return tensor(float(node.value), dtype="float64")
        except OverflowError:
            self._refuse(node, "this number is too large")

    def _name(self, node: ast.Name) -> Tensor:
        name = node.id
        if name not in self.used:
            if name not in self._variables:
                if name in _CONSTANTS:
                    return tensor(_CONSTANTS[name], dtype="float64")
                self._refuse(node, f"{name} has no number: give it one, as in {name}=2")
            self.used[name] = tensor(float(self._variables[name]), name, requires_grad=True, dtype="float64")
        return self.used[name]

    def _refuse(self, node: ast.expr, why: str) -> NoReturn:
        column = len(self._bytes[: node.col_offset].decode("utf-8", "replace")) + 1 + self._shift
        raise SettingError(f"column {column} of {_quoted(self._source)}: {why}")


def _inputs(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.BinOp):
        return [node.left, node.right]
    if isinstance(node, ast.UnaryOp):
        return [node.operand]
    return node.args if isinstance(node, ast.Call) else []


def _operation(name: str) -> Operation:
    return registry[_ALIASES.get(name, name)]


def _quoted(source: str) -> str:
    return repr(source if len(source) <= 60 else source[:59] + "…")
