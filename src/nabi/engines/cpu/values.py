"""What a plan asks for, in the few kinds of values that kernels are made of.

An operation that has a kernel, or is written in lanes, is taken as it is; any other is taken apart by its own formula,
run over values as ``xp``. What cannot be taken apart (a sort, say) is left to NumPy, as "external". So the engine
needs no list of operations: what it does not know yet, it computes as the declaration says.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nabi.engines.cpu.code import TYPES, Code
from nabi.engines.cpu.lanes import Lane, Unwritten, lanes_xp
from nabi.graph.indexing import ARRAY, Slice, indexed_shape
from nabi.graph.node import Node
from nabi.graph.operation import Operation, registry
from nabi.graph.operators import Operators
from nabi.graph.plan import Plan
from nabi.graph.shapes import Spec, axes, infer, shapes
from nabi.ops.convolve import Window

_numbers = itertools.count()


class Value(Operators):
    """An array that a run computes, or is given.

    Attributes
    ----------
    kind : str
        "input", "constant", "elementwise", "sum", "matmul", …: which kernel writes it, or how it is read.
    inputs : tuple of Value
    settings : dict
    shape, dtype
    formula : callable or None
        Of an elementwise value, over lanes; of an external one, over NumPy.
    held : NumPy scalar or array
        Of a constant.
    """

    __slots__ = ("_xp", "dtype", "formula", "held", "inputs", "kind", "serial", "settings", "shape")

    def __init__(
        self,
        xp: Any,
        kind: str,
        inputs: Sequence["Value"],
        shape: Sequence[int],
        dtype: Any,
        settings: dict[str, Any] | None = None,
        formula: Callable[..., Any] | None = None,
        held: Any = None,
    ) -> None:
        self._xp = xp
        self.serial = next(_numbers)
        self.kind = kind
        self.inputs = tuple(inputs)
        self.shape = tuple(shape)
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self.settings = settings or {}
        self.formula = formula
        self.held = held

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def spec(self) -> Spec:
        return Spec(self.shape, self.dtype)

    @property
    def strides(self) -> tuple[int, ...]:
        """Elements from one place to the next along each axis."""
        return tuple(math.prod(self.shape[i + 1 :]) for i in range(self.ndim))

    def __repr__(self) -> str:
        return f"%{self.serial} = {self.kind} {self.spec}"


VIEWS = ("reshape", "broadcast_to", "permute_dims", "getitem", "scatter_add", "pad", "flip", "concat", "arange")
"""Read where they are used: an element of theirs is an element of another value, a number, or a choice of them."""
FOLDED = ("sum", "max", "min", "any", "all")
POSITIONS = ("argmax", "argmin")
WINOGRAD_CHANNELS = 16
"""Fewer are not worth the transformations."""
WINOGRAD_SIDE = 3
"""Pixels along a side of the result from which on a tile, which has four, saves multiplications enough."""
SAVING = 2.75
"""How many times fewer multiplications Winograd's way must have to be faster than bfloat16."""
WINOGRAD_WEIGHTS = 1 << 17
"""Pairs of channels, at most, whose weights at 36 points the cache can bear."""
PANEL = 32
"""Columns of a matrix in float32 that lie together, where rows enough are multiplied with it."""
ROWS_FOR_PANELS = 32
"""Windows that the weights of a convolution are laid out in panels for, at least."""
DEEPEST = 1 << 13
"""Rows of a panel, at most, of which the next cache holds enough until it is read again."""
COLUMNS = 64
"""Columns of a matrix in bfloat16 that lie together, but of weights in matrix registers: as many as a tile has."""
WORDS = 16
"""Words of a register, of two numbers each."""
FAR_WEIGHTS = 1 << 14
"""Elements of a matrix that is fetched anew for every block: many rows of one block should be multiplied with it."""
MANY_WEIGHTS = 1 << 20
"""Elements of a matrix whose columns are shared out, where the rows that it is multiplied with are few."""
STRAND_ROWS = 128
"""Rows of a strand that multiplies such a matrix, or one that is far, at least."""
PANEL_ROWS = 64
"""Rows that a smaller matrix is laid out in panels for, at least."""
TWICE = 16
"""Rows, or columns, of a product that takes twice as long in bfloat16 as it saves: all of it is spent on rounding."""


def is_awkward(value: Value) -> bool:
    """Whether elements are added in steps along the last axis, or backwards: not to be asked for one by one."""
    key = value.settings["key"]
    return bool(key) and (abs(key[-1].step) > 1 or any(item.step < -1 for item in key))


def is_by_rows(value: Value) -> bool:
    """Whether a scatter adds rows to the same rows, so that each can be dealt with by itself."""
    first = value.settings["key"][0]
    return (first.start, first.step) == (0, 1) and value.inputs[1].shape[0] == value.shape[0]


class Spelled:
    """The namespace: operations on values give values."""

    def __init__(self, winograd: bool, rounded: bool, registers: bool) -> None:
        self.winograd = winograd
        self.rounded = rounded
        self.registers = registers
        self.made: dict[Any, Value] = {}

    def __getattr__(self, name: str) -> Any:
        if name in ("bool", "uint8", "uint32", "int32", "int64", "float32", "float64"):
            return np.dtype(name)
        operation = registry.get(name) or _BITWISE.get(name)
        if operation is None:
            raise Unwritten(f"{name} is not known here")
        return lambda *arguments, **settings: self.apply(operation, *_called(operation, arguments, settings))

    def apply(self, operation: Operation, arguments: tuple[Any, ...], settings: dict[str, Any]) -> Any:
        """The value, or tuple of values, of an operation on values and numbers."""
        values = self.coerce(arguments)
        if any(v.dtype not in TYPES for v in values):
            raise Unwritten("a dtype that kernels do not know, as float16, or another order of bytes")
        if operation.kind == "elementwise":
            spec = infer(operation, [v.spec for v in values], settings)
            formula = operation.forward
            if not _written(formula, tuple(v.dtype for v in values), settings):
                raise Unwritten(operation.name)
            return self.value("elementwise", values, spec.shape, spec.dtype, settings, formula)
        if operation.name in FOLDED:
            return self._fold(operation.name, values[0], **settings)
        if operation.name in POSITIONS:
            return self._position(operation.name, values[0], **settings)
        special = getattr(type(self), "_" + operation.name, None)
        if special is not None:
            return special(self, *values, **settings)
        if operation.native:
            raise Unwritten(operation.name)
        return operation.forward(self, *values, **settings)

    def coerce(self, arguments: Sequence[Any]) -> list[Value]:
        if all(isinstance(a, Value) for a in arguments):
            return list(arguments)
        given = [a for a in arguments if isinstance(a, Value)]
        weak = [a for a in arguments if not isinstance(a, Value)]
        dtype = np.result_type(*(a.dtype for a in given), *weak) if given else np.result_type(*weak)
        return [a if isinstance(a, Value) else self.constant(dtype.type(a)) for a in arguments]

    def constant(self, held: Any) -> Value:
        held = np.asarray(held)[()]
        return self.value("constant", (), np.shape(held), held.dtype, held=held, key=held.tobytes())

    def value(
        self,
        kind: str,
        inputs: Sequence[Value],
        shape: Sequence[int],
        dtype: Any,
        settings: dict[str, Any] | None = None,
        formula: Callable[..., Any] | None = None,
        held: Any = None,
        key: Any = None,
    ) -> Value:
        """A value, made once: the same of the same is the same."""
        parts = (kind, tuple(v.serial for v in inputs), tuple(shape), np.dtype(dtype), repr(settings), id(formula), key)
        if parts not in self.made:
            self.made[parts] = Value(self, kind, inputs, shape, dtype, settings, formula, held)
        return self.made[parts]

    def external(self, node: Node, inputs: list[Value]) -> Any:
        """What NumPy computes, by the operation's formula."""
        operation = node.operation
        assert operation is not None
        spec = node.spec
        whole = self.value(
            "external", inputs, () if isinstance(spec, tuple) else spec.shape, np.uint8 if isinstance(spec, tuple) else
            spec.dtype, {"specs": spec, **node.settings}, operation.forward,
        )  # fmt: skip
        if not isinstance(spec, tuple):
            return whole
        return tuple(
            self.value("external_part", (whole,), part.shape, part.dtype, {"index": i}) for i, part in enumerate(spec)
        )

    # --- views ---

    def _view(self, kind: str, x: Value, *rest: Value, **settings: Any) -> Value:
        spec = infer(registry[kind], [x.spec, *(v.spec for v in rest)], settings)
        if spec.shape == x.shape and kind in ("reshape", "broadcast_to", "pad"):
            return x
        return self.value(kind, (x, *rest), spec.shape, spec.dtype, settings)

    def _reshape(self, x: Value, *, shape: tuple[int, ...]) -> Value:
        found = self._view("reshape", x, shape=tuple(shape))
        row = math.prod(found.shape[1:])
        if x.kind == "concat" and x.ndim == 1 < found.ndim and row and all(part.size % row == 0 for part in x.inputs):
            # Random numbers are words of two kinds, one behind the other: each is read where it lies, row by row.
            parts = (self._reshape(part, shape=(part.size // row, *found.shape[1:])) for part in x.inputs)
            return self._concat(*parts)
        return found

    def _broadcast_to(self, x: Value, *, shape: tuple[int, ...]) -> Value:
        return self._view("broadcast_to", x, shape=tuple(shape))

    def _permute_dims(self, x: Value, *, axes: tuple[int, ...]) -> Value:
        order = tuple(axis % x.ndim for axis in axes)
        return x if order == tuple(range(x.ndim)) else self._view("permute_dims", x, axes=order)

    def _getitem(self, x: Value, *indices: Value, key: tuple[Any, ...]) -> Value:
        if indices:
            raise Unwritten("getitem by arrays")
        plain = _plain_key(x.shape, key)
        found = self._view("getitem", x, key=plain)
        forward = all(isinstance(item, Slice) and (item.start, item.step) == (0, 1) for item in plain)
        return x if forward and found.shape == x.shape else found

    def _scatter_add(self, x: Value, updates: Value, *indices: Value, key: tuple[Any, ...]) -> Value:
        plain = _plain_key(x.shape, key)
        if indices or any(not isinstance(item, Slice) for item in plain):
            raise Unwritten("scatter_add by arrays")
        updates = self._broadcast_to(updates, shape=indexed_shape(x.shape, key, ()))
        return self.value("scatter_add", (x, updates), x.shape, x.dtype, {"key": plain})

    def _pad(self, x: Value, *, widths: tuple[tuple[int, int], ...], value: float = 0.0) -> Value:
        return self._view("pad", x, widths=tuple(map(tuple, widths)), value=value)

    def _flip(self, x: Value, *, axis: Any = None) -> Value:
        return self._view("flip", x, axis=axes(axis, x.ndim))

    def _concat(self, *arrays: Value, axis: int = 0) -> Value:
        spec = shapes.concat([v.spec for v in arrays], axis=axis)
        return self.value("concat", arrays, spec.shape, spec.dtype, {"axis": axis % len(spec.shape)})

    def _stack(self, *arrays: Value, axis: int = 0) -> Value:
        along = axis % (arrays[0].ndim + 1)
        shape = (*arrays[0].shape[:along], 1, *arrays[0].shape[along:])
        return self._concat(*(self._reshape(a, shape=shape) for a in arrays), axis=along)

    def _full(self, *, shape: tuple[int, ...], value: float, dtype: Any = "float32") -> Value:
        return self._broadcast_to(self.constant(np.dtype(dtype).type(value)), shape=tuple(shape))

    def _zeros(self, *, shape: tuple[int, ...], dtype: Any = "float32") -> Value:
        return self._full(shape=shape, value=0, dtype=dtype)

    def _ones(self, *, shape: tuple[int, ...], dtype: Any = "float32") -> Value:
        return self._full(shape=shape, value=1, dtype=dtype)

    def _arange(self, *, start: int, stop: int | None = None, step: int = 1, dtype: Any = "int64") -> Value:
        first, stop = (0, start) if stop is None else (start, stop)
        length = len(range(first, stop, step))
        return self.value("arange", (), (length,), np.dtype(dtype), {"start": first, "step": step})

    # --- sums and other folds ---

    def _fold(self, kind: str, x: Value, axis: Any, keepdims: bool) -> Value:
        spec = infer(registry[kind], [x.spec], {"axis": axis, "keepdims": keepdims})
        folded = axes(axis, x.ndim)
        if not folded or 0 in x.shape:
            raise Unwritten("nothing to fold")
        kept = tuple(n for i, n in enumerate(x.shape) if i not in folded)
        result = self.value(kind, (x,), kept, spec.dtype, {"axes": folded})
        return self._reshape(result, shape=spec.shape)

    def _position(self, kind: str, x: Value, axis: int | None, keepdims: bool) -> Value:
        if axis is None or axis % x.ndim != x.ndim - 1:
            raise Unwritten(f"{kind} along another axis than the last")
        return self._fold(kind, x, axis, keepdims)

    # --- products ---

    def _matmul(self, x: Value, y: Value) -> Value:
        return self._product(x, y, self.rounded)

    def _precise_matmul(self, x: Value, y: Value) -> Value:
        return self._product(x, y, rounded=False)

    def _product(self, x: Value, y: Value, rounded: bool) -> Value:
        if x.ndim != 2 or y.ndim != 2 or x.dtype.kind != "f" or x.dtype != y.dtype or 0 in (*x.shape, *y.shape):
            raise Unwritten("a product of stacks of matrices, or of vectors")
        shape = x.shape[0], y.shape[1]
        if rounded and x.dtype == np.float32 and _suits_rounding(*shape):
            return self.value(
                "rounded_matmul", (self._rows(x), self._rounded_panels(y)), shape, x.dtype, {"depth": x.shape[1]}
            )
        if x.dtype == np.float32 and _suits_panels(x.shape[0], *y.shape):
            panels = -(-y.shape[1] // PANEL), y.shape[0], PANEL
            y = self._laid_out("panels", y, panels, x.dtype)
        return self.value("matmul", (x, y), shape, x.dtype)

    def _laid_out(self, kind: str, matrix: Value, shape: tuple[int, ...], dtype: Any) -> Value:
        """A matrix as a product takes it, by a kernel that knows both it and its transpose."""
        turned = matrix.kind == "permute_dims"
        how = {"turned": turned, "depth": matrix.shape[0], "columns": matrix.shape[1]}
        return self.value(kind, (matrix.inputs[0] if turned else matrix,), shape, dtype, how)

    def _rows(self, x: Value) -> Value:
        """The first matrix of a product, in words of two numbers."""
        (rows, depth), turned = x.shape, x.kind == "permute_dims"
        how = {"turned": turned, "depth": depth}
        return self.value(
            "rounded_rows", (x.inputs[0] if turned else x,), (rows, apart(-(-depth // 2))), np.uint32, how
        )

    def _rounded_panels(self, y: Value, most: int = COLUMNS) -> Value:
        """The second matrix of a product, in words of two numbers, (panels, words, columns): so many at the most."""
        depth, columns = y.shape
        shape = -(-columns // most), -(-depth // 2), min(most, -(-columns // WORDS) * WORDS)
        return self._laid_out("rounded_panels", y, shape, np.uint32)

    def _goes_winograds_way(self, window: Window, inputs: int, outputs: int, rounded: bool, fills: bool) -> bool:
        """Whether a convolution does.

        ``rounded``: its product as it is defined would be in bfloat16, and in matrix registers where there are such and
        it ``fills`` them. These are faster at all its multiplications than vectors are at a quarter of them.
        """
        suits = self.winograd and _suits_winograd(window, inputs, outputs)
        in_registers = self.registers and fills
        return suits and not (rounded and (in_registers or _rounding_is_faster(window, inputs, outputs)))

    def _conv2d(self, x: Value, weight: Value, *, stride: Any, padding: Any, dilation: Any, groups: int) -> Value:
        window = Window(_two(x.shape, 1), _two(weight.shape), stride, padding, dilation)
        if x.dtype != np.float32 or groups > 1:
            return self._grouped(x, weight, window, groups)
        return self._windowed(x, weight, window.borders, window)

    def _grouped(self, x: Value, weight: Value, window: Window, groups: int) -> Value:
        if not (weight.shape[2] == 1 and weight.shape[3] == groups and x.dtype.kind == "f"):
            raise Unwritten("a convolution in groups")
        if x.dtype == np.float32:
            return self._depthwise(x, weight, window.borders, window)
        padded = window.pad(self, x)
        kh, kw = window.kernel
        taps = [
            padded[tap] * weight[i, j, 0, :]
            for tap, (i, j) in zip(window.taps(), itertools.product(range(kh), range(kw)), strict=True)
        ]
        total: Value = taps[0]
        for tap in taps[1:]:
            total = total + tap
        return total

    def _depthwise(self, x: Value, weight: Value, borders: Any, window: Window) -> Value:
        """A convolution of each channel for itself, of a picture without its borders.

        Where that is cut, its ``height`` is told, and whether strips lie ``apart``, each with all that is seen of it.
        """
        (top, _), (left, _) = borders
        shape = (x.shape[0], *window.steps, x.shape[3])
        how = {**_seen(window), "corner": (top, left), "height": 0, "apart": False}
        return self.value("depthwise", (x, weight), shape, x.dtype, how)

    def _windowed(self, x: Value, weight: Value, borders: Any, window: Window, turned: bool = False) -> Value:
        """The convolution of a padded picture; ``turned``: with the weights turned around, from outputs to inputs."""
        (oh, ow), n = window.steps, x.shape[0]
        inputs, outputs = weight.shape[2:] if not turned else weight.shape[:1:-1]
        depth = math.prod(window.kernel) * inputs
        rounded = self.rounded and _suits_rounding(n * oh * ow, outputs) and depth >= TWICE
        if self._goes_winograds_way(window, inputs, outputs, rounded, fills=True):
            x = self._pad(x, widths=((0, 0), *_tiled(borders, _two(x.shape, 1), (oh, ow)), (0, 0)))
            wide = panel(outputs)
            shape = (36, outputs // wide, inputs, wide)
            u = self.value("winograd_weight", (weight,), shape, x.dtype, {"turned": turned})
            return self.value("winograd", (x, u), (n, oh, ow, outputs), x.dtype)
        x = self._pad(x, widths=((0, 0), *borders, (0, 0)))
        if turned:
            weight = self._flip(weight, axis=(0, 1))
            weight = self._permute_dims(weight, axes=(0, 1, 3, 2))
        shifted = rounded and self.registers and fills_line(window, x.shape[2], WORDS)
        how = {**_seen(window), "rounded": rounded, "shifted": shifted}
        right = weight
        if shifted:
            right = self._rounded_panels(self._stretched(weight, window, inputs, outputs), 2 * WORDS)
        elif rounded:
            right = self._rounded_panels(self._reshape(weight, shape=(depth, outputs)))
        elif n * oh * ow >= ROWS_FOR_PANELS and depth <= DEEPEST:
            wide = min(PANEL, -(-outputs // 8) * 8)
            right = self.value("panels", (weight,), (-(-outputs // wide), *weight.shape[:3], wide), x.dtype)
        return self.value("convolution", (x, right), (n, oh, ow, outputs), x.dtype, how)

    def _stretched(self, weight: Value, window: Window, inputs: int, outputs: int) -> Value:
        """Weights as a matrix, with zeros after each stretch of a window, which fill a matrix register."""
        found = stretches(window.kernel, window.dilation, row=0, channels=inputs)
        count, (_, length) = len(found), found[0]
        behind = -length % (2 * WORDS)
        if behind:
            weight = self._reshape(weight, shape=(count, length, outputs))
            weight = self._pad(weight, widths=((0, 0), (0, behind), (0, 0)))
        return self._reshape(weight, shape=(count * (length + behind), outputs))

    def _conv2d_input_gradient(
        self, g: Value, weight: Value, *, size: tuple[int, int], stride: Any, padding: Any, dilation: Any, groups: int
    ) -> Value:
        window = Window(size, _two(weight.shape), stride, padding, dilation)
        how = {"size": size, "stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        rest = [
            (reach - 1 - low, reach - 1 - high) for reach, (low, high) in zip(window.reach, window.borders, strict=True)
        ]
        by_channel = weight.shape[2] == 1 and weight.shape[3] == groups
        plain = g.dtype == np.float32 and (groups == 1 or by_channel) and window.stride == (1, 1)
        if not plain or any(border < 0 for pair in rest for border in pair):
            return registry["conv2d_input_gradient"].forward(self, g, weight, **how)  # type: ignore[no-any-return]
        back = Window(g.shape[1:3], weight.shape[:2], 1, tuple(rest), dilation)  # type: ignore[arg-type]
        if groups > 1:
            return self._depthwise(g, self._flip(weight, axis=(0, 1)), back.borders, back)
        return self._windowed(g, weight, back.borders, back, turned=True)

    def _conv2d_weight_gradient(
        self, x: Value, g: Value, *, kernel_size: tuple[int, int], stride: Any, padding: Any, dilation: Any, groups: int
    ) -> Value:
        if x.dtype != np.float32:
            raise Unwritten("a convolution of float64")
        window = Window(_two(x.shape, 1), kernel_size, stride, padding, dilation)
        inputs, outputs = x.shape[3], g.shape[3]
        if groups > 1:
            if inputs != groups or outputs != groups:
                raise Unwritten("a convolution in groups")
            padded = window.pad(self, x)
            taps = [self._fold("sum", padded[tap] * g, (0, 1, 2), False) for tap in window.taps()]
            return self._reshape(self._stack(*taps, axis=0), shape=(*window.kernel, 1, outputs))
        depth = math.prod(window.kernel) * inputs
        rounded = self.rounded and _suits_rounding(depth, outputs)
        wide = x.shape[2] + sum(window.borders[1])
        shifted = rounded and self.registers and outputs % WORDS == 0 and fills_line(window, wide, 2 * WORDS)
        if self._goes_winograds_way(window, inputs, outputs, rounded, fills=shifted):
            padded = self._pad(x, widths=((0, 0), *_tiled(window.borders, _two(x.shape, 1), window.steps), (0, 0)))
            whole, corner = self._whole_tiles(g, window)
            tiles = {"steps": window.steps, "corner": corner}
            return self.value("winograd_gradient", (padded, whole), (3, 3, inputs, outputs), x.dtype, tiles)
        padded = self._pad(x, widths=((0, 0), *window.borders, (0, 0)))
        how = {**_seen(window), "rounded": rounded, "shifted": shifted}
        if not shifted:
            return self.value("convolution_gradient", (padded, g), (*window.kernel, inputs, outputs), x.dtype, how)
        high = -(-inputs // WORDS) * WORDS
        found = self.value("convolution_gradient", (padded, g), (*window.kernel, outputs, high), x.dtype, how)
        found = found if high == inputs else found[:, :, :, :inputs]
        return self._permute_dims(found, axes=(0, 1, 3, 2))

    def _whole_tiles(self, g: Value, window: Window) -> tuple[Value, tuple[int, int]]:
        """A gradient in whole tiles, and where it begins: as the gradient on inputs takes it, if that is computed."""
        rest = [reach - 1 - low for reach, (low, _) in zip(window.reach, window.borders, strict=True)]
        before = len(self.made)
        tiled = _tiled([(low, 0) for low in rest], _two(g.shape, 1), window.size)
        whole = all(high >= -n % 4 for (_, high), n in zip(tiled, window.steps, strict=True))
        if whole and min(border for pair in tiled for border in pair) >= 0:
            shared = self._pad(g, widths=((0, 0), *tiled, (0, 0)))
            if len(self.made) == before:
                return shared, (rest[0], rest[1])
        widths = [(0, -n % 4) for n in window.steps]
        return self._pad(g, widths=((0, 0), *widths, (0, 0))), (0, 0)

    # --- normalisation over a batch ---

    def _batch_norm(self, x: Value, weight: Value, bias: Value, *, epsilon: float) -> Any:
        if x.dtype != np.float32:
            return registry["batch_norm"].forward(self, x, weight, bias, epsilon=epsilon)
        both = self.value("moments", (x,), (2, x.shape[-1]), np.float32)
        mean, variance = both[0], both[1]
        return (x - mean) * (weight / self.sqrt(variance + epsilon)) + bias, mean, variance


def _called(operation: Operation, arguments: tuple[Any, ...], settings: dict[str, Any]) -> tuple[Any, Any]:
    """Arguments as a formula gives them: arrays in a list, or settings by position, as the Array API allows."""
    if operation.variadic and len(arguments) == 1 and isinstance(arguments[0], list | tuple):
        arguments = tuple(arguments[0])
    if not operation.variadic and len(arguments) > len(operation.arrays):
        extra = arguments[len(operation.arrays) :]
        arguments = arguments[: len(operation.arrays)]
        settings = dict(zip(operation.setting_names, extra, strict=False)) | settings
    return arguments, {**operation.defaults, **settings}


def _bitwise(name: str) -> Operation:
    def forward(xp: Any, x: Any, y: Any) -> Any:
        return getattr(xp, name)(x, y)

    forward.__name__ = name
    return Operation(forward, "elementwise", False, False)


_BITWISE = {
    name: _bitwise(name)
    for name in ("bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_left_shift", "bitwise_right_shift")
}

_known: dict[Any, bool] = {}


def _written(formula: Callable[..., Any], dtypes: tuple[np.dtype[Any], ...], settings: dict[str, Any]) -> bool:
    """Whether an elementwise formula can be written in lanes, for operands of these dtypes."""
    key = (formula, dtypes, repr(settings))
    if key not in _known:
        code = Code(64)
        try:
            formula(lanes_xp, *(Lane(code, f"%x{i}", dtype, 1) for i, dtype in enumerate(dtypes)), **settings)
            _known[key] = True
        except Unwritten:
            _known[key] = False
    return _known[key]


def _plain_key(shape: tuple[int, ...], key: tuple[Any, ...]) -> tuple[Any, ...]:
    """A static key with one item for each axis (None for a new one): slices with their ends, and integers."""
    taken = sum(item is not None and item is not Ellipsis for item in key)
    fill = (Slice(None, None, None),) * (len(shape) - taken)
    if Ellipsis in key:
        place = key.index(Ellipsis)
        key = (*key[:place], *fill, *key[place + 1 :])
    else:
        key = (*key, *fill)
    result: list[Any] = []
    axis = 0
    for item in key:
        if item is ARRAY:
            raise Unwritten("indexing by arrays")
        if item is None:
            result.append(None)
            continue
        if isinstance(item, Slice):
            start, stop, step = slice(*item).indices(shape[axis])
            result.append(Slice(start, None if stop < 0 else stop, step))  # -1 would be the last, read again
        else:
            result.append(item % shape[axis])
        axis += 1
    return tuple(result)


def _two(shape: tuple[int, ...], first: int = 0) -> tuple[int, int]:
    """Height and width, which stand at an axis and the next."""
    return shape[first], shape[first + 1]


def _seen(window: Window) -> dict[str, Any]:
    """What a kernel must know of a window."""
    return {"kernel": window.kernel, "stride": window.stride, "dilation": window.dilation}


def _suits_winograd(window: Window, inputs: int, outputs: int) -> bool:
    small = min(inputs, outputs) < WINOGRAD_CHANNELS or min(window.steps) < WINOGRAD_SIDE
    return window.kernel == (3, 3) and window.stride == (1, 1) and window.dilation == (1, 1) and not small


def _rounding_is_faster(window: Window, inputs: int, outputs: int) -> bool:
    """Whether a 3×3 convolution as it is defined, in bfloat16, is faster than Winograd's way in float32.

    It has four times the multiplications, or fewer where tiles stick out of the picture, at half the price each. But
    nothing is transformed, and where there are many channels, the weights at 36 points are not in the cache.
    """
    tiles = math.prod(-(-n // 4) for n in window.steps)
    return 9 * math.prod(window.steps) < SAVING * 36 * tiles or inputs * outputs > WINOGRAD_WEIGHTS


def line_places(width: int, steps: Sequence[int]) -> int:
    """Places from the first window's to the last one's, in rows of so many: a picture as one line."""
    return (steps[0] - 1) * width + steps[1]


def fills_line(window: Window, width: int, together: int) -> bool:
    """Whether windows begin at a quarter, at least, of the places of a picture's line, taken so many at once."""
    places = -(-line_places(width, window.steps) // together) * together
    return window.stride[0] == window.stride[1] and 4 * math.prod(window.steps) >= places


def stretches(kernel: Sequence[int], dilation: Sequence[int], row: int, channels: int) -> list[tuple[int, int]]:
    """What lies together of a window, in a picture of so many numbers a row: how far from its corner, and how long."""
    (kh, kw), (dh, dw) = kernel, dilation
    count, length = (1, kw * channels) if dw == 1 else (kw, channels)
    return [(i * dh * row + j * dw * channels, length) for i in range(kh) for j in range(count)]


def _suits_rounding(rows: int, columns: int) -> bool:
    """Whether a product in bfloat16 saves more than it takes to round its matrices, however deep it is."""
    return rows * columns > TWICE * (rows + columns)


def is_by_panels(value: Value) -> bool:
    """Whether it is a product in float32 with a matrix in panels."""
    return value.kind == "matmul" and value.inputs[1].kind == "panels"


def is_in_panels(value: Value) -> bool:
    """Whether a matrix is laid out in panels for a product, by a kernel of its own."""
    return value.kind == "rounded_panels" or (value.kind == "panels" and value.ndim == 3)


def _suits_panels(rows: int, depth: int, columns: int) -> bool:
    """Whether a second matrix is laid out in panels: where it is neither narrow nor near, and rows are enough."""
    enough = PANEL_ROWS if depth * columns < MANY_WEIGHTS else STRAND_ROWS
    return rows >= enough and columns >= 2 * PANEL and depth * columns >= FAR_WEIGHTS


def apart(words: int) -> int:
    """Words from one row to the next: an odd number of cache lines, so that rows fall on all places of the cache.

    Examples
    --------
    >>> apart(14), apart(33), apart(1024)
    (16, 48, 1040)
    """
    lines = -(-words // WORDS)
    return (lines | 1) * WORDS


def panel(channels: int) -> int:
    """Channels that go Winograd's way together, so that their 36 points stay in the cache."""
    return PANEL if channels % PANEL == 0 else channels


def _tiled(borders: Any, size: tuple[int, int], steps: tuple[int, ...]) -> list[tuple[int, int]]:
    """Borders that make whole tiles: 6×6 in steps of 4."""
    return [(low, 4 * -(-step // 4) + 2 - n - low) for (low, _), n, step in zip(borders, size, steps, strict=True)]


def spell(
    plan: Plan, winograd: bool, rounded: bool = False, registers: bool = False
) -> tuple[Spelled, list[Value], list[Value]]:
    """A plan's inputs and its outputs as values, and what makes more of them.

    ``rounded``: products in bfloat16, where that is faster; ``registers``: for a processor that has matrix registers.
    """
    xp = Spelled(winograd, rounded, registers)
    found: dict[int, Any] = {}
    for number, node in enumerate(plan.inputs):
        found[node.serial] = xp.value("input", (), node.shape, node.dtype, {"number": number})
    for node in plan.constants:
        if np.ndim(node.held):
            held = np.ascontiguousarray(node.held)
            found[node.serial] = xp.value("array", (), node.shape, node.dtype, held=held, key=node.serial)
        else:
            found[node.serial] = xp.constant(node.held)
    for node in plan.nodes:
        found[node.serial] = _spelled(xp, node, [found[source.serial] for source in node.inputs])
    return xp, [found[node.serial] for node in plan.inputs], [found[node.serial] for node in plan.outputs]


def _spelled(xp: Spelled, node: Node, inputs: list[Any]) -> Any:
    operation = node.operation
    assert operation is not None
    if operation.kind == "projection":
        return inputs[0][node.settings["index"]]
    try:
        return xp.apply(operation, tuple(inputs), node.settings)
    except Unwritten:
        return xp.external(node, inputs)
