"""Lower bounds on distances, quick to compute for all pairs of queries and candidates.

Each says of queries and candidates, prepared by themselves, which pairs may be within a distance; and leaves out none
for which `nabi.nearest.pairs.measure` gives that distance or less: how much rounding can have added is derived with
each, and allowed for. The bound for photographs is in `nabi.nearest.projection`.
"""

import importlib.util
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nabi.nearest.pairs import cut, flat, squared_norms

UNIT = 2.0**-24  # how far float32 rounds, at most, relative to the number
PART_BYTES = 2**20  # of pictures that are prepared together, in float32: what the processor's cache holds

LARGE = 512  # numbers of a picture, from which on the cells of an L1 bound are large
EXACT = 1024  # products of pixels centred by 128 that float32 adds up without rounding: 2^10 · 2^14 = 2^24
RUN = 4096  # products that float32 adds up in `products_of_pixels`, so that the room for rounding stays small

BYTES = 2**32 // 255**2  # products of pixels that 32 bits add up
INTEGER = ("icelake", "alder", "sierra", "sapphireamx", "neonsdot")  # as numkong calls 8-bit products

Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Places of candidates, in order, and of queries."""


class Bound(NamedTuple):
    """A lower bound on distances: squared ones for L2."""

    of_queries: Callable[[NDArray[Any]], Any]
    """What the bound needs of queries (N, ...), computed once for all pairs that they are in."""

    of_candidates: Callable[[NDArray[Any]], Any]
    """Likewise of candidates."""

    rank: Callable[[Any, Any], NDArray[Any]]
    """For N prepared queries and M prepared candidates (M, N): the lower, the sooner one may be near a query."""

    near: Callable[[Any, Any, NDArray[np.float64]], Pairs]
    """Likewise, and a distance for each query (N,): the pairs that may be within it."""

    size: int
    """Bytes that a prepared candidate takes."""

    written: int = 4
    """Bytes that are written for a pair on the way."""


def compared(
    of_queries: Callable[[NDArray[Any]], Any],
    of_candidates: Callable[[NDArray[Any]], Any],
    between: Callable[[Any, Any], NDArray[Any]],
    size: int,
    dtype: Any = np.float32,
) -> Bound:
    """A bound whose pairs are found by comparing all that ``between`` gives, in numbers of ``dtype``."""
    return Bound(
        of_queries,
        of_candidates,
        between,
        lambda queries, candidates, limit: within(between(queries, candidates), limit),
        size,
        np.dtype(dtype).itemsize,
    )


def within(lower: NDArray[Any], limit: NDArray[np.float64]) -> Pairs:
    """The pairs that may still be among the nearest, by lower bounds on their distances.

    Parameters
    ----------
    lower : ndarray of float32 or float64, (M, N)
    limit : ndarray, (N,)
        For each query a distance within which k candidates are known. At this very distance a candidate may still
        matter: it may come before the others there.
    """
    most = limit.astype(lower.dtype)
    most = np.where(most < limit, np.nextafter(most, np.inf, dtype=lower.dtype), most)  # never rounded down
    places = np.flatnonzero(lower <= most)  # in two dimensions it takes ten times as long where little is found
    return np.divmod(places, max(1, lower.shape[1]))


def no_bound() -> Bound:
    """Distances are not negative: so that every pair is measured."""
    return compared(len, len, lambda queries, candidates: np.zeros((candidates, queries), np.float32), 0)


# --- squared L2 distances of pixels ---


def products_of_pixels(length: int) -> Bound:
    """|q|² + |x|² - 2 q·x of pixels centred by 128, one matrix product: of [-2q, 1, |q|²] and [x, |x|², 1].

    float32 adds the D = n + 2 products of a pair up with an error of at most D·u/(1 - D·u) of the sum of their absolute
    values, u = 2⁻²⁴, in whatever order; that sum is at most 2 (|q|² + |x|²). With the rounding of the squared norms
    themselves (exact before: `_centred`) this is less than 4·D·u·(|q|² + |x|²), which is subtracted with the norms.
    Rows of more than 4,096 numbers are taken in runs of so many, of which float64 adds up the sums.
    """
    kept = 1 - 4 * (min(length, RUN) + 2) * UNIT

    def rows(images: NDArray[Any], asked: bool) -> NDArray[np.float32]:
        found = np.empty((len(images), length + 2), np.float32)
        norms = found[:, length:]
        for part in cut(len(images), PART_BYTES // (4 * max(1, length))):
            numbers, squared = _centred(images[part])
            np.multiply(numbers, np.float32(-2 if asked else 1), out=found[part, :length])
            norms[part, int(asked)] = squared * kept
        norms[:, int(not asked)] = 1
        return found

    parts = cut(length, RUN) or [slice(0, 0)]
    parts[-1] = slice(parts[-1].start, length + 2)

    dtype = np.float32 if len(parts) == 1 else np.float64

    def between(queries: NDArray[np.float32], candidates: NDArray[np.float32]) -> NDArray[Any]:
        lower: NDArray[Any] = (candidates[:, parts[0]] @ queries[:, parts[0]].T).astype(dtype, copy=False)
        for part in parts[1:]:
            lower += candidates[:, part] @ queries[:, part].T
        return lower

    return compared(
        lambda images: rows(images, True), lambda images: rows(images, False), between, 4 * (length + 2), dtype
    )


def counts_bytes() -> bool:
    """Whether `products_of_bytes` is there, and this processor has the instructions that make it worth it."""
    if importlib.util.find_spec("numkong") is None:
        return False
    import numkong

    has = numkong.get_capabilities()
    return any(has.get(name, False) for name in INTEGER)


def products_of_bytes(length: int) -> Bound:
    """|q|² + |x|² - 2 q·x of pixels as they are, with products in 8-bit integers, which the package numkong has.

    The products are exact: of 66,051 pixels at most 2³² - 1. The squared norms, exact in float64, and twice the product
    are rounded to float32, and so are the two sums of these; all five are at most 2 (|q|² + |x|²), and in sum they are
    off by less than 8·u·(|q|² + |x|²).
    """
    import numkong

    kept = 1 - 8 * UNIT
    parts = cut(length, BYTES)

    def of_candidates(images: NDArray[np.uint8]) -> Any:
        rows = flat(images)
        return [np.ascontiguousarray(rows[:, part]) for part in parts], (squared_norms(images) * kept).astype(
            np.float32
        )

    def of_queries(images: NDArray[np.uint8]) -> Any:
        rows, squared = of_candidates(images)
        return [numkong.dots_pack(part) for part in rows], squared

    def between(queries: Any, candidates: Any) -> NDArray[np.float32]:
        (q, q_squared), (x, x_squared) = queries, candidates
        products: list[Any] = [np.asarray(numkong.dots_packed(*pair)) for pair in zip(x, q, strict=True)]
        total = products[0] if len(products) == 1 else sum(products, np.float64(0))
        lower: NDArray[np.float32] = np.multiply(total, np.float32(-2), dtype=np.float32, casting="unsafe")
        lower += q_squared
        lower += x_squared[:, np.newaxis]
        return lower

    return compared(of_queries, of_candidates, between, length + 4)


def _centred(images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Pixels less 128, and the sums of their squares. These are at most 2¹⁴: float32 adds 1,024 up exactly."""
    numbers = flat(images).astype(np.float32)
    numbers -= 128
    squared = np.zeros(len(numbers))
    for part in cut(numbers.shape[1], EXACT):
        squared += np.vecdot(numbers[:, part], numbers[:, part])
    return numbers, squared


# --- squared L2 distances of numbers ---


def products_of_numbers(length: int) -> Bound:
    """|q|² + |x|² - 2 q·x in float64, less all that rounding can have added.

    With n numbers a row and u = 2⁻⁵³ each of the three sums is off by at most n·u/(1 - n·u) of the sum of its absolute
    values, together at most 2 (|q|² + |x|²) of these; `measure` is off by (n + 2)·u of the distance, which itself is at
    most 2 (|q|² + |x|²). So (4 n + 16)·u·(|q|² + |x|²) covers both and what little the other operations add; twice
    that is taken.
    """

    def prepare(images: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        rows = flat(images).astype(np.float64)
        return rows, np.einsum("ij,ij->i", rows, rows) * (1 - _slack(length))

    def between(queries: Any, candidates: Any) -> NDArray[np.float64]:
        (q, q_squared), (x, x_squared) = queries, candidates
        lower: NDArray[np.float64] = x @ q.T
        lower *= -2
        lower += q_squared
        lower += x_squared[:, np.newaxis]
        return lower

    return compared(prepare, prepare, between, 8 * (length + 1), np.float64)


# --- L1 distances ---


def sums_of_cells(shape: tuple[int, ...]) -> Bound:
    """L1 distances of sums over cells of numbers: |Σ a - Σ b| ≤ Σ |a - b|.

    A cell is 4 by 4 pixels of one channel, or 16 neighbouring numbers of a row; 2 by 2 or 4 where there are few, since
    a handful of sums says too little. Sum and comparison are off by no more than what is subtracted: as in
    `products_of_numbers`, of Σ|q| + Σ|x|.
    """
    length = math.prod(shape)
    side = 4 if length >= LARGE else 2
    axes = {1: side, 2: side} if len(shape) == 3 else {1: side**2}
    cells = math.prod(math.ceil(n / axes.get(axis, 1)) for axis, n in enumerate(shape, 1))

    def prepare(images: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        sums: NDArray[Any] = images
        for axis, run in axes.items():
            sums = sums_of_runs(sums, axis, run, np.float64)
        sums = flat(sums)
        slack: NDArray[Any] = np.abs(flat(images)).sum(axis=1, dtype=np.float64) * _slack(length)
        return sums, slack

    def between(queries: Any, candidates: Any) -> NDArray[np.float64]:
        from scipy.spatial.distance import cdist

        (q, q_slack), (x, x_slack) = queries, candidates
        lower: NDArray[Any] = cdist(x, q, "cityblock")
        lower -= q_slack
        lower -= x_slack[:, np.newaxis]
        return lower

    return compared(prepare, prepare, between, 8 * (cells + 1), np.float64)


def sums_of_runs(numbers: NDArray[Any], axis: int, length: int, dtype: Any) -> NDArray[Any]:
    """Sums over runs of neighbours along an axis (as `np.add.reduceat`, which takes twice as long)."""
    before = (slice(None),) * axis
    whole = numbers.shape[axis] // length * length
    shape = list(numbers.shape)
    shape[axis] = -(-shape[axis] // length)
    sums = np.empty(shape, dtype)
    runs = sums[*before, : whole // length]
    if length == 1:
        runs[...] = numbers
        return sums
    np.add(numbers[*before, :whole:length], numbers[*before, 1:whole:length], out=runs, dtype=dtype)
    for offset in range(2, length):
        runs += numbers[*before, offset:whole:length]
    sums[*before, whole // length :] = numbers[*before, whole:].sum(axis=axis, dtype=dtype, keepdims=True)
    return sums


def _slack(length: int) -> float:
    return (8 * length + 32) * 2.0**-53
