"""Three pictures that lie equally far from a fourth, and could not be more different: pixel distance is not meaning.

The lecture, chapter 1.1.3, shows a picture with boxes over it, one that is shifted and one that is tinted, all at one
and the same L2 distance from the original. Here such pictures are made from any other.

The shift comes first: whole pixels where that is no farther than a box and a tint can follow, a part of one otherwise.
Box and tint are then made as strong as it takes. Since pixels are whole numbers, what is left between the squared
distances is made up by moving some of the changed numbers by one or two levels, which nobody sees.
"""

from bisect import bisect_left
from collections.abc import Callable
from functools import partial
from math import sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nabi.errors import DataError, ShapeError
from nabi.look.exactly import exactly, squared_distance

Picture = NDArray[np.uint8]

LARGEST_BOX = 0.5  # of the picture's height and width
STRONGEST_TINT = 0.4  # how much of the colour is mixed in
LONGEST_SHIFT = 8  # this part of the side, one eighth
DIRECTIONS = {1: "to the right", 0: "down"}  # by axis
TINT = (40, 90, 255)  # as in the lecture, a blue


class Version(NamedTuple):
    """A changed picture.

    Attributes
    ----------
    name : str
        "boxed", "shifted" or "tinted".
    how : str
        In words and numbers.
    picture : ndarray of uint8, (H, W, C)
    squared_distance : int
        The sum of the squared differences from the original, exactly.
    """

    name: str
    how: str
    picture: Picture
    squared_distance: int

    @property
    def distance(self) -> float:
        """The L2 distance from the original."""
        return sqrt(self.squared_distance)


def same_distance(picture: Picture) -> tuple[Version, Version, Version]:
    """A boxed, a shifted and a tinted version of a picture, at one and the same L2 distance from it.

    Parameters
    ----------
    picture : ndarray of uint8, (H, W, 1) or (H, W, 3)

    Returns
    -------
    tuple of three Version
        Boxed, shifted, tinted. Their squared distances are the same whole number, unless the picture has so few
        pixels that no whole numbers add up to it: then they are as near as it goes, and each says its own.

    Raises
    ------
    ShapeError
        Another shape or dtype.
    DataError
        A picture of a single colour: shifted, it is still the same.

    Examples
    --------
    >>> picture = np.arange(64, dtype=np.uint8).reshape(8, 8, 1) * 3
    >>> [(version.name, version.distance) for version in same_distance(picture)]
    [('boxed', 22.44994432064365), ('shifted', 22.44994432064365), ('tinted', 22.44994432064365)]
    """
    if picture.ndim != 3 or picture.shape[2] not in (1, 3) or picture.dtype != np.uint8 or not picture.size:
        raise ShapeError(f"same_distance: {picture.shape} {picture.dtype}; uint8 (H, W, 1) or (H, W, 3) is wanted")
    if (picture == picture[:1, :1]).all():
        raise DataError("a picture of a single colour: shifted it is still the same, at distance 0")
    colour = _tint(picture)
    most = min(
        squared_distance(picture, _boxed(picture, _box(picture, LARGEST_BOX), _ink(picture))),
        squared_distance(picture, _tinted(picture, colour, STRONGEST_TINT)),
    )
    shifted = _shift_within(picture, most)
    target = shifted.squared_distance
    return _box_at(picture, target), shifted, _tint_at(picture, colour, target)


# --- shift ---


def _shift_within(picture: Picture, most: int) -> Version:
    """The longest shift by whole pixels that is not too far; or else by the part of a pixel that is just not."""
    for axis, where in DIRECTIONS.items():
        for pixels in range(max(1, picture.shape[axis] // LONGEST_SHIFT), 0, -1):
            moved = _shifted(picture, pixels, axis)
            if 0 < (far := squared_distance(picture, moved)) <= most:
                return Version("shifted", f"{pixels} {_plural('pixel', pixels)} {where}", moved, far)
    for axis, where in DIRECTIONS.items():
        distance = partial(_shift_distance, picture, axis)
        if distance(1.0):
            part = _strength(distance, most)
            moved = _shifted(picture, part, axis)
            if far := squared_distance(picture, moved):
                return Version("shifted", f"{part:.3g} of a pixel {where}", moved, far)
    raise DataError("no shift of this picture is as near to it as a box or a tint")


def _shift_distance(picture: Picture, axis: int, pixels: float) -> int:
    return squared_distance(picture, _shifted(picture, pixels, axis))


def _shifted(picture: Picture, pixels: float, axis: int) -> Picture:
    """Moved right or down, with the edge repeated; a part of a pixel mixes neighbours."""
    places = np.arange(picture.shape[axis])
    whole, part = int(pixels), pixels - int(pixels)
    near = np.take(picture, np.maximum(places - whole, 0), axis=axis)
    if not part:
        return near
    far = np.take(picture, np.maximum(places - whole - 1, 0), axis=axis)
    return _rounded((1 - part) * near + part * far)


# --- box ---


def _box_at(picture: Picture, target: int) -> Version:
    """The smallest box of black or white that is far enough, less black or white until it is not too far.

    Where no whole numbers in so small a box add up to what is left, a larger one.
    """
    steps = max(picture.shape[:2])
    smallest = bisect_left(range(1, steps + 1), target, key=lambda n: _box_distance(picture, n / steps, 1.0)) + 1
    nearest: Version | None = None
    for size in range(min(smallest, steps), min(smallest + 6, steps + 1)):
        found = _box_of(picture, size / steps, target)
        if nearest is None or abs(found.squared_distance - target) < abs(nearest.squared_distance - target):
            nearest = found
        if found.squared_distance == target:
            break
    assert nearest is not None
    return nearest


def _box_of(picture: Picture, share: float, target: int) -> Version:
    box = _box(picture, share)
    level = _level(picture, box, _strength(partial(_box_distance, picture, share), target))
    inside = np.zeros(picture.shape, bool)
    inside[box] = True
    boxed = exactly(picture, _boxed(picture, box, level), inside, target)
    high, wide = boxed[box].shape[:2]
    how = f"{wide}x{high} {_plural('pixel', wide * high)} of {_shade(level)} ({level})"
    return Version("boxed", how, boxed, squared_distance(picture, boxed))


def _box_distance(picture: Picture, share: float, strength: float) -> int:
    box = _box(picture, share)
    hidden = picture[box].astype(np.int64)
    return int(np.square(hidden - _level(picture, box, strength)).sum())


def _level(picture: Picture, box: tuple[slice, slice], strength: float) -> int:
    """From the mean of what the box hides, which is the nearest that a box can be, to black or white."""
    mean = float(picture[box].mean())
    return round(mean + strength * (_ink(picture) - mean))


def _box(picture: Picture, share: float) -> tuple[slice, slice]:
    """The middle of the picture, this share of its height and width."""
    height, width = picture.shape[:2]
    high, wide = (max(1, round(share * side)) for side in (height, width))
    top, left = (height - high) // 2, (width - wide) // 2
    return slice(top, top + high), slice(left, left + wide)


def _ink(picture: Picture) -> int:
    """Black, or white where the middle of the picture is dark."""
    return 0 if picture[_box(picture, LARGEST_BOX)].mean() > 96 else 255


def _boxed(picture: Picture, box: tuple[slice, slice], level: int) -> Picture:
    boxed = picture.copy()
    boxed[box] = level
    return boxed


def _shade(level: int) -> str:
    return "black" if level < 64 else "white" if level > 191 else "grey"


# --- tint ---


def _tint_at(picture: Picture, colour: NDArray[np.float64], target: int) -> Version:
    strength = _strength(lambda s: squared_distance(picture, _tinted(picture, colour, s)), target)
    tinted = exactly(picture, _tinted(picture, colour, strength), np.ones(picture.shape, bool), target)
    named = "blue" if picture.shape[2] == 3 else _shade(int(colour[0]))
    return Version("tinted", f"{strength:.1%} of {named} mixed in", tinted, squared_distance(picture, tinted))


def _tint(picture: Picture) -> NDArray[np.float64]:
    """Blue; for a grey picture black or white, whichever is farther."""
    if picture.shape[2] == 3:
        return np.array(TINT, dtype=np.float64)
    return np.array([0.0 if picture.mean() > 127 else 255.0])


def _tinted(picture: Picture, colour: NDArray[np.float64], strength: float) -> Picture:
    return _rounded(picture + strength * (colour - picture))


# --- as far as is wanted ---


def _strength(distance: Callable[[float], int], target: int) -> float:
    """By bisection, the strength from 0 to 1 that brings a picture as far as the target, and not farther."""
    low, high = 0.0, 1.0
    if distance(high) <= target:
        return high
    for _ in range(24):
        middle = (low + high) / 2
        low, high = (middle, high) if distance(middle) <= target else (low, middle)
    return low


def _rounded(values: NDArray[np.float64]) -> Picture:
    return np.rint(values).astype(np.uint8)


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"
