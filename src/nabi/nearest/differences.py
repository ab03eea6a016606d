"""A lower bound on L1 distances of pixels: what pictures are at smaller sizes.

The sums w over cells of pictures q and x differ by Σ|w(q) - w(x)| ≤ Σ|q - x|. With w = c·m + d, m the average over a
cell of c pixels, rounded, and d what rounding took, this is at least c·Σ|m(q) - m(x)| - Σ|d(q)| - Σ|d(x)|. So a pair
within a distance r has, in whole numbers,

    Σ|m(q) - m(x)| ≤ ⌊(r + Σ|d(q)|)/c⌋ + ⌊Σ|d(x)|/c⌋ + 1.

All pairs are compared by averages over large cells; and what these leave, a few in a hundred, by averages over small
ones, where these are of more than a pixel.

In LLVM's assembly language, as the fast engine's kernels are, and compiled and kept like them.
"""

import functools
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nabi import machine
from nabi.engines.cpu.code import Code
from nabi.nearest.bounds import LARGE, Bound, Pairs
from nabi.nearest.cells import (
    Averages,
    cells_of,
    has_pixels,
    number_of_cells,
    of_cells,
    pixels_of,
    room_for,
    size_of_averages,
)
from nabi.nearest.instructions import added_up, differences_of_bytes
from nabi.nearest.sieve import each_pair, sifted
from nabi.nearest.tiles import Panels, combined, laid_out, within

LARGER = 2
"""How many times as long the sides of large cells are."""
RUN, SHORT_RUN = 16, 4
"""How many times as many numbers of a row are in them; and of a short one, since a handful of sums says too little."""
FARTHEST = 2.0**40
"""More than any distance."""


class Seen(NamedTuple):
    """Pictures as small ones.

    Attributes
    ----------
    large : Averages
        Over large cells.
    small : Averages or None
        Over small ones; None where they would be the pictures themselves.
    """

    large: Averages
    small: Averages | None


class Asked(NamedTuple):
    """The same of queries, and their averages over large cells in panels."""

    panels: Panels
    seen: Seen


def differences_of_averages(shape: tuple[int, ...]) -> Bound:
    """The bound for pictures of a shape."""
    side, count = cells_of(shape)
    long = side * (LARGER if has_pixels(shape) else RUN if math.prod(shape) >= LARGE else SHORT_RUN)
    long_count = pixels_of(shape, long)
    sides = [long, side] if side > 1 else [long]
    numbers = [number_of_cells(shape, each) for each in sides]

    def of_candidates(images: NDArray[np.uint8]) -> Seen:
        found = [room_for(len(images), number) for number in numbers]
        for averages, length in zip(found, sides, strict=True):
            for _ in of_cells(images, length, averages):
                pass
        return Seen(found[0], found[1] if len(found) > 1 else None)

    def of_queries(images: NDArray[np.uint8]) -> Asked:
        seen = of_candidates(images)
        return Asked(laid_out(seen.large.pixels), seen)

    def rank(queries: Asked, found: Seen) -> NDArray[np.int64]:
        ranks: NDArray[np.int64] = combined(found.large.pixels, queries.panels)
        return ranks

    def near(queries: Asked, found: Seen, limit: NDArray[np.float64]) -> Pairs:
        limit = np.minimum(limit, FARTHEST)
        of_rows, of_columns = reach(queries.seen.large, found.large, limit, long_count)
        columns, rows = within(found.large.pixels, queries.panels, of_columns, of_rows)
        if queries.seen.small is None or found.small is None:
            return columns, rows
        of_rows, of_columns = reach(queries.seen.small, found.small, limit, count)
        return nearer(queries.seen.small.pixels, found.small.pixels, rows, columns, of_rows, of_columns)

    return Bound(of_queries, of_candidates, rank, near, sum(map(size_of_averages, numbers)), written=8)


def reach(
    queries: Averages, candidates: Averages, limit: NDArray[np.float64], count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """What differences of averages over cells of so many pixels are compared with: of queries, and of candidates."""
    return np.floor((limit + queries.moved) / count).astype(np.int64), candidates.moved // count + 1


def nearer(
    queries: NDArray[np.uint8],
    candidates: NDArray[np.uint8],
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    of_rows: NDArray[np.int64],
    of_columns: NDArray[np.int64],
) -> Pairs:
    """The pairs of ``queries[rows[i]]`` and ``candidates[columns[i]]`` that do not differ by more than these two say.

    Columns come first, as bounds give them. ``rows`` and ``columns``, contiguous, are written over.
    """
    text = nearer_text(queries.shape[1], machine.processor())
    rows, columns = sifted(text, [queries, candidates, of_rows, of_columns], rows, columns)
    return columns, rows


@functools.cache
def nearer_text(width: int, processor: machine.Processor) -> str:
    """The kernel, for rows of so many averages."""
    code = Code(processor.vector)
    queries, candidates, of_rows, of_columns = (code.pointer(slot) for slot in range(4))
    kind = f"<{processor.vector // 8} x i64>"

    def vectors(table: str, row: str) -> list[str]:
        begin = code.at(table, f"[{width} x i8]", row)
        places = range(0, width, processor.vector)
        return [code.let(f"load {kind}, ptr {code.at(begin, 'i8', str(place))}, align 1") for place in places]

    def number(table: str, place: str) -> str:
        return code.let(f"load i64, ptr {code.at(table, 'i64', place)}")

    with each_pair(code, 4) as (row, column, near):
        total = code.variable(kind, "zeroinitializer")
        for one, other in zip(vectors(queries, row), vectors(candidates, column), strict=True):
            code.add_to(total, kind, differences_of_bytes(code, one, other))
        most = code.let(f"add i64 {number(of_rows, row)}, {number(of_columns, column)}")
        near.append(code.let(f"icmp sle i64 {added_up(code, [total], 'i64', 'i64')}, {most}"))
    return code.text()
