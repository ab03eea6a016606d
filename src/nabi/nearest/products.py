"""Products of rows of 16-bit whole numbers, exact in 32 bits.

One instruction multiplies pairs of them and adds the two products: twice as many at a time as of float32. The columns
of the result are laid out in panels beforehand; a tile of the result stays in registers until it is whole, and then is
stored (`products`), or compared at once, and nothing of it is stored but a bit each (`reaching`).

Written in LLVM's assembly language, as the fast engine's kernels are, and compiled and kept like them.
"""

import functools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nabi import machine
from nabi.engines.cpu.code import Code

VECTORS = 3
"""Registers beside one another that a panel fills."""
MULTIPLY_ADD = {64: "@llvm.x86.avx512.pmaddw.d.512", 32: "@llvm.x86.avx2.pmadd.wd"}
"""The instruction, by the bytes of a register. With the sum behind it, it is one where the processor has that, too."""


class Panels(NamedTuple):
    """Rows laid out so that a product with others has them as its columns.

    Attributes
    ----------
    numbers : ndarray of int16, (panels, pairs, width, 2)
        Pair by pair of a row's numbers, those of all rows of a panel beside one another; zeros where there is none.
    rows : int
    """

    numbers: NDArray[np.int16]
    rows: int

    @property
    def width(self) -> int:
        """Columns of all panels."""
        panels, _, width, _ = self.numbers.shape
        return int(panels * width)


def laid_out(rows: NDArray[np.int16]) -> Panels:
    """Rows (N, length) in panels for the processor at hand."""
    count, length = rows.shape
    width = _lanes(machine.processor()) * VECTORS
    panels, pairs = -(-count // width), -(-length // 2)
    padded = np.zeros((panels * width, 2 * pairs), np.int16)
    padded[:count, :length] = rows
    numbers = machine.empty((panels, pairs, width, 2), np.int16)
    numbers[...] = padded.reshape(panels, width, pairs, 2).transpose(0, 2, 1, 3)
    return Panels(numbers, count)


def products(rows: NDArray[np.int16], columns: Panels, found: NDArray[np.int32] | None = None) -> NDArray[np.int32]:
    """Products of all rows (M, length) with all columns: (M, N). No sum on the way may exceed 31 bits.

    They are written into ``found`` where it is given: contiguous, with room for all columns of whole panels.
    """
    panels, _, width, _ = columns.numbers.shape
    if found is None:
        found = np.empty((len(rows), panels * width), np.int32)
    _call(_text(machine.processor(), False), rows, columns, [found])
    return found[:, : columns.rows]


def reaching(
    rows: NDArray[np.int16], columns: Panels, of_rows: NDArray[np.int32], of_columns: NDArray[np.int32]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The pairs whose product is at least ``of_rows[i] + of_columns[j]``, which 31 bits must hold: i and j, in order.

    Parameters
    ----------
    rows : ndarray of int16, (M, length)
    columns : Panels
        Of N rows.
    of_rows : ndarray of int32, (M,)
    of_columns : ndarray of int32, (N,)

    Examples
    --------
    >>> rows = np.array([[1, 2], [3, 4], [5, 6]], np.int16)
    >>> products(rows, laid_out(rows))
    array([[ 5, 11, 17],
           [11, 25, 39],
           [17, 39, 61]], dtype=int32)
    >>> zeros = np.zeros(3, np.int32)
    >>> reaching(rows, laid_out(rows), zeros, zeros + 39)
    (array([1, 2, 2]), array([2, 1, 2]))
    """
    panels, _, width, _ = columns.numbers.shape
    limits = np.zeros(panels * width, np.int32)
    limits[: columns.rows] = of_columns
    marks = np.zeros((len(rows), panels), np.uint64)
    of_rows = np.ascontiguousarray(of_rows, np.int32)
    _call(_text(machine.processor(), True), rows, columns, [marks, of_rows, limits])
    if panels:
        marks[:, -1] &= np.uint64(2 ** (columns.rows - (panels - 1) * width) - 1)  # behind the last there is none
    places = np.empty((2, int(np.bitwise_count(marks).sum())), np.int64)
    machine.run(_places_text(machine.processor()), [marks, *places], [panels, width], len(rows))
    return places[0], places[1]


def _call(text: str, rows: NDArray[np.int16], columns: Panels, others: list[NDArray[np.generic]]) -> None:
    panels, pairs, _, _ = columns.numbers.shape
    if rows.shape[1] < 2 * pairs:
        rows = np.pad(rows, ((0, 0), (0, 1)))
    rows = np.ascontiguousarray(rows)
    machine.run(text, [rows, columns.numbers, *others], [pairs, panels], len(rows))


def _lanes(processor: machine.Processor) -> int:
    """Sums in a register."""
    return processor.vector // 4


@functools.cache
def _text(processor: machine.Processor, compares: bool) -> str:
    """The kernel: panel by panel, tile by tile of rows."""
    code = Code(processor.vector)
    names = ["rows", "columns", "found", *(["of_rows", "of_columns"] if compares else [])]
    arrays = {name: code.pointer(slot) for slot, name in enumerate(names)}
    pairs, panels = (code.word(len(names) + place) for place in range(2))
    lanes = _lanes(processor)
    sums, panel_kind = f"<{lanes} x i32>", f"[{lanes * VECTORS} x i32]"
    height = 8 if processor.vector == 64 else 4  # with the panel's numbers and a row's, what the registers hold

    def vectors(pointer: str) -> list[str]:
        places = [code.at(pointer, sums, str(vector)) for vector in range(VECTORS)]
        return [code.let(f"load {sums}, ptr {place}, align 4") for place in places]

    def spread(pointer: str) -> str:
        number = code.let(f"load i32, ptr {pointer}, align 4")
        first = code.let(f"insertelement {sums} poison, i32 {number}, i64 0")
        return code.let(f"shufflevector {sums} {first}, {sums} poison, <{lanes} x i32> zeroinitializer")

    def multiply(numbers: str, first: str, high: int) -> list[list[str]]:
        """Sums of so many rows from the first, in registers."""
        totals = [[code.variable(sums, "zeroinitializer") for _ in range(VECTORS)] for _ in range(high)]
        begins = [code.let(f"mul i64 {_plus(code, first, row)}, {pairs}") for row in range(high)]
        rows = [code.at(arrays["rows"], "i32", begin) for begin in begins]
        with code.loop(0, pairs) as index:
            pair = code.integer(index)
            column = vectors(code.at(numbers, panel_kind, pair))
            for row, row_totals in zip(rows, totals, strict=True):
                both = spread(code.at(row, "i32", pair))
                for total, other in zip(row_totals, column, strict=True):
                    code.add_to(total, sums, _multiplied(code, processor, both, other))
        return [[code.let(f"load {sums}, ptr {total}") for total in row_totals] for row_totals in totals]

    def compare(found: list[str], limit: str, limits: list[str]) -> str:
        """A bit for each sum that is large enough."""
        bits = "0"
        for vector, (number, other) in enumerate(zip(found, limits, strict=True)):
            least = code.let(f"add {sums} {limit}, {other}")
            enough = code.let(f"icmp sge {sums} {number}, {least}")
            some = code.let(f"bitcast <{lanes} x i1> {enough} to i{lanes}")
            wide = code.let(f"zext i{lanes} {some} to i64")
            moved = code.let(f"shl i64 {wide}, {vector * lanes}")
            bits = code.let(f"or i64 {bits}, {moved}")
        return bits

    count = code.let("sub i64 %stop, %start")
    left = code.let(f"urem i64 {count}, {height}")
    whole = code.let(f"sub i64 %stop, {left}")
    with code.loop(0, panels) as index:
        panel = code.integer(index)
        numbers = code.at(arrays["columns"], panel_kind, code.let(f"mul i64 {panel}, {pairs}"))
        limits = vectors(code.at(arrays["of_columns"], panel_kind, panel)) if compares else []
        for begin, end, high in (("%start", whole, height), (whole, "%stop", 1)):
            with code.loop(begin, end, high) as row:
                first = code.integer(row)
                for place, found in enumerate(multiply(numbers, first, high)):
                    i = _plus(code, first, place)
                    target = code.let(f"add i64 {code.let(f'mul i64 {i}, {panels}')}, {panel}")
                    if compares:
                        limit = spread(code.at(arrays["of_rows"], "i32", i))
                        bits = compare(found, limit, limits)
                        code.emit(f"store i64 {bits}, ptr {code.at(arrays['found'], 'i64', target)}")
                        continue
                    beside = code.at(arrays["found"], panel_kind, target)
                    for vector, number in enumerate(found):
                        code.emit(f"store {sums} {number}, ptr {code.at(beside, sums, str(vector))}, align 4")
    return code.text()


def _multiplied(code: Code, processor: machine.Processor, one: str, other: str) -> str:
    """Products of two pairs each, added, lane by lane."""
    lanes = _lanes(processor)
    sums, pairs = f"<{lanes} x i32>", f"<{2 * lanes} x i16>"
    if processor.vector in MULTIPLY_ADD:
        called = MULTIPLY_ADD[processor.vector]
        code.declare(called, f"declare {sums} {called}({pairs}, {pairs})")
        given = [code.let(f"bitcast {sums} {each} to {pairs}") for each in (one, other)]
        return code.let(f"call {sums} {called}({pairs} {given[0]}, {pairs} {given[1]})")
    high = [code.let(f"ashr {sums} {each}, splat (i32 16)") for each in (one, other)]
    moved = [code.let(f"shl {sums} {each}, splat (i32 16)") for each in (one, other)]
    low = [code.let(f"ashr {sums} {each}, splat (i32 16)") for each in moved]
    both = [code.let(f"mul {sums} {first}, {second}") for first, second in (high, low)]
    return code.let(f"add {sums} {both[0]}, {both[1]}")


@functools.cache
def _places_text(processor: machine.Processor) -> str:
    """The kernel that says where bits are set."""
    code = Code(processor.vector)
    marks, *places = (code.pointer(slot) for slot in range(3))
    panels, width = (code.word(3 + place) for place in range(2))
    code.declare("@llvm.ctpop.i64", "declare i64 @llvm.ctpop.i64(i64)")
    code.declare("@llvm.cttz.i64", "declare i64 @llvm.cttz.i64(i64, i1)")
    number, left = code.variable("i64", "0"), code.variable("i64", "0")
    with code.loop("%start", "%stop") as row, code.loop(0, panels) as index:
        i, panel = code.integer(row), code.integer(index)
        begin = code.let(f"mul i64 {panel}, {width}")
        place = code.let(f"add i64 {code.let(f'mul i64 {i}, {panels}')}, {panel}")
        bits = code.let(f"load i64, ptr {code.at(marks, 'i64', place)}")
        code.emit(f"store i64 {bits}, ptr {left}")
        with code.loop(0, code.let(f"call i64 @llvm.ctpop.i64(i64 {bits})")):
            now = code.let(f"load i64, ptr {left}")
            lane = code.let(f"call i64 @llvm.cttz.i64(i64 {now}, i1 true)")
            less = code.let(f"sub i64 {now}, 1")
            code.emit(f"store i64 {code.let(f'and i64 {now}, {less}')}, ptr {left}")
            target = code.let(f"load i64, ptr {number}")
            for array, value in zip(places, (i, code.let(f"add i64 {begin}, {lane}")), strict=True):
                code.emit(f"store i64 {value}, ptr {code.at(array, 'i64', target)}")
            code.emit(f"store i64 {_plus(code, target, 1)}, ptr {number}")
    return code.text()


def _plus(code: Code, number: str, more: int) -> str:
    return code.let(f"add i64 {number}, {more}") if more else number
