"""Exact nearest neighbours among rows or pictures, without the matrix of all distances.

Candidates are gone through tile by tile and queries block by block. For each pair of a block and a tile there is

1. a *bound*: numbers that no true distance of a pair is below, quick to compute (`nabi.nearest.bounds`);
2. the filter: which pairs may still matter (`may_be_near`);
3. `measure`: the exact distances of these pairs alone, merged into the best so far.

The answer follows from the exact distances, so a bound decides on nothing but the time: another one, tighter or
quicker, gives the same answer to the bit. Which one is used depends on shapes, and on how much it spares among a few
of the pairs (`bound_for`); never on a clock.
"""

import math
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nabi import threads
from nabi.errors import DTypeError, SettingError, ShapeError
from nabi.nearest.bounds import (
    LARGE,
    Bound,
    counts_bytes,
    no_bound,
    products_of_bytes,
    products_of_numbers,
    products_of_pixels,
    projections,
    sums_of_cells,
)
from nabi.nearest.pairs import cut, measure

METRICS = ("l2", "l1")

# How much is worked on at once. (Never by the number of threads.)
MAX_BLOCK = 2**11  # bytes of bounds on the distances of so many queries to a candidate
MAX_TILE = 8192  # candidates
MAX_PAIRS = 2**17  # that are measured together
PIECES = 8  # of a tile: prepared side by side
STEP = 4  # from one candidate to the next among those that show how near the nearest may be
MAX_BYTES = 2**26  # of a tile's candidates, and of what a bound needs of them

MEASURED = (16, 2**24)  # queries up to which, and numbers of candidates from which on, it is quickest to measure all
MANY = (64, 4096)  # queries and candidates, from which on it pays to find out what is spared
ASKED = 32  # queries that are tried
TRIED = 2048  # candidates that they are tried against
FEW = 1 / 16  # of the pairs: where more than these survive, the bound is not worth its time


def nearest(
    queries: NDArray[Any],
    candidates: NDArray[Any],
    k: int,
    metric: str = "l2",
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The k candidates nearest to each query.

    Candidates at the same distance come in the order of their positions, and the lowest are taken. Beyond arguments
    and answer, memory does not grow with the number of either: it is below 130 MiB and 60 MiB for each thread, for
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
    with threads.one_blas_thread():
        bound = bound_for(queries, candidates, k, metric)
        distances, positions = search(queries, candidates, k, metric, bound)
    return np.sqrt(distances) if metric == "l2" else distances, positions


def bound_for(queries: NDArray[Any], candidates: NDArray[Any], k: int, metric: str) -> Bound:
    """The bound to search with.

    Pixels of many large pictures are projected, where that leaves few pairs to measure: as it does for photographs, and
    not for noise. This is tried on some queries and candidates, at equal steps among all.
    """
    shape = candidates.shape[1:]
    length = math.prod(shape)
    whole = candidates.dtype == np.uint8
    if metric == "l1":
        return sums_of_cells(shape, whole)
    if not whole:
        return products_of_numbers(length)
    if len(queries) <= MEASURED[0] and length * len(candidates) >= MEASURED[1]:
        return no_bound()
    products = products_of_bytes(length) if length > 0 and counts_bytes() else products_of_pixels(length)
    if length < LARGE or len(queries) < MANY[0] or len(candidates) < MANY[1]:
        return products
    asked, tried = (
        images[np.linspace(0, len(images) - 1, number).astype(np.int64)]
        for images, number in ((queries, ASKED), (candidates, TRIED))
    )
    near = math.ceil(k * TRIED / len(candidates))  # the same share of these as k are of all
    distances = lower_bounds(products, asked, tried)
    limit = np.partition(distances, near - 1, axis=0)[near - 1]
    bound = projections(candidates)
    return bound if np.mean(lower_bounds(bound, asked, tried) <= limit) <= FEW else products


def lower_bounds(bound: Bound, queries: NDArray[Any], candidates: NDArray[Any]) -> NDArray[Any]:
    """The bounds on the distances of all pairs (M, N)."""
    lower = np.empty((len(candidates), len(queries)), bound.dtype)
    bound.between(bound.of_queries(queries), bound.of_candidates(candidates), lower)
    return lower


def search(
    queries: NDArray[Any],
    candidates: NDArray[Any],
    k: int,
    metric: str,
    bound: Bound,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """`nearest` with a bound of the caller's, and squared distances for L2."""
    length = max(1, math.prod(candidates.shape[1:]))
    together = MAX_BLOCK // np.dtype(bound.dtype).itemsize
    blocks = cut_evenly(len(queries), min(together, MAX_BYTES // (32 * length)))
    step = math.ceil(
        len(candidates) / max(1, min(MAX_TILE, MAX_BYTES // max(candidates.itemsize * length, bound.size)))
    )
    size = math.ceil(math.ceil(len(candidates) / step) / PIECES)
    distances = np.full((len(queries), k), np.inf)
    positions = np.full((len(queries), k), -1)
    merge = _merge
    if candidates.dtype == np.uint8:
        farthest = length * (255**2 if metric == "l2" else 255)
        bits = [most.bit_length() for most in (together, farthest + 1, len(candidates))]
        merge = partial(_merge_whole, bits=bits) if sum(bits) < 64 else _merge

    def improve(block: slice, first: int, prepared: list[Any]) -> None:
        """Take every so-many-th candidate into the best of a block."""
        asked, images = queries[block], candidates[first::step]
        known = bound.of_queries(asked) if kept is None else kept[block.start]
        lower = np.empty((len(images), len(asked)), bound.dtype)
        for piece, ready in zip(cut(len(images), size), prepared, strict=True):
            bound.between(known, ready, lower[piece])

        def take(places: NDArray[np.int64]) -> None:
            for part in cut(len(places), MAX_PAIRS):
                columns, rows = np.divmod(places[part], len(asked))
                found = measure(asked, images, rows, columns, metric)
                near = found <= distances[block][rows, -1]  # few are, and only these need sorting
                distances[block], positions[block] = merge(
                    distances[block], positions[block], rows[near], found[near], first + step * columns[near]
                )

        done = None
        if np.isinf(distances[block, -1]).any() and k * STEP <= len(images):
            # First the most promising, so that what is known then of the others is as good as the answer. As good as
            # the lowest bounds are those of which k are found among every fourth.
            done = np.partition(lower[::STEP].T, k - 1)[:, k - 1].astype(np.float64)
            take(may_be_near(lower, done))
        take(may_be_near(lower, distances[block, -1], done))

    kept: dict[int, Any] | None = None  # what the bound needs of the queries, unless that is much
    with threads.one_blas_thread():
        if len(queries) * bound.size <= MAX_BYTES // 4:
            ready = threads.map_in_order(lambda block: bound.of_queries(queries[block]), blocks)
            kept = {block.start: each for block, each in zip(blocks, ready, strict=True)}
        for first in range(step):  # every step-th, so that each tile has something of all that a sorted set has
            tile = candidates[first::step]
            pieces = [tile[piece] for piece in cut(len(tile), size)]
            prepared = list(threads.map_in_order(bound.of_candidates, pieces))
            for _ in threads.map_in_order(partial(improve, first=first, prepared=prepared), blocks):
                pass
    return distances, positions


def may_be_near(
    lower: NDArray[Any], limit: NDArray[np.float64], done: NDArray[np.float64] | None = None
) -> NDArray[np.int64]:
    """The pairs that may still be among the nearest, by lower bounds on their distances: their places in ``lower``.

    Parameters
    ----------
    lower : ndarray of float32 or float64, (M, N)
    limit : ndarray, (N,)
        For each query a distance within which k candidates are known. At this very distance a candidate may still
        matter: it may come before the others there.
    done : ndarray, (N,), optional
        Bounds up to which pairs are dealt with already.
    """
    most = limit.astype(lower.dtype)
    most = np.where(most < limit, np.nextafter(most, np.inf, dtype=lower.dtype), most)  # never rounded down
    chosen = lower <= most
    if done is not None:
        chosen &= lower > done.astype(lower.dtype)
    return np.flatnonzero(chosen)  # in two dimensions it takes ten times as long where little is found


def cut_evenly(length: int, most: int) -> list[slice]:
    """As `cut`, in runs of nearly one length."""
    return cut(length, math.ceil(length / max(1, math.ceil(length / max(1, most)))))


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


def _merge_whole(
    distances: NDArray[np.float64],
    positions: NDArray[np.int64],
    rows: NDArray[np.int64],
    found: NDArray[np.float64],
    places: NDArray[np.int64],
    bits: list[int],
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """`_merge` of whole distances: row, distance and position stand in the ``bits`` of one number, which sorts quickly.

    The largest distance that the bits hold stands for none.
    """
    count, k = distances.shape
    _, of_distance, of_position = bits
    none = (1 << of_distance) - 1
    known = np.repeat(np.arange(count), k) << of_distance
    known |= np.minimum(distances, none).astype(np.int64).reshape(-1)
    keys = np.concatenate([known, (rows << of_distance) | found.astype(np.int64)]) << of_position
    keys |= np.concatenate([np.maximum(positions, 0).reshape(-1), places])
    keys.sort()
    starts = np.searchsorted(keys, np.arange(count) << (of_distance + of_position))
    best = keys[starts[:, np.newaxis] + np.arange(k)]
    whole = (best >> of_position) & none
    there = whole < none
    return np.where(there, whole, np.inf), np.where(there, best & ((1 << of_position) - 1), -1)
