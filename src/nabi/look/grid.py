"""A picture as the computer sees it: a grid of numbers."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nabi.errors import SettingError, ShapeError

Crop = tuple[int, int, int, int]

CHANNELS = {1: ("grey",), 3: ("red", "green", "blue")}


class View(NamedTuple):
    """What of a picture is shown.

    Attributes
    ----------
    numbers : ndarray of uint8, (H, W, C)
    crop : (int, int, int, int)
        The part of the picture that they are of: left, top, width, height, in its pixels.
    size : (int, int)
        Width and height of the whole picture.
    """

    numbers: NDArray[np.uint8]
    crop: Crop
    size: tuple[int, int]

    @property
    def shrunk(self) -> bool:
        """Whether a number stands for more than one pixel, and so is a mean that the file need not hold."""
        return (self.numbers.shape[1], self.numbers.shape[0]) != self.crop[2:]

    @property
    def channels(self) -> tuple[str, ...]:
        """The names of the channels."""
        return CHANNELS[self.numbers.shape[2]]

    def rows(self, channel: int) -> Iterator[str]:
        """One channel as text, a row of the picture a line, each number four letters wide."""
        for row in self.numbers[:, :, channel]:
            yield "".join(f"{number:4d}" for number in row)


def view(picture: NDArray[np.uint8], *, crop: Crop | None = None, zoom: float = 1, most: int | None = None) -> View:
    """Choose what of a picture to show as numbers. Source: the lecture, chapter 1.1.2.

    Parameters
    ----------
    picture : ndarray of uint8, (H, W, 1) or (H, W, 3)
    crop : (int, int, int, int), optional
        Left, top, width and height of a part, in pixels.
    zoom : float
        Look closer: at the middle of that, its width and height divided by this.
    most : int, optional
        At most so many numbers in a row and in a column: what is larger is shrunk, each number the mean of a
        rectangle of pixels. Without it every number is the picture's own.

    Raises
    ------
    ShapeError
        Another shape or dtype.
    SettingError
        A crop that does not lie in the picture, a zoom below 1, or ``most`` below 1.

    Examples
    --------
    >>> picture = np.arange(16, dtype=np.uint8).reshape(4, 4, 1)
    >>> print(*view(picture, zoom=2).rows(0), sep="\\n")
       5   6
       9  10
    >>> view(picture, most=2).numbers[:, :, 0].tolist()
    [[2, 4], [10, 12]]
    """
    if picture.ndim != 3 or picture.shape[2] not in CHANNELS or picture.dtype != np.uint8 or not picture.size:
        raise ShapeError(f"view: {picture.shape} {picture.dtype}; a picture is uint8, (H, W, 1) or (H, W, 3)")
    height, width = picture.shape[:2]
    left, top, wide, high = (0, 0, width, height) if crop is None else crop
    if wide < 1 or high < 1 or left < 0 or top < 0 or left + wide > width or top + high > height:
        raise SettingError(f"crop {left},{top},{wide},{high} does not lie in a picture of {width}x{height}")
    if not zoom >= 1:
        raise SettingError(f"zoom {zoom}: it must be 1 or more")
    closer_wide, closer_high = max(1, round(wide / zoom)), max(1, round(high / zoom))
    left, top = left + (wide - closer_wide) // 2, top + (high - closer_high) // 2
    shown = picture[top : top + closer_high, left : left + closer_wide]
    if most is not None:
        shown = _shrunk(shown, most)
    return View(shown, (left, top, closer_wide, closer_high), (width, height))


def _shrunk(picture: NDArray[np.uint8], most: int) -> NDArray[np.uint8]:
    """Means over rectangles that share the pixels out as evenly as whole pixels can be."""
    if most < 1:
        raise SettingError(f"size {most}: it must be 1 or more")
    height, width = picture.shape[:2]
    scale = min(1.0, most / max(height, width))
    if scale == 1:
        return picture
    rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
    tops, lefts = np.arange(rows) * height // rows, np.arange(columns) * width // columns
    sums = np.add.reduceat(np.add.reduceat(picture, tops, axis=0, dtype=np.int64), lefts, axis=1)
    areas = np.outer(np.diff(tops, append=height), np.diff(lefts, append=width))
    return np.rint(sums / areas[:, :, None]).astype(np.uint8)
