"""Products of matrices that are neither in panels nor narrow: long sums are for the BLAS that NumPy brings.

Others are written out. BLAS lays its matrices out anew before it multiplies them, which takes long beside a product
that is not deep.
"""

from typing import NamedTuple

import numpy as np

from nabi.engines.cpu.code import TYPES, Code, Index
from nabi.engines.cpu.kernels import Rows, vectors
from nabi.engines.cpu.lanes import Lane, add_product, constant, fused
from nabi.engines.cpu.reading import Reader
from nabi.engines.cpu.values import Value

DEPTH = 512
"""The longest sum of a product that is written out: longer ones are better cut, and laid out anew, as BLAS does."""
NARROW = 32
"""Columns of a second matrix that is near enough as it is, however long the sum."""
FLOAT = np.dtype(np.float32)
FEW_ROWS = 6
"""Rows by which a second matrix is multiplied as it lies in memory, however long the sum: it is read once."""
SMALL = 1 << 18
"""Multiply-adds of a product whose second matrix is better turned first than given to BLAS."""


class Matrix(NamedTuple):
    """A matrix in memory.

    Attributes
    ----------
    pointer : str
    rows, columns : int or str
    stride : int
        Elements from one row to the next in memory.
    turned : bool
        Whether memory holds its transpose; ``stride`` is then from one column to the next.
    """

    pointer: str
    rows: int | str
    columns: int | str
    stride: int
    turned: bool = False

    def offset(self, row: Index, column: Index) -> Index:
        if self.turned:
            return row.plus(column.times(self.stride))
        return row.times(self.stride).plus(column)


def product(
    code: Code,
    x: Matrix,
    y: Matrix,
    result: Matrix,
    dtype: np.dtype[np.floating],
    blas: "Blas | None",
    add: bool | str = False,
) -> None:
    """result = x·y, or result += x·y, or, if ``add`` is the name of a truth value, what that says when it is run."""
    narrow = isinstance(y.columns, int) and y.columns <= NARROW
    deep = isinstance(x.columns, int) and x.columns > DEPTH and not narrow
    if isinstance(x.rows, int) and x.rows <= FEW_ROWS and deep and not y.turned and not isinstance(add, str):
        _row_by_row(code, x, y, result, dtype, add)
        return
    if blas is None or isinstance(add, str) or (not deep and not y.turned):
        written(code, x, y, result, dtype, add)
        return
    one = TYPES[dtype]
    pointer = code.pointer(blas.slots[dtype.name])
    n = blas.integer
    turn = {False: 111, True: 112}
    scale = "1.0" if add else "0.0"
    code.emit(
        f"call void {pointer}(i32 101, i32 {turn[x.turned]}, i32 {turn[y.turned]}, {_cut(code, n, x.rows)}, "
        f"{_cut(code, n, y.columns)}, {_cut(code, n, x.columns)}, {one} 1.0, ptr {x.pointer}, {n} {x.stride}, "
        f"ptr {y.pointer}, {n} {y.stride}, {one} {scale}, ptr {result.pointer}, {n} {result.stride})"
    )


def _cut(code: Code, kind: str, number: int | str) -> str:
    if isinstance(number, str) and kind == "i32":
        return f"i32 {code.let(f'trunc i64 {number} to i32')}"
    return f"{kind} {number}"


class Blas(NamedTuple):
    """Where the table holds the functions, by dtype; and the type of their integers."""

    slots: dict[str, int]
    integer: str


def written(code: Code, x: Matrix, y: Matrix, result: Matrix, dtype: np.dtype[np.floating], add: bool | str) -> None:
    """x·y in tiles of rows by vectors of columns, held in registers along the sum, tile below tile."""
    rows, columns = x.rows, y.columns
    width = code.vector // dtype.itemsize
    if isinstance(columns, int):
        width = min(width, 1 << max(0, columns - 1).bit_length())
    high, broad = (12, 2) if code.vector == 64 else (6, 2)
    tile = _Tile(code, x, y, result, dtype, add)

    def below(column: Index, vectors: int, mask: str | None) -> None:
        """All rows of some columns."""
        begin: int | str = 0
        for height in (high, 4, 1):
            end = code.whole_steps(rows, height, begin)
            with code.loop(begin, end, height) as row:
                tile.write(row, height, column, vectors, width, mask)
            begin = end

    with code.of_width(width):
        step = broad * width
        whole = code.whole_steps(columns, step)
        with code.loop(0, whole, step) as column:
            below(column, broad, None)
        single = code.whole_steps(columns, width)
        with code.loop(whole, single, width) as column:
            below(column, 1, None)
        if isinstance(columns, int):
            if columns != single:
                below(Index((), int(single)), 1, code.first_lanes(columns - int(single), width))
        else:
            with code.loop(single, columns, width) as column:
                left = code.let(f"sub i64 {columns}, {code.integer(column)}")
                below(column, 1, code.first_lanes(left, width))


def _row_by_row(code: Code, x: Matrix, y: Matrix, result: Matrix, dtype: np.dtype[np.floating], add: bool) -> None:
    """A few rows times a matrix that is far away, which is read as it lies in memory; sums are kept in the result."""
    rows, columns, width = x.rows, y.columns, code.vector // dtype.itemsize
    assert isinstance(rows, int)
    zero = constant(code, 0, dtype).spread(width)
    together = 8 if rows <= 2 else 4 if rows <= 4 else 2

    def add_rows(k: Index, count: int) -> None:
        """To all results, what comes from some rows of y."""
        places = [[x.offset(Index((), row), k.plus(tap)) for tap in range(count)] for row in range(rows)]
        factors = [[Lane(code, code.load(x.pointer, p, dtype, 1), dtype, 1).spread(width) for p in r] for r in places]
        for column in vectors(code, columns, width):
            found = [code.load(y.pointer, y.offset(k.plus(tap), column), dtype, width) for tap in range(count)]
            for row, own in enumerate(factors):
                place = result.offset(Index((), row), column)
                total = Lane(code, code.load(result.pointer, place, dtype, width), dtype, width)
                for factor, other in zip(own, found, strict=True):
                    total = fused(factor, Lane(code, other, dtype, width), total)
                code.store(result.pointer, place, dtype, width, total.name)

    with code.of_width(width):
        for column in vectors(code, columns, width) if not add else ():
            for row in range(rows):
                code.store(result.pointer, result.offset(Index((), row), column), dtype, width, zero.name)
        whole = code.whole_steps(x.columns, together)
        with code.loop(0, whole, together) as k:
            add_rows(k, together)
        with code.loop(whole, x.columns) as k:
            add_rows(k, 1)


class _Tile(NamedTuple):
    """Some rows and columns of a product."""

    code: Code
    x: Matrix
    y: Matrix
    result: Matrix
    dtype: np.dtype[np.floating]
    add: bool | str

    def begun(self, place: Index, width: int, zero: str) -> str:
        """What the sums of a vector begin with."""
        code = self.code
        if not self.add:
            return zero
        if self.add is True:
            return code.load(self.result.pointer, place, self.dtype, width)
        if width == 1:
            found = code.load(self.result.pointer, place, self.dtype, width)
            kind = TYPES[self.dtype]
            return code.let(f"select i1 {self.add}, {kind} {found}, {kind} {zero}")
        mask = code.splat("i1", self.add, width)
        if code.mask is not None:
            mask = code.let(f"and <{width} x i1> {mask}, {code.mask}")
        with code.masked(mask):
            return code.load(self.result.pointer, place, self.dtype, width)

    def write(self, row: Index, height: int, column: Index, vectors: int, width: int, mask: str | None) -> None:
        code, dtype = self.code, self.dtype
        one = TYPES[dtype]
        kind = f"<{width} x {one}>" if width > 1 else one
        zero = constant(code, 0, dtype).spread(width).name
        lanes = [column.plus(v * width)._replace(lanes=1) for v in range(vectors)]
        places = [[self.result.offset(row.plus(i), lane) for lane in lanes] for i in range(height)]
        with code.masked(mask):
            totals = [[code.variable(kind, self.begun(place, width, zero)) for place in line] for line in places]
            with code.loop(0, self.x.columns) as k:
                right = [code.load(self.y.pointer, self.y.offset(k, lane), dtype, width) for lane in lanes]
                for i, line in enumerate(totals):
                    number = code.load(self.x.pointer, self.x.offset(row.plus(i), k), dtype, 1)
                    left = Lane(code, number, dtype, 1).spread(width)
                    for total, factor in zip(line, right, strict=True):
                        add_product(total, left, Lane(code, factor, dtype, width))
            for line, spots in zip(totals, places, strict=True):
                for total, place in zip(line, spots, strict=True):
                    found = code.let(f"load {kind}, ptr {total}")
                    code.store(self.result.pointer, place, dtype, width, found)


def matmul(reader: Reader, rows: Rows, value: Value, blas: Blas | None, work: str) -> None:
    """Rows of a product of two stored matrices, either of which may be another's transpose."""
    code = reader.code
    x, y = value.inputs
    left = operand(reader, x, rows)
    right = operand(reader, y, None)
    result = Matrix(reader.pointer(value, rows.first), rows.length, value.shape[1], value.shape[1])
    sizes = (rows.length, x.shape[1], value.shape[1])
    small = all(isinstance(n, int) for n in sizes) and int(rows.length) * x.shape[1] * value.shape[1] <= SMALL
    if right.turned and (small or blas is None):
        right = _turned(code, right, y.shape, value.dtype, work)
    product(code, left, right, result, value.dtype, blas)


def columns(reader: Reader, rows: Rows, value: Value, blas: Blas | None, work: str) -> None:
    """Some columns of a product of two stored matrices: "rows" are places along the second matrix's columns here."""
    code, one = reader.code, TYPES[value.dtype]
    x, y = value.inputs
    left, whole = operand(reader, x, None), operand(reader, y, None)
    if whole.turned and blas is None:
        whole = _turned(code, whole, y.shape, value.dtype, work)
    first = rows.first.times(whole.stride) if whole.turned else rows.first
    right = Matrix(code.address(whole.pointer, first, one), whole.rows, rows.length, whole.stride, whole.turned)
    pointer = code.address(reader.pointer(value), rows.first, one)
    result = Matrix(pointer, value.shape[0], rows.length, value.shape[1])
    product(code, left, right, result, value.dtype, blas)


def workspace(value: Value) -> int:
    """Bytes that `matmul` may need to lay its second matrix out anew."""
    y = value.inputs[1]
    return y.size * y.dtype.itemsize if y.kind == "permute_dims" else 0


def operand(reader: Reader, value: Value, rows: Rows | None) -> Matrix:
    """A matrix as it lies in memory, perhaps as another's transpose or in another shape: all of it, or its rows."""
    turned = value.kind == "permute_dims" and value.serial not in reader.places
    matrix = value.inputs[0] if turned else value
    stored = matrix.inputs[0] if matrix.kind == "reshape" and matrix.serial not in reader.places else matrix
    count = value.shape[0] if rows is None else rows.length
    pointer = reader.pointer(stored, None if rows is None or turned else rows.first)
    if turned and rows is not None:
        pointer = reader.code.address(pointer, rows.first, TYPES[value.dtype])
    return Matrix(pointer, count, value.shape[1], matrix.shape[1], turned)


def _turned(code: Code, matrix: Matrix, shape: tuple[int, ...], dtype: np.dtype[np.floating], work: str) -> Matrix:
    """A copy in which rows lie together."""
    kind = TYPES[dtype]
    with code.loop(0, shape[1]) as column, code.loop(0, shape[0]) as row:
        found = code.load(matrix.pointer, matrix.offset(row, column), dtype, 1)
        place = code.address(work, row.times(shape[1]).plus(column), kind)
        code.emit(f"store {kind} {found}, ptr {place}, align {dtype.itemsize}")
    return Matrix(work, shape[0], shape[1], shape[1])
