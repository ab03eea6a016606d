"""Shapes as ``xp``: a formula run on shape and dtype alone, computing nothing.

Recording a graph asks it what each node's shape and dtype will be; verifying a graph asks it again.
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from nabi.errors import DTypeError, ShapeError
from nabi.graph import indexing
from nabi.graph.operation import Operation, registry
from nabi.graph.operators import Operators

DType = np.dtype[Any]
Axis = int | tuple[int, ...] | None


class Spec(Operators):
    """The shape and dtype of an array that is not there.

    Examples
    --------
    >>> Spec((2, 1), "float32") + Spec((3,), "float32")
    float32(2, 3)
    """

    __slots__ = ("dtype", "shape")

    def __init__(self, shape: Sequence[int], dtype: Any) -> None:
        self.shape = tuple(shape)
        self.dtype: DType = np.dtype(dtype)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        size = 1
        for length in self.shape:
            size *= length
        return size

    def __repr__(self) -> str:
        return f"{self.dtype}({', '.join(map(str, self.shape))})"

    def __bool__(self) -> bool:
        raise TypeError("a shape without values has no truth value")


def infer(operation: Operation, specs: Sequence[Any], settings: dict[str, Any]) -> Any:
    """Shape and dtype of what an operation gives: a `Spec`, or a tuple of them.

    Raises
    ------
    ShapeError, DTypeError
        Naming operation, argument and shapes or dtypes.
    """
    if operation.checker is not None:
        operation.checker(*specs, **settings)
    try:
        return operation.forward(shapes, *specs, **settings)
    except ShapeError as error:
        raise explain(operation, specs, error) from None
    except DTypeError as error:
        raise DTypeError(f"{operation.name}: {error}") from None


def explain(operation: Operation, arrays: Sequence[Any], error: Exception) -> ShapeError:
    """The error to raise where an operation's shapes do not go together: it names operation, arguments and shapes."""
    names = operation.arrays if not operation.variadic else [f"arrays[{i}]" for i in range(len(arrays))]
    told = " and ".join(f"{name} {a.shape}" for name, a in zip(names, arrays, strict=False) if hasattr(a, "shape"))
    text = str(error)
    if isinstance(error, ShapeError) and text.startswith(f"{operation.name}:"):
        return error
    if "broadcast" in text or not text:
        text = "the shapes do not broadcast together"
    return ShapeError(f"{operation.name}: {text}: {told}")


def broadcast_shape(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that shapes broadcast to, or ShapeError."""
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        raise ShapeError("the shapes do not broadcast together") from None


def axes(axis: Axis, ndim: int) -> tuple[int, ...]:
    """An axis argument as a sorted tuple of non-negative axes; None is all of them."""
    if axis is None:
        return tuple(range(ndim))
    given = (axis,) if isinstance(axis, int) else tuple(axis)
    for one in given:
        if not -ndim <= one < ndim:
            raise ShapeError(f"axis {one} is outside an array of {ndim} axes")
    result = tuple(sorted(one % ndim for one in given))
    if len(set(result)) != len(result):
        raise ShapeError(f"an axis stands twice in {axis}")
    return result


_FLOATING = frozenset("erf exp expm1 log log1p sqrt sin cos tanh divide".split())
_TRUTH = frozenset(
    "less less_equal greater greater_equal equal not_equal logical_and logical_or logical_not isnan isfinite".split()
)
_SAME = frozenset(
    "add subtract multiply floor_divide remainder pow negative abs sign floor ceil round maximum minimum "
    "bitwise_and bitwise_or bitwise_xor bitwise_left_shift bitwise_right_shift".split()
)
_OF_NUMBERS = {"subtract": "logical_xor", "negative": "logical_not", "sign": "the truth values as they are"}
"""What NumPy has no meaning for where all arrays are bool, and what to write instead."""

_DTYPES = frozenset("bool uint8 uint32 int32 int64 float32 float64".split())


def _dtype(arrays: Sequence[Any]) -> DType:
    """The dtype of arrays and weak Python scalars together."""
    return np.result_type(*(a.dtype if isinstance(a, Spec) else a for a in arrays))


def _elementwise(name: str, *arrays: Any) -> Spec:
    dtype = np.dtype(bool) if name in _TRUTH else _dtype(arrays)
    if name in _FLOATING and dtype.kind in "iub":
        dtype = np.dtype(np.float64)  # as NumPy has it; operations make float32 of integers before they come here
    if dtype.kind == "b" and name in _OF_NUMBERS:
        raise DTypeError(f"takes numbers, not bool: use {_OF_NUMBERS[name]}, or convert with astype")
    return Spec(broadcast_shape(*(a.shape for a in arrays if isinstance(a, Spec))), dtype)


class _ShapesNamespace:
    def __getattr__(self, name: str) -> Any:
        if name in _TRUTH or name in _FLOATING or name in _SAME:
            found: Any = functools.partial(_elementwise, name)
        elif name in registry:
            found = functools.partial(registry[name].forward, self)
        elif name in _DTYPES:
            found = np.dtype(name)
        else:
            raise AttributeError(f"shapes have no function {name!r}")
        setattr(self, name, found)
        return found

    def where(self, condition: Any, x: Any, y: Any) -> Spec:
        return Spec(broadcast_shape(*(a.shape for a in (condition, x, y) if isinstance(a, Spec))), _dtype((x, y)))

    def astype(self, x: Spec, dtype: Any) -> Spec:
        return Spec(x.shape, dtype)

    def _fold(self, x: Spec, axis: Axis, keepdims: bool, dtype: Any = None) -> Spec:
        folded = axes(axis, x.ndim)
        if keepdims:
            shape = tuple(1 if i in folded else n for i, n in enumerate(x.shape))
        else:
            shape = tuple(n for i, n in enumerate(x.shape) if i not in folded)
        return Spec(shape, x.dtype if dtype is None else dtype)

    def sum(self, x: Spec, *, axis: Axis = None, keepdims: bool = False) -> Spec:
        dtype = x.dtype if x.dtype.kind == "f" else np.int64
        return self._fold(x, axis, keepdims, dtype)

    def _extreme(self, x: Spec, *, axis: Axis = None, keepdims: bool = False) -> Spec:
        for one in axes(axis, x.ndim):
            if x.shape[one] == 0:
                raise ShapeError(f"the largest or smallest of no elements, along axis {one}")
        return self._fold(x, axis, keepdims)

    max = _extreme
    min = _extreme

    def any(self, x: Spec, *, axis: Axis = None, keepdims: bool = False) -> Spec:
        return self._fold(x, axis, keepdims, bool)

    all = any

    def argmax(self, x: Spec, *, axis: int | None = None, keepdims: bool = False) -> Spec:
        return Spec(self._extreme(x, axis=axis, keepdims=keepdims).shape, np.int64)

    argmin = argmax

    def argsort(self, x: Spec, *, axis: int = -1, stable: bool = True) -> Spec:
        return Spec(x.shape, np.int64)

    def reshape(self, x: Spec, shape: tuple[int, ...]) -> Spec:
        known = 1
        for length in shape:
            known *= length if length != -1 else 1
        if shape.count(-1) == 1 and known:
            shape = tuple(x.size // known if n == -1 else n for n in shape)
        result = Spec(shape, x.dtype)
        if -1 in shape or result.size != x.size:
            raise ShapeError(f"{x.size} elements do not fill the shape {shape}")
        return result

    def permute_dims(self, x: Spec, axes: tuple[int, ...]) -> Spec:
        if sorted(axis % x.ndim if -x.ndim <= axis < x.ndim else -1 for axis in axes) != list(range(x.ndim)):
            raise ShapeError(f"{axes} is not an order of the {x.ndim} axes")
        return Spec(tuple(x.shape[axis] for axis in axes), x.dtype)

    def broadcast_to(self, x: Spec, shape: tuple[int, ...]) -> Spec:
        if broadcast_shape(x.shape, shape) != tuple(shape):
            raise ShapeError(f"the shape does not broadcast to {shape}")
        return Spec(shape, x.dtype)

    def concat(self, arrays: Sequence[Spec], *, axis: int = 0) -> Spec:
        first = arrays[0]
        (along,) = axes(axis, first.ndim)
        for other in arrays[1:]:
            if other.ndim != first.ndim or any(i != along and n != other.shape[i] for i, n in enumerate(first.shape)):
                raise ShapeError(f"the shapes differ in more than axis {along}")
        total = sum(a.shape[along] for a in arrays)
        return Spec((*first.shape[:along], total, *first.shape[along + 1 :]), _dtype(arrays))

    def stack(self, arrays: Sequence[Spec], *, axis: int = 0) -> Spec:
        first = arrays[0]
        (along,) = axes(axis, first.ndim + 1)
        if any(other.shape != first.shape for other in arrays[1:]):
            raise ShapeError("arrays to be stacked must have one shape")
        return Spec((*first.shape[:along], len(arrays), *first.shape[along:]), _dtype(arrays))

    def pad(self, x: Spec, widths: tuple[tuple[int, int], ...], value: float = 0.0) -> Spec:
        if len(widths) != x.ndim:
            raise ShapeError(f"{len(widths)} pairs of widths for {x.ndim} axes")
        return Spec(tuple(a + n + b for n, (a, b) in zip(x.shape, widths, strict=True)), x.dtype)

    def flip(self, x: Spec, *, axis: Axis = None) -> Spec:
        axes(axis, x.ndim)
        return x

    def getitem(self, x: Spec, *indices: Spec, key: tuple[Any, ...]) -> Spec:
        return Spec(indexing.indexed_shape(x.shape, key, tuple(i.shape for i in indices)), x.dtype)

    def scatter_add(self, x: Spec, updates: Spec, *indices: Spec, key: tuple[Any, ...]) -> Spec:
        place = indexing.indexed_shape(x.shape, key, tuple(i.shape for i in indices))
        if broadcast_shape(updates.shape, place) != place:
            raise ShapeError(f"updates of shape {updates.shape} for places of shape {place}")
        return x

    def take_along_axis(self, x: Spec, indices: Spec, *, axis: int = -1) -> Spec:
        (along,) = axes(axis, x.ndim)
        if indices.ndim != x.ndim:
            raise ShapeError("indices must have as many axes as x")
        rest = broadcast_shape(
            (*x.shape[:along], *x.shape[along + 1 :]), (*indices.shape[:along], *indices.shape[along + 1 :])
        )
        return Spec((*rest[:along], indices.shape[along], *rest[along:]), x.dtype)

    def matmul(self, x: Spec, y: Spec) -> Spec:
        if not x.ndim or not y.ndim:
            raise ShapeError("a matrix product needs at least one axis on either side")
        left = x.shape if x.ndim > 1 else (1, *x.shape)
        right = y.shape if y.ndim > 1 else (*y.shape, 1)
        if left[-1] != right[-2]:
            raise ShapeError("the last axis of x must be as long as the second to last of y")
        batch = broadcast_shape(left[:-2], right[:-2])
        rows = left[-2:-1] if x.ndim > 1 else ()
        columns = right[-1:] if y.ndim > 1 else ()
        return Spec((*batch, *rows, *columns), _dtype((x, y)))

    precise_matmul = matmul

    def full(self, shape: tuple[int, ...], value: Any, *, dtype: Any = None) -> Spec:
        return Spec(shape, np.dtype(dtype) if dtype is not None else np.asarray(value).dtype)

    def zeros(self, shape: tuple[int, ...], *, dtype: Any = np.float64) -> Spec:
        return Spec(shape, dtype)

    ones = zeros

    def zeros_like(self, x: Spec) -> Spec:
        return Spec(x.shape, x.dtype)

    ones_like = zeros_like

    def arange(self, start: int, stop: int | None = None, step: int = 1, *, dtype: Any = None) -> Spec:
        span = range(0, start, step) if stop is None else range(start, stop, step)
        return Spec((len(span),), np.int64 if dtype is None else dtype)

    def expand_dims(self, x: Spec, *, axis: int) -> Spec:
        (along,) = axes(axis, x.ndim + 1)
        return Spec((*x.shape[:along], 1, *x.shape[along:]), x.dtype)


shapes = _ShapesNamespace()
"""Shapes as ``xp``: answers shape and dtype, computes nothing."""
Spec._xp = shapes
