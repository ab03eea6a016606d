"""ONNX's operators in our operations: one declaration each, from which a graph of others is computed.

A value is an array where it is known while the graph is recorded (shapes, and what is computed from them), and a
`Tensor` where it depends on the pictures or is a weight. ONNX has pictures as (N, C, H, W) and we as (N, H, W, C), so a
tensor may stand for another whose axes lie in ONNX's order: `Turned`. It is turned round only for who must see it so.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from nabi.errors import FormatError, NabiError
from nabi.graph import namespace
from nabi.graph.operation import DTYPES, operations, registry
from nabi.graph.shapes import Spec, axes, infer
from nabi.onnx.reading import Operator
from nabi.onnx.tensors import READ

FIRST, LAST = (0, 3, 1, 2), (0, 2, 3, 1)
MAX_WINDOW = 2**12
MAX_COMPUTED = 2**25
"""Numbers that may be computed from constants while a graph is recorded."""
MAX_NEIGHBORS = 64


class Turned(NamedTuple):
    """A tensor (N, H, W, C) that stands for ONNX's (N, C, H, W)."""

    tensor: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """As ONNX sees it."""
        n, h, w, c = self.tensor.shape
        return n, c, h, w

    @property
    def dtype(self) -> Any:
        """Of the elements."""
        return self.tensor.dtype


class Call:
    """One node being computed.

    Attributes
    ----------
    node : Operator
    opset : int
    computed : list of int
        How many numbers were computed from constants so far, in all nodes: one entry.
    """

    def __init__(self, node: Operator, opset: int, computed: list[int]) -> None:
        self.node = node
        self.opset = opset
        self.computed = computed

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute."""
        return self.node.attributes.get(name, default)

    def refuse(self, why: str) -> FormatError:
        """The error that says what nabi lacks."""
        return FormatError(f"{self.node}: {why}")

    def count(self, numbers: int) -> None:
        """Take note of what is computed from constants; too much is refused before it is done."""
        self.computed[0] += numbers
        if self.computed[0] > MAX_COMPUTED:
            raise self.refuse(f"more than {MAX_COMPUTED:,} numbers would be computed from constants")

    def __getattr__(self, name: str) -> Any:
        """An operation of nabi: computed at once where all it is given is known, else recorded."""

        def apply(*values: Any, **settings: Any) -> Any:
            flat = [item for value in values for item in (value if isinstance(value, list | tuple) else [value])]
            if not all(isinstance(item, np.ndarray | np.generic | int | float) for item in flat):
                return getattr(operations, name)(*values, **settings)
            operation = registry[name]
            settings = operation.defaults | settings
            specs = [Spec(np.shape(item), np.asarray(item).dtype) for item in flat]
            size = max(infer(operation, specs, settings).size, *(spec.size for spec in specs))
            if operation.kind == "contraction":
                size *= max(1, *specs[0].shape)
            self.count(size)
            values = tuple(flat) if operation.variadic else values
            with np.errstate(all="ignore"):
                return np.asarray(operation.forward(namespace.numpy, *values, **settings))

        return apply

    # --- how values lie ---

    def plain(self, x: Any) -> Any:
        """A value with its axes in ONNX's order."""
        return self.permute_dims(x.tensor, axes=FIRST) if isinstance(x, Turned) else x

    def last(self, x: Any) -> Any:
        """A value (N, C, H, W) as (N, H, W, C)."""
        return x.tensor if isinstance(x, Turned) else self.permute_dims(x, axes=LAST)

    def known(self, x: Any, what: str) -> Any:
        """A value that must be known while the graph is recorded."""
        if not isinstance(x, np.ndarray):
            raise self.refuse(f"{what} follows from the pictures")
        return x

    def integers(self, x: Any, what: str) -> list[int]:
        """A list of integers, which an older opset has as an attribute."""
        found = self.known(x, what)
        if found.ndim > 1 or found.dtype.kind not in "iu" or found.size > 64:
            raise self.refuse(f"{what} is no short list of integers")
        return [int(n) for n in np.atleast_1d(found)]

    def along(self, values: tuple[Any, ...], place: int, name: str = "axes") -> list[int] | None:
        """Axes, as an attribute or as an input."""
        if self.get(name) is not None:
            return list(np.atleast_1d(self.get(name)))
        if len(values) > place and values[place] is not None:
            return self.integers(values[place], name)
        return None


Rule = Callable[..., Any]
RULES: dict[str, Rule] = {}


def rule(*kinds: str) -> Callable[[Rule], Rule]:
    """Declare what computes these operators: ``rule(call, *values)``."""

    def declare(compute: Rule) -> Rule:
        RULES.update(dict.fromkeys(kinds, compute))
        return compute

    return declare


# --- elementwise ---


def together(call: Call, formula: Callable[..., Any], *values: Any) -> Any:
    """A formula of which each element depends on the elements at its place."""
    if not any(isinstance(value, Turned) for value in values):
        return formula(*values)
    if any(len(np.shape(value)) > 4 or (not _still(value) and len(value.shape) != 4) for value in values):
        return formula(*(call.plain(value) for value in values))
    laid = []
    for value in values:
        if isinstance(value, Turned) or len(np.shape(value)) == 4:
            laid.append(call.last(value))
        elif np.size(value) == 1:
            laid.append(call.reshape(value, shape=()) if np.ndim(value) else value)
        else:  # (C, 1, 1) and the like
            shape = (1,) * (4 - len(value.shape)) + tuple(value.shape)
            order = tuple(shape[axis] for axis in LAST)
            if sum(n > 1 for n in shape) > 1:
                laid.append(call.permute_dims(call.reshape(value, shape=shape), axes=LAST))
            else:
                while order[:1] == (1,) and len(order) > 1:
                    order = order[1:]
                laid.append(call.reshape(value, shape=order))
    return Turned(formula(*laid))


def _still(value: Any) -> bool:
    """Whether it is no tensor of pictures: known, or a weight."""
    return isinstance(value, np.ndarray | int | float) or getattr(value, "operation", 1) is None


NAMED = {
    "Abs": "abs",
    "Neg": "negative",
    "Exp": "exp",
    "Log": "log",
    "Sqrt": "sqrt",
    "Sin": "sin",
    "Cos": "cos",
    "Erf": "erf",
    "Tanh": "tanh",
    "Sigmoid": "sigmoid",
    "Relu": "relu",
    "Softplus": "softplus",
    "Sign": "sign",
    "Floor": "floor",
    "Ceil": "ceil",
    "Round": "round",
    "IsNaN": "isnan",
    "Not": "logical_not",
    "HardSwish": "hard_swish",
    "Identity": "identity",
}
"""Those that are called otherwise, and no more."""
UNARY: dict[str, Callable[[Call], Callable[[Any], Any]]] = {
    "Reciprocal": lambda call: lambda x: call.divide(1, x),
    "LeakyRelu": lambda call: lambda x: call.leaky_relu(x, negative_slope=call.get("alpha", 0.01)),
    "Elu": lambda call: lambda x: call.elu(x, alpha=call.get("alpha", 1.0)),
    "Celu": lambda call: lambda x: _celu(call, x),
    "Selu": lambda call: (
        lambda x: call.multiply(
            call.elu(x, alpha=call.get("alpha", 1.67326319217681884765625)),
            call.get("gamma", 1.05070102214813232421875),
        )
    ),
    "HardSigmoid": lambda call: (
        lambda x: call.clip(call.add(call.multiply(x, call.get("alpha", 0.2)), call.get("beta", 0.5)), min=0.0, max=1.0)
    ),
    "Softsign": lambda call: lambda x: call.divide(x, call.add(1, call.abs(x))),
    "Mish": lambda call: lambda x: call.multiply(x, call.tanh(call.softplus(x))),
    "ThresholdedRelu": lambda call: lambda x: call.where(call.greater(x, call.get("alpha", 1.0)), x, 0),
    "Swish": lambda call: lambda x: call.multiply(x, call.sigmoid(call.multiply(x, call.get("alpha", 1.0)))),
}


def _celu(call: Call, x: Any) -> Any:
    alpha = call.get("alpha", 1.0)
    below = call.multiply(alpha, call.expm1(call.divide(call.minimum(x, 0), alpha)))
    return call.add(call.maximum(x, 0), below)


BINARY = {
    "Add": "add",
    "Sub": "subtract",
    "Mul": "multiply",
    "Less": "less",
    "LessOrEqual": "less_equal",
    "Greater": "greater",
    "GreaterOrEqual": "greater_equal",
    "Equal": "equal",
    "And": "logical_and",
    "Or": "logical_or",
    "Xor": "not_equal",
}
VARIADIC = {"Max": "maximum", "Min": "minimum", "Sum": "add"}


def _elementwise(name: str) -> Rule:
    return lambda call, *values: together(call, getattr(call, name), *values)


RULES.update({kind: _elementwise(name) for kind, name in (NAMED | BINARY).items()})
for _kind, _make in UNARY.items():
    RULES[_kind] = (lambda make: lambda call, x: together(call, make(call), x))(_make)


def _variadic(name: str) -> Rule:
    def compute(call: Call, *values: Any) -> Any:
        total = values[0]
        for value in values[1:]:
            total = together(call, getattr(call, name), total, value)
        return total

    return compute


RULES.update({kind: _variadic(name) for kind, name in VARIADIC.items()})


@rule("Mean")
def _(call: Call, *values: Any) -> Any:
    return together(call, lambda x: call.divide(x, len(values)), RULES["Sum"](call, *values))


@rule("Div")
def _(call: Call, x: Any, y: Any) -> Any:
    if x.dtype.kind == "f":
        return together(call, call.divide, x, y)
    x, y = call.known(x, "what is divided"), call.known(y, "what it is divided by")
    if not y.all():
        raise call.refuse("a whole number divided by 0")
    call.count(math.prod(np.broadcast_shapes(x.shape, y.shape)))
    return (np.sign(x) * np.sign(y) * (np.abs(x) // np.abs(y))).astype(x.dtype)  # towards zero


@rule("Pow")
def _(call: Call, x: Any, y: Any) -> Any:
    if x.dtype.kind != "f" and y.dtype.kind == "f":
        raise call.refuse("a power of a whole number that is not whole")
    return together(call, call.pow, x, y)


@rule("Mod")
def _(call: Call, x: Any, y: Any) -> Any:
    if call.get("fmod", 0):
        raise call.refuse("fmod")
    return together(call, call.remainder, x, y)


@rule("PRelu")
def _(call: Call, x: Any, slope: Any) -> Any:
    return together(call, lambda x, s: call.where(call.greater(x, 0), x, call.multiply(s, x)), x, slope)


@rule("Gelu")
def _(call: Call, x: Any) -> Any:
    if call.get("approximate", "none") == "none":
        return together(call, call.gelu, x)
    c = math.sqrt(2 / math.pi)

    def formula(x: Any) -> Any:
        cube = call.multiply(call.multiply(x, x), x)
        inner = call.multiply(call.add(x, call.multiply(cube, 0.044715)), c)
        return call.multiply(call.multiply(x, 0.5), call.add(call.tanh(inner), 1))

    return together(call, formula, x)


@rule("IsInf")
def _(call: Call, x: Any) -> Any:
    if (call.get("detect_positive", 1), call.get("detect_negative", 1)) != (1, 1):
        raise call.refuse("infinities of one sign")
    return together(call, lambda x: call.equal(call.abs(x), math.inf), x)


@rule("Where")
def _(call: Call, condition: Any, x: Any, y: Any) -> Any:
    return together(call, call.where, condition, x, y)


@rule("Clip")
def _(call: Call, x: Any, low: Any = None, high: Any = None) -> Any:
    low = call.get("min") if low is None else low
    high = call.get("max") if high is None else high
    if low is not None:
        x = together(call, call.maximum, x, np.asarray(low, x.dtype) if isinstance(low, float) else low)
    if high is not None:
        x = together(call, call.minimum, x, np.asarray(high, x.dtype) if isinstance(high, float) else high)
    return x


@rule("Cast", "CastLike")
def _(call: Call, x: Any, like: Any = None) -> Any:
    wanted = like.dtype if like is not None else READ.get(call.get("to", 0), np.dtype(object)).newbyteorder("=")
    if wanted not in DTYPES:
        raise call.refuse(f"to the kind {call.get('to')}, which no tensor of nabi has")
    return together(call, lambda x: call.astype(x, dtype=wanted), x)


@rule("Dropout")
def _(call: Call, x: Any, ratio: Any = None, training: Any = None) -> Any:
    if training is not None and np.any(call.known(training, "training")):
        raise call.refuse("it drops numbers, as in training")
    return x


# --- folded axes ---


def fold(call: Call, x: Any, along: Any, keepdims: bool, formula: Callable[..., Any]) -> Any:
    """A formula over axes, ``formula(x, axis, keepdims)``."""
    folded = axes(None if along is None else tuple(along), len(x.shape))
    if isinstance(x, Turned) and (keepdims or folded == (2, 3)):
        made = formula(x.tensor, tuple(sorted(FIRST[axis] for axis in folded)), keepdims)
        return Turned(made) if keepdims else made
    return formula(call.plain(x), folded, keepdims)


REDUCTIONS: dict[str, Callable[[Call], Callable[..., Any]]] = {
    "ReduceSum": lambda call: lambda x, axis, keep: call.sum(x, axis=axis, keepdims=keep),
    "ReduceMean": lambda call: lambda x, axis, keep: call.mean(x, axis=axis, keepdims=keep),
    "ReduceMax": lambda call: lambda x, axis, keep: call.max(x, axis=axis, keepdims=keep),
    "ReduceMin": lambda call: lambda x, axis, keep: call.min(x, axis=axis, keepdims=keep),
    "ReduceL1": lambda call: lambda x, axis, keep: call.sum(call.abs(x), axis=axis, keepdims=keep),
    "ReduceSumSquare": lambda call: lambda x, axis, keep: call.sum(call.square(x), axis=axis, keepdims=keep),
    "ReduceL2": lambda call: lambda x, axis, keep: call.sqrt(call.sum(call.square(x), axis=axis, keepdims=keep)),
    "ReduceLogSum": lambda call: lambda x, axis, keep: call.log(call.sum(x, axis=axis, keepdims=keep)),
    "ReduceLogSumExp": lambda call: lambda x, axis, keep: call.logsumexp(x, axis=axis, keepdims=keep),
}


def _reduction(make: Callable[[Call], Callable[..., Any]]) -> Rule:
    def compute(call: Call, *values: Any) -> Any:
        along = call.along(values, 1)
        if not along and along is not None and not call.get("noop_with_empty_axes", 0):
            along = None
        if along is None and call.get("noop_with_empty_axes", 0):
            raise call.refuse("no axes, and nothing to do")
        same = lambda x, axis, keep: (
            call.astype(made, dtype=x.dtype) if ((made := make(call)(x, axis, keep)).dtype != x.dtype) else made
        )
        return fold(call, values[0], along, bool(call.get("keepdims", 1)), same)

    return compute


RULES.update({kind: _reduction(make) for kind, make in REDUCTIONS.items()})


@rule("ArgMax", "ArgMin")
def _(call: Call, x: Any) -> Any:
    if call.get("select_last_index", 0):
        raise call.refuse("the last of equals")
    name = "argmax" if call.node.kind == "ArgMax" else "argmin"
    return getattr(call, name)(call.plain(x), axis=call.get("axis", 0), keepdims=bool(call.get("keepdims", 1)))


@rule("Softmax", "LogSoftmax")
def _(call: Call, x: Any) -> Any:
    x = call.plain(x)
    axis = call.get("axis", -1 if call.opset >= 13 else 1)
    if call.opset < 13 and axis % len(x.shape) != len(x.shape) - 1:
        raise call.refuse("over several axes, as before opset 13")
    return (call.softmax if call.node.kind == "Softmax" else call.log_softmax)(x, axis=axis)


# --- moved elements ---


@rule("Shape")
def _(call: Call, x: Any) -> Any:
    return np.array(x.shape, np.int64)[slice(call.get("start", 0), call.get("end"))]


@rule("Size")
def _(call: Call, x: Any) -> Any:
    return np.array(math.prod(x.shape), np.int64)


@rule("Constant")
def _(call: Call) -> Any:
    found = [(name, value) for name, value in call.node.attributes.items() if name.startswith("value")]
    if len(found) != 1 or found[0][0] == "value_string":
        raise call.refuse("a constant of another kind than numbers")
    name, value = found[0]
    dtypes = {"value_int": np.int64, "value_ints": np.int64, "value_float": np.float32, "value_floats": np.float32}
    return value if name == "value" else np.array(value, dtypes.get(name))


@rule("ConstantOfShape")
def _(call: Call, shape: Any) -> Any:
    lengths = tuple(call.integers(shape, "the shape"))
    if min(lengths, default=0) < 0:
        raise call.refuse("a negative length")
    value = call.get("value", np.zeros(1, np.float32))
    call.count(math.prod(lengths))
    return np.full(lengths, value.ravel()[0], value.dtype)


@rule("Range")
def _(call: Call, start: Any, stop: Any, step: Any) -> Any:
    first, last, by = (call.known(one, "an end").reshape(()) for one in (start, stop, step))
    with np.errstate(all="ignore"):
        count = (float(last) - float(first)) / float(by) if by else math.inf
    if not count < MAX_COMPUTED:
        raise call.refuse("endless")
    call.count(max(0, int(count)))
    return np.arange(first, last, by, dtype=first.dtype)


@rule("Reshape")
def _(call: Call, x: Any, shape: Any) -> Any:
    said = call.integers(shape, "the shape")
    if not call.get("allowzero", 0):
        said = [x.shape[place] if n == 0 and place < len(x.shape) else n for place, n in enumerate(said)]
    return laid_out(call, x, said)


def laid_out(call: Call, x: Any, said: list[int]) -> Any:
    """The same numbers in another shape."""
    size, rest = math.prod(x.shape), math.prod(n for n in said if n != -1)
    if said.count(-1) == 1 and rest:
        said = [size // rest if n == -1 else n for n in said]
    if min(said, default=0) < 0 or math.prod(said) != size:
        raise call.refuse(f"{x.shape} does not fill the shape {tuple(said)}")
    if isinstance(x, Turned) and x.shape[2:] == (1, 1):
        return call.reshape(x.tensor, shape=tuple(said))
    return call.reshape(call.plain(x), shape=tuple(said))


@rule("Flatten")
def _(call: Call, x: Any) -> Any:
    axis = call.get("axis", 1)
    axis += len(x.shape) if axis < 0 else 0
    return laid_out(call, x, [math.prod(x.shape[:axis]), math.prod(x.shape[axis:])])


@rule("Squeeze")
def _(call: Call, *values: Any) -> Any:
    x, along = values[0], call.along(values, 1)
    gone = [a for a, n in enumerate(x.shape) if n == 1] if along is None else axes(tuple(along), len(x.shape))
    if any(x.shape[axis] != 1 for axis in gone):
        raise call.refuse(f"an axis of {x.shape} that is not of length 1")
    return laid_out(call, x, [n for axis, n in enumerate(x.shape) if axis not in gone])


@rule("Unsqueeze")
def _(call: Call, *values: Any) -> Any:
    x, along = values[0], call.along(values, 1) or []
    new = axes(tuple(along), len(x.shape) + len(along))
    rest = iter(x.shape)
    return laid_out(call, x, [1 if axis in new else next(rest) for axis in range(len(x.shape) + len(new))])


@rule("Transpose")
def _(call: Call, x: Any) -> Any:
    order = tuple(call.get("perm", range(len(x.shape))[::-1]))
    if sorted(order) != list(range(len(x.shape))):
        raise call.refuse(f"{order} is not an order of the axes of {x.shape}")
    if isinstance(x, Turned):
        order = tuple(FIRST[axis] for axis in order)
        return x.tensor if order == (0, 1, 2, 3) else call.permute_dims(x.tensor, axes=order)
    if order == FIRST and not isinstance(x, np.ndarray):
        return Turned(x)
    return call.permute_dims(x, axes=order)


@rule("Concat")
def _(call: Call, *values: Any) -> Any:
    axis = call.get("axis", 0)
    if any(isinstance(value, Turned) for value in values):
        return Turned(call.concat([call.last(value) for value in values], axis=FIRST[axis % 4]))
    return call.concat(list(values), axis=axis)


@rule("Expand")
def _(call: Call, x: Any, shape: Any) -> Any:
    x = call.plain(x)
    return call.broadcast_to(x, shape=np.broadcast_shapes(tuple(x.shape), tuple(call.integers(shape, "the shape"))))


@rule("Tile")
def _(call: Call, x: Any, repeats: Any) -> Any:
    x, times = call.plain(x), call.integers(repeats, "how often")
    if len(times) != len(x.shape) or min(times, default=1) < 1 or max(times, default=1) > 2**20:
        raise call.refuse("not once or more for each axis")
    wide = call.reshape(x, shape=tuple(n for length in x.shape for n in (1, length)))
    wide = call.broadcast_to(
        wide, shape=tuple(n for t, length in zip(times, x.shape, strict=True) for n in (t, length))
    )
    return call.reshape(wide, shape=tuple(t * length for t, length in zip(times, x.shape, strict=True)))


@rule("Pad")
def _(call: Call, *values: Any) -> Any:
    x, mode = values[0], call.get("mode", "constant")
    if mode != "constant":
        raise call.refuse(f"{mode[:20]} padding")
    pads = call.along(values, 1, "pads") or []
    value = values[2] if len(values) > 2 and values[2] is not None else np.asarray(call.get("value", 0.0))
    along = call.along(values, 3) if len(values) > 3 else None
    places = list(range(len(x.shape))) if along is None else [axis % len(x.shape) for axis in along]
    if len(pads) != 2 * len(places) or min(pads, default=0) < 0 or max(pads, default=0) > 2**20:
        raise call.refuse("not two numbers from 0 up for each axis")
    widths = [(0, 0)] * len(x.shape)
    for place, axis in enumerate(places):
        widths[axis] = (pads[place], pads[place + len(places)])
    filling = float(call.known(value, "the value").reshape(()))
    if isinstance(x, Turned):
        return Turned(call.pad(x.tensor, widths=tuple(widths[axis] for axis in LAST), value=filling))
    return call.pad(x, widths=tuple(widths), value=filling)


@rule("Slice")
def _(call: Call, *values: Any) -> Any:
    x = values[0]
    starts, ends = call.along(values, 1, "starts") or [], call.along(values, 2, "ends") or []
    along = call.along(values, 3) or list(range(len(starts)))
    steps = call.integers(values[4], "steps") if len(values) > 4 and values[4] is not None else [1] * len(starts)
    if not len(starts) == len(ends) == len(along) == len(steps) or 0 in steps:
        raise call.refuse("starts, ends, axes and steps that do not go together")
    key = [slice(None)] * len(x.shape)
    for start, end, axis, step in zip(starts, ends, along, steps, strict=True):
        (place,) = axes(axis, len(x.shape))
        n = x.shape[place]
        if step < 0:
            start, end = min(max(start + n if start < 0 else start, -1), n - 1), max(end + n if end < 0 else end, -1)
            key[place] = slice(start, None if end < 0 else end, step) if start >= 0 else slice(0, 0)
        else:
            key[place] = slice(start, end, step)
    if isinstance(x, Turned):
        return Turned(x.tensor[tuple(key[axis] for axis in LAST)])
    return x[tuple(key)]


@rule("Split")
def _(call: Call, *values: Any) -> Any:
    x, (axis,) = call.plain(values[0]), axes(call.get("axis", 0), len(values[0].shape))
    sizes = call.along(values, 1, "split")
    if sizes is None:
        count = call.get("num_outputs", len(call.node.outputs))
        part = -(-x.shape[axis] // max(1, count))
        sizes = [min(part, x.shape[axis] - start) for start in range(0, x.shape[axis], max(1, part))]
    if sum(sizes) != x.shape[axis] or len(sizes) != len(call.node.outputs) or min(sizes, default=0) < 0:
        raise call.refuse(f"parts of {sizes[:8]} of an axis of {x.shape[axis]}")
    starts = np.cumsum([0, *sizes]).tolist()
    before = (slice(None),) * axis
    return tuple(x[(*before, slice(a, b))] for a, b in itertools.pairwise(starts))


@rule("Gather")
def _(call: Call, x: Any, places: Any) -> Any:
    x, (axis,) = call.plain(x), axes(call.get("axis", 0), len(x.shape))
    if isinstance(places, np.ndarray):
        if places.size and not -x.shape[axis] <= places.min() <= places.max() < x.shape[axis]:
            raise call.refuse("a place outside of its axis")
        call.count(places.size)
        if places.size == x.shape[axis] and (places.ravel() == np.arange(places.size)).all():
            return laid_out(call, x, [*x.shape[:axis], *places.shape, *x.shape[axis + 1 :]])  # all, as they are
        if not places.ndim:
            return x[(*(slice(None),) * axis, int(places))]
    return call.take(x, places, axis=axis)


@rule("GatherElements")
def _(call: Call, x: Any, places: Any) -> Any:
    if isinstance(places, np.ndarray) and places.size:
        n = x.shape[call.get("axis", 0)]
        if not -n <= places.min() <= places.max() < n:
            raise call.refuse("a place outside of its axis")
    return call.take_along_axis(call.plain(x), call.plain(places), axis=call.get("axis", 0))


@rule("Resize")
def _(call: Call, x: Any, roi: Any = None, scales: Any = None, sizes: Any = None) -> Any:
    if sizes is not None and tuple(call.integers(sizes, "the size")) == tuple(x.shape):
        return x
    if scales is not None and isinstance(scales, np.ndarray) and scales.size and (scales == 1).all():
        return x
    raise call.refuse("nabi has no operation for it")


@rule("CumSum")
def _(call: Call, x: Any, axis: Any) -> Any:
    (along,) = axes(int(call.known(axis, "the axis").reshape(())), len(x.shape))
    if call.get("reverse", 0) or call.get("exclusive", 0) or not 1 <= x.shape[along] <= MAX_NEIGHBORS:
        raise call.refuse("of this kind")
    x, before = call.plain(x), (slice(None),) * along
    parts = [x[(*before, slice(0, 1))]]
    for place in range(1, x.shape[along]):
        parts.append(call.add(parts[-1], x[(*before, slice(place, place + 1))]))
    return call.concat(parts, axis=along)


@rule("TopK")
def _(call: Call, x: Any, k: Any) -> Any:
    """The k largest or smallest, the first of equals first: one after another."""
    (count,) = call.integers(k, "k")
    x, (axis,) = call.plain(x), axes(call.get("axis", -1), len(x.shape))
    if axis != len(x.shape) - 1 or not 1 <= count <= min(MAX_NEIGHBORS, x.shape[axis]):
        raise call.refuse(f"{count} of an axis of {x.shape[axis]}")
    rest = call.astype(x, dtype=np.float64) if x.dtype.kind != "f" else x
    find, gone = (call.argmax, -math.inf) if call.get("largest", 1) else (call.argmin, math.inf)
    values, places = [], []
    for _ in range(count):
        place = find(rest, axis=axis, keepdims=True)
        places.append(place)
        values.append(call.take_along_axis(x, place, axis=axis))
        rest = call.where(call.equal(np.arange(x.shape[axis]), place), gone, rest)
    return call.concat(values, axis=axis), call.concat(places, axis=axis)


# --- products and windows ---


@rule("MatMul")
def _(call: Call, x: Any, y: Any) -> Any:
    if isinstance(x, np.ndarray) and _is_identity(x):
        return y
    if isinstance(y, np.ndarray) and _is_identity(y):
        return x
    return call.matmul(call.plain(x), call.plain(y))


def _is_identity(x: Any) -> bool:
    """Whether a product with it changes nothing, as where pictures are resized to the size that they have."""
    return x.ndim == 2 and x.shape[0] == x.shape[1] and bool((x == np.eye(len(x))).all())


@rule("MatMulInteger")
def _(call: Call, x: Any, y: Any, x_zero: Any = None, y_zero: Any = None) -> Any:
    if x_zero is not None or y_zero is not None:
        raise call.refuse("zero points")
    wide = (call.astype(call.plain(one), dtype=np.float64) for one in (x, y))  # in which such sums are exact
    return call.astype(call.matmul(*wide), dtype=np.int32)


@rule("Gemm")
def _(call: Call, x: Any, y: Any, z: Any = None) -> Any:
    x, y = call.plain(x), call.plain(y)
    product = call.matmul(
        call.matrix_transpose(x) if call.get("transA", 0) else x,
        call.matrix_transpose(y) if call.get("transB", 0) else y,
    )
    if call.get("alpha", 1.0) != 1:
        product = call.multiply(product, call.get("alpha"))
    if z is None:
        return product
    return call.add(product, call.multiply(z, call.get("beta")) if call.get("beta", 1.0) != 1 else z)


def _window(call: Call, x: Any, kernel: tuple[int, ...]) -> dict[str, Any]:
    """Strides, dilations and borders, as our operations are told them."""
    if len(x.shape) != 4 or len(kernel) != 2:
        raise call.refuse(f"over {len(x.shape) - 2} axes: nabi's windows slide over height and width")
    if math.prod(kernel) > MAX_WINDOW or min(kernel) < 1:
        raise call.refuse(f"a window of {kernel}")
    strides, dilations = (tuple(call.get(name) or (1, 1)) for name in ("strides", "dilations"))
    pads = tuple(call.get("pads") or (0, 0, 0, 0))
    if any(not 1 <= n <= 2**20 for n in (*strides, *dilations)) or any(not 0 <= n <= 2**20 for n in pads):
        raise call.refuse("strides, dilations or pads that make no sense")
    if len(strides) != 2 or len(dilations) != 2 or len(pads) != 4:
        raise call.refuse("strides, dilations or pads of another number of axes")
    padding: Any = ((pads[0], pads[2]), (pads[1], pads[3]))
    match call.get("auto_pad", "NOTSET"):
        case "NOTSET":
            pass
        case "VALID":
            padding = "valid"
        case "SAME_UPPER":
            padding = "same"
        case _:
            raise call.refuse("padding that nabi lacks")
    return {"stride": strides, "dilation": dilations, "padding": padding}


@rule("Conv")
def _(call: Call, x: Any, weight: Any, bias: Any = None) -> Any:
    if len(weight.shape) != 4:
        raise call.refuse("over another number of axes than height and width")
    if not call.get("turned", 0):
        weight = call.permute_dims(call.plain(weight), axes=(2, 3, 1, 0))
    how = _window(call, x, tuple(weight.shape[:2]))
    y = operations.conv2d(call.last(x), weight, groups=call.get("group", 1), **how)
    return Turned(y if bias is None else call.add(y, call.plain(bias)))


@rule("MaxPool", "AveragePool", "LpPool")
def _(call: Call, x: Any) -> Any:
    kernel = tuple(call.get("kernel_shape") or ())
    how = _window(call, x, kernel)
    if how.pop("dilation") != (1, 1) or call.node.kind == "LpPool" or len([o for o in call.node.outputs if o]) > 1:
        raise call.refuse("dilated, of another norm, or with places")
    if call.get("ceil_mode", 0) and not _fits_evenly(x.shape[2:], kernel, how):
        raise call.refuse("ceil_mode where windows reach beyond the border")
    if x.dtype.kind != "f":
        raise call.refuse(f"of {x.dtype}")
    padded = how["padding"] not in ("valid", ((0, 0), (0, 0)))
    if call.node.kind == "MaxPool":
        return Turned(operations.max_pool2d(call.last(x), kernel_size=kernel, **how))
    y = operations.avg_pool2d(call.last(x), kernel_size=kernel, **how)
    if padded and not call.get("count_include_pad", 0):
        ones = np.ones((1, *x.shape[2:], 1), x.dtype)
        call.count(ones.size * math.prod(kernel))
        share = registry["avg_pool2d"].forward(namespace.numpy, ones, kernel_size=kernel, **how)
        y = call.divide(y, share)
    return Turned(y)


def _fits_evenly(size: tuple[int, ...], kernel: tuple[int, ...], how: dict[str, Any]) -> bool:
    if isinstance(how["padding"], str):
        return False
    lengths = zip(size, kernel, how["stride"], how["padding"], strict=True)
    return all((n + sum(border) - k) % s == 0 for n, k, s, border in lengths)


@rule("GlobalAveragePool")
def _(call: Call, x: Any) -> Any:
    return fold(call, x, range(2, len(x.shape)), True, REDUCTIONS["ReduceMean"](call))


@rule("GlobalMaxPool")
def _(call: Call, x: Any) -> Any:
    return fold(call, x, range(2, len(x.shape)), True, REDUCTIONS["ReduceMax"](call))


def _channels(call: Call, value: Any, x: Any) -> Any:
    """One number for each channel, the second axis."""
    return call.reshape(value, shape=(-1, *(1,) * (len(x.shape) - 2)))


@rule("BatchNormalization")
def _(call: Call, x: Any, scale: Any, bias: Any, mean: Any, variance: Any) -> Any:
    if call.get("training_mode", 0) or len([o for o in call.node.outputs if o]) > 1:
        raise call.refuse("as in training")
    factor = call.divide(scale, call.sqrt(call.add(variance, call.get("epsilon", 1e-5))))
    shift = call.subtract(bias, call.multiply(mean, factor))
    factor, shift = (_channels(call, one, x) for one in (factor, shift))
    return together(call, lambda x, a, b: call.add(call.multiply(x, a), b), x, factor, shift)


@rule("LRN")
def _(call: Call, x: Any) -> Any:
    size = call.get("size", 1)
    if len(x.shape) != 4 or not 1 <= size <= 1024:
        raise call.refuse("over other axes, or more than 1,024 channels")
    if size % 2 == 0:
        raise call.refuse("an even number of channels")
    alpha, beta, k = call.get("alpha", 1e-4) / size, call.get("beta", 0.75), call.get("bias", 1.0)
    return Turned(operations.local_response_norm(call.last(x), size=size, alpha=alpha, beta=beta, k=k))


@rule("LayerNormalization")
def _(call: Call, x: Any, scale: Any, bias: Any = None) -> Any:
    x, (axis,) = call.plain(x), axes(call.get("axis", -1), len(x.shape))
    along = tuple(range(axis, len(x.shape)))
    centred = call.subtract(x, call.mean(x, axis=along, keepdims=True))
    variance = call.mean(call.square(centred), axis=along, keepdims=True)
    y = call.multiply(call.divide(centred, call.sqrt(call.add(variance, call.get("epsilon", 1e-5)))), scale)
    return y if bias is None else call.add(y, bias)


def compute(node: Operator, values: list[Any], opset: int, computed: list[int]) -> tuple[Any, ...]:
    """What a node makes of values.

    Raises
    ------
    FormatError
        Naming the node, where nabi lacks the operation, or the values do not go with it.
    """
    found = RULES.get(node.kind)
    if found is None:
        raise FormatError(f"{node}: nabi has no operation for it")
    try:
        made = found(Call(node, opset, computed), *values)
    except FormatError:
        raise
    except (NabiError, TypeError, ValueError, LookupError, ArithmeticError, MemoryError, AttributeError) as error:
        raise FormatError(f"{node}: {' '.join(str(error).split())[:200] or type(error).__name__}") from None
    results = made if type(made) is tuple else (made,)
    if any(node.outputs[len(results) :]):
        raise FormatError(f"{node}: of its {len(node.outputs)} results nabi makes {len(results)}")
    return results
