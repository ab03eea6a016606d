"""What an operation is: its formula over an array namespace, and the gradient of that formula.

An operation is declared once, as functions of ``xp``, an array namespace that is passed in::

    @operation("elementwise", floating=True, example=[positive(2, 3)])
    def sqrt(xp, x):
        \"\"\"y = √x\"\"\"
        return xp.sqrt(x)

    sqrt.vjp(x=lambda xp, g, y, x: g / (2 * y))

What ``xp`` is decides what happens: NumPy computes; `operations` makes a graph; ``jax.numpy`` traces for XLA;
`nabi.graph.shapes` answers shape and dtype alone; `nabi.graph.mathematics` writes the formula down as people write it.
The first line of the docstring is what they are shown of it.

Declaring one puts it into `registry`, which every suite, engine and drawing enumerates.
"""

import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from nabi.errors import DTypeError, SettingError
from nabi.graph.interpreter import stack
from nabi.graph.operators import Operators

Formula = Callable[..., Any]

BEGUN = time.time()
"""When this process began to read the files that declare operations: what changes later is not what it runs."""

KINDS = {
    "elementwise": "each output element depends on the input elements at its place",
    "reduction": "axes are folded away",
    "movement": "elements change place, not value",
    "indexing": "elements are picked or placed by integer arrays",
    "contraction": "products are summed over shared axes",
    "window": "a window slides over height and width",
    "normalization": "standardised over some axes",
    "random": "numbers drawn from a key",
    "creation": "made from settings alone",
    "projection": "one part of a tuple",
    "composite": "written in other operations, and differentiated through them",
}


class Integer:
    """Annotation of an argument that holds integers: neither promoted nor differentiated."""


class Boolean:
    """Annotation of an argument that holds truth values: neither promoted nor differentiated."""


class AsIs:
    """Annotation of an argument that keeps its dtype, whatever that is."""


class Draw(NamedTuple):
    """One array of an example: its shape, and where its values may come from."""

    shape: tuple[int, ...]
    domain: str | int = "real"  # "real", "positive", "unit", "boolean", "key", or an integer upper bound


def real(*shape: int) -> Draw:
    """An array of normally distributed numbers."""
    return Draw(shape)


def positive(*shape: int) -> Draw:
    """An array of numbers between 0.5 and 2.5."""
    return Draw(shape, "positive")


def below(bound: int, *shape: int) -> Draw:
    """An array of integers from 0 up to ``bound``, itself excluded."""
    return Draw(shape, bound)


def boolean(*shape: int) -> Draw:
    """An array of truth values."""
    return Draw(shape, "boolean")


def key() -> Draw:
    """A key of the random generator."""
    return Draw((2,), "key")


class Example(NamedTuple):
    """One way of calling an operation, from which the suites start."""

    arrays: tuple[Draw, ...]
    settings: dict[str, Any]


class Operation:
    """A declared operation; calling it asks the interpreter in charge to carry it out.

    Attributes
    ----------
    name : str
        Its name in ``nabi.ops`` and in every ``xp``.
    kind : str
        One of `KINDS`.
    forward : callable
        ``forward(xp, *arrays, **settings)``.
    mathematics : str
        The first line of the docstring.
    arrays : tuple of str
        The names of the array arguments.
    rules : dict of int to callable
        For the array argument at each position, ``rule(xp, g, y, *arrays, **settings)``: the vector-Jacobian product.
    examples : list of Example
        Calls that the suites start from.
    """

    def __init__(self, forward: Formula, kind: str, floating: bool, differentiable: bool) -> None:
        if kind not in KINDS:
            raise SettingError(f"operation {forward.__name__}: kind {kind!r} is not one of {', '.join(KINDS)}")
        parameters = list(inspect.signature(forward).parameters.values())[1:]
        positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        self.name = forward.__name__.removesuffix("_")
        self.kind = kind
        self.forward = forward
        self.floating = floating
        self.differentiable = differentiable
        self.composite = kind == "composite"
        self.native = self.name in forward.__code__.co_names  # the formula is the library's own function
        self.arrays = tuple(p.name for p in positional)
        self.variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        self.holds = tuple(p.annotation if p.annotation in (Integer, Boolean, AsIs) else None for p in positional)
        rest = next((p.annotation for p in parameters if p.kind is p.VAR_POSITIONAL), None)
        self.rest_holds = rest if rest in (Integer, Boolean, AsIs) else None
        self.plain = not any(self.holds) and self.rest_holds is None  # every array is promoted
        self.setting_names = tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)
        self.defaults = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is not p.empty}
        self.rules: dict[int, Formula] = {}
        self.rest_rule: Formula | None = None
        self.checker: Callable[..., None] | None = None
        self.examples: list[Example] = []
        self.__doc__ = forward.__doc__
        self.__name__ = self.name
        self.__wrapped__ = forward
        self.mathematics = (inspect.getdoc(forward) or self.name).splitlines()[0]

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        if self.variadic:
            if len(arguments) == 1 and isinstance(arguments[0], list | tuple):
                arguments = tuple(arguments[0])
        elif len(arguments) > len(self.arrays):
            extra = arguments[len(self.arrays) :]
            arguments = arguments[: len(self.arrays)]
            if len(extra) > len(self.setting_names):
                raise TypeError(f"{self.name} takes {len(self.arrays)} arrays and {len(self.setting_names)} settings")
            settings = dict(zip(self.setting_names, extra, strict=False)) | settings
        if len(arguments) < len(self.arrays):
            raise TypeError(f"{self.name} is missing its argument {self.arrays[len(arguments)]!r}")
        if self.setting_names or settings:
            settings = self.complete(settings)
        return stack.top.apply(self, arguments, settings)  # type: ignore[union-attr]

    def complete(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Fill in defaults, and turn lists into tuples so that settings can be hashed."""
        given = {name: _plain(self.name, name, value) for name, value in settings.items()}
        if isinstance(given.get("shape"), int):
            given["shape"] = (given["shape"],)
        for name in given:
            if name not in self.setting_names:
                allowed = ", ".join(self.setting_names) or "none"
                raise TypeError(f"{self.name} has no setting {name!r}; its settings are: {allowed}")
        complete = {**self.defaults, **given}
        for name in self.setting_names:
            if name not in complete:
                raise TypeError(f"{self.name} needs the setting {name!r}")
        return complete

    def vjp(self, *names: str, **rules: Formula) -> Callable[[Formula], Formula]:
        """Declare the vector-Jacobian product for one argument or several.

        Each rule is ``rule(xp, g, y, *arrays, **settings)``: from ``g``, the gradient on the output ``y``, to the
        gradient on that argument, or None where nothing flows into it. Where the output is a tuple, so is ``g``, with
        None for parts nothing flows into. Where an argument was broadcast, the rule answers in the broadcast shape:
        the walk sums it back.

        One line fits into a keyword, ``multiply.vjp(x=lambda xp, g, z, x, y: g * y)``; what needs more is decorated,
        ``@conv2d.vjp("weight")``.
        """
        for name, rule in rules.items():
            self.rules[self.arrays.index(name)] = rule

        def declare(rule: Formula) -> Formula:
            for name in names:
                self.rules[self.arrays.index(name)] = rule
            return rule

        return declare

    def vjp_rest(self, rule: Formula) -> Formula:
        """Declare the rule for every one of ``*arrays``: ``rule(xp, index, g, y, *arrays, **settings)``."""
        self.rest_rule = rule
        return rule

    def rule(self, index: int) -> Formula | None:
        """The vector-Jacobian product for the array argument at ``index``, or None."""
        if index in self.rules:
            return self.rules[index]
        if self.rest_rule is not None and index >= len(self.arrays):
            rest = self.rest_rule
            return lambda xp, *values, **settings: rest(xp, index, *values, **settings)
        return None

    def check(self, checker: Callable[..., None]) -> Callable[..., None]:
        """Declare the check of shapes: it sees whatever has ``.shape`` and ``.dtype``, and raises ShapeError."""
        self.checker = checker
        return checker

    def example(self, *arrays: Draw, **settings: Any) -> None:
        """Add a call for the suites to start from."""
        self.examples.append(Example(arrays, settings))

    def __repr__(self) -> str:
        return f"<operation {self.name}: {self.mathematics}>"


registry: dict[str, Operation] = {}


def operation(
    kind: str,
    *,
    floating: bool = False,
    differentiable: bool = True,
    example: Sequence[Draw] | None = None,
    **settings: Any,
) -> Callable[[Formula], Operation]:
    """Declare an operation.

    Parameters
    ----------
    kind : str
        One of `KINDS`: what an engine needs to know to treat it well.
    floating : bool
        Integers given to it become float32 first.
    differentiable : bool
        False for steps and draws, through which no gradient flows.
    example : sequence of Draw, optional
        Arrays for one call; ``settings`` are that call's settings. More can be added with ``.example``.
    """

    def declare(forward: Formula) -> Operation:
        made = Operation(forward, kind, floating, differentiable)
        if made.name in registry:
            raise SettingError(f"an operation named {made.name!r} is declared already")
        if example is not None:
            made.example(*example, **settings)
        registry[made.name] = made
        return made

    return declare


class _Operations:
    """The namespace whose functions are the declared operations: as ``xp``, it makes a graph."""

    def __getattr__(self, name: str) -> Any:
        try:
            found = registry[name]
        except KeyError:
            raise AttributeError(f"no operation is named {name!r}") from None
        setattr(self, name, found)
        return found


operations = _Operations()


DTYPES = tuple(np.dtype(name) for name in "bool uint8 uint32 int32 int64 float32 float64".split())
"""The dtypes that a tensor can have."""


def _plain(operation: str, name: str, value: Any) -> Any:
    """A setting as something that can be hashed and does not change: lists as tuples, NumPy's scalars as Python's."""
    if type(value) in (list, tuple):
        return tuple(_plain(operation, name, item) for item in value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Operators | np.ndarray):
        raise TypeError(f"{operation}: the setting {name!r} is a plain value, not a tensor or an array")
    if name == "dtype":
        if np.dtype(value) not in DTYPES:
            raise DTypeError(f"{operation}: dtype {np.dtype(value)} is not one of {', '.join(map(str, DTYPES))}")
        return np.dtype(value)
    return value
