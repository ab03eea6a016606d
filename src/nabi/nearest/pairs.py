"""The exact distances of chosen pairs of rows or pictures."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nabi.nearest.pixels import LONGEST, measure_pixels

PAIR_BYTES = 2**18  # of each side of the pairs that are measured: what the processor's cache holds
MANY_BYTES = 2**22  # of all pairs, from which on it pays to have a kernel for them
SQUARES = 2**24 // 255**2  # of differences of pixels that float32 adds up without rounding
DIFFERENCES = 2**24 // 255  # likewise of the differences themselves


def measure(
    queries: NDArray[Any],
    candidates: NDArray[Any],
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    metric: str,
    squared: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """The exact distances of pairs, squared ones for L2: of ``queries[rows[i]]`` and ``candidates[columns[i]]``.

    Pixels are measured quicker by L2 if the squared norms of the queries are given (`squared_norms`), as it pays to do
    if they are measured again and again.
    """
    a, b = flat(queries), flat(candidates)
    many = squared is not None or len(rows) * a.shape[1] >= MANY_BYTES
    if a.dtype == np.uint8 and many and 0 < a.shape[1] <= LONGEST:
        return measure_pixels(a, b, rows, columns, metric, squared)
    found = np.empty(len(rows))
    for part in cut(len(rows), PAIR_BYTES // max(1, a.shape[1] * a.itemsize)):
        found[part] = _distances(a[rows[part]], b[columns[part]], metric)
    return found


def squared_norms(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Exact sums of squares of pixels as they are: how far pictures are from black."""
    rows = flat(images)
    black = np.zeros((1, rows.shape[1]), np.uint8)
    first, each = np.zeros(len(rows), np.int64), np.arange(len(rows))
    if 0 < rows.shape[1] <= LONGEST:
        return measure_pixels(black, rows, first, each, "l2")
    return measure(black, rows, first, each, "l2")


def _distances(a: NDArray[Any], b: NDArray[Any], metric: str) -> Any:
    if a.dtype == np.uint8:
        return _of_pixels(a, b, metric)
    numbers = np.subtract(a, b, dtype=np.float64)
    return (np.square if metric == "l2" else np.abs)(numbers, out=numbers).sum(axis=1)


def _of_pixels(a: NDArray[np.uint8], b: NDArray[np.uint8], metric: str) -> Any:
    """Whole numbers throughout: float32 adds up as many as it can without rounding, float64 these sums."""
    difference = np.maximum(a, b)
    difference -= np.minimum(a, b, out=b)
    numbers = difference.astype(np.float32)
    found = np.zeros(len(a))
    for part in cut(numbers.shape[1], SQUARES if metric == "l2" else DIFFERENCES):
        run = numbers[:, part]
        found += np.vecdot(run, run) if metric == "l2" else run.sum(axis=1)
    return found


def flat(images: NDArray[Any]) -> NDArray[Any]:
    """Pictures (N, ...) as rows (N, numbers)."""
    return images.reshape(len(images), math.prod(images.shape[1:]))


def cut(length: int, most: int) -> list[slice]:
    """``range(length)`` in runs of at most so many."""
    most = max(1, most)
    return [slice(start, min(start + most, length)) for start in range(0, length, most)]
