"""Exact nearest neighbours among rows or pictures, without the matrix of all distances.

Candidates are gone through tile by tile and queries block by block. For each pair of a block and a tile there is

1. a *bound*: numbers that no true distance of a pair is below, quick to compute (`Bound`);
2. the filter: which pairs may still matter (`may_be_near`);
3. `measure`: the exact distances of these pairs alone, merged into the best so far.

The answer follows from the exact distances, so a bound decides on nothing but the time: another one, tighter or
quicker, gives the same answer to the bit. Between uint8 pixels every number on the way is a whole one that its type
holds exactly; between float32 numbers the bounds leave room for rounding.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nabi import threads
from nabi.errors import DTypeError, SettingError, ShapeError

METRICS = ("l2", "l1")

# How much is worked on at once. (Never by the number of threads.)
MAX_BLOCK = 128  # queries
MAX_TILE = 4096  # candidates
MAX_BYTES = 2**26  # of a tile's numbers, in float64
PAIR_BYTES = 2**18  # of each side of the pairs that are measured: what the processor's cache holds

LARGE = 512  # numbers of a picture, from which on the cells of an L1 bound are large
EXACT = 1024  # products of pixels centred by 128 that float32 adds up without rounding: 2^10 · 2^14 = 2^24


class Bound(NamedTuple):
    """A lower bound on distances: squared ones for L2."""

    prepare: Callable[[NDArray[Any]], Any]
    """What the bound needs of images (N, ...), computed once for all pairs that they are in."""

    between: Callable[[Any, Any], NDArray[np.float64]]
    """For N prepared queries and M prepared candidates (N, M): at most the distances that `measure` gives."""


def nearest(
    queries: NDArray[Any],
    candidates: NDArray[Any],
    k: int,
    metric: str = "l2",
    *,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The k candidates nearest to each query.

    Candidates at the same distance come in the order of their positions, and the lowest are taken. Beyond arguments
    and answer, memory does not grow with the number of either: it is below 130 MiB and 50 MiB for each thread, for
    k up to 1,000 and pictures of up to two million numbers.

    Parameters
    ----------
    queries : ndarray of uint8 or float32, (N, H, W, C) or (N, features)
        Finite numbers. Memory maps are read piece by piece.
    candidates : ndarray of the same kind, (M, ...)
    k : int
        From 1 to M.
    metric : str
        "l2", the square root of the sum of squared differences; or "l1", the sum of absolute differences.
    progress : callable, optional
        Called with how many pairs of a query and a candidate are dealt with, and of how many.

    Returns
    -------
    distances : ndarray of float64, (N, k)
        In ascending order. Between uint8 pixels exact (for L2, the square root of an exact sum); between float32
        numbers, computed in float64 from the differences.
    positions : ndarray of int64, (N, k)

    Raises
    ------
    SettingError
        A metric that there is not, or ``k`` below 1 or above the number of candidates.
    ShapeError, DTypeError
        Queries and candidates that are not of one shape and kind.

    Examples
    --------
    >>> rows = np.array([[0, 0], [3, 4], [0, 1]], np.uint8)
    >>> nearest(rows[:1], rows, 2)
    (array([[0., 1.]]), array([[0, 2]]))
    """
    if metric not in METRICS:
        raise SettingError(f"metric {metric!r} is not one of {', '.join(METRICS)}")
    if not 1 <= k <= len(candidates):
        raise SettingError(f"k is {k}: there are {len(candidates)} candidates")
    if queries.shape[1:] != candidates.shape[1:]:
        raise ShapeError(f"queries of {queries.shape[1:]}, but candidates of {candidates.shape[1:]}")
    if not queries.dtype == candidates.dtype in (np.uint8, np.float32):
        raise DTypeError(f"queries of {queries.dtype}, candidates of {candidates.dtype}: both must be uint8 or float32")
    whole = queries.dtype == np.uint8
    bound = sums_of_cells(whole) if metric == "l1" else products_of_pixels() if whole else products_of_numbers()
    distances, positions = search(queries, candidates, k, metric, bound, progress)
    return np.sqrt(distances) if metric == "l2" else distances, positions


def search(
    queries: NDArray[Any],
    candidates: NDArray[Any],
    k: int,
    metric: str,
    bound: Bound,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """`nearest` with a bound of the caller's, and squared distances for L2."""
    length = max(1, math.prod(candidates.shape[1:]))
    tiles = _cut(len(candidates), min(MAX_TILE, MAX_BYTES // (8 * length)))
    blocks = _cut(len(queries), min(MAX_BLOCK, MAX_BYTES // (32 * length)))
    distances = np.full((len(queries), k), np.inf)
    positions = np.full((len(queries), k), -1)

    def improve(block: slice, tile: slice, prepared: Any) -> int:
        """Take the candidates of a tile into the best of a block; how many pairs these are."""
        asked, images = queries[block], candidates[tile]
        lower = bound.between(bound.prepare(asked), prepared)
        limit = np.minimum(distances[block, -1], _limit(asked, images, lower, k, metric))
        rows, columns = may_be_near(lower, limit)
        found = measure(asked, images, rows, columns, metric)
        near = found <= limit[rows]  # few are, and only these need sorting
        distances[block], positions[block] = _merge(
            distances[block], positions[block], rows[near], found[near], columns[near] + tile.start
        )
        return lower.size

    done = 0
    with threads.one_blas_thread():
        for tile in tiles:
            work = partial(improve, tile=tile, prepared=bound.prepare(candidates[tile]))
            for pairs in threads.map_in_order(work, blocks):
                done += pairs
                if progress is not None:
                    progress(done, len(queries) * len(candidates))
    return distances, positions


def may_be_near(lower: NDArray[np.float64], limit: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The pairs (rows, columns) that may still be among the nearest, by lower bounds on their distances.

    Parameters
    ----------
    lower : ndarray, (N, M)
    limit : ndarray, (N,)
        For each query a distance within which k candidates are known. At this very distance a candidate may still
        matter: it may come before the others there.
    """
    rows, columns = np.nonzero(lower <= limit[:, np.newaxis])
    return rows, columns


def measure(
    queries: NDArray[Any], candidates: NDArray[Any], rows: NDArray[np.int64], columns: NDArray[np.int64], metric: str
) -> NDArray[np.float64]:
    """The exact distances of pairs, squared ones for L2: of ``queries[rows[i]]`` and ``candidates[columns[i]]``."""
    a, b = _rows(queries), _rows(candidates)
    found = np.empty(len(rows))
    for part in _cut(len(rows), PAIR_BYTES // max(1, a.shape[1] * a.itemsize)):
        found[part] = _distances(a[rows[part]], b[columns[part]], metric)
    return found


def _distances(a: NDArray[Any], b: NDArray[Any], metric: str) -> Any:
    if a.dtype == np.uint8:
        difference = np.maximum(a, b)
        difference -= np.minimum(a, b, out=b)
        if metric == "l2":
            difference = np.square(difference, dtype=np.uint16)  # at most 255², which is below 2¹⁶
        return difference.sum(axis=1, dtype=np.int64)
    numbers = np.subtract(a, b, dtype=np.float64)
    return (np.square if metric == "l2" else np.abs)(numbers, out=numbers).sum(axis=1)


def _limit(
    queries: NDArray[Any], candidates: NDArray[Any], lower: NDArray[np.float64], k: int, metric: str
) -> NDArray[np.float64]:
    """For each query a distance within which there are k candidates: that of the k with the lowest bounds."""
    if k > len(candidates):
        return np.full(len(queries), np.inf)
    columns = np.argpartition(lower, k - 1, axis=1)[:, :k]
    rows = np.repeat(np.arange(len(queries)), k)
    found = measure(queries, candidates, rows, columns.reshape(-1), metric)
    limit: NDArray[np.float64] = found.reshape(-1, k).max(axis=1)
    return limit


def _merge(
    distances: NDArray[np.float64],
    positions: NDArray[np.int64],
    rows: NDArray[np.int64],
    found: NDArray[np.float64],
    places: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The k best of each row, among those (N, k) that there were and those found; the lowest position wins a tie."""
    count, k = distances.shape
    rows = np.concatenate([np.repeat(np.arange(count), k), rows])
    found = np.concatenate([distances.reshape(-1), found])
    places = np.concatenate([positions.reshape(-1), places])
    order = np.lexsort((places, found, rows))
    best = order[np.searchsorted(rows[order], np.arange(count))[:, np.newaxis] + np.arange(k)]
    return found[best], places[best]


def _rows(images: NDArray[Any]) -> NDArray[Any]:
    return images.reshape(len(images), math.prod(images.shape[1:]))


def _cut(length: int, most: int) -> list[slice]:
    most = max(1, most)
    return [slice(start, min(start + most, length)) for start in range(0, length, most)]


# --- bounds ---


def products_of_pixels() -> Bound:
    """Squared L2 distances of uint8 pixels, |q|² + |x|² - 2 q·x, exact: the bound is the distance.

    Centred by 128, products of pixels are at most 2¹⁴, so that float32 adds up 1,024 of them without rounding, in
    whatever order BLAS likes; float64 adds these sums up, without rounding below 2⁵³.
    """

    def prepare(images: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        rows = _rows(images).astype(np.float32)
        rows -= 128
        parts = (rows[:, part] for part in _cut(rows.shape[1], EXACT))
        return rows, sum((np.einsum("ij,ij->i", part, part) for part in parts), np.zeros(len(images)))

    def between(queries: Any, candidates: Any) -> NDArray[np.float64]:
        (q, q_squared), (x, x_squared) = queries, candidates
        squared: NDArray[np.float64] = q_squared[:, np.newaxis] + x_squared
        for part in _cut(q.shape[1], EXACT):
            product = q[:, part] @ x[:, part].T
            product *= 2
            squared -= product
        return squared

    return Bound(prepare, between)


def products_of_numbers() -> Bound:
    """|q|² + |x|² - 2 q·x in float64, less all that rounding can have added.

    With n numbers a row and u = 2⁻⁵³ each of the three sums is off by at most n·u/(1 - n·u) of the sum of its absolute
    values, together at most 2 (|q|² + |x|²) of these; `measure` is off by (n + 2)·u of the distance, which itself is at
    most 2 (|q|² + |x|²). So (4 n + 16)·u·(|q|² + |x|²) covers both and what little the other operations add; twice
    that is taken.
    """

    def prepare(images: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        rows = _rows(images).astype(np.float64)
        return rows, np.einsum("ij,ij->i", rows, rows) * (1 - _slack(rows.shape[1]))

    def between(queries: Any, candidates: Any) -> NDArray[np.float64]:
        (q, q_squared), (x, x_squared) = queries, candidates
        product: NDArray[np.float64] = q @ x.T
        product *= -2
        product += q_squared[:, np.newaxis]
        product += x_squared
        return product

    return Bound(prepare, between)


def sums_of_cells(whole: bool) -> Bound:
    """L1 distances of sums over cells: |Σ a - Σ b| ≤ Σ |a - b|.

    A cell is 4 by 4 pixels of one channel, or 16 neighbouring numbers of a row; 2 by 2 or 4 where there are few, since
    a handful of sums says too little. Sums of whole numbers are exact. Of others, sum and comparison are off by no more
    than what is subtracted: as in `products_of_numbers`, of Σ|q| + Σ|x|.
    """

    def prepare(images: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        side = 4 if math.prod(images.shape[1:]) >= LARGE else 2
        axes = {1: side, 2: side} if images.ndim == 4 else {1: side**2}
        sums: NDArray[Any] = images
        for axis, length in axes.items():
            sums = _sums_of_runs(sums, axis, length)
        sums = _rows(sums)
        if whole:
            return sums, np.zeros(len(images))
        rows = _rows(images)
        slack: NDArray[Any] = np.abs(rows).sum(axis=1, dtype=np.float64) * _slack(rows.shape[1])
        return sums, slack

    def between(queries: Any, candidates: Any) -> NDArray[np.float64]:
        from scipy.spatial.distance import cdist

        (q, q_slack), (x, x_slack) = queries, candidates
        lower: NDArray[Any] = cdist(q, x, "cityblock")
        if not whole:
            lower -= q_slack[:, np.newaxis]
            lower -= x_slack
        return lower

    return Bound(prepare, between)


def _sums_of_runs(numbers: NDArray[Any], axis: int, length: int) -> NDArray[np.float64]:
    """Sums over runs of neighbours along an axis, in float64 (as `np.add.reduceat`, which takes twice as long)."""
    along = np.moveaxis(numbers, axis, 0)
    sums = along[::length].astype(np.float64)
    for offset in range(1, length):
        part = along[offset::length]
        sums[: len(part)] += part
    return np.moveaxis(sums, 0, axis)


def _slack(length: int) -> float:
    return (8 * length + 32) * 2.0**-53
