"""Which of many pictures look the same: every pair is looked at, in blocks, with two matrix products each.

The correlation of two fingerprints is E + O, of even and of odd horizontal frequencies; that of one with the other
mirrored is E - O. So max(E + O, E - O) = E + |O| tells of both at once. The 63 lowest frequencies choose the pairs of
which all 255 are then compared.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nabi import threads
from nabi.check.fingerprints import Floats, coarser, mirror
from nabi.data.files import Progress

NEAR = 0.94  # the least correlation of what counts as a copy; docs/check.md has what it was chosen by
FIRST = 0.02  # by how much less the lowest frequencies may agree
COARSE = 8
ROWS, COLUMNS = 256, 512  # of a block: so that what is computed stays in the processor's cache


class Pair(NamedTuple):
    """Two pictures that look the same: their positions, how alike they are (to 1), whether the one is mirrored."""

    first: int
    second: int
    similarity: float
    mirrored: bool


def near_pairs(
    prints: Floats,
    others: Floats | None = None,
    *,
    least: float = NEAR,
    report: Progress = lambda done, total: None,
) -> list[Pair]:
    """Pairs of fingerprints that correlate by at least ``least``, as they are or mirrored.

    Parameters
    ----------
    prints : array of float32, shape (N, 255)
        From :func:`~nabi.check.fingerprints.fingerprints`. One of length 0 is in no pair.
    others : array of float32, shape (M, 255), optional
        What they are compared with; by default each other, each pair once, ``first < second``.
    """
    within = others is None
    right = prints if others is None else others
    left_parts, right_parts = _halves(prints), _halves(right)
    blocks = [
        (row, column)
        for row in range(0, len(prints), ROWS)
        for column in range(row // COLUMNS * COLUMNS if within else 0, len(right), COLUMNS)
    ]

    def candidates(block: tuple[int, int]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        row, column = block
        even, odd = (
            one[row : row + ROWS] @ other[column : column + COLUMNS].T
            for one, other in zip(left_parts, right_parts, strict=True)
        )
        np.abs(odd, out=odd)
        even += odd
        if even.max() < least - FIRST:
            return _NONE, _NONE
        first, second = np.nonzero(even >= least - FIRST)
        first, second = first + row, second + column
        return (first[first < second], second[first < second]) if within else (first, second)

    found: list[Pair] = []
    with threads.one_blas_thread():
        for done, (first, second) in enumerate(threads.map_in_order(candidates, blocks), 1):
            found += _confirmed(prints, right, first, second, least)
            report(done, len(blocks))
    return sorted(found)


def _halves(prints: Floats) -> tuple[Floats, Floats]:
    """The lowest frequencies: those that stay where a picture is mirrored, and those that change their sign."""
    low, signs = coarser(prints, COARSE), mirror(COARSE)
    return np.ascontiguousarray(low[:, signs > 0]), np.ascontiguousarray(low[:, signs < 0])


def _confirmed(
    prints: Floats, right: Floats, first: NDArray[np.intp], second: NDArray[np.intp], least: float
) -> Iterator[Pair]:
    for start in range(0, len(first), COLUMNS):
        one, other = first[start : start + COLUMNS], second[start : start + COLUMNS]
        products = prints[one] * right[other]
        as_it_is, mirrored = products.sum(1), products @ mirror()
        best = np.maximum(as_it_is, mirrored)
        for place in np.flatnonzero(best >= least).tolist():
            yield Pair(
                int(one[place]), int(other[place]), float(min(best[place], 1)), bool(mirrored[place] > as_it_is[place])
            )


_NONE = np.empty(0, np.intp)
