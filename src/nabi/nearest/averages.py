"""Lower bounds on distances of chosen pairs of pictures: what they are at a smaller size, and what that leaves out.

The pixels m of a smaller picture are the sums over cells divided by c, the pixels of a cell, and rounded. Let A be that
division, exactly: its rows are orthogonal and at most 1/√c long, so that √c·A makes no vector longer, and with
|x|'² = |x|² - c·|Ax|² as in `nabi.nearest.projection`

    |q - x|² ≥ c·|Aq - Ax|² + (|q|' - |x|')².

With f = |Ax - m(x)|, how far rounding moved a picture, |Aq - Ax| ≥ |m(q) - m(x)| - f(q) - f(x). So a pair within a
distance r has

    |m(q) - m(x)| ≤ √((r² - (|q|' - |x|')²)/c) + f(q) + f(x).

The left side is the root of a whole number. On the right floating point is off by little: |x|'² by no more than
2⁻⁴⁰·|x|², if it adds up 4,096 cells, hence |x|'/√c by 2⁻²⁰·|x|/√c; that is below 2⁻⁶, since no picture is longer than
255·√(c·4096). So 2⁻⁵ is taken from the difference of what is left out, and added to the right side.

In LLVM's assembly language, as the fast engine's kernels are, and compiled and kept like them.
"""

import functools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nabi import machine
from nabi.engines.cpu.code import Code
from nabi.nearest.cells import Averages
from nabi.nearest.instructions import BESIDE, add_dots, added_up, has_dots
from nabi.nearest.pairs import measure, squared_norms
from nabi.nearest.sieve import each_pair, sifted

ROOM = 2.0**-5


class Asked(NamedTuple):
    """Small pictures of N queries.

    Attributes
    ----------
    averages : Averages
    less_128 : ndarray of int8
        m - 128
    squared : ndarray of float64, (N,)
        |m|²
    """

    averages: Averages
    less_128: NDArray[np.int8]
    squared: NDArray[np.float64]


def of_queries(averages: Averages) -> Asked:
    less_128 = machine.empty(averages.pixels.shape, np.int8)
    np.bitwise_xor(averages.pixels, 128, out=less_128.view(np.uint8))
    return Asked(averages, less_128, squared_norms(averages.pixels))


def reachable(
    asked: Asked,
    found: Averages,
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    limit: NDArray[np.float64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The pairs of queries ``rows[i]`` and candidates ``columns[i]`` that may be within a distance.

    Parameters
    ----------
    asked : Asked
    found : Averages
    rows, columns : ndarray of int64, contiguous, (pairs,)
        Ordered by columns. They are written over.
    limit : ndarray of float64
        r²/c of each query.
    """
    processor = machine.processor()
    if has_dots(processor):
        of_rows = np.column_stack([asked.squared, asked.averages.rest, asked.averages.off + ROOM, limit])
        of_columns = np.column_stack([found.rest, found.off])
        text = reachable_text(found.pixels.shape[1], processor)
        return sifted(text, [asked.less_128, found.pixels, of_rows, of_columns], rows, columns)
    apart = measure(asked.averages.pixels, found.pixels, rows, columns, "l2", asked.squared)
    differ = np.maximum(np.abs(asked.averages.rest[rows] - found.rest[columns]) - ROOM, 0)
    inside = limit[rows] - differ * differ
    most = np.sqrt(np.maximum(inside, 0)) + (asked.averages.off[rows] + ROOM + found.off[columns])
    places = np.flatnonzero((apart <= most * most) & (inside >= 0))
    return rows[places], columns[places]


@functools.cache
def reachable_text(width: int, processor: machine.Processor) -> str:
    """The kernel, for rows of so many averages: a candidate's stay in registers while queries pass by.

    Products are taken of pixels and of signed numbers: |q|² + |x|² - 2 q·x where q·x = (q - 128)·x + 128 Σx.
    """
    code = Code(processor.vector)
    queries, candidates, of_rows, of_columns = (code.pointer(slot) for slot in range(4))
    lanes = processor.vector
    kind, sums = f"<{lanes} x i8>", f"<{lanes // 4} x i32>"
    places = range(0, width, lanes)
    root = code.declare("@llvm.sqrt.f64", "declare double @llvm.sqrt.f64(double)")
    absolute = code.declare("@llvm.fabs.f64", "declare double @llvm.fabs.f64(double)")
    most = code.declare("@llvm.maxnum.f64", "declare double @llvm.maxnum.f64(double, double)")

    def product(pairs: list[tuple[str, str]]) -> str:
        """The sum of products of pixels and of signed numbers."""
        totals = [code.variable(sums, "zeroinitializer") for _ in range(BESIDE)]
        for number, (pixels, signed) in enumerate(pairs):
            add_dots(code, totals[number % BESIDE], pixels, signed)
        return added_up(code, totals, "i32", "i32")

    def facts(table: str, place: str, number: int) -> list[str]:
        first = code.at(table, f"[{number} x double]", place)
        return [code.let(f"load double, ptr {code.at(first, 'double', str(fact))}") for fact in range(number)]

    def loaded(row: str) -> list[str]:
        return [code.let(f"load {kind}, ptr {code.at(row, 'i8', str(place))}, align 1") for place in places]

    last, own = code.variable("i64", "-1"), code.variable("i64", "0")
    candidate = [code.variable(kind, "zeroinitializer") for _ in places]
    with each_pair(code, 4) as (row, column, near):
        query = code.at(queries, f"[{width} x i8]", row)
        changed = code.let(f"icmp ne i64 {column}, {code.let(f'load i64, ptr {last}')}")
        with code.loop(0, code.let(f"zext i1 {changed} to i64")):
            pixels = loaded(code.at(candidates, f"[{width} x i8]", column))
            for register, each in zip(candidate, pixels, strict=True):
                code.emit(f"store {kind} {each}, ptr {register}")
            signed = [code.let(f"xor {kind} {each}, splat (i8 -128)") for each in pixels]
            squares = product(list(zip(pixels, signed, strict=True)))
            total = product([(each, "splat (i8 1)") for each in pixels])
            # Σx² = Σx(x - 128) + 128 Σx, less twice the 128 Σx of the product with a query.
            less = code.let(f"mul i32 {total}, -128")
            both = code.let(f"add i32 {squares}, {less}")
            code.emit(f"store i64 {code.let(f'sext i32 {both} to i64')}, ptr {own}")
            code.emit(f"store i64 {column}, ptr {last}")
        pixels = [code.let(f"load {kind}, ptr {register}") for register in candidate]
        both = code.let(f"sext i32 {product(list(zip(pixels, loaded(query), strict=True)))} to i64")
        squared, rest, off, limit = facts(of_rows, row, 4)
        other_rest, other_off = facts(of_columns, column, 2)
        alone = code.let(f"sub i64 {code.let(f'load i64, ptr {own}')}, {code.let(f'shl i64 {both}, 1')}")
        apart = code.let(f"fadd double {squared}, {code.let(f'sitofp i64 {alone} to double')}")
        differ = code.let(f"call double {absolute}(double {code.let(f'fsub double {rest}, {other_rest}')})")
        roomy = code.let(f"fsub double {differ}, {ROOM!r}")
        differ = code.let(f"call double {most}(double {roomy}, double 0.0)")
        inside = code.let(f"fsub double {limit}, {code.let(f'fmul double {differ}, {differ}')}")
        # Of a negative number the root is no number, which nothing is below.
        reach = code.let(f"call double {root}(double {inside})")
        reach = code.let(f"fadd double {reach}, {code.let(f'fadd double {off}, {other_off}')}")
        near.append(code.let(f"fcmp ole double {apart}, {code.let(f'fmul double {reach}, {reach}')}"))
    return code.text()
