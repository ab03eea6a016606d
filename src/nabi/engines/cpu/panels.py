"""Products in float32 of rows and a matrix that is laid out in panels: so many of its columns side by side.

A panel is read from its beginning to its end, tile of rows after tile of rows, wherever the matrix lay in memory. It is
laid out once for all threads, where BLAS does it for each of them. What is made of a product element by element, as new
weights are of a gradient, is computed while a tile is in registers.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from nabi import machine
from nabi.engines.cpu.code import ZERO, Code, Index
from nabi.engines.cpu.contract import Matrix, operand
from nabi.engines.cpu.kernels import Rows, lanes_for, vectors
from nabi.engines.cpu.lanes import Lane, add_product, constant, lanes_xp
from nabi.engines.cpu.reading import Reader
from nabi.engines.cpu.values import Value

FLOAT = np.dtype(np.float32)
TALL, LOW = 14, 6
"""Rows of a tile of two vectors of columns: they fill 32 registers, or 16."""
EVEN = 12
"""Rows of such a tile, where their number is not known beforehand: what remains is a multiple of 4 more often."""
NEAR = 128 << 10
"""Bytes of rows that stay near while one panel after another goes by."""
LINE = machine.CACHE_LINE // FLOAT.itemsize
"""Elements of a cache line, by which rows are moved apart where they fall together."""
LONGEST = 768
"""Pairs of a sum that is not cut: so much of a panel, and of the rows, stays in the cache."""


class Panels(NamedTuple):
    """A second matrix whose columns lie in panels, zeros behind the last.

    Attributes
    ----------
    pointer : str
    wide : int
        Columns of a panel, and elements from one of its rows to the next.
    apart : int
        Elements from one panel to the next.
    """

    pointer: str
    wide: int
    apart: int


Finish = Callable[[Index, Index, Lane], None]
"""What is done with a vector of a product: called with its row, its first column, and the lanes."""
Find = Callable[[Index, int], tuple[Matrix, Index]]
"""Where the rows of a tile lie: called with the first and how many they are, it gives a matrix and the row there."""
Prefetch = Callable[[Index, Index], None]
"""Has memory brought near that the next panel takes: called with a panel, and with each of the rows."""


def falls_together(depth: int) -> bool:
    """Whether rows that follow each other in memory fall on one place of the cache, which a tile has too many of."""
    return depth * FLOAT.itemsize % machine.ALIKE == 0


# --- a product ---


def spread_size(rows: int, depth: int, known: bool) -> int:
    """Bytes of rows laid out so that they fall on different places of the cache.

    ``known``: it is known when code is written how many rows there are: then only those that are near are laid out.
    """
    near = min(rows, max(TALL, NEAR // (depth * FLOAT.itemsize))) if known else rows
    return near * (depth + LINE) * FLOAT.itemsize


def panels_product(
    code: Code, x: Matrix, y: Panels, columns: int, finish: Finish, work: str | None = None, some: Rows | None = None
) -> None:
    """x·y in float32, in tiles of registers: tile below tile down a panel, of so many rows as are near.

    ``work``: where rows are laid out first; see `spread_size`. ``some``: the panels that are wanted, all of them whole.
    """
    high = _high(code)
    rows, depth = x.rows, x.columns
    assert isinstance(depth, int)

    def across(first: Index, length: int | str, heights: Sequence[int]) -> None:
        left = x if work is None else _spread(code, x, first, length, work)

        def find(row: Index, height: int) -> tuple[Matrix, Index]:
            return left, first.plus(row) if left is x else row

        def put(row: Index, column: Index, lane: Lane) -> None:
            finish(first.plus(row), column, lane)

        _across(code, find, depth, y, (length, heights), columns, put, some)

    if isinstance(rows, str):
        across(ZERO, rows, (high, 4, 1))
        return
    near = _near(rows, high, max(1, NEAR // (high * depth * FLOAT.itemsize)) * high)
    whole = rows // near * near
    with code.loop(0, whole, near) as first:
        across(first, near, _heights(near, high))
    if whole < rows:
        across(Index((), whole), rows - whole, _heights(rows - whole, high))


def _across(
    code: Code, find: Find, depth: int, y: Panels, rows: tuple[int | str, Sequence[int]], columns: int, finish: Finish,
    some: Rows | None = None, begun: Matrix | None = None, prefetch: Prefetch | None = None,
) -> None:  # fmt: skip
    """All panels, or some, each for all rows: how many these are, and how high their tiles may be.

    ``begun``: what is added to. ``prefetch``: fetches what the next panel takes, which otherwise the last tiles fetch.
    """
    width, (length, heights) = code.vector // FLOAT.itemsize, rows
    whole = columns // y.wide

    def down(panel: Index, count: int) -> None:
        for start in range(0, count, 2 * width):
            side_by_side = _vectors(code, min(2 * width, count - start), width)
            begin: int | str = 0
            for height in heights:
                end = code.whole_steps(length, height, begin)
                with code.loop(begin, end, height) as row:
                    place = panel.times(y.apart).plus(start)
                    column = panel.times(y.wide).plus(start)
                    left, there = find(row, height)
                    fetches = prefetch is None and height == heights[-1]
                    tile = _Tile(left, y, depth, (there, row), height, (place, column), side_by_side, fetches)
                    soon = None if prefetch is None or start else partial(prefetch, panel)
                    tile.write(code, finish, begun, soon)
                begin = end

    panels = some or Rows(ZERO, whole)
    with code.loop(0, panels.length) as which:
        down(panels.first.plus(which), y.wide)
    if columns % y.wide:
        down(Index((), whole), columns % y.wide)


def _high(code: Code) -> int:
    return TALL if code.vector == 64 else LOW


def _spread(code: Code, x: Matrix, first: Index, length: int | str, work: str) -> Matrix:
    """A copy of some rows, a cache line farther from each other."""
    assert isinstance(x.columns, int)
    stride = x.columns + LINE
    with code.loop(0, length) as row:
        for lane in vectors(code, x.columns, lanes_for(code, x.columns)):
            found = code.load(x.pointer, x.offset(first.plus(row), lane), FLOAT, code.width)
            code.store(work, row.times(stride).plus(lane), FLOAT, code.width, found)
    return Matrix(work, length, x.columns, stride)


def _near(rows: int, high: int, most: int) -> int:
    """Rows that stay near while one panel after another goes by: of blocks of as many each, where that can be."""
    fewest = -(-rows // most)
    equal = (rows // count for count in range(fewest, 2 * fewest + 1) if rows % (count * high) == 0)
    return next(equal, min(rows, most))


def _heights(rows: int, high: int) -> tuple[int, ...]:
    """Heights of tiles: as equal as can be, and one of what is left."""
    height = -(-rows // -(-rows // high))
    return (height, rows % height) if rows % height else (height,)


def _vectors(code: Code, columns: int, width: int) -> list[tuple[int, int, str | None]]:
    """Vectors side by side: where each begins, how many lanes it has, and which of them are there."""
    found: list[tuple[int, int, str | None]] = []
    for start in range(0, columns, width):
        left = min(width, columns - start)
        lanes = 1 << (left - 1).bit_length()
        found.append((start, lanes, code.lanes_left(left, lanes)))
    return found


class _Tile(NamedTuple):
    """Some rows by vectors of a panel: where the rows begin in x and in the product, and the columns in y and there.

    ``fetches``: the next panel is brought near meanwhile.
    """

    x: Matrix
    y: Panels
    depth: int
    rows: tuple[Index, Index]
    height: int
    columns: tuple[Index, Index]
    side_by_side: Sequence[tuple[int, int, str | None]]
    fetches: bool

    def write(
        self, code: Code, finish: Finish, begun: Matrix | None, prefetch: Callable[[Index], None] | None = None
    ) -> None:
        """Sum, and finish. ``prefetch`` is called with each of the rows."""
        (_, result), (_, column) = self.rows, self.columns
        totals = [[code.variable(*first) for first in line] for line in self._begin(code, begun)]
        done = 0 if prefetch is None else self._fetch_and_add(code, totals, prefetch)
        with code.loop(done, self.depth) as k:
            self._add(code, totals, k)
        for i, line in enumerate(totals):
            for total, (start, lanes, mask) in zip(line, self.side_by_side, strict=True):
                kind = constant(code, 0, FLOAT).spread(lanes).kind
                made = Lane(code, code.let(f"load {kind}, ptr {total}"), FLOAT, lanes)
                with code.of_width(lanes), code.masked(mask):
                    finish(result.plus(i), column.plus(start)._replace(lanes=1), made)

    def _fetch_and_add(self, code: Code, totals: Sequence[Sequence[str]], prefetch: Callable[[Index], None]) -> int:
        """Add with fetching in between, row by row, so that memory keeps up; gives how many steps that were."""
        (_, result), steps = self.rows, self.depth // self.height
        with code.loop(0, self.height) as row:
            prefetch(result.plus(row))
            first = code.integer(row.times(steps))
            with code.loop(first, code.let(f"add i64 {first}, {steps}")) as k:
                self._add(code, totals, k)
        return self.height * steps

    def _add(self, code: Code, totals: Sequence[Sequence[str]], k: Index) -> None:
        """One step along the sum."""
        x, y, (row, _), (place, _) = self.x, self.y, self.rows, self.columns
        right = []
        for start, lanes, _ in self.side_by_side:
            spot = place.plus(k.times(y.wide)).plus(start)._replace(lanes=1)
            right.append(Lane(code, code.load(y.pointer, spot, FLOAT, lanes), FLOAT, lanes))
            if self.fetches:
                code.fetch(y.pointer, spot.plus(y.apart), FLOAT, near=2)
        for i, line in enumerate(totals):
            left = Lane(code, code.load(x.pointer, x.offset(row.plus(i), k), FLOAT, 1), FLOAT, 1)
            for total, factor in zip(line, right, strict=True):
                add_product(total, left.spread(factor.width), factor)

    def _begin(self, code: Code, begun: Matrix | None) -> Iterator[list[tuple[str, str]]]:
        """What the sums begin with: types and values, row by row."""
        (_, result), (_, column) = self.rows, self.columns
        for i in range(self.height):
            line = []
            for start, lanes, mask in self.side_by_side:
                zero = constant(code, 0, FLOAT).spread(lanes)
                name = zero.name
                if begun is not None:
                    with code.masked(mask):
                        place = begun.offset(result.plus(i), column.plus(start)._replace(lanes=1))
                        name = code.load(begun.pointer, place, FLOAT, lanes)
                line.append((zero.kind, name))
            yield line


# --- matrices ---


def workspace(value: Value, rows: int) -> int:
    """Bytes of the rows of a first matrix that are laid out anew."""
    x = value.inputs[0]
    step = _step(x.shape[1])
    grouped = (rows + TALL) * step if x.kind == "permute_dims" else 0  # unless it is stored as well
    return max(grouped, rows * (step + LINE) if falls_together(x.shape[1]) else 0) * FLOAT.itemsize


def is_cut(value: Value) -> bool:
    """Whether a product's sums are cut into parts, between which they lie in memory."""
    depth = value.inputs[0].shape[1]
    return _step(depth) < depth


def _step(depth: int) -> int:
    """The length of the parts that a sum is cut into."""
    return -(-depth // -(-depth // LONGEST))


def matmul(reader: Reader, rows: Rows, most: int, values: Sequence[tuple[Value, Sequence[Value]]], work: str) -> None:
    """Rows of a product of a stored matrix, perhaps another's transpose, and one in panels; and of what is made of it.

    Parameters
    ----------
    most : int
        How many rows are at hand, at most.
    values : sequence of (Value, sequence of Value)
        The product, and what is made of it element by element, while it is in registers; each with panels that the same
        rows are laid out in. Of these values those are written that have a place in memory.
    """
    code, value = reader.code, values[0][0]
    (x, y), columns = value.inputs, value.shape[1]
    depth, step = x.shape[1], _step(x.shape[1])
    left, right, wide = operand(reader, x, rows), reader.pointer(y), y.shape[2]
    heights: tuple[int, ...] = (EVEN if code.vector == 64 else LOW, 4, 1)
    if isinstance(rows.length, int):
        heights = _heights(rows.length, _high(code))
    is_stored = value.serial in reader.places
    result = Matrix(reader.pointer(value, rows.first), rows.length, columns, columns) if is_stored else None

    def leave(row: Index, column: Index, lane: Lane) -> None:
        """A part of a sum, for the next part."""
        assert result is not None
        code.store(result.pointer, result.offset(row, column), FLOAT, code.width, lane.name)

    def finish(row: Index, column: Index, lane: Lane) -> None:
        place = rows.first.plus(row), column
        made = [lane]
        reader.keep(value, place, lane)
        for other, _ in values[1:]:
            made.append(lanes_xp.astype(reader.define(other, place), other.dtype))
            reader.keep(other, place, made[-1])
        for (one, panels), lane in zip(values, made, strict=True):
            if one.serial in reader.places:
                reader.write(one, place, lane)
            for each in panels:
                put(reader, each, place, lane)

    def add_up(k: Index, length: int, last: bool) -> None:
        pointer = code.address(left.pointer, left.offset(ZERO, k), "float")
        part = Matrix(pointer, rows.length, length, left.stride, left.turned)
        panels = Panels(code.address(right, k.times(wide), "float"), wide, y.strides[0])
        spread = falls_together(depth)
        find = _grouped(code, part, heights[0], work) if left.turned else _in_rows(code, part, work, spread)
        made = [one for one, _ in values] if last else [value]
        _across(
            code, find, length, panels, (rows.length, heights), columns, finish if last else leave,
            begun=None if k == ZERO else result, prefetch=_prefetch(reader, rows.first, most, made, panels, length),
        )  # fmt: skip

    begin = (depth - 1) // step * step  # of the last part
    if begin:
        add_up(ZERO, step, last=False)
        with code.loop(step, begin, step) as k:
            add_up(k, step, last=False)
    add_up(Index((), begin), depth - begin, last=True)


def _prefetch(reader: Reader, first: Index, most: int, values: Sequence[Value], y: Panels, depth: int) -> Prefetch:
    """For each row its share of the next panel, and its places there in what is read and written for values.

    Parameters
    ----------
    first : Index
        The first of the rows at hand.
    most : int
        How many they are, at most.
    depth : int
        Rows of a panel.
    """
    code, share, beside = reader.code, -(-depth // most) * y.wide, _beside(reader, values)
    lines = [*range(0, y.wide, LINE)]
    if values[0].shape[1] % LINE:  # rows begin inside a line
        lines.append(y.wide - 1)

    def prefetch(panel: Index, row: Index) -> None:
        following = panel.plus(1)
        for start in range(0, share, LINE):
            place = following.times(y.apart).plus(row.times(share)).plus(start)
            code.fetch(y.pointer, place, FLOAT, near=2)
        for x in beside:
            for start in lines:
                place = reader.offset(x, (first.plus(row), following.times(y.wide).plus(start)))
                code.fetch(reader.pointer(x), place, FLOAT, near=2)

    return prefetch


def _beside(reader: Reader, values: Sequence[Value]) -> list[Value]:
    """What lies in memory and is read to make others of a product element by element, and what is written with it."""
    found: dict[int, Value] = {}
    own = {value.serial: value for value in values}
    pending = [x for value in values[1:] for x in value.inputs]
    while pending:
        x = pending.pop()
        if x.shape == values[0].shape and x.serial not in found.keys() | own.keys():
            if x.serial in reader.places:
                found[x.serial] = x
            else:
                pending += x.inputs
    if found:
        found |= {s: x for s, x in own.items() if s in reader.places and s not in reader.passing}
    return [x for x in found.values() if not reader.places[x.serial].local]


def _in_rows(code: Code, x: Matrix, work: str, spread: bool) -> Find:
    """Rows as they lie in memory, or a copy."""
    left = _spread(code, x, ZERO, x.rows, work) if spread else x
    return lambda row, height: (left, row)


def _grouped(code: Code, x: Matrix, high: int, work: str) -> Find:
    """A copy of columns that are rows: of each tile all numbers, as it takes them one step along the sum after another.

    What fills no tile is copied number by number.
    """
    assert isinstance(x.columns, int)
    depth = x.columns
    whole = code.whole_steps(x.rows, high)
    rest = Index(((whole, depth - 1),)) if isinstance(whole, str) else Index((), whole * (depth - 1))
    with code.loop(0, depth) as k:
        with code.loop(0, whole, high) as row:
            for lane in vectors(code, high, lanes_for(code, high)):
                found = code.load(x.pointer, x.offset(row.plus(lane), k), FLOAT, code.width)
                code.store(work, row.times(depth).plus(k.times(high)).plus(lane), FLOAT, code.width, found)
        with code.loop(whole, x.rows) as row:
            found = code.load(x.pointer, x.offset(row, k), FLOAT, 1)
            code.store(work, rest.plus(row).plus(k.times(high)), FLOAT, 1, found)

    def find(row: Index, height: int) -> tuple[Matrix, Index]:
        if height == high:
            return Matrix(code.address(work, row.times(depth), "float"), high, depth, high, turned=True), ZERO
        return Matrix(code.address(work, rest, "float"), x.rows, depth, high, turned=True), row

    return find


# --- laying out ---


def put(reader: Reader, panels: Value, place: tuple[Index, Index], lane: Lane) -> None:
    """A vector of a matrix to its place in panels in float32."""
    assert panels.dtype == FLOAT
    code, (row, column), wide = reader.code, place, panels.shape[2]
    spot = in_panels(panels, column).plus(row.times(wide))
    passes_by = reader.passing.get(panels.serial, 0)
    code.store(reader.pointer(panels), spot, FLOAT, code.width, lane.spread(code.width).name, passes_by)


def in_panels(panels: Value, column: Index) -> Index:
    """Where a vector lies in the first row of its panel: its column is a multiple of a panel's, and a place there."""
    inside = column.constant % panels.shape[2]
    panel = column.plus(-inside)._replace(lanes=0).divided(panels.shape[2])
    assert panel is not None
    return panel.times(panels.strides[0]).plus(Index((), inside, 1))


def lay_out(reader: Reader, rows: Rows, value: Value) -> None:
    """Panels of a matrix: "rows" are panels here.

    Panel beside panel, so that what is read lies together.
    """
    write = _lay_turned if value.settings["turned"] else _lay
    for begin, end, columns in whole_and_last(reader.code, rows, value.settings["columns"], value.shape[2]):
        write(reader, value, value.inputs[0], (begin, end), columns)


def whole_and_last(code: Code, panels: Rows, columns: int, wide: int) -> Iterator[tuple[str, str, int]]:
    """Some panels in one stretch or two: those of ``wide`` columns, and the last, where that has fewer; as begin, end
    and columns. Either may be empty."""
    first, whole = code.integer(panels.first), columns // wide
    end = code.let(f"add i64 {first}, {panels.length}")
    yield first, code.least(end, whole), wide
    if columns % wide:
        yield code.most(first, whole), end, columns % wide


def _lay(reader: Reader, value: Value, x: Value, panels: tuple[str, str], columns: int) -> None:
    """Of (sum, columns)."""
    code, (_, depth, wide) = reader.code, value.shape
    width = code.vector // FLOAT.itemsize
    zero = constant(code, 0, FLOAT).spread(width)
    with code.of_width(width), code.loop(0, depth) as k, code.loop(*panels) as panel:
        for start in range(0, wide, width):
            left, lane, found = columns - start, Index((), start, 1), zero
            if left > 0:
                with code.masked(code.lanes_left(left, width)):
                    found = reader.read_whole(x, (k, panel.times(wide).plus(lane)))
            reader.write(value, (panel, k, lane), found)


def _lay_turned(reader: Reader, value: Value, x: Value, panels: tuple[str, str], columns: int) -> None:
    """Of (columns, sum), square by square."""
    code, (_, depth, wide) = reader.code, value.shape
    width = code.vector // FLOAT.itemsize
    kind = f"<{width} x float>"

    def square(panel: Index, start: int, k: Index, count: int) -> None:
        """So many numbers of each of as many rows as a register has lanes."""
        lines = ["zeroinitializer"] * width
        for i in range(min(width, columns - start)):
            with code.masked(code.lanes_left(count, width)):
                place = panel.times(wide).plus(start + i), k._replace(lanes=1)
                lines[i] = reader.read(x, place).spread(width).name
        for i, line in enumerate(transposed(code, lines, kind, width)):
            if i < count:
                reader.write(value, (panel, k.plus(i), Index((), start, 1)), Lane(code, line, FLOAT, width))

    with code.of_width(width), code.loop(*panels) as panel:
        for start in range(0, wide, width):
            whole = depth // width * width
            with code.loop(0, whole, width) as k:
                square(panel, start, k, width)
            if whole < depth:
                square(panel, start, Index((), whole), depth - whole)


def transposed(code: Code, rows: Sequence[str], kind: str, lanes: int) -> list[str]:
    """As many registers as each has lanes, turned: round by round ever larger squares change places."""
    found = list(rows)
    step = 1
    while step < lanes:
        upper = ", ".join(f"i32 {lane if not lane & step else lane - step + lanes}" for lane in range(lanes))
        lower = ", ".join(f"i32 {lane + step if not lane & step else lane + lanes}" for lane in range(lanes))
        for i in range(lanes):
            if not i & step:
                pair = f"{kind} {found[i]}, {kind} {found[i + step]}"
                found[i], found[i + step] = (
                    code.let(f"shufflevector {pair}, <{lanes} x i32> <{order}>") for order in (upper, lower)
                )
        step *= 2
    return found
