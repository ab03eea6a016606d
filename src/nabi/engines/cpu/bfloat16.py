"""Products of matrices in bfloat16: operands are rounded and laid out anew, sums are kept in float32.

The processor multiplies two pairs of numbers at once and adds both products to a float32, in every lane of a register.
So numbers lie in pairs along the sum, each pair a word of 32 bits: of the first matrix a word is spread over all lanes,
of the second each lane has a word of its own, which is why its columns lie in panels, word beside word. Half the width
is half the memory, too: no product is too deep to be written out.

A number whose magnitude is below 1.2e-38 counts as zero: so the instructions have it.
"""

import contextlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nabi.engines.cpu import tiles
from nabi.engines.cpu.code import Code, Index
from nabi.engines.cpu.contract import Matrix
from nabi.engines.cpu.kernels import Rows
from nabi.engines.cpu.lanes import Lane, constant
from nabi.engines.cpu.panels import transposed, whole_and_last
from nabi.engines.cpu.reading import Reader
from nabi.engines.cpu.values import COLUMNS, WORDS, Value

FLOAT = np.dtype(np.float32)
LANES = WORDS
HEIGHTS = {1: (12, 4, 1), 2: (12, 4, 1), 3: (8, 4, 1), 4: (6, 3, 1)}
"""Rows of a tile, by its vectors of columns: together they fill the registers."""
DEEP = 2048
"""Pairs of a sum that is not cut: so much of a panel stays in the cache from one row to the next."""

_PRODUCT = "@llvm.x86.avx512bf16.dpbf16ps.512"
_ROUND = "@llvm.x86.avx512bf16.cvtne2ps2bf16.512"
_WORDS, _FLOATS, _HALVES = f"<{LANES} x i32>", f"<{LANES} x float>", f"<{2 * LANES} x bfloat>"


class Left(NamedTuple):
    """A first matrix in words.

    Attributes
    ----------
    pointer : str
    row, pair : int
        Words from one row to the next, and from one pair along the sum to the next.
    """

    pointer: str
    row: int
    pair: int


class Right(NamedTuple):
    """A second matrix in words.

    Attributes
    ----------
    pointer : str
    panel, pair : int
        Words from one panel of columns to the next, and from one pair along the sum to the next.
    """

    pointer: str
    panel: int
    pair: int


# --- rounding ---


def _rounded(low: Lane, high: Lane) -> str:
    """Two vectors of float32, rounded: the halves of a vector of bfloat16."""
    code = low.code
    code.declare(_ROUND, f"declare {_HALVES} {_ROUND}({_FLOATS}, {_FLOATS})")
    return code.let(f"call {_HALVES} {_ROUND}({_FLOATS} {high.name}, {_FLOATS} {low.name})")


def beside(low: Lane, high: Lane) -> str:
    """Words whose low halves are one vector, rounded, and whose high halves are the other."""
    code, both = low.code, _rounded(low, high)
    order = ", ".join(f"i32 {lane}, i32 {lane + LANES}" for lane in range(LANES))
    mixed = code.let(f"shufflevector {_HALVES} {both}, {_HALVES} poison, <{2 * LANES} x i32> <{order}>")
    return code.let(f"bitcast {_HALVES} {mixed} to {_WORDS}")


def along(first: Lane, second: Lane) -> str:
    """Words of two vectors that follow each other, rounded."""
    return first.code.let(f"bitcast {_HALVES} {_rounded(first, second)} to {_WORDS}")


def nothing(code: Code) -> Lane:
    return constant(code, 0, FLOAT).spread(LANES)


def load(code: Code, pointer: str, place: Index, left: int) -> Lane:
    """A vector of float32, zero behind the last of what is left."""
    if left <= 0:
        return nothing(code)
    with code.masked(code.lanes_left(left, LANES)):
        return Lane(code, code.load(pointer, place._replace(lanes=1), FLOAT, LANES), FLOAT, LANES)


def put(code: Code, pointer: str, place: Index, words: str, counted: str = "i32") -> None:
    """Store words at a place that is counted in words, or in their halves."""
    code.emit(f"store {_WORDS} {words}, ptr {code.address(pointer, place, counted)}, align 2")


def round_rows(reader: Reader, rows: Rows, value: Value) -> None:
    """Rows of a first matrix: words of pairs along each."""
    code, (x,), depth = reader.code, value.inputs, value.settings["depth"]
    pointer = reader.pointer(value, rows.first)
    if value.settings["turned"]:
        _round_turned_rows(reader, rows, value, pointer)
        return
    with code.loop(0, rows.length) as r, code.of_width(LANES):
        row, target = rows.first.plus(r), r.times(2 * value.shape[1])
        whole = depth // (2 * LANES) * 2 * LANES
        with code.loop(0, whole, 2 * LANES) as k:
            first, second = (reader.read_whole(x, (row, k.plus(i)._replace(lanes=1))) for i in (0, LANES))
            put(code, pointer, target.plus(k), along(first, second), "i16")
        if whole < depth:
            first, second = (_some(reader, x, row, whole + i, depth) for i in (0, LANES))
            put(code, pointer, target.plus(whole), along(first, second), "i16")


def _some(reader: Reader, x: Value, row: Index, first: int, length: int) -> Lane:
    """Numbers of a row from the first on, where it ends before a vector does: zero behind it."""
    code, left = reader.code, length - first
    if left <= 0:
        return nothing(code)
    with code.masked(code.lanes_left(left, LANES)):
        return reader.read_whole(x, (row, Index((), first, 1)))


def _round_turned_rows(reader: Reader, rows: Rows, value: Value, pointer: str) -> None:
    """Rows that are columns of what is read: (sum, rows)."""
    code, (x,), depth = reader.code, value.inputs, value.settings["depth"]
    words, stride = -(-depth // 2), value.shape[1]

    def pair(k: Index, column: Index, last: bool = False) -> tuple[Lane, Lane]:
        low = reader.read(x, (k.times(2), column)).spread(code.width)
        high = constant(code, 0, FLOAT) if last else reader.read(x, (k.times(2).plus(1), column))
        return low, high.spread(code.width)

    whole = code.whole_steps(rows.length, LANES)
    with code.loop(0, whole, LANES) as r, code.of_width(LANES):
        column = rows.first.plus(r)._replace(lanes=1)

        def square(k: Index, count: int) -> None:
            found = [beside(*pair(k.plus(i), column, odd and i == count - 1)) for i in range(count)]
            found += ["zeroinitializer"] * (LANES - count)
            for i, line in enumerate(transposed(code, found, _WORDS, LANES)):
                put(code, pointer, r.plus(i).times(stride).plus(k), line)

        odd = False
        squares = depth // (2 * LANES) * LANES
        with code.loop(0, squares, LANES) as k:
            square(k, LANES)
        if squares < words:
            odd = depth % 2 == 1
            square(Index((), squares), words - squares)
    with code.loop(whole, rows.length) as r, code.of_width(1):

        def word(k: Index, last: bool) -> None:
            low, high = (lane.spread(LANES) for lane in pair(k, rows.first.plus(r), last))
            one = code.let(f"extractelement {_WORDS} {beside(low, high)}, i64 0")
            place = code.address(pointer, r.times(stride).plus(k), "i32")
            code.emit(f"store i32 {one}, ptr {place}, align 4")

        with code.loop(0, depth // 2) as k:
            word(k, False)
        if depth % 2:
            word(Index((), words - 1), True)


def round_panels(reader: Reader, rows: Rows, value: Value) -> None:
    """Panels of a second matrix: "rows" are panels here."""
    write = _turned_panel if value.settings["turned"] else _panel
    # Panel beside panel, so that what is read lies together.
    for begin, end, columns in whole_and_last(reader.code, rows, value.settings["columns"], value.shape[2]):
        write(reader, value, value.inputs[0], begin, end, columns)


def _panel(reader: Reader, value: Value, y: Value, begin: str, end: str, columns: int) -> None:
    """Panels of so many columns: words of two rows of what is read, (sum, columns)."""
    code, depth = reader.code, value.settings["depth"]
    pointer, (_, _, wide) = reader.pointer(value), value.shape

    def line(k: Index, last: bool) -> None:
        with code.loop(begin, end) as panel:
            for start in range(0, columns, LANES):
                with code.masked(code.lanes_left(columns - start, LANES)):
                    column = panel.times(wide).plus(Index((), start, 1))
                    low = reader.read_whole(y, (k.times(2), column))
                    high = nothing(code) if last else reader.read_whole(y, (k.times(2).plus(1), column))
                    place = panel.times(value.strides[0]).plus(k.times(wide)).plus(start)
                    put(code, pointer, place, beside(low, high))

    with code.of_width(LANES):
        with code.loop(0, depth // 2) as k:
            line(k, False)
        if depth % 2:
            line(Index((), depth // 2), True)


def _turned_panel(reader: Reader, value: Value, y: Value, begin: str, end: str, columns: int) -> None:
    """Panels of so many columns: words of two neighbours in each row of what is read, (columns, sum)."""
    code, depth = reader.code, value.settings["depth"]
    pointer, (_, _, wide) = reader.pointer(value), value.shape
    words = -(-depth // 2)

    def square(panel: Index, start: int, k: Index, left: int) -> None:
        """So many numbers of each of up to 16 rows."""
        found = ["zeroinitializer"] * LANES
        for i in range(min(LANES, columns - start)):
            row = panel.times(wide).plus(start + i)
            halves = [nothing(code)] * 2
            for half in range(2):
                if left > half * LANES:
                    with code.masked(code.lanes_left(left - half * LANES, LANES)):
                        number = k.times(2).plus(Index((), half * LANES, 1))
                        halves[half] = reader.read_whole(y, (row, number))
            found[i] = along(*halves)
        for i, line in enumerate(transposed(code, found, _WORDS, LANES)):
            if 2 * i < left:
                put(code, pointer, panel.times(value.strides[0]).plus(k.plus(i).times(wide)).plus(start), line)

    with code.of_width(LANES), code.loop(begin, end) as panel:
        for start in range(0, columns, LANES):
            whole = depth // (2 * LANES) * LANES
            with code.loop(0, whole, LANES) as k:
                square(panel, start, k, 2 * LANES)
            if whole < words:
                square(panel, start, Index((), whole), depth - 2 * whole)


# --- products ---


def product(
    code: Code,
    left: Left,
    right: Right,
    rows: int | str,
    pairs: int | str,
    result: Matrix,
    add: bool = False,
) -> None:
    """result = left·right, or result += left·right: panel by panel, and down each in tiles of registers.

    Parameters
    ----------
    rows, pairs : int or str
        Of the first matrix, and along the sum.
    result : Matrix
        float32, (rows, columns).
    """
    code.declare(_PRODUCT, f"declare {_FLOATS} {_PRODUCT}({_FLOATS}, {_HALVES}, {_HALVES})")
    if isinstance(pairs, str) or pairs <= DEEP:
        _cut_sum(code, left, right, rows, (0, pairs), result, add)
        return
    step = -(-pairs // (-(-pairs // DEEP) * tiles.SIDE)) * tiles.SIDE
    _cut_sum(code, left, right, rows, (0, step), result, add)
    with code.loop(step, pairs, step) as k:
        end = code.least(code.integer(k.plus(step)), pairs)
        _cut_sum(code, left, right, rows, (code.integer(k), end), result, add=True)


def _cut_sum(
    code: Code, left: Left, right: Right, rows: int | str, pairs: tuple[int | str, int | str], result: Matrix, add: bool
) -> None:
    """Part of the sum: added to what is there, where it is begun."""
    assert isinstance(result.columns, int)
    whole, rest = divmod(result.columns, COLUMNS)
    filled = all(isinstance(n, str) or n >= tiles.SIDE for n in (rows, pairs[1], result.columns))
    has_tiles = code.matrix_registers and left.pair == 1 and filled

    def across(panel: Index, columns: int) -> None:
        if has_tiles and columns >= tiles.SIDE:
            _tiled(code, left, right, rows, panel, columns, pairs, result, add)
        else:
            _down(code, left, right, (0, rows), panel, range(0, columns, LANES), columns, pairs, result, add)

    with tiles.in_use(code) if has_tiles else contextlib.nullcontext(), code.of_width(LANES):
        with code.loop(0, whole) as panel:
            across(panel, COLUMNS)
        if rest:
            across(Index((), whole), rest)


def _tiled(
    code: Code, left: Left, right: Right, rows: int | str, panel: Index, columns: int,
    pairs: tuple[int | str, int | str], result: Matrix, add: bool,
) -> None:  # fmt: skip
    """All rows of a panel that fills a matrix register: in these, as far as they are filled."""
    starts = range(0, columns // tiles.SIDE * tiles.SIDE, tiles.SIDE)
    first, last = pairs
    whole = code.whole_steps(last, tiles.SIDE, first)
    x = Matrix(left.pointer, rows, whole, left.row)
    y = Matrix(code.address(right.pointer, panel.times(right.panel), "i32"), whole, columns, right.pair)
    target = code.address(result.pointer, panel.times(COLUMNS), "float")
    z = Matrix(target, rows, columns, result.stride)
    begin: int | str = 0
    for height in tiles.HEIGHTS:
        end = code.whole_steps(rows, height, begin)
        with code.loop(begin, end, height) as row:
            for number in range(0, len(starts), 2):
                tiles.tile(code, x, y, z, row, height, starts[number : number + 2], (first, whole), add)
        begin = end
    if whole != last:
        _down(code, left, right, (0, begin), panel, starts, columns, (whole, last), result, add=True)
    if len(starts) * tiles.SIDE < columns:
        _down(code, left, right, (0, begin), panel, [len(starts) * tiles.SIDE], columns, pairs, result, add)
    _down(code, left, right, (begin, rows), panel, range(0, columns, LANES), columns, pairs, result, add)


def _down(
    code: Code, left: Left, right: Right, rows: tuple[int | str, int | str], panel: Index, starts: Sequence[int],
    columns: int, pairs: tuple[int | str, int | str], result: Matrix, add: bool,
) -> None:  # fmt: skip
    """Some rows of some vectors of a panel, in tiles of registers."""
    begin, last = rows
    for height in HEIGHTS[len(starts)]:
        end = code.whole_steps(last, height, begin)
        with code.loop(begin, end, height) as row:
            _tile(code, left, right, row, height, panel, starts, columns, pairs, result, add)
        begin = end


def _tile(
    code: Code, left: Left, right: Right, row: Index, height: int, panel: Index, starts: Sequence[int], columns: int,
    pairs: tuple[int | str, int | str], result: Matrix, add: bool,
) -> None:  # fmt: skip
    """Some rows of some vectors of a panel, of which so many columns are there."""
    masks = [code.lanes_left(columns - start, LANES) for start in starts]
    places = [
        [result.offset(row.plus(i), panel.times(COLUMNS).plus(Index((), start, 1))) for start in starts]
        for i in range(height)
    ]
    totals: list[list[str]] = []
    for line in places:
        totals.append([])
        for place, mask in zip(line, masks, strict=True):
            first = "zeroinitializer"
            if add:
                with code.masked(mask):
                    first = code.load(result.pointer, place, FLOAT, LANES)
            totals[-1].append(code.variable(_FLOATS, first))
    with code.loop(*pairs) as k:
        base = panel.times(right.panel).plus(k.times(right.pair))
        factors = [
            code.let(f"load {_HALVES}, ptr {code.address(right.pointer, base.plus(start), 'i32')}, align 4")
            for start in starts
        ]
        for i, own in enumerate(totals):
            there = code.address(left.pointer, row.plus(i).times(left.row).plus(k.times(left.pair)), "i32")
            word = code.splat("i32", code.let(f"load i32, ptr {there}, align 4"), LANES)
            spread = code.let(f"bitcast {_WORDS} {word} to {_HALVES}")
            for total, factor in zip(own, factors, strict=True):
                old = code.let(f"load {_FLOATS}, ptr {total}")
                new = code.let(f"call {_FLOATS} {_PRODUCT}({_FLOATS} {old}, {_HALVES} {spread}, {_HALVES} {factor})")
                code.emit(f"store {_FLOATS} {new}, ptr {total}")
    for own, line in zip(totals, places, strict=True):
        for total, spot, mask in zip(own, line, masks, strict=True):
            with code.masked(mask):
                code.store(result.pointer, spot, FLOAT, LANES, code.let(f"load {_FLOATS}, ptr {total}"))


def matmul(reader: Reader, rows: Rows, value: Value) -> None:
    """Rows of a product of two matrices that were rounded before."""
    x, y = value.inputs
    columns = value.shape[1]
    left = Left(reader.pointer(x, rows.first), x.shape[1], 1)
    right = Right(reader.pointer(y), y.strides[0], y.strides[1])
    result = Matrix(reader.pointer(value, rows.first), rows.length, columns, columns)
    product(reader.code, left, right, rows.length, y.shape[1], result)
