"""Pictures looked at elsewhere than at their own pixels."""

import numpy as np
from numpy.typing import NDArray

from nabi.data.augment.blocks import cut
from nabi.data.augment.pictures import Pictures

SAMPLE_PIXELS = 2**13
"""About how many pixels are interpolated at once: each takes some hundred bytes on the way."""

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


def _follow(line: Line, few: slice, y: NDArray[np.float32], x: NDArray[np.float32], length: int) -> NDArray[np.float32]:
    """Where along an axis of ``length`` pixels the pixels (y, x) of a few pictures look: (few, H, W)."""
    a, b, c = (of_all[few, None, None].astype(np.float32) for of_all in line)
    return np.clip(a * y + b * x + c, 0, length - 1)
