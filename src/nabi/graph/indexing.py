"""Indexing as data: ``x[key]`` split into a static part that can be hashed and the integer arrays in it."""

from typing import Any, NamedTuple

import numpy as np

from nabi.errors import DTypeError, ShapeError


class Slice(NamedTuple):
    """A slice that can be hashed (Python's own only can from 3.12 on)."""

    start: int | None
    stop: int | None
    step: int | None


class _Array:
    """Stands in a static key where an integer array was."""

    def __repr__(self) -> str:
        return "[...]"


ARRAY = _Array()


def split(key: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Split an indexing key into its static part and its integer arrays.

    Examples
    --------
    >>> static, arrays = split((0, slice(1, None), ...))
    >>> static
    (0, Slice(start=1, stop=None, step=None), Ellipsis)
    """
    static: list[Any] = []
    arrays: list[Any] = []
    for item in key if isinstance(key, tuple) else (key,):
        if item is None or item is Ellipsis:
            static.append(item)
        elif isinstance(item, slice):
            static.append(Slice(*(None if part is None else int(part) for part in (item.start, item.stop, item.step))))
        elif isinstance(item, int | np.integer) and not isinstance(item, bool):
            static.append(int(item))
        else:
            array = item if hasattr(item, "dtype") else np.asarray(item)
            if array.dtype == np.bool_:
                raise ShapeError("indexing by a boolean mask gives a shape that depends on values: use where() instead")
            if array.dtype.kind not in "iu":
                raise DTypeError(f"an index must be an integer, not {array.dtype}")
            static.append(ARRAY)
            arrays.append(array)
    return tuple(static), tuple(arrays)


def join(static: tuple[Any, ...], arrays: tuple[Any, ...]) -> tuple[Any, ...]:
    """Put an indexing key together again: what `split` took apart."""
    rest = iter(arrays)
    return tuple(slice(*item) if isinstance(item, Slice) else next(rest) if item is ARRAY else item for item in static)


def indexed_shape(
    shape: tuple[int, ...], static: tuple[Any, ...], index_shapes: tuple[tuple[int, ...], ...]
) -> tuple[int, ...]:
    """The shape of ``x[key]``, by NumPy's rules, without an ``x``."""
    taken = sum(item is not None and item is not Ellipsis for item in static)
    if taken > len(shape):
        raise ShapeError(f"getitem: {taken} indices for x of shape {shape}")
    fill = (Slice(None, None, None),) * (len(shape) - taken)
    if Ellipsis in static:
        place = static.index(Ellipsis)
        items = (*static[:place], *fill, *static[place + 1 :])
    else:
        items = (*static, *fill)
    advanced = bool(index_shapes)
    result: list[int] = []
    places: list[int] = []  # where in the items the advanced indices stand
    insert_at = 0
    axis = 0
    for place, item in enumerate(items):
        if item is None:
            result.append(1)
        elif isinstance(item, Slice):
            result.append(len(range(*slice(*item).indices(shape[axis]))))
            axis += 1
        else:
            if isinstance(item, int) and not -shape[axis] <= item < shape[axis]:
                raise ShapeError(f"getitem: index {item} is outside axis {axis} of x of shape {shape}")
            if advanced:
                if not places:
                    insert_at = len(result)
                places.append(place)
            axis += 1
    if not advanced:
        return tuple(result)
    adjacent = places == list(range(places[0], places[-1] + 1))
    at = insert_at if adjacent else 0
    return (*result[:at], *np.broadcast_shapes(*index_shapes), *result[at:])
