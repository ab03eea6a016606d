"""Exact nearest neighbours among rows or pictures, without the matrix of all distances.

Candidates are gone through piece by piece and queries block by block. Of each block and piece

1. a *bound* says which pairs may still matter, quickly: all that are within the distance at which k neighbours of the
   query are known, and as few others as may be (`nabi.nearest.bounds`, `nabi.nearest.projection`);
2. `measure` gives the exact distances of these pairs alone, which are merged into the best so far.

That distance is found among a few of the first piece that promise most, and soon falls.

The answer follows from the exact distances, so a bound decides on nothing but the time: another one, tighter or
quicker, gives the same answer to the bit. Which one is used depends on shapes, and on how much it spares among a few
of the pairs (`bound_for`); never on a clock.
"""

import math
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nabi import machine, threads
from nabi.errors import DTypeError, SettingError, ShapeError
from nabi.nearest.bounds import (
    LARGE,
    Bound,
    counts_bytes,
    no_bound,
    products_of_bytes,
    products_of_numbers,
    products_of_pixels,
    sums_of_cells,
)
from nabi.nearest.differences import differences_of_averages
from nabi.nearest.pairs import cut, measure, squared_norms
from nabi.nearest.projection import projections

METRICS = ("l2", "l1")

# How much is worked on at once. (Never by the number of threads.)
MAX_BLOCK = 2**11  # bytes of bounds on the distances of so many queries to a candidate
MAX_TILE = 2**14  # candidates
MAX_PAIRS = 2**17  # that are measured together
MAX_FOUND = 2**15  # that are put in order together
FILLED = 64  # queries of a block, from which on what is prepared of them takes little more than their share
PROMISING = 2  # times k candidates of a piece that are measured first
PIECES = 8  # of a tile: prepared side by side
MAX_BYTES = 2**26  # of a tile's candidates, and of what a bound needs of them

MEASURED = (16, 2**24)  # queries up to which, and numbers of candidates from which on, it is quickest to measure all
MANY = (64, 4096)  # queries and candidates, from which on it pays to find out what is spared
ASKED = 32  # queries that are tried
TRIED = 512  # candidates that they are tried against
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
        return differences_of_averages(shape) if whole else sums_of_cells(shape)
    if not whole:
        return products_of_numbers(length)
    if len(queries) <= MEASURED[0] and length * len(candidates) >= MEASURED[1]:
        return no_bound()
    products = products_of_bytes(length) if length > 0 and counts_bytes() else products_of_pixels(length)
    if length < LARGE or len(queries) < MANY[0] or len(candidates) < MANY[1]:
        return products
    asked, tried = (
        images[np.linspace(0, len(images) - 1, min(number, MAX_BYTES // (8 * length) + 1)).astype(np.int64)]
        for images, number in ((queries, ASKED), (candidates, TRIED))
    )
    near = math.ceil(k * len(tried) / len(candidates))  # the same share of these as k are of all
    columns, rows = np.divmod(np.arange(len(tried) * len(asked)), len(asked))
    distances = measure(asked, tried, rows, columns, metric, squared_norms(asked)).reshape(len(tried), len(asked))
    limit = np.partition(distances, near - 1, axis=0)[near - 1]
    bound = projections(candidates)
    spared, _ = bound.near(bound.of_queries(asked), bound.of_candidates(tried), limit)
    return bound if len(spared) <= FEW * distances.size else products


def search(
    queries: NDArray[Any],
    candidates: NDArray[Any],
    k: int,
    metric: str,
    bound: Bound,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """`nearest` with a bound of the caller's, and squared distances for L2."""
    length = max(1, math.prod(candidates.shape[1:]))
    most = MAX_BLOCK // bound.written
    blocks = cut_evenly(len(queries), min(most, MAX_BYTES // (32 * length)))
    tile = max(1, min(MAX_TILE, MAX_BYTES // max(candidates.itemsize * length, bound.size)))
    step = PIECES * math.ceil(len(candidates) / tile)  # a piece has every so-many-th candidate
    distances = np.full((len(queries), k), np.inf)
    positions = np.full((len(queries), k), -1)
    merge = _merge
    if candidates.dtype == np.uint8:
        farthest = length * (255**2 if metric == "l2" else 255)
        bits = [number.bit_length() for number in (most, farthest + 1, len(candidates))]
        merge = partial(_merge_whole, bits=bits) if sum(bits) < 64 else _merge

    def improve(block: slice, first: int, prepared: list[Any]) -> None:
        """Take the candidates of some pieces into the best of a block."""
        asked = machine.empty((block.stop - block.start, *queries.shape[1:]), queries.dtype)
        asked[...] = queries[block]
        known = bound.of_queries(asked) if kept is None else kept[block.start]
        squared = None if norms is None else norms[block]
        limit = distances[block, -1]
        if np.isinf(limit).any():
            limit = np.minimum(limit, promised(asked, squared, known, candidates[first::step], prepared[0]))
        found: list[tuple[NDArray[Any], ...]] = []

        def merged() -> NDArray[np.float64]:
            rows, apart, places = (np.concatenate(each) for each in zip(*found, strict=True))
            found.clear()
            distances[block], positions[block] = merge(distances[block], positions[block], rows, apart, places)
            nearer: NDArray[np.float64] = np.minimum(limit, distances[block, -1])
            return nearer

        for start, ready in enumerate(prepared, first):
            images = candidates[start::step]
            columns, rows = bound.near(known, ready, limit)
            for part in cut(len(rows), MAX_PAIRS):
                apart = measure(asked, images, rows[part], columns[part], metric, squared)
                near = apart <= limit[rows[part]]  # few are, and only these need sorting
                found.append((rows[part][near], apart[near], start + step * columns[part][near]))
                if sum(len(each) for each, _, _ in found) > MAX_FOUND:
                    limit = merged()
            if found and (start + 1).bit_count() == 1:  # twice as many candidates as when it was so the last time
                limit = merged()
        if found:
            merged()

    def promised(
        asked: NDArray[Any], squared: Any, known: Any, images: NDArray[Any], ready: Any
    ) -> NDArray[np.float64]:
        """Distances within which there are k candidates, by those of a piece that promise most."""
        if k > len(images):
            return np.full(len(asked), np.inf)
        rank = np.ascontiguousarray(bound.rank(known, ready).T)
        most = min(PROMISING * k, len(images))
        best = np.partition(rank, most - 1, axis=1)[:, most - 1 : most]
        rows, columns = np.divmod(np.flatnonzero(rank <= best), len(images))
        apart = measure(asked, images, rows, columns, metric, squared)
        first = np.searchsorted(rows, np.arange(len(asked)))
        together: NDArray[np.float64] = apart[first[:, np.newaxis] + np.arange(most)]
        together.partition(k - 1, axis=1)
        return together[:, k - 1]

    norms = squared_norms(queries) if queries.dtype == np.uint8 and metric == "l2" else None
    kept: dict[int, Any] | None = None  # what the bound needs of the queries, unless that is much
    with threads.one_blas_thread():
        if len(queries) * bound.size <= MAX_BYTES // 4 and len(blocks) * FILLED <= max(FILLED, len(queries)):
            ready = threads.map_in_order(lambda block: bound.of_queries(queries[block]), blocks)
            kept = {block.start: each for block, each in zip(blocks, ready, strict=True)}
        for first in range(0, step, PIECES):
            pieces = [candidates[start::step] for start in range(first, first + PIECES)]
            prepared: list[Any] = []  # the last ones are not needed any more
            prepared = list(threads.map_in_order(bound.of_candidates, pieces))
            for _ in threads.map_in_order(partial(improve, first=first, prepared=prepared), blocks):
                pass
    return distances, positions


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
