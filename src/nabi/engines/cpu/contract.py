"""Products of matrices: the BLAS that NumPy brings does the large ones, small ones are written out.

A call of BLAS takes longer to begin than a small product takes to compute.
"""

import math
from typing import NamedTuple

import numpy as np

from nabi.engines.cpu.code import TYPES, Code, Index
from nabi.engines.cpu.kernels import Rows, vectors
from nabi.engines.cpu.lanes import Lane, constant
from nabi.engines.cpu.reading import Reader
from nabi.engines.cpu.values import Value

SMALL = 1 << 18
"""Multiply-adds of a product that is written out."""
ABREAST = 4
"""Rows that a small product works on side by side."""


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
    add: bool = False,
) -> None:
    """result = x·y, or result += x·y."""
    sizes = (x.rows, x.columns, y.columns)
    small = all(isinstance(n, int) for n in sizes) and math.prod(map(int, sizes)) <= SMALL
    if blas is None or (small and not y.turned):
        _written(code, x, y, result, dtype, add)
        return
    one = TYPES[dtype.name]
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


def _written(code: Code, x: Matrix, y: Matrix, result: Matrix, dtype: np.dtype[np.floating], add: bool) -> None:
    """Rows by vectors of columns, held in registers along the sum."""
    width = code.vector // 4
    columns = y.columns

    def block(row: Index, count: int) -> None:
        for lane in vectors(code, columns, min(width, _power(columns))):
            kind = f"<{code.width} x {TYPES[dtype.name]}>" if code.width > 1 else TYPES[dtype.name]
            zero = constant(code, 0, dtype).spread(code.width)
            totals = []
            for i in range(count):
                first = zero.name
                if add:
                    first = code.load(result.pointer, result.offset(row.plus(i), lane), dtype, code.width)
                totals.append(code.variable(kind, first))
            with code.loop(0, x.columns) as k:
                right = code.load(y.pointer, y.offset(k, lane), dtype, code.width)
                for i, total in enumerate(totals):
                    left = Lane(code, code.load(x.pointer, x.offset(row.plus(i), k), dtype, 1), dtype, 1)
                    old = code.let(f"load {kind}, ptr {total}")
                    suffix = f"v{code.width}" if code.width > 1 else ""
                    called = f"@llvm.fma.{suffix}{'f32' if dtype == np.float32 else 'f64'}"
                    code.declarations[called] = f"declare {kind} {called}({kind}, {kind}, {kind})"
                    new = code.let(
                        f"call {kind} {called}({kind} {left.spread(code.width).name}, {kind} {right}, {kind} {old})"
                    )
                    code.emit(f"store {kind} {new}, ptr {total}")
            for i, total in enumerate(totals):
                found = code.let(f"load {kind}, ptr {total}")
                code.store(result.pointer, result.offset(row.plus(i), lane), dtype, code.width, found)

    rows = x.rows
    if isinstance(rows, int):
        whole: int | str = rows // ABREAST * ABREAST
    else:
        whole = code.let(f"and i64 {rows}, {-ABREAST}")
    with code.loop(0, whole, ABREAST) as row:
        block(row, ABREAST)
    with code.loop(whole, rows) as row:
        block(row, 1)


def _power(columns: int | str) -> int:
    return 1 << 20 if isinstance(columns, str) else 1 << max(0, columns - 1).bit_length()


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
    code, one = reader.code, TYPES[value.dtype.name]
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
        pointer = reader.code.address(pointer, rows.first, TYPES[value.dtype.name])
    return Matrix(pointer, count, value.shape[1], matrix.shape[1], turned)


def _turned(code: Code, matrix: Matrix, shape: tuple[int, ...], dtype: np.dtype[np.floating], work: str) -> Matrix:
    """A copy in which rows lie together."""
    kind = TYPES[dtype.name]
    with code.loop(0, shape[1]) as column, code.loop(0, shape[0]) as row:
        found = code.load(matrix.pointer, matrix.offset(row, column), dtype, 1)
        place = code.address(work, row.times(shape[1]).plus(column), kind)
        code.emit(f"store {kind} {found}, ptr {place}, align {dtype.itemsize}")
    return Matrix(work, shape[0], shape[1], shape[1])
