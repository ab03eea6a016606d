"""Compilation: a function is run once on symbols, and what it did is then repeated on numbers.

A symbol has a shape and a dtype, but no value. Whatever would need one (a branch, ``float(x)``, ``x.numpy()``) is
refused with a word on what to write instead, so that no value is ever frozen in silence.
"""

import functools
import itertools
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np

from nabi import engines, threads
from nabi._tensor import Tensor, coerce, part, weak_kind
from nabi._watch import Sight, fingerprint, watch, watch_state
from nabi.errors import CompileError, DTypeError, GraphError, ShapeError
from nabi.graph import nest
from nabi.graph.interpreter import interpreting, scope, stack
from nabi.graph.operation import Operation, operations
from nabi.graph.plan import Plan, make_plan
from nabi.graph.shapes import Spec, infer

log = logging.getLogger("nabi.compile")

KEPT = 64
"""Recordings that a compiled function keeps."""


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
        self.weak: type | None = None

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
        self.first: dict[int, Symbol] = {}
        for path, t in state.items():
            symbol = Symbol(self, Spec(t.shape, t.dtype), requires_grad=t.requires_grad, name=t.name or path)
            self.first[id(t)] = symbol
        self.state = dict(self.first)
        self.former: dict[int, list[Symbol]] = {}
        self.constants: dict[int, Tensor] = {}

    def apply(self, operation: Operation, arguments: tuple[Any, ...], settings: dict[str, Any]) -> Any:
        weak = operation.kind == "elementwise" and all(weak_kind(a) is not None for a in arguments)
        lifted = tuple(self._numbers(arguments) if weak else coerce(operation, arguments, self.lift))
        if operation.composite:
            if operation.checker is not None:
                operation.checker(*lifted, **settings)
            with scope(operation.name):
                return operation.forward(operations, *lifted, **settings)
        spec = infer(operation, [a.spec for a in lifted], settings)
        wanted = operation.differentiable and stack.remember and any(a.requires_grad for a in lifted)
        if wanted and not operation.plain and spec.dtype.kind != "f":
            wanted = False
        result = Symbol(self, spec, operation, lifted, settings, wanted)
        if weak:  # numbers computed from numbers are as exact, and as yielding, as Python's own
            result.weak = {"b": bool, "i": int, "f": float}[spec.dtype.kind]
        return result.parts()

    def _numbers(self, arguments: tuple[Any, ...]) -> list[Any]:
        """Python numbers, and symbols that stand for them, in float64 where any is a float."""
        dtype = np.dtype(np.float64 if float in map(weak_kind, arguments) else np.int64)
        lifted = [self.lift(a, dtype) for a in arguments]
        for i, symbol in enumerate(lifted):
            if symbol.dtype != dtype:
                lifted[i] = Symbol(self, Spec((), dtype), operations.astype, (symbol,), {"dtype": dtype})
        return lifted

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
        if weak_kind(argument) is not None:
            value = np.asarray(argument, dtype=dtype or np.asarray(argument).dtype)[()]
        else:
            value = np.array(argument)[()]
        constant = Tensor(value)
        self.made(constant)
        return constant

    def made(self, constant: Tensor) -> None:
        """Take note of a tensor made while recording: a constant of the graph."""
        self.constants[id(constant)] = constant

    def versions(self, target: Tensor) -> list[Any]:
        """What stood for a state tensor so far, the current one last."""
        return [*self.former.get(id(target), ()), self.lift(target, None)]

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
        self.former.setdefault(id(target), []).append(self.state[id(target)])
        self.state[id(target)] = current


Key = tuple[Any, ...]


@dataclass(slots=True)
class Recording:
    """What was recorded for one set of shapes, dtypes and settings."""

    parts: dict[str, Any]  # all that it holds for, by name
    plan: Plan
    run: engines.Run
    rebuild: Callable[[list[Any]], Any]
    state: list[Tensor]
    updates: list[Tensor]  # those of the state that change
    trained: tuple[Tensor, ...]  # those that require a gradient
    flows: list[bool]  # for each result, whether a gradient would flow out of it
    used: int = 0  # when it was last used, counted in calls


class Around(NamedTuple):
    """What a compiled function reads beside its arguments."""

    function: Callable[..., Any]
    nest: Any  # the state as it was given
    sight: Sight
    parts: dict[str, Any]
    key: Key
    state: dict[str, Tensor]
    recordings: dict[Key, Recording]  # by the key of the call


class Compiled:
    """A function that was, or will be, recorded; made by `compile`.

    Called from several threads, it is recorded once, and calls that change state take turns, so that each finds what
    the one before it left. (Calls of *another* function with the same state do not wait for these.)

    Attributes
    ----------
    recordings : list of str
        For each recording made so far, why it was needed.
    """

    def __init__(self, function: Callable[..., Any], state: Any, engine: str, precision: str) -> None:
        engines.check(engine, precision)
        functools.update_wrapper(self, function)
        self.function = function
        self.state = state
        self.engine = engine
        self.precision = precision
        self.recordings: list[str] = []
        self._cache: dict[Key, dict[Key, Recording]] = {}  # by what is around, and by the call
        self._around: Around | None = None
        self._last: Recording | None = None
        self._calls = itertools.count()
        self._turns: dict[tuple[str, int], threading.RLock] = {}

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        if stack.recording or stack.differentiating:  # part of a larger graph
            return self.function(*arguments, **keywords)
        inputs, key, differentiable = _taken_apart(arguments, keywords)
        if differentiable and stack.remember:
            return self.function(*arguments, **keywords)  # the caller may want to differentiate on them
        recording = self._lookup(key, arguments, keywords)
        if not recording.updates:
            return self._run(recording, inputs)
        with self._turn("run"):
            return self._run(recording, inputs)

    def _run(self, recording: Recording, inputs: list[Any]) -> Any:
        inputs += [t.held for t in recording.state]
        values = recording.run(inputs)
        for place, target in enumerate(recording.updates, len(recording.flows)):
            target.held = values[place]
        results = [
            Tensor(values[place], compiled_result, recording.trained, {}, True) if flows else Tensor(values[place])
            for place, flows in enumerate(recording.flows)
        ]
        return recording.rebuild(results)

    def _turn(self, at: str) -> threading.RLock:
        """What lets one thread in at a time; another one after a fork, whose threads are not there to leave it."""
        place = at, threads.forks
        return self._turns.get(place) or self._turns.setdefault(place, threading.RLock())

    def plan(self, *arguments: Any, **keywords: Any) -> Plan:
        """The plan for these arguments: recorded where it is not yet, but not run."""
        return self._lookup(_taken_apart(arguments, keywords)[1], arguments, keywords).plan

    def _lookup(self, key: Key, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Recording:
        found = self._seen().recordings.get(key)
        if found is None:
            with self._turn("record"):
                around = self._seen()  # while this thread waited, another may have changed something, or recorded it
                around = self._around = around._replace(recordings=self._cache.get(around.key, around.recordings))
                found = around.recordings.get(key)
                if found is None:
                    leaves, rebuild = nest.flatten(arguments)
                    parts = _parts(key, len(leaves), around)
                    why = _difference(self._last.parts if self._last else {}, parts)
                    self.recordings.append(why)
                    log.info("recording %s: %s", getattr(self, "__name__", "a function"), why)
                    found = self._record(leaves, rebuild, keywords, around.state, parts)
                    self._keep(found, key, around)
        found.used = next(self._calls)
        self._last = found
        return found

    def _keep(self, new: Recording, key: Key, around: Around) -> None:
        if sum(map(len, self._cache.values())) >= KEPT:
            log.warning("%s has %d recordings: the oldest is dropped", getattr(self, "__name__", "it"), KEPT)
            found = [(r.used, place, call) for place, calls in self._cache.items() for call, r in calls.items()]
            _, place, call = min(found, key=itemgetter(0))
            del self._cache[place][call]
            if not self._cache[place]:
                del self._cache[place]
        around.recordings[key] = new
        self._cache[around.key] = around.recordings

    def _seen(self) -> Around:
        """What is around; looked at anew where something is not as it was."""
        around = self._around
        if (
            around is None
            or around.function is not self.function
            or around.nest is not self.state
            or not around.sight.unchanged()
        ):
            around = self._around = self._look()
        return around

    def _look(self) -> Around:
        """Look around: everything that a recording holds for beside the call, by what it is called."""
        sight = Sight()
        parts: dict[str, Any] = {}
        function, state = self.function, self.state
        watch(parts, function, sight)
        watch_state(parts, state, sight)
        key = tuple(parts.items())
        return Around(function, state, sight, parts, key, nest.tensors(state), self._cache.get(key, {}))

    def _record(
        self,
        leaves: Sequence[Any],
        nested: nest.Rebuild,
        keywords: dict[str, Any],
        state: dict[str, Tensor],
        parts: dict[str, Any],
    ) -> Recording:
        recorder = Recorder(state)
        symbols = []
        for i, leaf in enumerate(leaves):
            value, is_tensor = _as_input(leaf, i), isinstance(leaf, Tensor)
            name = leaf.name if is_tensor and leaf.name else f"argument {i}"
            symbol = Symbol(recorder, Spec(value.shape, value.dtype), name=name)
            symbol.requires_grad = is_tensor and leaf.requires_grad
            symbol.weak = weak_kind(leaf)
            symbols.append(symbol)
        with interpreting(recorder):
            result = self.function(*nested(symbols), **keywords)
            outputs, again = nest.flatten(result)
            is_output = [isinstance(o, Tensor) for o in outputs]
            traced = [recorder.lift(o, None) for o in outputs if isinstance(o, Tensor)]
        tensors = list(state.values())
        changed = [i for i, t in enumerate(tensors) if recorder.state[id(t)] is not recorder.first[id(t)]]
        updates = [tensors[i] for i in changed]
        plan = make_plan(
            [*symbols, *(recorder.first[id(t)] for t in tensors)],
            [*traced, *(recorder.state[id(t)] for t in updates)],
        )

        def rebuild(results: list[Any]) -> Any:
            rest = iter(results)
            return again([next(rest) if traced else o for o, traced in zip(outputs, is_output, strict=True)])

        return Recording(
            parts,
            plan,
            engines.prepare(self.engine, plan, len(tensors), self.precision, changed),
            again if all(is_output) else rebuild,
            tensors,
            updates,
            tuple(t for t in tensors if t.requires_grad),
            [bool(o.requires_grad) for o in traced],
        )


def _no_gradient(*values: Any, **settings: Any) -> Any:
    raise GraphError(
        "no gradient flows out of a compiled function: take gradients inside it with nabi.gradients(), or call the "
        "function that it was compiled from"
    )


compiled_result = Operation(_no_gradient, "creation", False, True)
compiled_result.name = "compiled"
compiled_result.mathematics = "y = what a compiled function gave"
compiled_result.rest_rule = _no_gradient


def compile(
    function: Callable[..., Any] | None = None, *, state: Any = (), engine: str = "auto", precision: str = "float32"
) -> Any:
    """Compile a function of tensors: it is recorded once, and then runs as a plan.

    Parameters
    ----------
    function : callable
        What it computes must depend on its arguments and on ``state`` alone. Positional tensors, arrays and Python
        numbers may change from call to call; a new shape or dtype, or another keyword, is recorded anew. Numbers,
        strings, arrays and the like in keywords, defaults, closure cells, referenced globals (those of the functions
        it calls, too, but not of installed libraries) and plain fields of state objects are watched: where one
        changes, the function is recorded again. What else it reads is taken as constant. Where a caller
        differentiates through the function, it runs as it is, uncompiled.
    state : nest of lists, tuples, dicts and objects
        Everything with tensors that the function reads or changes without being given it: models, optimisers. Only
        `Tensor.assign` changes them.
    engine : str
        "reference" (NumPy), "cpu" (machine code, made when the function is first called), "cpu-direct" (the same with
        every convolution as it is defined, where "cpu" has a relative error near 1e-5), or "auto": "cpu", but
        "reference" below 131,072 multiply-adds; below 4,096 where state changes, as it does in a step of training.
    precision : str
        "float32"; "bf16": operands of products of matrices and of convolutions, in gradients as well, may be rounded to
        bfloat16 (to the nearest, of two to the even one), where that is faster; or "auto": "bf16" where the processor
        has instructions for it and the engine is "cpu", else "float32". Sums are in float32, and so is all else. The
        engine "reference" rounds every operand, on any machine.

    Raises
    ------
    SettingError
        Where there is no such engine or precision, or it is "bf16" and the processor lacks it.
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
        return functools.partial(compile, state=state, engine=engine, precision=precision)
    return Compiled(function, state, engine, precision)


_FLAT = {np.ndarray, Tensor, bool, int, float}
"""Types of arguments that have no others inside."""


def _taken_apart(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[list[Any], Key, bool]:
    """The inputs in a call, all of it that a recording holds for, and whether a gradient may be wanted on one."""
    leaves: Sequence[Any] = arguments
    form = None
    if not _FLAT.issuperset(map(type, arguments)) and any(isinstance(a, list | tuple | dict) for a in arguments):
        leaves, rebuild = nest.flatten(arguments)
        form = repr(rebuild(["*"] * len(leaves)))
    inputs: list[Any] = []
    key: list[Any] = [form, stack.remember]
    differentiable = False
    for place, leaf in enumerate(leaves):
        if type(leaf) is np.ndarray and leaf.ndim:
            inputs.append(leaf)
            key.append((leaf.shape, leaf.dtype, None, False))
            continue
        value = _as_input(leaf, place)
        wanted = isinstance(leaf, Tensor) and leaf.requires_grad
        differentiable = differentiable or wanted
        inputs.append(value)
        key.append((value.shape, value.dtype, weak_kind(leaf), wanted))
    for name, value in sorted(keywords.items()) if keywords else ():
        if isinstance(value, np.ndarray | Tensor):
            raise CompileError(f"{name} is an array given as a keyword: give arrays by position")
        key.append((name, fingerprint(value)))
    return inputs, tuple(key), differentiable


def _parts(key: Key, n_arguments: int, around: Around) -> dict[str, Any]:
    """Everything that a recording holds for, by what it is called."""
    form, remember, *rest = key
    parts = {"the form of the arguments": form or repr(("*",) * n_arguments)}
    parts |= {f"argument {i}": spec for i, spec in enumerate(rest[:n_arguments])}
    parts |= {f"keyword {name}": value for name, value in rest[n_arguments:]}
    return {**parts, **around.parts, "gradients remembered": remember}


def _as_input(leaf: Any, place: int) -> Any:
    if isinstance(leaf, Tensor):
        return leaf.held
    if isinstance(leaf, np.ndarray | np.generic | bool | int | float):
        return np.asarray(leaf)[()]
    raise CompileError(
        f"argument {place} of a compiled function is {type(leaf).__name__}: "
        "tensors, arrays and numbers are given by position, everything else as a keyword"
    )


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    if not before:
        return "first call"
    changed = [name for name in now if before.get(name, now) != now[name]]
    gone = [name for name in before if name not in now]
    return "changed: " + ", ".join([*changed, *gone]) if changed or gone else "an earlier form again"
