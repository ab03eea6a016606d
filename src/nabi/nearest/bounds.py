"""Lower bounds on distances, quick to compute for all pairs of queries and candidates.

Each is of the form ``between(of_queries(q), of_candidates(x))``, and what it gives for a pair is never above what
`nabi.nearest.pairs.measure` gives: how much rounding can have added is derived with each, and subtracted.
"""

import importlib.util
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nabi.nearest.kernel import LONGEST, adds_cells, cells, squared_norms
from nabi.nearest.pairs import SQUARES, cut, flat

UNIT = 2.0**-24  # how far float32 rounds, at most, relative to the number
PART_BYTES = 2**20  # of pictures that are prepared together, in float32: what the processor's cache holds
KERNEL_BYTES = 2**22  # likewise of pixels that a kernel goes through

LARGE = 512  # numbers of a picture, from which on the cells of an L1 bound are large
EXACT = 1024  # products of pixels centred by 128 that float32 adds up without rounding: 2^10 · 2^14 = 2^24
RUN = 4096  # products that float32 adds up in `products_of_pixels`, so that the room for rounding stays small

BYTES = 2**32 // 255**2  # products of pixels that 32 bits add up
INTEGER = ("icelake", "alder", "sierra", "sapphireamx", "neonsdot")  # as numkong calls 8-bit products

DIRECTIONS = 93  # of `projections`, which has three more numbers, and products like multiples of 16
GRID = 1024  # cells of a picture that `projections` begins with, at most
ROW = 4096  # likewise of a row, whose numbers need not be alike because they are neighbours
SAMPLE = 1024  # candidates that show which directions these are


class Bound(NamedTuple):
    """A lower bound on distances: squared ones for L2."""

    of_queries: Callable[[NDArray[Any]], Any]
    """What the bound needs of queries (N, ...), computed once for all pairs that they are in."""

    of_candidates: Callable[[NDArray[Any]], Any]
    """Likewise of candidates."""

    between: Callable[[Any, Any, NDArray[Any]], None]
    """For N prepared queries and M prepared candidates: write at most their distances into an array (M, N)."""

    size: int
    """Bytes that a prepared candidate takes."""

    dtype: Any = np.float32
    """Of that array: float32 or float64."""


def no_bound() -> Bound:
    """Distances are not negative: so that every pair is measured."""

    def between(queries: None, candidates: None, lower: NDArray[Any]) -> None:
        lower[...] = 0

    return Bound(lambda images: None, lambda images: None, between, 0)


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

    def between(queries: NDArray[np.float32], candidates: NDArray[np.float32], lower: NDArray[Any]) -> None:
        np.matmul(candidates[:, parts[0]], queries[:, parts[0]].T, out=lower)
        for part in parts[1:]:
            lower += candidates[:, part] @ queries[:, part].T

    dtype = np.float32 if len(parts) == 1 else np.float64
    return Bound(
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
        return [np.ascontiguousarray(rows[:, part]) for part in parts], (_squared_norms(images) * kept).astype(
            np.float32
        )

    def of_queries(images: NDArray[np.uint8]) -> Any:
        rows, squared = of_candidates(images)
        return [numkong.dots_pack(part) for part in rows], squared

    def between(queries: Any, candidates: Any, lower: NDArray[np.float32]) -> None:
        (q, q_squared), (x, x_squared) = queries, candidates
        products: list[Any] = [np.asarray(numkong.dots_packed(*pair)) for pair in zip(x, q, strict=True)]
        total = products[0] if len(products) == 1 else sum(products, np.float64(0))
        np.multiply(total, np.float32(-2), out=lower, dtype=np.float32, casting="unsafe")
        lower += q_squared
        lower += x_squared[:, np.newaxis]

    return Bound(of_queries, of_candidates, between, length + 4)


def projections(candidates: NDArray[np.uint8]) -> Bound:
    """Squared L2 distances in a few directions, and the difference of what remains.

    Let S be a matrix that makes no vector longer. Then |v|² = |Sv|² + |v|'², where |v|'² = |v|² - |Sv|² is the square
    of a seminorm, whose triangle inequality gives for v = q - x

        |q - x|² ≥ |Sq - Sx|² + (|q|' - |x|')² = |q|² + |x|² - 2 (Sq·Sx + |q|'|x|'):

    one matrix product, of [-2Sq, -2|q|', 1, |q|²] and [Sx, |x|', |x|², 1]. The better S's directions are those in which
    pictures differ most, the less is lost: principal ones, of a sample of the candidates. Source: the inequality is
    that of partial distances, as in Bei and Gray, "An improvement of the minimum distortion encoding algorithm for
    vector quantization", IEEE Transactions on Communications 33 (1985), with the remaining norms added.

    Nothing is rounded until the very end. Pixels are centred by 128 and added up over cells of c neighbours; the rows
    of P, the directions, have whole numbers so small that P times these sums is exact as well (`_directions`). The rows
    of the matrix of cells are orthogonal and at most √c long, so that S = P·cells/√(λ·c) makes no vector longer, where
    λ is above all eigenvalues of PPᵀ. LAPACK computes them with an error of at most a small multiple of d·2⁻⁵³ of the
    largest (LAPACK Users' Guide, 4.7): a part in 10⁹ more is a thousand times that, and next to nothing.

    Room for rounding: with d directions, |Sx|² and |x|'² are off by no more than (d + 8)·2⁻⁵³·|x|², hence |x|' by the
    root of that, and all numbers are rounded to float32; so the vector [Sx, |x|'] of length |x| is off by
    η·|x|, η = 3u + √((d + 8)·2⁻⁵³), and twice the product of two such by (2η + η²)(|q|² + |x|²). The product itself is
    off as in `products_of_pixels`, with D = d + 3. Together this is less than 4 (D·u + η)(|q|² + |x|²).
    """
    shape = candidates.shape[1:]
    side, count = _cells_of(shape)
    sample = candidates[np.linspace(0, len(candidates) - 1, min(SAMPLE, len(candidates))).astype(np.int64)]
    directions = _directions(np.concatenate([sums for _, sums, _ in _sums(sample, side)]), 128 * count)
    number, length = len(directions), math.prod(shape)
    ones = np.ones((1, directions.shape[1]), directions.dtype)
    turned = np.ascontiguousarray(np.concatenate([directions, ones]).T)
    exact = directions.astype(np.float64)
    scale = 1 / (np.linalg.eigvalsh(exact @ exact.T)[-1] * (1 + 1e-9) * count)
    eta = 3 * UNIT + math.sqrt((number + 8) * 2.0**-53)
    kept = 1 - 4 * ((number + 3) * UNIT + eta)

    def rows(images: NDArray[Any], asked: bool) -> NDArray[np.float32]:
        found = np.empty((len(images), number + 3), np.float32)
        norms = found[:, number + 1 :]
        for part, sums, given in _sums(images, side):
            products = (sums @ turned).astype(np.float64)
            shares, total = products[:, :number], products[:, number]
            squared = given - 256 * total - length * 2.0**14  # Σ(x - 128)² = Σx² - 2·128·Σ(x - 128) - n·128²
            rest = squared - np.vecdot(shares, shares) * scale
            found[part, :number] = shares * math.sqrt(scale)
            found[part, number] = np.sqrt(np.maximum(rest, 0))
            norms[part, int(asked)] = squared * kept
        norms[:, int(not asked)] = 1
        if asked:
            found[:, : number + 1] *= -2
        return found

    def between(queries: NDArray[np.float32], found: NDArray[np.float32], lower: NDArray[np.float32]) -> None:
        np.matmul(found, queries.T, out=lower)

    return Bound(lambda images: rows(images, True), lambda images: rows(images, False), between, 4 * (number + 3))


def _directions(sums: NDArray[Any], reach: int) -> NDArray[Any]:
    """The principal directions of sums over cells (N, cells), in whole numbers (directions, cells).

    They need not be accurate, so that a randomised search will do: Halko, Martinsson and Tropp, "Finding structure with
    randomness", SIAM Review 53 (2011), algorithms 4.4 and 5.1, one round.

    Parameters
    ----------
    sums : ndarray, (N, cells)
        Whole numbers of at most ``reach`` in absolute value. All numbers on the way to the product of these and the
        directions are below 2²⁴, if there are as many as a few bits each, as `_cells_of` takes care of, and below
        2⁵³ where that would be too coarse; the dtype of the directions is float32 or float64 accordingly.
    """
    cells = sums.shape[1]
    centred = (sums - sums.mean(axis=0)).astype(np.float32)
    wanted = min(DIRECTIONS + 16, cells, len(sums))
    drawn = np.random.default_rng(0).standard_normal((wanted, len(sums)), np.float32)
    basis = np.linalg.qr((drawn @ centred).T)[0]
    basis = np.linalg.qr(centred.T @ (centred @ basis))[0]
    shares = centred @ basis
    turn = np.linalg.eigh(shares.T @ shares)[1][:, ::-1]
    found = (basis @ turn[:, :DIRECTIONS]).T.astype(np.float64)
    dtype, limit = (np.float32, 2**24) if reach * cells * 16 <= 2**24 else (np.float64, 2**53)
    most = min(limit // reach, 1024 * cells)  # of the sum of a direction's absolute values
    largest = np.abs(found).sum(axis=1).max(initial=0)
    # Rounding adds at most a half to each number.
    whole: NDArray[Any] = np.rint(found * max(0.0, most - cells / 2) / max(largest, 1e-9)).astype(dtype)
    return whole


def _cells_of(shape: tuple[int, ...]) -> tuple[int, int]:
    """The side of the cells that `projections` adds pixels of such pictures up over, and how many pixels these are."""
    side = 1
    if len(shape) == 3:
        while math.ceil(shape[0] / side) * math.ceil(shape[1] / side) * shape[2] > GRID:
            side *= 2
        return side, side * side
    while math.ceil(math.prod(shape) / side) > ROW:
        side *= 2
    return side, side


def _sums(images: NDArray[np.uint8], side: int) -> Iterator[tuple[slice, NDArray[np.float32], NDArray[np.float64]]]:
    """Part by part: which images, sums over cells of pixels centred by 128, squared norms as they are; all exact."""
    length = math.prod(images.shape[1:])
    counts = _cells(np.ones((1, *images.shape[1:]), np.uint8), side)
    quick = adds_cells(images.shape[1:], side)
    for part in cut(len(images), (KERNEL_BYTES if quick else PART_BYTES // 4) // max(1, length)):
        if quick:
            sums = cells(images[part], side)
        else:
            sums = _cells(images[part], side)
            sums -= 128 * counts
        yield part, sums, _squared_norms(images[part])


def _cells(images: NDArray[np.uint8], side: int) -> NDArray[np.float32]:
    """Sums over cells (N, cells), in as few bits as hold them."""
    dtype = np.uint16 if 255 * side**2 < 2**16 else np.float32
    if images.ndim != 4:
        return _sums_of_runs(flat(images), 1, side, dtype).astype(np.float32)
    rows = _sums_of_runs(images, 1, side, dtype)
    # Channel by channel, since loops over a few channels are short ones.
    channels = [_sums_of_runs(rows[..., channel], 2, side, dtype) for channel in range(images.shape[3])]
    return np.concatenate([flat(sums) for sums in channels], axis=1, dtype=np.float32)


def _squared_norms(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Of pixels as they are."""
    rows = flat(images)
    if 0 < rows.shape[1] <= LONGEST:
        return squared_norms(rows)
    found = np.zeros(len(rows))
    for part in cut(len(rows), PART_BYTES // (4 * max(1, rows.shape[1]))):
        numbers = rows[part].astype(np.float32)
        for run in cut(rows.shape[1], SQUARES):
            found[part] += np.vecdot(numbers[:, run], numbers[:, run])
    return found


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

    def between(queries: Any, candidates: Any, lower: NDArray[np.float64]) -> None:
        (q, q_squared), (x, x_squared) = queries, candidates
        np.matmul(x, q.T, out=lower)
        lower *= -2
        lower += q_squared
        lower += x_squared[:, np.newaxis]

    return Bound(prepare, prepare, between, 8 * (length + 1), np.float64)


# --- L1 distances ---


def sums_of_cells(shape: tuple[int, ...], whole: bool) -> Bound:
    """L1 distances of sums over cells: |Σ a - Σ b| ≤ Σ |a - b|.

    A cell is 4 by 4 pixels of one channel, or 16 neighbouring numbers of a row; 2 by 2 or 4 where there are few, since
    a handful of sums says too little. Sums of whole numbers are exact. Of others, sum and comparison are off by no more
    than what is subtracted: as in `products_of_numbers`, of Σ|q| + Σ|x|.
    """
    length = math.prod(shape)
    side = 4 if length >= LARGE else 2
    axes = {1: side, 2: side} if len(shape) == 3 else {1: side**2}
    cells = math.prod(math.ceil(n / axes.get(axis, 1)) for axis, n in enumerate(shape, 1))

    def prepare(images: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        sums: NDArray[Any] = images
        for axis, run in axes.items():
            sums = _sums_of_runs(sums, axis, run, np.float64)
        sums = flat(sums)
        if whole:
            return sums, np.zeros(len(images))
        slack: NDArray[Any] = np.abs(flat(images)).sum(axis=1, dtype=np.float64) * _slack(length)
        return sums, slack

    def between(queries: Any, candidates: Any, lower: NDArray[np.float64]) -> None:
        from scipy.spatial.distance import cdist

        (q, q_slack), (x, x_slack) = queries, candidates
        lower[...] = cdist(x, q, "cityblock")
        if not whole:
            lower -= q_slack
            lower -= x_slack[:, np.newaxis]

    return Bound(prepare, prepare, between, 8 * (cells + 1), np.float64)


def _sums_of_runs(numbers: NDArray[Any], axis: int, length: int, dtype: Any) -> NDArray[Any]:
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
