"""How each operation is written in ONNX: one declaration for what it has an operator for.

What is missing here is written by its own formula, operation by operation. What cannot be written is in `UNWRITTEN`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nabi.errors import GraphError
from nabi.graph import indexing
from nabi.graph.shapes import Spec, axes
from nabi.onnx.namespace import BUILDERS, FIRST, PICTURES, Builder, Product, Value, Writer, infer
from nabi.onnx.tensors import CODES
from nabi.ops.convolve import Window

_DRAWS = "draws numbers, and no answer depends on a draw"
_GRADIENT = "adds a gradient up, and no answer needs one"
UNWRITTEN = {
    "fold_in": _DRAWS,
    "random_bits": _DRAWS,
    "random_uniform": _DRAWS,
    "random_normal": _DRAWS,
    "random_integers": _DRAWS,
    "random_permutation": _DRAWS,
    "dropout": _DRAWS,
    "scatter_add": _GRADIENT,
    "max_pool2d_gradient": _GRADIENT,
    "avg_pool2d_gradient": _GRADIENT,
}
"""Operations that no file can have, each with the reason."""


def writes(*names: str) -> Callable[[Builder], Builder]:
    """Declare what writes these operations."""

    def declare(build: Builder) -> Builder:
        BUILDERS.update(dict.fromkeys(names, build))
        return build

    return declare


# --- elementwise ---

UNARY = {
    "negative": "Neg",
    "abs": "Abs",
    "exp": "Exp",
    "log": "Log",
    "sqrt": "Sqrt",
    "sin": "Sin",
    "cos": "Cos",
    "erf": "Erf",
    "tanh": "Tanh",
    "sigmoid": "Sigmoid",
    "relu": "Relu",
    "softplus": "Softplus",
    "sign": "Sign",
    "floor": "Floor",
    "ceil": "Ceil",
    "round": "Round",
    "isnan": "IsNaN",
    "logical_not": "Not",
}
BINARY = {
    "add": "Add",
    "subtract": "Sub",
    "multiply": "Mul",
    "divide": "Div",
    "pow": "Pow",
    "maximum": "Max",
    "minimum": "Min",
    "less": "Less",
    "less_equal": "LessOrEqual",
    "greater": "Greater",
    "greater_equal": "GreaterOrEqual",
    "equal": "Equal",
    "logical_and": "And",
    "logical_or": "Or",
}


def elementwise(xp: Writer, name: str, operator: str, *given: Any, **attributes: Any) -> Value:
    """A node of which each element depends on the elements at its place: operands in one dtype, lying one way."""
    settings = {"negative_slope": 0.0} if name == "leaky_relu" else {}
    spec = infer(name, *given, **settings)
    operands = given[1:] if name == "where" else given
    dtype = np.result_type(*(one.dtype if isinstance(one, Value) else one for one in operands))
    values = [one if isinstance(one, Value) else xp.constant(np.asarray(one, dtype)) for one in given]
    values = [one if name == "where" and place == 0 else as_dtype(xp, one, dtype) for place, one in enumerate(values)]
    first = any(one.first for one in values) and spec.ndim == 4
    return xp.made(spec, operator, [_lying(xp, one, first) for one in values], first, **attributes)


def as_dtype(xp: Writer, x: Value, dtype: Any) -> Value:
    """A value in a dtype, cast where it has another."""
    if x.dtype == dtype:
        return x
    if x.held is not None:
        return xp.constant(x.held.astype(dtype))
    return xp.made(Spec(x.shape, dtype), "Cast", [x], x.first, to=CODES[np.dtype(dtype)])


def _lying(xp: Writer, x: Value, first: bool) -> Value:
    """An operand of what lies one way; of fewer axes than four, it is spread over the others as NumPy does."""
    if not first or x.first or not x.ndim:
        return xp.last(x) if not first else x
    if x.ndim == 4 and x.held is None:
        return xp.channels_first(x)
    shape = (1,) * (4 - x.ndim) + x.shape
    if x.held is not None:
        turned = x.held.reshape(shape).transpose(FIRST)
        while turned.ndim and turned.shape[0] == 1:  # as short as it can be said
            turned = turned[0]
        return Value(xp, turned, xp.initializer(turned))
    return xp.channels_first(xp.call("reshape", x, shape))


def _unary(name: str, operator: str) -> Builder:
    def build(xp: Writer, x: Any) -> Value:
        return elementwise(xp, name, operator, x)

    return build


def _binary(name: str, operator: str) -> Builder:
    def build(xp: Writer, x: Any, y: Any) -> Value:
        return elementwise(xp, name, operator, x, y)

    return build


BUILDERS.update({name: _unary(name, operator) for name, operator in UNARY.items()})
BUILDERS.update({name: _binary(name, operator) for name, operator in BINARY.items()})


@writes("not_equal")
def _(xp: Writer, x: Any, y: Any) -> Any:
    return xp.call("logical_not", xp.call("equal", x, y))


@writes("identity", "stop_gradient")
def _(xp: Writer, x: Value) -> Value:
    return x


@writes("where")
def _(xp: Writer, condition: Any, x: Any, y: Any) -> Value:
    return elementwise(xp, "where", "Where", condition, x, y)


@writes("astype")
def _(xp: Writer, x: Value, dtype: Any) -> Value:
    return as_dtype(xp, x, np.dtype(dtype))


@writes("relu6")
def _(xp: Writer, x: Value) -> Any:
    return xp.call("clip", x, min=0, max=6)


@writes("clip")
def _(xp: Writer, x: Value, *, min: Any = None, max: Any = None) -> Value:
    bounds = ["" if bound is None else xp.initializer(np.asarray(bound, x.dtype)) for bound in (min, max)]
    return xp.made(x.spec, "Clip", [x, *bounds], x.first)


@writes("leaky_relu")
def _(xp: Writer, x: Value, *, negative_slope: float) -> Value:
    return xp.made(x.spec, "LeakyRelu", [x], x.first, alpha=float(negative_slope))


@writes("elu")
def _(xp: Writer, x: Value, *, alpha: float) -> Value:
    return xp.made(x.spec, "Elu", [x], x.first, alpha=float(alpha))


@writes("expm1")
def _(xp: Writer, x: Value) -> Any:
    """tanh(x/2)·(eˣ + 1): without the loss of eˣ - 1 near 0."""
    return xp.call("tanh", x * 0.5) * (xp.call("exp", x) + 1)


@writes("log1p")
def _(xp: Writer, x: Value) -> Any:
    return xp.call("log", x + 1)


@writes("isfinite")
def _(xp: Writer, x: Value) -> Any:
    return xp.call("less", xp.call("abs", x), math.inf)


@writes("floor_divide")
def _(xp: Writer, x: Any, y: Any) -> Any:
    if infer("floor_divide", x, y).dtype.kind != "f":
        raise GraphError("floor_divide: ONNX divides whole numbers towards zero")
    return xp.call("floor", xp.call("divide", x, y))


@writes("remainder")
def _(xp: Writer, x: Any, y: Any) -> Any:
    if infer("remainder", x, y).dtype.kind != "f":
        return elementwise(xp, "remainder", "Mod", x, y)
    return xp.call("subtract", x, xp.call("multiply", y, xp.call("floor", xp.call("divide", x, y))))


# --- folded axes ---


def _folded(xp: Writer, name: str, operator: str, x: Value, axis: Any, keepdims: bool, as_input: bool) -> Value:
    """A reduction. Axes are attributes, or, of some operators of opset 18, an input."""
    spec = infer(name, x, axis=axis, keepdims=keepdims)
    folded = axes(axis, x.ndim)
    x = as_dtype(xp, x, spec.dtype)
    first = x.first and keepdims
    if x.first and not first:
        x = xp.last(x)
    places = [FIRST.index(place) for place in folded] if first else list(folded)
    if as_input:
        made = xp.made(spec, operator, [x, xp.initializer(np.array(places, np.int64))], first, keepdims=keepdims)
    else:
        made = xp.made(spec, operator, [x], first, axis=places[0], keepdims=keepdims)
    made.many = x.many and 0 not in folded
    return made


REDUCTIONS = {"sum": "ReduceSum", "max": "ReduceMax", "min": "ReduceMin"}


def _reduction(name: str, operator: str) -> Builder:
    return lambda xp, x, *, axis=None, keepdims=False: _folded(xp, name, operator, x, axis, keepdims, True)


BUILDERS.update({name: _reduction(name, operator) for name, operator in REDUCTIONS.items()})


@writes("mean")
def _(xp: Writer, x: Value, *, axis: Any = None, keepdims: bool = False) -> Value:
    if x.first and axes(axis, x.ndim) == (1, 2):
        pooled = xp.made(Spec((x.shape[0], 1, 1, x.shape[3]), x.dtype), "GlobalAveragePool", [x], True)
        return pooled if keepdims else xp.made(infer("mean", x, axis=axis), "Flatten", [pooled], axis=1)
    return _folded(xp, "mean", "ReduceMean", x, axis, keepdims, True)


def _with_axes(xp: Writer, number: Value, ndim: int) -> Value:
    """A number with so many axes of length 1."""
    found: Value = xp.call("reshape", number, (1,) * ndim)
    return found


def _place(name: str, operator: str) -> Builder:
    def build(xp: Writer, x: Value, *, axis: int | None = None, keepdims: bool = False) -> Value:
        if axis is None:
            found = build(xp, xp.call("reshape", x, (x.size,)), axis=0)
            return _with_axes(xp, found, x.ndim) if keepdims else found
        spec = infer(name, x, axis=axis, keepdims=keepdims)
        made = xp.made(spec, operator, [xp.last(x)], axis=axis % x.ndim, keepdims=keepdims)
        made.many = x.many and axis % x.ndim != 0
        return made

    return build


BUILDERS.update({"argmax": _place("argmax", "ArgMax"), "argmin": _place("argmin", "ArgMin")})


@writes("any")
def _(xp: Writer, x: Value, *, axis: Any = None, keepdims: bool = False) -> Any:
    truth = as_dtype(xp, as_dtype(xp, x, np.bool_), np.int32)
    return as_dtype(xp, _folded(xp, "max", "ReduceMax", truth, axis, keepdims, True), np.bool_)


@writes("all")
def _(xp: Writer, x: Value, *, axis: Any = None, keepdims: bool = False) -> Any:
    truth = as_dtype(xp, as_dtype(xp, x, np.bool_), np.int32)
    return as_dtype(xp, _folded(xp, "min", "ReduceMin", truth, axis, keepdims, True), np.bool_)


def _softmax(name: str, operator: str) -> Builder:
    def build(xp: Writer, x: Value, *, axis: Any = -1) -> Any:
        along = axes(axis, x.ndim)
        if len(along) == 1:
            return xp.made(x.spec, operator, [xp.last(x)], axis=along[0])
        shifted = x - xp.call("max", x, axis=axis, keepdims=True)
        exponentials = xp.call("exp", shifted)
        total = xp.call("sum", exponentials, axis=axis, keepdims=True)
        return exponentials / total if name == "softmax" else shifted - xp.call("log", total)

    return build


BUILDERS.update({"softmax": _softmax("softmax", "Softmax"), "log_softmax": _softmax("log_softmax", "LogSoftmax")})


# --- moved elements ---


@writes("reshape")
def _(xp: Writer, x: Value, shape: Sequence[int]) -> Value:
    spec = infer("reshape", x, tuple(shape))
    if spec.shape == x.shape:
        return x
    x = xp.last(x)
    said = list(spec.shape)
    if x.many:  # however many pictures they are, the rest says how long the first axis is
        if not said or said[0] % PICTURES:
            raise GraphError(f"reshape: from {x.shape} to {spec.shape}, which depends on the number of pictures")
        said = [-1, *said[1:]]
    return xp.made(spec, "Reshape", [x, xp.initializer(np.array(said, np.int64))], allowzero=0 in said or None)


@writes("permute_dims")
def _(xp: Writer, x: Value, axes: Sequence[int]) -> Value:
    order = [axis % x.ndim for axis in axes]
    spec = infer("permute_dims", x, tuple(axes))
    if x.many and order[0] != 0:
        raise GraphError("permute_dims: moves the axis of the pictures")
    if x.first:
        order = [FIRST.index(axis) for axis in order]
    if order == sorted(order):
        return Value(xp, spec, x.name, many=x.many)
    return xp.made(spec, "Transpose", [x], perm=order)


@writes("broadcast_to")
def _(xp: Writer, x: Value, shape: Sequence[int]) -> Value:
    said = [1 if x.many and place == 0 else n for place, n in enumerate(shape)]
    if x.many and len(shape) != x.ndim:
        raise GraphError(f"broadcast_to: from {x.shape} to {shape}, which depends on the number of pictures")
    return xp.made(Spec(shape, x.dtype), "Expand", [xp.last(x), xp.initializer(np.array(said, np.int64))])


def _sliced(xp: Writer, x: Value, spec: Any, starts: Any, ends: Any, along: Any, steps: Any) -> Value:
    """A part of each axis named, in an order of steps; the result lies as ``x`` does."""
    if not along:
        return x
    if x.many and 0 in along:
        raise GraphError("getitem: picks among the pictures")
    places = [FIRST.index(axis) for axis in along] if x.first else along
    inputs = [xp.initializer(np.array(each, np.int64)) for each in (starts, ends, places, steps)]
    return xp.made(spec, "Slice", [x, *inputs], x.first)


_NEARLY_ENDLESS = 2**62


@writes("flip")
def _(xp: Writer, x: Value, *, axis: Any = None) -> Value:
    along = list(axes(axis, x.ndim))
    n = len(along)
    return _sliced(xp, x, x.spec, [-1] * n, [-_NEARLY_ENDLESS] * n, along, [-1] * n)


@writes("pad")
def _(xp: Writer, x: Value, widths: Any, value: float = 0.0) -> Value:
    spec = infer("pad", x, widths)
    order = FIRST if x.first else range(x.ndim)
    pads = [widths[axis][0] for axis in order] + [widths[axis][1] for axis in order]
    filling = xp.initializer(np.asarray(value, x.dtype))
    return xp.made(spec, "Pad", [x, xp.initializer(np.array(pads, np.int64)), filling], x.first, mode="constant")


def _all_one_way(xp: Writer, arrays: Sequence[Value], ndim: int) -> tuple[list[Value], bool]:
    dtype = np.result_type(*(one.dtype for one in arrays))
    first = ndim == 4 and any(one.first for one in arrays)
    return [
        xp.channels_first(one) if first else xp.last(one) for one in (as_dtype(xp, one, dtype) for one in arrays)
    ], first


@writes("concat")
def _(xp: Writer, *arrays: Any, axis: int = 0) -> Value:
    given = list(arrays[0]) if isinstance(arrays[0], list | tuple) else list(arrays)
    spec = infer("concat", given, axis=axis)
    (along,) = axes(axis, spec.ndim)
    values, first = _all_one_way(xp, given, spec.ndim)
    return xp.made(spec, "Concat", values, first, axis=FIRST.index(along) if first else along)


@writes("stack")
def _(xp: Writer, *arrays: Any, axis: int = 0) -> Any:
    given = list(arrays[0]) if isinstance(arrays[0], list | tuple) else list(arrays)
    spec = infer("stack", given, axis=axis)
    (along,) = axes(axis, spec.ndim)
    place = xp.initializer(np.array([along], np.int64))
    spread = Spec((*spec.shape[:along], 1, *spec.shape[along + 1 :]), spec.dtype)
    wide = [xp.made(spread, "Unsqueeze", [xp.last(as_dtype(xp, one, spec.dtype)), place]) for one in given]
    return xp.made(spec, "Concat", wide, axis=along)


@writes("getitem")
def _(xp: Writer, x: Value, *indices: Any, key: tuple[Any, ...]) -> Any:
    spec = Spec(indexing.indexed_shape(x.shape, key, tuple(i.shape for i in indices)), x.dtype)
    items = _whole_key(key, x.ndim)
    if indices:
        return _gathered(xp, xp.last(x), indices, items, spec)
    if any(isinstance(item, int) or item is None for item in items):
        x = xp.last(x)
    starts: list[int] = []
    ends: list[int] = []
    along: list[int] = []
    steps: list[int] = []
    taken: list[int] = []
    axis = 0
    for item in items:
        if item is None:
            continue
        n = x.shape[axis]
        if isinstance(item, int):
            starts, ends, along, steps = [*starts, item % n], [*ends, item % n + 1], [*along, axis], [*steps, 1]
        else:
            start, end, step = slice(*item).indices(n)
            if (start, end, step) != (0, n, 1):
                end = -_NEARLY_ENDLESS if end < 0 else end
                starts, ends, along, steps = [*starts, start], [*ends, end], [*along, axis], [*steps, step]
        taken.append(1 if isinstance(item, int) else len(range(*slice(*item).indices(n))))
        axis += 1
    found = _sliced(xp, x, Spec(taken, x.dtype), starts, ends, along, steps)
    return found if found.shape == spec.shape else xp.call("reshape", found, spec.shape)


def _whole_key(key: tuple[Any, ...], ndim: int) -> list[Any]:
    """A key with something for every axis."""
    fill = [indexing.Slice(None, None, None)] * (ndim - sum(item is not None and item is not Ellipsis for item in key))
    if Ellipsis not in key:
        return [*key, *fill]
    place = key.index(Ellipsis)
    return [*key[:place], *fill, *key[place + 1 :]]


def _gathered(xp: Writer, x: Value, indices: Sequence[Value], items: list[Any], spec: Any) -> Any:
    """Elements picked by arrays of places: of one axis, or of all axes up to the last that has one."""
    picked = [place for place, item in enumerate(items) if item is indexing.ARRAY]
    if any(item is None or isinstance(item, int) for item in items):
        raise GraphError("getitem: arrays of places beside single ones")
    plain = indexing.Slice(None, None, None)
    if any(item is not indexing.ARRAY and item != plain for item in items):
        raise GraphError("getitem: arrays of places beside parts of an axis")
    if x.many and 0 in picked:
        raise GraphError("getitem: picks among the pictures")
    if len(picked) == 1:
        return xp.made(spec, "Gather", [x, as_dtype(xp, indices[0], np.int64)], axis=picked[0])
    if picked != list(range(len(picked))):  # ONNX's GatherND picks by the first axes
        order = [*picked, *(place for place in range(x.ndim) if place not in picked)]
        if picked == list(range(picked[0], picked[-1] + 1)):
            raise GraphError("getitem: arrays of places for several axes, which are not the first")
        x = xp.call("permute_dims", x, tuple(order))
    shape = np.broadcast_shapes(*(one.shape for one in indices))
    places = [
        xp.call("expand_dims", xp.call("broadcast_to", as_dtype(xp, one, np.int64), shape), axis=len(shape))
        for one in indices
    ]
    return xp.made(spec, "GatherND", [x, xp.call("concat", places, axis=len(shape))])


@writes("take_along_axis")
def _(xp: Writer, x: Value, indices: Value, *, axis: int = -1) -> Value:
    spec = infer("take_along_axis", x, indices, axis=axis)
    (along,) = axes(axis, x.ndim)
    whole = (*spec.shape[:along], x.shape[along], *spec.shape[along + 1 :])
    x = xp.last(x) if x.shape == whole else xp.call("broadcast_to", x, whole)
    places = indices if indices.shape == spec.shape else xp.call("broadcast_to", indices, spec.shape)
    return xp.made(spec, "GatherElements", [x, as_dtype(xp, places, np.int64)], axis=along)


# --- made from settings alone ---


@writes("zeros_like")
def _(xp: Writer, x: Value) -> Value:
    return xp.constant(np.zeros(x.shape, x.dtype))


@writes("ones_like")
def _(xp: Writer, x: Value) -> Value:
    return xp.constant(np.ones(x.shape, x.dtype))


# --- products and windows ---


@writes("matmul", "precise_matmul")
def _(xp: Writer, x: Value, y: Value) -> Value:
    spec = infer("matmul", x, y)
    x, y = xp.last(x), xp.last(y)
    if y.held is not None and x.ndim == y.ndim == 2 and x.dtype == y.dtype == np.float32:
        return Value(xp, spec, many=x.many, pending=Product("Gemm", x, y.held, None, {}))
    return xp.made(spec, "MatMul", [as_dtype(xp, x, spec.dtype), as_dtype(xp, y, spec.dtype)])


@writes("conv2d")
def _(xp: Writer, x: Value, weight: Value, *, stride: Any, padding: Any, dilation: Any, groups: int) -> Value:
    window = Window(x.shape[1:3], weight.shape[:2], stride, padding, dilation)  # type: ignore[arg-type]
    spec = Spec((x.shape[0], *window.steps, weight.shape[3]), np.result_type(x.dtype, weight.dtype))
    how = _window(window) | {"dilations": window.dilation, "group": groups}
    x = xp.channels_first(x)
    if weight.held is not None:
        return Value(xp, spec, first=True, many=x.many, pending=Product("Conv", x, weight.held, None, how))
    turned = xp.node("Transpose", [xp.last(weight).name], perm=[3, 2, 0, 1])
    return xp.made(spec, "Conv", [x, turned], True, **how)


def _window(window: Window) -> dict[str, Any]:
    (top, bottom), (left, right) = window.borders
    return {"kernel_shape": window.kernel, "strides": window.stride, "pads": [top, left, bottom, right]}


def _pool(operator: str, **more: Any) -> Builder:
    def build(xp: Writer, x: Value, *, kernel_size: Any, stride: Any = None, padding: Any = 0) -> Value:
        size: Any = x.shape[1:3]
        window = Window(size, kernel_size, kernel_size if stride is None else stride, padding, 1)
        spec = Spec((x.shape[0], *window.steps, x.shape[3]), x.dtype)
        return xp.made(spec, operator, [xp.channels_first(x)], True, **_window(window), **more)

    return build


BUILDERS.update({"max_pool2d": _pool("MaxPool"), "avg_pool2d": _pool("AveragePool", count_include_pad=1)})
