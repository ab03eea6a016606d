"""Products in float32 with a matrix of few columns, as the scores of ten classes: they would not fill a register.

So lanes stand for something else: for places along the sum, where these lie together in the first matrix, or for its
rows, where it is another's transpose and rows lie together.
"""

from collections.abc import Sequence

import numpy as np

from nabi.engines.cpu.code import ZERO, Code, Index
from nabi.engines.cpu.contract import Matrix, operand, written
from nabi.engines.cpu.kernels import Rows, vectors
from nabi.engines.cpu.lanes import Lane, add_product, constant, lanes_xp
from nabi.engines.cpu.panels import transposed
from nabi.engines.cpu.reading import Reader
from nabi.engines.cpu.values import Value

FLOAT = np.dtype(np.float32)
COLUMNS = 12
"""The most columns."""
DEEP = 128
"""Pairs of a sum, at least; and rows, where lanes stand for them."""
ENOUGH = 32
"""Rows together, at least, that the second matrix is laid out anew for."""
HIGH = 4
"""The most rows of a tile, or vectors of rows."""


def suits(value: Value, together: int) -> bool:
    """Whether a product is computed this way, of so many rows together."""
    x, y = value.inputs
    rows, columns = value.shape
    if value.dtype != FLOAT or y.kind in ("panels", "permute_dims") or columns > COLUMNS:
        return False
    return (rows if x.kind == "permute_dims" else x.shape[1]) >= DEEP and together >= ENOUGH


def workspace(value: Value) -> int:
    """Bytes of the second matrix, laid out anew: by its columns."""
    return value.shape[1] * _padded(value.inputs[0].shape[1]) * FLOAT.itemsize


def _padded(depth: int) -> int:
    """Numbers of a column, with zeros behind the last: whole vectors, and a cache line to the next column's."""
    return (-(-depth // 16) + 1) * 16


def matmul(reader: Reader, rows: Rows, value: Value, work: str) -> None:
    """Rows of a product of two stored matrices, the first of which may be another's transpose."""
    code, (x, y) = reader.code, value.inputs
    columns = value.shape[1]
    result = Matrix(reader.pointer(value, rows.first), rows.length, columns, columns)
    left, right = operand(reader, x, rows), operand(reader, y, None)
    with code.of_width(code.vector // FLOAT.itemsize):
        if left.turned:
            _along_rows(code, left, right, result)
        else:
            _along_sum(code, left, right, result, work)


def _most_high(code: Code, columns: int) -> int:
    """Rows of a tile, or vectors of rows: their sums, what they are made of, and one more fit into the registers."""
    return max(1, min(HIGH, ((32 if code.vector == 64 else 16) - 1) // (columns + 1)))


def _totals(code: Code, height: int, columns: int) -> list[list[str]]:
    """Sums to be, column by column."""
    zero = constant(code, 0, FLOAT).spread(code.width)
    return [[code.variable(zero.kind, zero.name) for _ in range(height)] for _ in range(columns)]


def _load(code: Code, matrix: Matrix, row: Index, column: Index) -> Lane:
    return Lane(code, code.load(matrix.pointer, matrix.offset(row, column), FLOAT, code.width), FLOAT, code.width)


def _turned_lines(code: Code, totals: Sequence[Sequence[str]], i: int, start: int) -> list[Lane]:
    """One total of each of some columns, turned: a register for each lane, with a lane for each column."""
    kind = f"<{code.width} x float>"
    own = [code.let(f"load {kind}, ptr {column[i]}") for column in totals[start : start + code.width]]
    lines = own + ["zeroinitializer"] * (code.width - len(own))
    return [Lane(code, line, FLOAT, code.width) for line in transposed(code, lines, kind, code.width)]


def _put(code: Code, result: Matrix, row: Index, start: int, line: Lane) -> None:
    """Some columns of a row."""
    assert isinstance(result.columns, int)
    left = result.columns - start
    with code.masked(code.lanes_left(left, code.width)):
        code.store(result.pointer, result.offset(row, Index((), start, 1)), FLOAT, code.width, line.name)


# --- lanes along the sum ---


def _along_sum(code: Code, x: Matrix, y: Matrix, result: Matrix, work: str) -> None:
    assert isinstance(x.columns, int)
    assert isinstance(y.columns, int)
    depth, columns = x.columns, y.columns
    by_columns = Matrix(work, depth, columns, _padded(depth), turned=True)
    _lay_columns(code, y, by_columns)
    begin: int | str = 0
    for height in (_most_high(code, columns), 1):
        end = code.whole_steps(x.rows, height, begin)
        with code.loop(begin, end, height) as row:
            totals = _totals(code, height, columns)
            for k in vectors(code, depth, code.width):
                lefts = [_load(code, x, row.plus(i), k) for i in range(height)]
                for column, sums in enumerate(totals):
                    factor = _load(code, by_columns, k, Index((), column))
                    for total, left in zip(sums, lefts, strict=True):
                        add_product(total, left, factor)
            for i in range(height):
                for start in range(0, columns, code.width):
                    lines = _turned_lines(code, totals, i, start)
                    while len(lines) > 1:
                        half = len(lines) // 2
                        lines = [lanes_xp.add(a, b) for a, b in zip(lines[:half], lines[half:], strict=True)]
                    _put(code, result, row.plus(i), start, lines[0])
        begin = end


def _lay_columns(code: Code, y: Matrix, target: Matrix) -> None:
    """Columns, each as it lies along the sum, and zeros up to the end of a vector."""
    assert isinstance(y.columns, int)
    assert isinstance(y.rows, int)
    width, kind = code.width, f"<{code.width} x float>"

    def square(k: Index, count: int, start: int) -> None:
        left = y.columns - start  # type: ignore[operator]
        with code.masked(code.lanes_left(left, width)):
            lines = [_load(code, y, k.plus(i), Index((), start, 1)).name for i in range(count)]
        lines += ["zeroinitializer"] * (width - count)
        for column, line in enumerate(transposed(code, lines, kind, width)[:left], start):
            place = target.offset(k._replace(lanes=1), Index((), column))
            code.store(target.pointer, place, FLOAT, width, line)

    whole = y.rows // width * width
    for start in range(0, y.columns, width):
        with code.loop(0, whole, width) as k:
            square(k, width, start)
        if whole < y.rows:
            square(Index((), whole), y.rows - whole, start)


# --- lanes along the rows ---


def _along_rows(code: Code, x: Matrix, y: Matrix, result: Matrix) -> None:
    assert isinstance(y.columns, int)
    begin: int | str = 0
    for count in (_most_high(code, y.columns), 1):
        step = count * code.width
        end = code.whole_steps(x.rows, step, begin)
        with code.loop(begin, end, step) as row:
            _tile(code, x, y, result, row, count)
        begin = end
    rest = x.rows - begin if isinstance(x.rows, int) and isinstance(begin, int) else None
    rows: int | str = code.let(f"sub i64 {x.rows}, {begin}") if rest is None else rest
    first = Index(((begin, 1),)) if isinstance(begin, str) else Index((), begin)
    left = x._replace(pointer=code.address(x.pointer, x.offset(first, ZERO), "float"), rows=rows)
    target = result._replace(pointer=code.address(result.pointer, result.offset(first, ZERO), "float"), rows=rows)
    written(code, left, y, target, FLOAT, add=False)


def _tile(code: Code, x: Matrix, y: Matrix, result: Matrix, row: Index, count: int) -> None:
    """So many vectors of rows."""
    assert isinstance(y.columns, int)
    totals = _totals(code, count, y.columns)
    with code.loop(0, x.columns) as k:
        lefts = [_load(code, x, row.plus(i * code.width)._replace(lanes=1), k) for i in range(count)]
        for i in range(count):  # what the next tile takes, since these rows lie far apart, and each is read once
            code.fetch(x.pointer, x.offset(row.plus((count + i) * code.width), k), FLOAT, near=3)
        for column, sums in enumerate(totals):
            factor = Lane(code, code.load(y.pointer, y.offset(k, Index((), column)), FLOAT, 1), FLOAT, 1)
            factor = factor.spread(code.width)
            for total, left in zip(sums, lefts, strict=True):
                add_product(total, left, factor)
    for i in range(count):
        for start in range(0, y.columns, code.width):
            for lane, line in enumerate(_turned_lines(code, totals, i, start)):
                _put(code, result, row.plus(i * code.width + lane), start, line)
