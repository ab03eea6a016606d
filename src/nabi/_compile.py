"""Compilation: a function is run once on symbols, and what it did is then repeated on numbers.

A symbol has a shape and a dtype, but no value. Whatever would need one (a branch, ``float(x)``, ``x.numpy()``) is
refused with a word on what to write instead, so that no value is ever frozen in silence.
"""

import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from nabi import engines
from nabi._tensor import Tensor, coerce, part
from nabi.errors import CompileError, DTypeError, ShapeError
from nabi.graph import nest
from nabi.graph.interpreter import interpreting, scope, stack
from nabi.graph.operation import Operation, operations
from nabi.graph.plan import Plan, make_plan
from nabi.graph.shapes import Spec, infer

log = logging.getLogger("nabi.compile")


class Symbol(Tensor):
    """A tensor without a value, inside a function that is being recorded."""

    __slots__ = ("owner", "spec", "weak")

    def __init__(
        self,
        owner: "Recorder",
        spec: Any,
        operation: Operation | None = None,
        inputs: tuple[Tensor, ...] = (),
        settings: dict[str, Any] | None = None,
        requires_grad: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__(None, operation, inputs, settings, requires_grad, name)
        self.owner = owner
        self.spec = spec  # type: ignore[misc]
        self.weak = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.spec.shape  # type: ignore[no-any-return]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.spec.dtype  # type: ignore[no-any-return]

    def parts(self) -> Any:
        if not isinstance(self.spec, tuple):
            return self
        return tuple(
            Symbol(self.owner, spec, part, (self,), {"index": i}, self.requires_grad)
            for i, spec in enumerate(self.spec)
        )

    def __repr__(self) -> str:
        return f"<symbol {self.name or ''}{self.spec}>"

    def _read(self, what: str) -> Any:
        hints = {
            "bool()": "write nabi.ops.where(condition, x, y) for a branch, or pass what decides as a keyword",
            "int()": "pass an integer that decides on shapes as a keyword",
            "an index": "pass an integer that decides on shapes as a keyword",
        }
        hint = hints.get(what, "compute with the tensor itself, or return it")
        raise CompileError(
            f"{what} of {self._called()} inside a compiled function: it has no value while it is recorded; {hint}"
        )


class Recorder:
    """The interpreter that records: operations on symbols give symbols."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self.state = {id(t): Symbol(self, Spec(t.shape, t.dtype), None, (), None, t.requires_grad, t.name or path)
                      for path, t in state.items()}  # fmt: skip
        self.first = dict(self.state)
        self.constants: dict[int, Tensor] = {}

    def apply(self, operation: Operation, arguments: tuple[Any, ...], settings: dict[str, Any]) -> Any:
        lifted = tuple(coerce(operation, arguments, self.lift))
        if operation.composite:
            if operation.checker is not None:
                operation.checker(*lifted, **settings)
            with scope(operation.name):
                return operation.forward(operations, *lifted, **settings)
        spec = infer(operation, [a.spec for a in lifted], settings)
        wanted = operation.differentiable and stack.remember and any(a.requires_grad for a in lifted)
        return Symbol(self, spec, operation, lifted, settings, wanted).parts()

    def lift(self, argument: Any, dtype: Any) -> Any:
        """What stands for an argument in the graph: a symbol, or a constant."""
        if isinstance(argument, Symbol):
            if argument.owner is not self:
                raise CompileError(
                    f"{argument._called()} belongs to another compiled function, or an earlier recording"
                )
            return argument
        if isinstance(argument, Tensor):
            if id(argument) in self.state:
                return self.state[id(argument)]
            if id(argument) in self.constants:
                return argument
            raise CompileError(
                f"{argument._called()} is used by a compiled function but not declared: pass it as an argument, or "
                "name it (or the model or optimiser that holds it) in state="
            )
        if isinstance(argument, bool | int | float):
            value = np.asarray(argument, dtype=dtype or np.asarray(argument).dtype)[()]
        else:
            value = np.array(argument)[()]
        constant = Tensor(value)
        self.made(constant)
        return constant

    def made(self, constant: Tensor) -> None:
        """Take note of a tensor made while recording: a constant of the graph."""
        self.constants[id(constant)] = constant

    def assign(self, target: Tensor, value: Any) -> None:
        """Record that a state tensor has another value from here on."""
        if id(target) not in self.first:
            raise CompileError(
                f"assign: {target._called()} is changed by a compiled function but not declared: "
                "name it (or the model or optimiser that holds it) in state="
            )
        new = self.lift(value, target.dtype)
        if new.weak is not None:
            new = operations.astype(new, dtype=target.dtype)
        if new.shape != target.shape:
            raise ShapeError(f"assign: {target._called()} has shape {target.shape}, the new value {new.shape}")
        if new.dtype != target.dtype:
            raise DTypeError(f"assign: {target._called()} has dtype {target.dtype}, the new value {new.dtype}")
        current = operations.identity(operations.stop_gradient(new))
        current.requires_grad = target.requires_grad
        self.state[id(target)] = current


class Recording(NamedTuple):
    """What was recorded for one set of shapes, dtypes and settings."""

    plan: Plan
    run: engines.Run
    rebuild: Callable[[list[Any]], Any]
    updates: list[Tensor]


class Compiled:
    """A function that was, or will be, recorded; made by `compile`.

    Attributes
    ----------
    recordings : list of str
        For each recording made so far, why it was needed.
    """

    def __init__(self, function: Callable[..., Any], state: Any, engine: str) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.state = state
        self.engine = engine
        self.recordings: list[str] = []
        self._cache: dict[Any, Recording] = {}
        self._last: dict[str, Any] = {}

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        if stack.recording:  # inside another compiled function: part of its graph
            return self.function(*arguments, **keywords)
        leaves, rebuild = nest.flatten(arguments)
        given = [_as_input(leaf, i) for i, leaf in enumerate(leaves)]
        state = nest.tensors(self.state)
        recording = self._lookup(leaves, given, rebuild, keywords, state)
        inputs = [*given, *(t.value for t in state.values())]
        values = [_own(value, inputs) for value in recording.run(inputs)]
        fresh = len(values) - len(recording.updates)
        for target, value in zip(recording.updates, values[fresh:], strict=True):
            target.value = value
        return recording.rebuild([Tensor(value) for value in values[:fresh]])

    def plan(self, *arguments: Any, **keywords: Any) -> Plan:
        """The plan for these arguments: recorded where it is not yet, but not run."""
        leaves, rebuild = nest.flatten(arguments)
        given = [_as_input(leaf, i) for i, leaf in enumerate(leaves)]
        return self._lookup(leaves, given, rebuild, keywords, nest.tensors(self.state)).plan

    def _lookup(
        self, leaves: list[Any], given: list[Any], rebuild: nest.Rebuild, keywords: Any, state: dict[str, Tensor]
    ) -> Recording:
        parts = self._key(leaves, given, rebuild, keywords, state)
        key = tuple(parts.items())
        found = self._cache.get(key)
        if found is None:
            why = _difference(self._last, parts)
            self.recordings.append(why)
            log.info("recording %s: %s", getattr(self, "__name__", "a function"), why)
            found = self._cache[key] = self._record(leaves, given, rebuild, keywords, state)
        self._last = parts
        return found

    def _key(
        self, leaves: list[Any], given: list[Any], rebuild: nest.Rebuild, keywords: Any, state: dict[str, Tensor]
    ) -> dict[str, Any]:
        """Everything that a recording holds for, by what it is called."""
        parts: dict[str, Any] = {"the form of the arguments": repr(rebuild(["*"] * len(leaves)))}
        for i, (leaf, value) in enumerate(zip(leaves, given, strict=True)):
            weak = type(leaf) if isinstance(leaf, bool | int | float) else None
            wanted = isinstance(leaf, Tensor) and leaf.requires_grad
            parts[f"argument {i}"] = (value.shape, value.dtype, weak, wanted)
        for name, value in sorted(keywords.items()):
            parts[f"keyword {name}"] = _fingerprint(value, f"keyword {name}")
        for name, value in _surroundings(self.function):
            parts[name] = _fingerprint(value, name)
        for path, leaf in nest.fields(self.state):
            name = f"state {path}"
            parts[name] = (id(leaf), leaf.shape, leaf.dtype) if path in state else _fingerprint(leaf, name)
        parts["gradients remembered"] = stack.remember
        return parts

    def _record(
        self, leaves: list[Any], given: list[Any], rebuild: nest.Rebuild, keywords: Any, state: dict[str, Tensor]
    ) -> Recording:
        recorder = Recorder(state)
        symbols = []
        for i, (leaf, value) in enumerate(zip(leaves, given, strict=True)):
            is_tensor = isinstance(leaf, Tensor)
            name = leaf.name if is_tensor and leaf.name else f"argument {i}"
            symbol = Symbol(recorder, Spec(value.shape, value.dtype), name=name)
            symbol.requires_grad = is_tensor and leaf.requires_grad
            if isinstance(leaf, bool | int | float) and not isinstance(leaf, np.generic):
                symbol.weak = bool if isinstance(leaf, bool) else int if isinstance(leaf, int) else float
            symbols.append(symbol)
        with interpreting(recorder):
            result = self.function(*rebuild(symbols), **keywords)
            outputs, again = nest.flatten(result)
            is_output = [isinstance(o, Tensor) for o in outputs]
            traced = [recorder.lift(o, None) for o in outputs if isinstance(o, Tensor)]
        updates = [t for t in state.values() if recorder.state[id(t)] is not recorder.first[id(t)]]
        plan = make_plan(
            [*symbols, *(recorder.first[id(t)] for t in state.values())],
            [*traced, *(recorder.state[id(t)] for t in updates)],
        )

        def rebuild_results(results: list[Any]) -> Any:
            rest = iter(results)
            return again([next(rest) if traced else o for o, traced in zip(outputs, is_output, strict=True)])

        return Recording(plan, engines.prepare(self.engine, plan), rebuild_results, updates)


def compile(function: Callable[..., Any] | None = None, *, state: Any = (), engine: str = "auto") -> Any:
    """Compile a function of tensors: it is recorded once, and then runs as a plan.

    Parameters
    ----------
    function : callable
        What it computes must depend on its arguments and on ``state`` alone. Positional tensors, arrays and Python
        numbers may change from call to call; a new shape or dtype, or another keyword, is recorded anew. Numbers,
        strings and the like in keywords, closure cells, referenced globals and plain fields of state objects are
        watched: where one changes, the function is recorded again. What else it reads is taken as constant.
    state : nest of lists, tuples, dicts and objects
        Everything with tensors that the function reads or changes without being given it: models, optimisers. Only
        `Tensor.assign` changes them.
    engine : str
        "reference" or "auto".

    Raises
    ------
    CompileError
        At the first call, where the function asks for the value of a tensor, or uses one that was not declared.

    Examples
    --------
    >>> import nabi
    >>> total = nabi.tensor(0.0, name="total")
    >>> @nabi.compile(state=total)
    ... def add(x):
    ...     total.assign(total + x)
    ...     return total * 2
    >>> add(1.0), add(2.0), total
    (tensor(2.), tensor(6.), tensor(3., name='total'))
    """
    if function is None:
        return functools.partial(compile, state=state, engine=engine)
    return Compiled(function, state, engine)


def _as_input(leaf: Any, place: int) -> Any:
    if isinstance(leaf, Tensor):
        return leaf.value
    if isinstance(leaf, np.ndarray | np.generic | bool | int | float):
        return np.asarray(leaf)[()]
    raise CompileError(
        f"argument {place} of a compiled function is {type(leaf).__name__}: "
        "tensors, arrays and numbers are given by position, everything else as a keyword"
    )


def _own(value: Any, inputs: list[Any]) -> Any:
    """The value in an array of its own, where it is only a view of another or was given from outside."""
    if isinstance(value, np.ndarray) and (value.base is not None or any(value is given for given in inputs)):
        return value.copy()
    return value


_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(Ellipsis), np.dtype, np.generic)


def _fingerprint(value: Any, name: str) -> Any:
    """Something hashable that changes where a plain value changes; other things are told apart by identity."""
    if isinstance(value, _PLAIN):
        return type(value), value
    if isinstance(value, list | tuple):
        return type(value), tuple(_fingerprint(item, name) for item in value)
    if isinstance(value, dict):
        return dict, tuple((key, _fingerprint(item, name)) for key, item in value.items())
    return id(value)


def _surroundings(function: Any) -> list[tuple[str, Any]]:
    """What a function reads from around it: closure cells and referenced globals, by name."""
    function = getattr(function, "__func__", function)
    code = getattr(function, "__code__", None)
    if code is None:
        return []
    cells = zip(code.co_freevars, function.__closure__ or (), strict=True)
    around = [(f"closure {name}", cell.cell_contents) for name, cell in cells if _is_set(cell)]
    known = function.__globals__
    return around + [(f"global {name}", known[name]) for name in code.co_names if name in known]


def _is_set(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    if not before:
        return "first call"
    changed = [name for name in now if before.get(name, now) != now[name]]
    gone = [name for name in before if name not in now]
    return "changed: " + ", ".join([*changed, *gone]) if changed or gone else "an earlier form again"
