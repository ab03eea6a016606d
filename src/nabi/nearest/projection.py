"""A lower bound on squared L2 distances of pixels: what they are in a few directions, and how much remains.

Let S be a matrix that makes no vector longer. Then |v|² = |Sv|² + |v|'², where |v|'² = |v|² - |Sv|² is the square of a
seminorm. So with u = [Sv, |v|'], which is as long as v, the triangle inequality of the seminorm gives

    |q - x|² ≥ |Sq - Sx|² + (|q|' - |x|')² = |u(q) - u(x)|².

The better S's directions are those in which pictures differ most, the less is lost: principal ones, of a sample of the
candidates. Source: the inequality is that of partial distances, as in Bei and Gray, "An improvement of the minimum
distortion encoding algorithm for vector quantization", IEEE Transactions on Communications 33 (1985), with the
remaining norms added.

All is done in whole numbers, of which twice as many are multiplied at a time. Pixels are centred by 128 and added up
over cells of c neighbours; the rows of P, the directions, are whole numbers so small that P times these sums is exact.
The rows of the matrix of cells are orthogonal and at most √c long, so that S = P·cells/√(λ·c) makes no vector longer,
where λ is above all eigenvalues of PPᵀ. LAPACK computes them with an error of at most a small multiple of d·2⁻⁵³ of the
largest (LAPACK Users' Guide, 4.7): a part in 10⁹ more is a thousand times that, and next to nothing.

Then u is scaled by a factor s, the same for all, such that no picture's is longer than 2¹⁵ less what rounding adds, and
rounded to whole numbers û. With D numbers, each off by at most a half, û is off by at most √D/2. What floating point
adds to that is next to nothing: |Sx|² and |x|'² in float64 are off by no more than (D + 8)·2⁻⁵³·|x|², hence s·|x|' by
the root of that times 2¹⁵, which is below 0.01 for D < 800; and products with s by less. So with ε = √D/2 + 1/64

    s·|q - x| ≥ |û(q) - û(x)| - 2ε,

and a pair within a distance r has |û(q) - û(x)|² ≤ (s·r + 2ε)² = T: which is to say, in whole numbers again, that
û(q)·û(x) ≥ |û(x)|²/2 + (|û(q)|² - T)/2. Products are at most 2³⁰. So one product of matrices says of all pairs whether
they may be near, and what it leaves are a few in a hundred.

These are then compared as smaller pictures, whose pixels are averages over cells (`nabi.nearest.averages`).
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nabi.nearest import averages
from nabi.nearest.bounds import Bound, Pairs
from nabi.nearest.cells import TOGETHER, Averages, cells_of, of_cells, room_for, size_of_averages
from nabi.nearest.pairs import cut
from nabi.nearest.rounding import round_projected
from nabi.nearest.tiles import Panels, combined, laid_out, within

DIRECTIONS = 47  # with what remains, or with the sum of all, numbers that fill registers
LONGEST = 2**15 - 1  # that û is
SAMPLE = 512  # candidates that show which directions these are
HALF = 0.5  # how far a number is off that was rounded, at most


class Projected(NamedTuple):
    """What the bound needs of N pictures.

    Attributes
    ----------
    numbers : ndarray of int16, (N, D)
        û
    squared : ndarray of int32, (N,)
        |û|²
    averages : Averages or None
        None where they would be the pictures themselves.
    """

    numbers: NDArray[np.int16]
    squared: NDArray[np.int32]
    averages: Averages | None


class Asked(NamedTuple):
    """The same of queries.

    Attributes
    ----------
    panels : Panels
        û
    squared : ndarray of int32, (N,)
        |û|²
    averages : nabi.nearest.averages.Asked or None
    """

    panels: Panels
    squared: NDArray[np.int32]
    averages: averages.Asked | None


def projections(candidates: NDArray[np.uint8]) -> Bound:
    """The bound, with the directions of these candidates."""
    shape = candidates.shape[1:]
    side, count = cells_of(shape)
    length = math.prod(shape)
    places = np.linspace(0, len(candidates) - 1, min(SAMPLE, len(candidates))).astype(np.int64)
    samples = (candidates[places[part]] for part in cut(len(places), TOGETHER // max(1, length)))
    sums = np.concatenate([some.copy() for sample in samples for _, some, _ in of_cells(sample, side)])
    directions = principal_directions(sums, 128 * count)
    number = len(directions)
    exact = directions.astype(np.float64)
    longest: float = max(1.0, np.linalg.eigvalsh(exact @ exact.T)[-1] * (1 + 1e-9)) * count  # λ·c
    off = HALF * math.sqrt(number + 1) + 1 / 64  # ε
    scale = (LONGEST - off) / (128 * math.sqrt(max(1, length)))  # s
    with_total = np.concatenate([np.ones_like(directions[:1]), directions])
    constants = [scale / math.sqrt(longest), 1 / longest, scale, length * 2.0**14]
    columns = laid_out(with_total) if with_total.dtype == np.int16 else with_total.T

    def of_candidates(images: NDArray[np.uint8]) -> Projected:
        width = columns.width if isinstance(columns, Panels) else number + 1
        numbers = np.empty((len(images), width), np.int16)
        squared = np.empty(len(images), np.int32)
        small = room_for(len(images), directions.shape[1]) if side > 1 else None
        found = None
        for part, sums, norms in of_cells(images, side, small):
            if isinstance(columns, Panels):
                found = np.empty((len(sums), width), np.int32) if found is None else found[: len(sums)]
                combined(sums, columns, found)
                round_projected(found, norms, numbers[part], squared[part], constants)
                continue
            shares = sums @ columns
            # Σ(x - 128)² = Σx² - 2·128·Σ(x - 128) - n·128²
            whole = norms - 256 * shares[:, 0] - length * 2.0**14
            shares[:, 0] = 0
            rest = np.maximum(whole - np.vecdot(shares, shares) / longest, 0)
            shares *= scale / math.sqrt(longest)
            shares[:, 0] = scale * np.sqrt(rest)
            np.rint(shares, out=shares)
            numbers[part], squared[part] = shares, np.vecdot(shares, shares)
        return Projected(numbers, squared, small)

    def of_queries(images: NDArray[np.uint8]) -> Asked:
        numbers, squared, small = of_candidates(images)
        return Asked(laid_out(numbers), squared, None if small is None else averages.of_queries(small))

    def rank(queries: Asked, found: Projected) -> NDArray[np.int32]:
        rank: NDArray[np.int32] = (found.squared // 2)[:, np.newaxis] - combined(found.numbers, queries.panels)
        return rank

    def near(queries: Asked, found: Projected, limit: NDArray[np.float64]) -> Pairs:
        most = (scale * np.sqrt(limit) + 2 * off) ** 2 * (1 + 1e-12)  # T
        # Without a limit, every product reaches it.
        least = np.maximum(np.floor((queries.squared - most) / 2), 1 - 2.0**31).astype(np.int32)
        columns, rows = within(found.numbers, queries.panels, found.squared // 2, least)
        if queries.averages is None or found.averages is None:
            return columns, rows
        rows, columns = averages.reachable(queries.averages, found.averages, rows, columns, limit / count)
        return columns, rows

    size = 2 * (number + 1) + 4 + (size_of_averages(directions.shape[1]) if side > 1 else 0)
    return Bound(of_queries, of_candidates, rank, near, size)


def principal_directions(sums: NDArray[Any], reach: int) -> NDArray[Any]:
    """The principal directions of sums over cells (N, cells), in whole numbers (directions, cells).

    They need not be accurate, so that one round of a search among what some pictures span will do: Halko, Martinsson
    and Tropp, "Finding structure with randomness", SIAM Review 53 (2011), algorithm 4.4.

    Parameters
    ----------
    sums : ndarray of int16 or float64, (N, cells)
        Whole numbers of at most ``reach`` in absolute value. The directions are of the same dtype, and all numbers on
        the way to their product with the sums below 2³¹ or 2⁵³ accordingly.
    """
    cells = sums.shape[1]
    centred = np.subtract(sums, sums.mean(axis=0), dtype=np.float32)
    wanted = min(DIRECTIONS + 16, cells, len(sums))
    basis = principal_basis(centred[:: len(sums) // wanted][:wanted].T)
    found = principal_basis(centred.T @ (centred @ basis))[:, :DIRECTIONS].T.astype(np.float64)
    narrow = sums.dtype == np.int16
    most = min((2**31 - 1 if narrow else 2**53) // reach, 1024 * cells)  # of the sum of a direction's absolute values
    sum_of_all, largest = np.abs(found).sum(axis=1).max(initial=1e-9), np.abs(found).max(initial=1e-9)
    # Rounding adds at most a half to each number.
    factor = max(0.0, most - cells / 2) / sum_of_all
    whole: NDArray[Any] = np.rint(found * (min(factor, LONGEST / largest) if narrow else factor)).astype(sums.dtype)
    return whole


def principal_basis(columns: NDArray[np.float32]) -> NDArray[np.float32]:
    """An orthonormal basis of what columns (N, number) span, nearly; first those in which they are longest.

    By the eigenvectors of the small matrix of their products, which takes half as long as a decomposition of the large.
    """
    squares = columns.T @ columns
    lengths, turn = np.linalg.eigh(squares.astype(np.float64))
    lengths = np.sqrt(np.maximum(lengths, 1e-12 * lengths[-1:] + 1e-30))
    basis: NDArray[np.float32] = columns @ (turn / lengths)[:, ::-1].astype(np.float32)
    return basis
