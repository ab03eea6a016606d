"""A picture moved to an exact squared distance from another, one or two levels at a time, so that nobody sees it."""

from collections.abc import Sequence
from itertools import combinations
from math import isqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]


class _Move(NamedTuple):
    """A number of the picture, by its place, that is moved by a step, and what the squared distance gains."""

    gain: int
    place: int
    step: int


def squared_distance(one: Picture, other: Picture) -> int:
    """The sum of squared differences, in whole numbers.

    Examples
    --------
    >>> squared_distance(np.array([0, 255], np.uint8), np.array([3, 251], np.uint8))
    25
    """
    return int(np.square(one.astype(np.int64) - other).sum())


def exactly(original: Picture, changed: Picture, allowed: NDArray[np.bool_], target: int) -> Picture:
    """Move some of a changed picture's numbers by a few levels until its squared distance is the target, if it can be.

    Parameters
    ----------
    original, changed : ndarray of uint8, of one shape
    allowed : ndarray of bool, of that shape
        Which numbers may be moved.
    target : int

    Returns
    -------
    ndarray of uint8
        At exactly that squared distance, or as near as the moves that are tried come.

    Examples
    --------
    >>> black, nearly = np.zeros(9, np.uint8), np.full(9, 10, np.uint8)
    >>> squared_distance(black, nearly), squared_distance(black, exactly(black, nearly, nearly > 0, 937))
    (900, 937)
    """
    values = changed.astype(np.int64)
    places = np.flatnonzero(allowed)
    for _ in range(256):  # mostly two rounds do
        left = target - squared_distance(original, values.astype(np.uint8))
        if not left:
            break
        away = values.flat[places] - original.flat[places].astype(np.int64)
        # One level farther from the original, or nearer to it; a number that was not changed can only go farther.
        outward = np.where(away != 0, np.sign(away), np.where(values.flat[places] < 255, 1, -1))
        step = outward if left > 0 else -outward
        gain = np.abs(2 * away * step + 1)
        possible = (values.flat[places] + step >= 0) & (values.flat[places] + step <= 255) & ((left > 0) | (away != 0))
        movable = np.flatnonzero(possible & (gain <= abs(left)))
        movable = movable[np.cumsum(gain[movable]) <= abs(left)]
        if not movable.size:
            break
        values.flat[places[movable]] += step[movable]
    left = target - squared_distance(original, values.astype(np.uint8))
    if left:
        _settle(original, values, places, left)
    return values.astype(np.uint8)


def _settle(original: Picture, values: NDArray[np.int64], places: NDArray[np.int64], left: int) -> None:
    """Find up to four of the numbers whose moves add up to what is left, and move them.

    Squares grow by odd numbers, 2d ± 1, so that two or three moves of different numbers reach what one cannot. (Every
    whole number is a sum of four squares, as Lagrange showed; but these have to lie between 0 and 255.)
    """
    some = places[:: -(-len(places) // 4096)]
    kinds = values.flat[some] * 256 + original.flat[some]
    # Of each kind of number six, since more of the same would not help; in two halves, so that no number moves twice.
    chosen = [place for kind in np.unique(kinds)[:64] for place in some[kinds == kind][:6]]
    for reach in (2, 4, 8, 16, 32, 64):  # levels: as few as it takes
        if reach > 2 and reach * len(chosen) > 400:
            return
        halves = [_sums(original, values, half, reach, left) for half in (chosen[::2], chosen[1::2])]
        for gain, moves in sorted(halves[0].items(), key=lambda item: abs(item[0])):
            if left - gain in halves[1]:
                for move in [*moves, *halves[1][left - gain]]:
                    values.flat[move.place] += move.step
                return


def _sums(
    original: Picture, values: NDArray[np.int64], places: Sequence[int], reach: int, left: int
) -> dict[int, list[_Move]]:
    """What none, one or two of some numbers can gain, and how."""
    moves = [
        move
        for place in places
        for move in _moves(int(place), int(values.flat[place]), int(original.flat[place]), reach, left)
    ]
    found: dict[int, list[_Move]] = {0: []} | {move.gain: [move] for move in moves}
    for one, other in combinations(moves, 2):
        if one.place != other.place:
            found.setdefault(one.gain + other.gain, [one, other])
    return found


def _moves(place: int, value: int, start: int, reach: int, left: int) -> list[_Move]:
    """What one number can do: a few levels up or down, or whatever brings all that is left at once."""
    away = value - start
    steps = {*range(-reach, reach + 1), *_roots(away, left)} - {0}
    return [_Move((away + step) ** 2 - away**2, place, step) for step in sorted(steps) if 0 <= value + step <= 255]


def _roots(away: int, left: int) -> tuple[int, ...]:
    """The steps that gain all that is left at once, where there are any."""
    square = away * away + left
    if square < 0 or isqrt(square) ** 2 != square:
        return ()
    return isqrt(square) - away, -isqrt(square) - away
