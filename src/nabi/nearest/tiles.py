"""What all rows of one matrix come to with all rows of another: products, or absolute differences.

Of 16-bit whole numbers one instruction multiplies pairs and adds the two products, exact in 32 bits: twice as many at a
time as of float32. Of bytes one adds the absolute differences of eight. The columns of the result are laid out in
panels beforehand; a tile of the result stays in registers until it is whole, and then is stored (`combined`), or
compared at once, and nothing of it is stored but a bit each (`within`).

Written in LLVM's assembly language, as the fast engine's kernels are, and compiled and kept like them.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nabi import machine
from nabi.engines.cpu.code import Code
from nabi.nearest.instructions import differences_of_bytes, products_of_pairs

VECTORS = 3
"""Registers beside one another that a panel fills."""


class Kind(NamedTuple):
    """What is done with numbers of a type.

    Attributes
    ----------
    together : int
        Numbers that one step takes of a row.
    sum : numpy.dtype
        What holds the result.
    step : callable
        Writes it for two registers: what is added to the sums.
    near : str
        How a result compares with a limit where the rows are near each other, as LLVM says it.
    """

    together: int
    sum: np.dtype[Any]
    step: Callable[[Code, str, str], str]
    near: str


KINDS = {
    np.dtype(np.int16): Kind(2, np.dtype(np.int32), products_of_pairs, "sge"),
    np.dtype(np.uint8): Kind(8, np.dtype(np.int64), differences_of_bytes, "sle"),
}


class Panels(NamedTuple):
    """Rows laid out so that what others come to with them has them as its columns.

    Attributes
    ----------
    numbers : ndarray of int16 or uint8, (panels, steps, width, numbers of a step)
        Step by step of a row's numbers, those of all rows of a panel beside one another; zeros where there is none.
    rows : int
    """

    numbers: NDArray[Any]
    rows: int

    @property
    def width(self) -> int:
        """Columns of all panels."""
        panels, _, width, _ = self.numbers.shape
        return int(panels * width)


def laid_out(rows: NDArray[Any]) -> Panels:
    """Rows (N, length) of int16 or uint8 in panels for the processor at hand."""
    count, length = rows.shape
    kind = KINDS[rows.dtype]
    width = _lanes(machine.processor(), kind) * VECTORS
    panels, steps = -(-count // width), -(-length // kind.together)
    padded = np.zeros((panels * width, steps * kind.together), rows.dtype)
    padded[:count, :length] = rows
    numbers = machine.empty((panels, steps, width, kind.together), rows.dtype)
    numbers[...] = padded.reshape(panels, width, steps, kind.together).transpose(0, 2, 1, 3)
    return Panels(numbers, count)


def combined(rows: NDArray[Any], columns: Panels, found: NDArray[Any] | None = None) -> NDArray[Any]:
    """What all rows (M, length) come to with all columns, (M, N): products of int16, in int32; differences of uint8.

    No product on the way may exceed 31 bits. They are written into ``found`` where it is given: contiguous, with room
    for all columns of whole panels.

    Examples
    --------
    >>> rows = np.array([[1, 2], [3, 4], [5, 6]])
    >>> combined(rows.astype(np.int16), laid_out(rows.astype(np.int16)))
    array([[ 5, 11, 17],
           [11, 25, 39],
           [17, 39, 61]], dtype=int32)
    >>> combined(rows.astype(np.uint8), laid_out(rows.astype(np.uint8)))
    array([[0, 4, 8],
           [4, 0, 4],
           [8, 4, 0]])
    """
    kind = KINDS[rows.dtype]
    if found is None:
        found = np.empty((len(rows), columns.width), kind.sum)
    _call(_text(machine.processor(), rows.dtype, False), rows, columns, [found])
    return found[:, : columns.rows]


def within(
    rows: NDArray[Any], columns: Panels, of_rows: NDArray[Any], of_columns: NDArray[Any]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The pairs that are near: i and j, in order.

    Those whose product is at least ``of_rows[i] + of_columns[j]``, or whose differences are at most that.

    Parameters
    ----------
    rows : ndarray of int16 or uint8, (M, length)
    columns : Panels
        Of N rows.
    of_rows : ndarray, (M,)
        Of int32 for products, and 31 bits must hold each sum; of int64 for differences.
    of_columns : ndarray of the same, (N,)

    Examples
    --------
    >>> rows = np.array([[1, 2], [3, 4], [5, 6]], np.int16)
    >>> zeros = np.zeros(3, np.int32)
    >>> within(rows, laid_out(rows), zeros, zeros + 39)
    (array([1, 2, 2]), array([2, 1, 2]))
    """
    panels, _, width, _ = columns.numbers.shape
    kind = KINDS[rows.dtype]
    limits = np.zeros(panels * width, kind.sum)
    limits[: columns.rows] = of_columns
    marks = np.zeros((len(rows), panels), np.uint64)
    of_rows = np.ascontiguousarray(of_rows, kind.sum)
    _call(_text(machine.processor(), rows.dtype, True), rows, columns, [marks, of_rows, limits])
    if panels:
        marks[:, -1] &= np.uint64(2 ** (columns.rows - (panels - 1) * width) - 1)  # behind the last there is none
    places = np.empty((2, int(np.bitwise_count(marks).sum())), np.int64)
    machine.run(_places_text(machine.processor()), [marks, *places], [panels, width], len(rows))
    return places[0], places[1]


def _call(text: str, rows: NDArray[Any], columns: Panels, others: list[NDArray[Any]]) -> None:
    panels, steps, _, together = columns.numbers.shape
    if rows.shape[1] < steps * together:
        rows = np.pad(rows, ((0, 0), (0, steps * together - rows.shape[1])))
    rows = np.ascontiguousarray(rows)
    machine.run(text, [rows, columns.numbers, *others], [steps, panels], len(rows))


def _lanes(processor: machine.Processor, kind: Kind) -> int:
    """Sums in a register."""
    return processor.vector // kind.sum.itemsize


@functools.cache
def _text(processor: machine.Processor, dtype: np.dtype[Any], compares: bool) -> str:
    """The kernel: panel by panel, tile by tile of rows."""
    kind = KINDS[dtype]
    code = Code(processor.vector)
    names = ["rows", "columns", "found", *(["of_rows", "of_columns"] if compares else [])]
    arrays = {name: code.pointer(slot) for slot, name in enumerate(names)}
    steps, panels = (code.word(len(names) + place) for place in range(2))
    lanes, one, size = _lanes(processor, kind), f"i{8 * kind.sum.itemsize}", kind.sum.itemsize
    sums, panel_kind = f"<{lanes} x {one}>", f"[{lanes * VECTORS} x {one}]"
    height = 8 if processor.vector == 64 else 4  # with the panel's numbers and a row's, what the registers hold

    def vectors(pointer: str) -> list[str]:
        places = [code.at(pointer, sums, str(vector)) for vector in range(VECTORS)]
        return [code.let(f"load {sums}, ptr {place}, align {size}") for place in places]

    def spread(pointer: str) -> str:
        return code.splat(one, code.let(f"load {one}, ptr {pointer}, align {size}"), lanes)

    def add(numbers: str, first: str, high: int) -> list[list[str]]:
        """Sums of so many rows from the first, in registers."""
        totals = [[code.variable(sums, "zeroinitializer") for _ in range(VECTORS)] for _ in range(high)]
        begins = [code.let(f"mul i64 {_plus(code, first, row)}, {steps}") for row in range(high)]
        rows = [code.at(arrays["rows"], one, begin) for begin in begins]
        with code.loop(0, steps) as index:
            step = code.integer(index)
            column = vectors(code.at(numbers, panel_kind, step))
            for row, row_totals in zip(rows, totals, strict=True):
                both = spread(code.at(row, one, step))
                for total, other in zip(row_totals, column, strict=True):
                    code.add_to(total, sums, kind.step(code, both, other))
        return [[code.let(f"load {sums}, ptr {total}") for total in row_totals] for row_totals in totals]

    def compare(found: list[str], limit: str, limits: list[str]) -> str:
        """A bit for each sum that is near."""
        bits = "0"
        for vector, (number, other) in enumerate(zip(found, limits, strict=True)):
            least = code.let(f"add {sums} {limit}, {other}")
            enough = code.let(f"icmp {kind.near} {sums} {number}, {least}")
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
        numbers = code.at(arrays["columns"], panel_kind, code.let(f"mul i64 {panel}, {steps}"))
        limits = vectors(code.at(arrays["of_columns"], panel_kind, panel)) if compares else []
        for begin, end, high in (("%start", whole, height), (whole, "%stop", 1)):
            with code.loop(begin, end, high) as row:
                first = code.integer(row)
                for place, found in enumerate(add(numbers, first, high)):
                    i = _plus(code, first, place)
                    target = code.let(f"add i64 {code.let(f'mul i64 {i}, {panels}')}, {panel}")
                    if compares:
                        limit = spread(code.at(arrays["of_rows"], one, i))
                        bits = compare(found, limit, limits)
                        code.emit(f"store i64 {bits}, ptr {code.at(arrays['found'], 'i64', target)}")
                        continue
                    beside = code.at(arrays["found"], panel_kind, target)
                    for vector, number in enumerate(found):
                        code.emit(f"store {sums} {number}, ptr {code.at(beside, sums, str(vector))}, align {size}")
    return code.text()


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
