"""Operations that move elements: shapes, order, picking and placing; and arrays made from settings alone."""

from typing import Any

from nabi.errors import SettingError, ShapeError
from nabi.graph import indexing
from nabi.graph.operation import Integer, below, operation, real
from nabi.graph.shapes import axes

# --- shape and order ---


@operation("movement", example=[real(2, 3)], shape=(3, 2))
def reshape(xp: Any, x: Any, *, shape: tuple[int, ...]) -> Any:
    """y = x in another shape"""
    return xp.reshape(x, shape)


reshape.vjp(x=lambda xp, g, y, x, shape: xp.reshape(g, x.shape))


@operation("movement", example=[real(2, 3, 4)], axes=(2, 0, 1))
def permute_dims(xp: Any, x: Any, *, axes: tuple[int, ...]) -> Any:
    """y = x with its axes in another order"""
    return xp.permute_dims(x, axes)


@permute_dims.vjp("x")
def _(xp: Any, g: Any, y: Any, x: Any, axes: tuple[int, ...]) -> Any:
    order = [axis % x.ndim for axis in axes]
    return xp.permute_dims(g, tuple(order.index(axis) for axis in range(x.ndim)))


@operation("composite", example=[real(2, 3, 4)])
def matrix_transpose(xp: Any, x: Any) -> Any:
    """y = xᵀ, of the last two axes"""
    return xp.permute_dims(x, (*range(x.ndim - 2), x.ndim - 1, x.ndim - 2))


@operation("movement", example=[real(3, 1)], shape=(2, 3, 4))
def broadcast_to(xp: Any, x: Any, *, shape: tuple[int, ...]) -> Any:
    """y = x repeated to a larger shape"""
    return xp.broadcast_to(x, shape)


broadcast_to.vjp(x=lambda xp, g, y, x, shape: g)  # the walk sums it back


@operation("composite", example=[real(2, 3)], axis=1)
def expand_dims(xp: Any, x: Any, *, axis: int) -> Any:
    """y = x with one more axis, of length 1"""
    (along,) = axes(axis, x.ndim + 1)
    return xp.reshape(x, (*x.shape[:along], 1, *x.shape[along:]))


@operation("composite", example=[real(2, 1, 3)], axis=1)
def squeeze(xp: Any, x: Any, *, axis: int | tuple[int, ...]) -> Any:
    """y = x without axes of length 1"""
    gone = axes(axis, x.ndim)
    if any(x.shape[i] != 1 for i in gone):
        raise ShapeError(f"squeeze: axis {axis} of x {x.shape} is not of length 1")
    return xp.reshape(x, tuple(n for i, n in enumerate(x.shape) if i not in gone))


@operation("movement", example=[real(2, 3)], axis=1)
def flip(xp: Any, x: Any, *, axis: int | tuple[int, ...] | None = None) -> Any:
    """y = x in reverse along an axis"""
    return xp.flip(x, axis=axis)


flip.vjp(x=lambda xp, g, y, x, axis: xp.flip(g, axis=axis))


@operation("movement", example=[real(2, 3)], widths=((1, 0), (0, 2)))
def pad(xp: Any, x: Any, *, widths: tuple[tuple[int, int], ...], value: float = 0.0) -> Any:
    """y = x with a border of one value"""
    return xp.pad(x, widths, value)


@pad.check
def _(x: Any, *, widths: tuple[tuple[int, int], ...], value: float) -> None:
    if len(widths) != x.ndim or any(width < 0 for pair in widths for width in pair):
        raise ShapeError(f"pad: widths {widths} are not one pair of non-negative numbers for each axis of x {x.shape}")


@pad.vjp("x")
def _(xp: Any, g: Any, y: Any, x: Any, widths: tuple[tuple[int, int], ...], value: float) -> Any:
    return g[tuple(slice(before, before + n) for n, (before, _) in zip(x.shape, widths, strict=True))]


@operation("movement")
def concat(xp: Any, *arrays: Any, axis: int = 0) -> Any:
    """y = arrays joined along an axis"""
    return xp.concat(arrays, axis=axis)


concat.example(real(2, 3), real(1, 3), axis=0)
concat.example(real(2, 1), real(2, 3), real(2, 2), axis=-1)


@concat.vjp_rest
def _(xp: Any, index: int, g: Any, y: Any, *arrays: Any, axis: int) -> Any:
    (along,) = axes(axis, y.ndim)
    start = sum(a.shape[along] for a in arrays[:index])
    return g[(slice(None),) * along + (slice(start, start + arrays[index].shape[along]),)]


@operation("movement")
def stack(xp: Any, *arrays: Any, axis: int = 0) -> Any:
    """y = arrays laid side by side along a new axis"""
    return xp.stack(arrays, axis=axis)


stack.example(real(2, 3), real(2, 3), axis=1)


@stack.vjp_rest
def _(xp: Any, index: int, g: Any, y: Any, *arrays: Any, axis: int) -> Any:
    (along,) = axes(axis, y.ndim)
    return g[(slice(None),) * along + (index,)]


# --- picking and placing ---


@operation("indexing")
def getitem(xp: Any, x: Any, *indices: Integer, key: tuple[Any, ...]) -> Any:
    """y = x[key]"""
    return xp.getitem(x, *indices, key=key)


getitem.example(real(4, 3), key=(indexing.Slice(1, None, 2), 0))
getitem.example(real(4, 3), below(4, 2), key=(indexing.ARRAY,))
getitem.example(
    real(4, 3, 2), below(4, 2, 1), below(2, 5), key=(indexing.ARRAY, indexing.Slice(None, None, None), indexing.ARRAY)
)


@getitem.vjp("x")
def _(xp: Any, g: Any, y: Any, x: Any, *indices: Any, key: tuple[Any, ...]) -> Any:
    return xp.scatter_add(xp.zeros_like(x), g, *indices, key=key)


@operation("indexing")
def scatter_add(xp: Any, x: Any, updates: Any, *indices: Integer, key: tuple[Any, ...]) -> Any:
    """y = x, with y[key] += updates"""
    return xp.scatter_add(x, updates, *indices, key=key)


scatter_add.example(real(4, 3), real(2, 3), below(4, 2), key=(indexing.ARRAY,))
scatter_add.vjp(
    x=lambda xp, g, y, x, updates, *indices, key: g,
    updates=lambda xp, g, y, x, updates, *indices, key: xp.getitem(g, *indices, key=key),
)


@operation("composite", example=[real(4, 3), below(4, 5)], axis=0)
def take(xp: Any, x: Any, indices: Integer, *, axis: int = 0) -> Any:
    """y = x at integer places along one axis"""
    (along,) = axes(axis, x.ndim)
    return xp.getitem(x, indices, key=(*(indexing.Slice(None, None, None),) * along, indexing.ARRAY))


@operation("indexing", example=[real(2, 5), below(5, 2, 3)], axis=1)
def take_along_axis(xp: Any, x: Any, indices: Integer, *, axis: int = -1) -> Any:
    """y[i, j] = x[i, indices[i, j]]"""
    return xp.take_along_axis(x, indices, axis=axis)


@take_along_axis.check
def _(x: Any, indices: Any, *, axis: int) -> None:
    (along,) = axes(axis, x.ndim)
    if indices.ndim != x.ndim or any(
        i != along and m not in (1, n) for i, (n, m) in enumerate(zip(x.shape, indices.shape, strict=True))
    ):
        raise ShapeError(
            f"take_along_axis: indices {indices.shape} must have the shape of x {x.shape} except along axis {axis}"
        )


@take_along_axis.vjp("x")
def _(xp: Any, g: Any, y: Any, x: Any, indices: Any, *, axis: int) -> Any:
    (along,) = axes(axis, x.ndim)
    places = [
        indices if i == along else xp.reshape(xp.arange(n), (*(1,) * i, n, *(1,) * (x.ndim - i - 1)))
        for i, n in enumerate(x.shape)
    ]
    return xp.scatter_add(xp.zeros_like(x), g, *places, key=(indexing.ARRAY,) * x.ndim)


@operation("indexing", differentiable=False, example=[below(4, 5)], depth=4)
def one_hot(xp: Any, indices: Integer, *, depth: int, dtype: Any = "float32") -> Any:
    """y[i, j] = 1 where j = indices[i], 0 elsewhere"""
    return xp.astype(xp.expand_dims(indices, axis=-1) == xp.arange(depth), dtype)


# --- made from settings alone ---


@operation("creation", differentiable=False, example=[], shape=(2, 3), value=1.5)
def full(xp: Any, *, shape: tuple[int, ...], value: float, dtype: Any = "float32") -> Any:
    """y = one value everywhere"""
    return xp.full(shape, value, dtype=dtype)


@operation("creation", differentiable=False, example=[], shape=(2, 3))
def zeros(xp: Any, *, shape: tuple[int, ...], dtype: Any = "float32") -> Any:
    """y = 0 everywhere"""
    return xp.zeros(shape, dtype=dtype)


@operation("creation", differentiable=False, example=[], shape=(2, 3))
def ones(xp: Any, *, shape: tuple[int, ...], dtype: Any = "float32") -> Any:
    """y = 1 everywhere"""
    return xp.ones(shape, dtype=dtype)


@operation("creation", differentiable=False, example=[], start=1, stop=7, step=2)
def arange(xp: Any, *, start: int, stop: int | None = None, step: int = 1, dtype: Any = "int64") -> Any:
    """y = start, start + step, … below stop: integers"""
    if not all(isinstance(n, int) for n in (start, step, stop or 0)):
        raise SettingError(f"arange: start={start}, stop={stop} and step={step} must be integers")
    return xp.arange(start, stop, step, dtype=dtype) if stop is not None else xp.arange(0, start, step, dtype=dtype)


@operation("composite", differentiable=False, example=[real(2, 3)])
def zeros_like(xp: Any, x: Any) -> Any:
    """y = 0 in the shape and dtype of x"""
    return xp.zeros(x.shape, dtype=x.dtype)


@operation("composite", differentiable=False, example=[real(2, 3)])
def ones_like(xp: Any, x: Any) -> Any:
    """y = 1 in the shape and dtype of x"""
    return xp.ones(x.shape, dtype=x.dtype)
