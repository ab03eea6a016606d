"""Pictures looked at elsewhere than at their own pixels."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nabi.data.augment.blocks import cut
from nabi.data.augment.pictures import Pictures

SAMPLE_PIXELS = 2**13
"""About how many pixels are interpolated at once: each takes some hundred bytes on the way."""

STRETCH_PIXELS = 2**11
"""Pictures of fewer pixels are stretched many at once, pixel by pixel: one by one takes longer there."""

Line = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
"""a, b and c of ``a y + b x + c``, each (N,)."""


def sample(images: Pictures, row: Line, column: Line) -> Pictures:
    """Look at the pictures elsewhere: bilinear between pixels, rounded to nearest, the edge repeated beyond it.

    Pixel (y, x) of the result shows what is in row ``a y + b x + c``, where a, b and c, each (N,), are ``row``, and in
    the column that ``column`` gives likewise.
    """
    count, height, width, channels = images.shape
    padded = np.pad(images, ((0, 0), (0, 1), (0, 1), (0, 0)))  # so that all have a right and a lower one, of weight 0
    stride = width + 1
    y, x = np.ogrid[np.float32(0) : height, np.float32(0) : width]
    changed = np.empty_like(images)
    for few in cut(count, max(1, SAMPLE_PIXELS // max(1, height * width))):
        rows, columns = _follow(row, few, y, x, height), _follow(column, few, y, x, width)
        top, left = rows.astype(np.intp), columns.astype(np.intp)
        down, along = rows - top.astype(np.float32), columns - left.astype(np.float32)
        corner = ((height + 1) * np.arange(len(top))[:, None, None] + top) * stride + left
        for channel in range(channels):
            pixels = padded[few, ..., channel].ravel()
            upper_left, upper_right, lower_left, lower_right = (
                pixels[step:].take(corner).astype(np.float32) for step in (0, 1, stride, stride + 1)
            )
            upper = upper_left + (upper_right - upper_left) * along
            lower = lower_left + (lower_right - lower_left) * along
            changed[few, ..., channel] = np.rint(upper + (lower - upper) * down)
    return changed


def stretch(
    images: Pictures,
    row: tuple[NDArray[np.float64], NDArray[np.float64]],
    column: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> Pictures:
    """Enlarge parts of the pictures: what :func:`sample` gives where rows follow from y alone and columns from x alone.

    Pixel (y, x) of the result shows what is in row ``a y + c``, where a, positive, and c, each (N,), are ``row``, and
    in the column ``a x + c`` for those of ``column``. The same bits, and sooner: a line is interpolated once along x,
    however many rows of the result it is seen in, and pixels are fetched as columns and rows of planes.
    """
    count, height, width, channels = images.shape
    if height * width < STRETCH_PIXELS:
        still = np.zeros(count)
        return sample(images, (row[0], still, row[1]), (still, column[0], column[1]))
    changed = np.empty_like(images)
    top, bottom, down = _between(*row, height)
    left, right, along = _between(*column, width)
    for number in range(count):
        seen = slice(top[number, 0], bottom[number, -1] + 1)
        upper, lower = top[number] - seen.start, bottom[number] - seen.start
        for channel in range(channels):
            plane = np.ascontiguousarray(images[number, seen, :, channel])
            lines = _blend(plane.take(left[number], 1), plane.take(right[number], 1), along[number])
            changed[number, ..., channel] = np.rint(_blend(lines[upper], lines[lower], down[number, :, None]))
    return changed


def _between(
    a: NDArray[np.float64], c: NDArray[np.float64], length: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """The two pixels that ``a p + c`` lies between for each p along an axis, and how far it is from the first."""
    slope, start = (of_all.astype(np.float32)[:, None] for of_all in (a, c))
    places: NDArray[np.float32] = np.clip(slope * np.arange(length, dtype=np.float32) + start, 0, length - 1)
    first = places.astype(np.intp)
    second: NDArray[np.intp] = np.minimum(first + 1, length - 1)
    return first, second, places - first.astype(np.float32)


def _blend(first: NDArray[Any], second: NDArray[Any], share: NDArray[np.float32]) -> NDArray[np.float32]:
    """``first + (second - first) share`` in float32, step by step, as memory is slow."""
    blended = second.astype(np.float32)
    base = first.astype(np.float32, copy=False)
    blended -= base
    blended *= share
    blended += base
    return blended


def _follow(line: Line, few: slice, y: NDArray[np.float32], x: NDArray[np.float32], length: int) -> NDArray[np.float32]:
    """Where along an axis of ``length`` pixels the pixels (y, x) of a few pictures look: (few, H, W)."""
    a, b, c = (of_all[few, None, None].astype(np.float32) for of_all in line)
    return np.clip(a * y + b * x + c, 0, length - 1)
