"""Kernels: loops over the places of a value, writing what is read there.

Each kernel writes the rows at hand (places along axis 0) of one value, or of several alike.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from nabi.engines.cpu.code import ZERO, Code, Index
from nabi.engines.cpu.lanes import Lane, constant, lanes_xp
from nabi.engines.cpu.reading import Reader
from nabi.engines.cpu.values import Value, is_awkward


class Rows(NamedTuple):
    """The rows at hand: the first, and how many; a number, or the name of one."""

    first: Index
    length: int | str


def write(reader: Reader, rows: Rows, values: Sequence[Value]) -> None:
    """Write the rows of values of one shape: each element by its formula."""
    code, value = reader.code, values[0]
    if value.kind == "pad":
        _write_padded(reader, rows, value)
        return
    if value.kind == "strips":
        _write_strips(reader, rows, value)
        return
    if value.kind == "scatter_add" and is_awkward(value):
        _scatter(reader, rows, value)
        return
    if not value.ndim:
        with code.of_width(1):
            for one in values:
                reader.write(one, (), reader.define(one, ()))
        return
    if period := _period(reader, values):
        _write_flat(reader, rows, values, period)
        return
    for tile in tiled_places(code, rows, value.shape, in_step(reader, values)):
        store(reader, values, tile)


def _scatter(reader: Reader, rows: Rows, value: Value) -> None:
    """What elements are added to, and then the elements, one by one to their places: for rows that are all at hand."""
    code, (x, updates), key = reader.code, value.inputs, value.settings["key"]
    for place in places(code, rows, value.shape):
        reader.write(value, place, reader.read(x, place))
    own = Rows(rows.first, rows.length if updates.shape[0] == value.shape[0] else updates.shape[0])

    def over(outer: tuple[Index, ...]) -> None:
        axis = len(outer)
        if axis < value.ndim:
            with code.loop(0, own.length if axis == 0 else updates.shape[axis]) as place:
                over((*outer, own.first.plus(place) if axis == 0 else place))
            return
        target = tuple(p.times(item.step).plus(item.start) for p, item in zip(outer, key, strict=True))
        offset, pointer = reader.offset(value, target), reader.pointer(value)
        before = Lane(code, code.load(pointer, offset, value.dtype, 1), value.dtype, 1)
        reader.write(value, target, before + reader.read(updates, outer))

    with code.of_width(1):
        over(())


def store(reader: Reader, values: Sequence[Value], indices: list[tuple[Index, ...]]) -> None:
    """Everything is read before anything is written, so that what is read twice is read once."""
    lanes: list[tuple[Value, tuple[Index, ...], Lane]] = []
    for index in indices:
        for value in values:
            lane = lanes_xp.astype(reader.define(value, index), value.dtype)
            reader.keep(value, index, lane)  # the next may be made of it
            lanes.append((value, index, lane))
    for value, index, lane in lanes:
        reader.write(value, index, lane)


Places = tuple[Index, ...]
"""One place along each axis."""


def places(code: Code, rows: Rows, shape: Sequence[int]) -> Iterator[Places]:
    """All places of some rows, vector by vector along the last axis."""
    for (place,) in tiled_places(code, rows, shape, [1] * len(shape)):
        yield place


def tiled_places(code: Code, rows: Rows, shape: Sequence[int], tiles: Sequence[int]) -> Iterator[list[Places]]:
    """The same, those of a tile together: of one row, and a vector."""
    if len(shape) == 1:
        for lane in vectors(code, rows.length, lanes_for(code, rows.length)):
            yield [(rows.first.plus(lane),)]
        return
    with code.loop(0, rows.length) as row:
        for tile in tiled(code, [(rows.first.plus(row),)], shape[1:-1], tiles[1:-1]):
            for lane in vectors(code, shape[-1], lanes_for(code, shape[-1])):
                yield [(*place, lane) for place in tile]


def tiled(code: Code, outer: list[Places], shape: Sequence[int], tiles: Sequence[int]) -> Iterator[list[Places]]:
    """All places along some more axes, those of a tile together; where an axis ends, less of a tile may be left."""
    if not shape:
        yield outer
        return
    whole = shape[0] // tiles[0] * tiles[0]
    for start, stop, size in ((0, whole, tiles[0]), (whole, shape[0], shape[0] - whole)):
        if stop > start:
            with code.loop(start, stop, size) as first:
                wider = [(*place, first.plus(step)) for place in outer for step in range(size)]
                yield from tiled(code, wider, shape[1:], tiles[1:])


def grid(code: Code, outer: Places, shape: Sequence[int]) -> Iterator[Places]:
    """All places along some more axes, and a vector along the last."""
    for (place,) in tiled(code, [outer], shape[:-1], [1] * (len(shape) - 1)):
        for lane in vectors(code, shape[-1], lanes_for(code, shape[-1])):
            yield (*place, lane)


def vectors(code: Code, length: int | str, width: int) -> Iterator[Index]:
    """Places along an axis, a vector at a time; the last vector is masked where the axis ends inside it."""
    with code.of_width(width):
        if width == 1:
            with code.loop(0, length) as place:
                yield place
            return
        whole = code.whole_steps(length, width)
        with code.loop(0, whole, width) as place:
            yield place._replace(lanes=1)
        if isinstance(length, int):
            if length != whole:
                with code.masked(code.first_lanes(length - int(whole), width)):
                    yield Index((), int(whole), 1)
        else:
            with code.loop(whole, length, width) as place:
                left = code.let(f"sub i64 {length}, {code.integer(place)}")
                with code.masked(code.first_lanes(left, width)):
                    yield place._replace(lanes=1)


def lanes_for(code: Code, length: int | str) -> int:
    """Lanes to work on: as many float32 as a register holds, or as are needed."""
    most = code.vector // 4
    return most if isinstance(length, str) else min(most, 1 << max(0, length - 1).bit_length())


def _leaves(reader: Reader, values: Sequence[Value]) -> Iterator[Value]:
    """The values that others are read through, from what is to be written down to what is stored."""
    seen: set[int] = set()
    pending = [v for value in values for v in (value.inputs if value.serial in reader.places else [value])]
    for value in values:
        yield value
    while pending:
        value = pending.pop()
        if value.serial in seen:
            continue
        seen.add(value.serial)
        yield value
        if value.serial not in reader.places:
            pending += value.inputs


MOST_PHASES = 8
"""Vectors until a period begins at the first lane again, at most."""


def _period(reader: Reader, values: Sequence[Value]) -> int:
    """1 where all that is read has the one shape, in elementwise order, or is a single number; else 0.

    Where there are numbers for each of a few channels as well, the channels: at every so-many-th element all is as at
    the first.
    """
    shape, own = values[0].shape, {value.serial for value in values}
    period = 1
    for value in _leaves(reader, values):
        plain = (
            (value.serial in reader.places and value.serial not in own)
            or value.kind in ("elementwise", "constant")
            or (value.kind in ("broadcast_to", "reshape") and value.inputs[0].size == 1)
        )
        if plain and (value.shape == shape or value.size == 1):
            continue
        if not plain or value.shape != shape[-1:] or len(shape) < 2:
            return 0
        period = shape[-1]
    width = lanes_for(reader.code, "many")
    return period if math.lcm(period, width) <= MOST_PHASES * width and period < width else 0


def _write_flat(reader: Reader, rows: Rows, values: Sequence[Value], period: int) -> None:
    """Write rows as if they had a single axis."""
    code, inner = reader.code, math.prod(values[0].shape[1:])
    if isinstance(rows.length, int):
        count: int | str = rows.length * inner
    else:
        count = rows.length if inner == 1 else code.let(f"mul nsw i64 {rows.length}, {inner}")
    start, flat = rows.first.times(inner), _Flattened(reader)
    if period == 1:
        for place in vectors(code, count, lanes_for(code, count)):
            store(flat, values, [(start.plus(place),)])
        return
    width = lanes_for(code, "many")
    step = math.lcm(period, width)
    whole = code.whole_steps(count, step)
    with code.of_width(width):
        for phase in range(0, step, width):  # before the loop, so that it need not be done again and again
            flat.phase = phase % period
            flat.prefetch(values, period)
        with code.loop(0, whole, step) as place:
            for phase in range(0, step, width):
                flat.phase = phase % period
                store(flat, values, [(start.plus(place).plus(phase)._replace(lanes=1),)])
        with code.loop(whole, count, step) as place:
            left = code.let(f"sub i64 {count}, {code.integer(place)}")
            for phase in range(0, step, width):
                flat.phase = phase % period
                rest = code.let(f"sub i64 {left}, {phase}")
                with code.masked(code.first_lanes(rest, width)):
                    store(flat, values, [(start.plus(place).plus(phase)._replace(lanes=1),)])


class _Flattened(Reader):
    """Reads values of one shape as if they had a single axis; and others, one number a channel, in turn.

    Attributes
    ----------
    phase : int
        The channel that stands in the first lane.
    """

    def __init__(self, reader: Reader) -> None:
        super().__init__(reader.code, reader.places, reader.first, reader.rows, reader.passing)
        self.phase = 0
        self.in_turn: set[int] = set()

    def prefetch(self, values: Sequence[Value], period: int) -> None:
        """Read what there is one of for each channel."""
        channels = [value for value in _leaves(self, values) if value.shape == (period,)]
        self.in_turn |= {value.serial for value in channels}
        for value in channels:
            self.read(value, ())

    def keep(self, value: Value, index: tuple[Index, ...], lane: Lane) -> None:
        self.code.remember(self._key(value, index), lane)

    def _key(self, value: Value, index: tuple[Index, ...]) -> tuple[Any, ...]:
        if value.serial in self.in_turn:
            return ("in turn", value.serial, self.phase, self.code.width)
        return ("flat", value.serial, index, self.code.mask, self.code.width)

    def read(self, value: Value, index: tuple[Index, ...]) -> Lane:
        key = self._key(value, index)
        found = self.code.known(key)
        if found is None:
            found = self.code.remember(key, self._read(value, index))
        return found  # type: ignore[no-any-return]

    def offset(self, value: Value, index: tuple[Index, ...]) -> Index:
        if value.size == 1:
            return ZERO
        inner = math.prod(value.shape[1:])
        return index[0].minus(self.first.times(inner)) if self.places[value.serial].local else index[0]

    def _read(self, value: Value, index: tuple[Index, ...]) -> Lane:
        if value.serial in self.places and value.serial in self.in_turn:
            return self._channels(value)
        if value.kind == "constant" or value.serial in self.places:
            return super()._read(value, index)
        return self.define(value, index)

    def _channels(self, value: Value) -> Lane:
        """A lane for each channel, and from the first on again."""
        code, pointer, width = self.code, self.pointer(value), self.code.width
        first = constant(code, 0, value.dtype).spread(width)
        name = first.name
        for lane in range(width):
            place = Index((), (self.phase + lane) % value.size)
            one = Lane(code, code.load(pointer, place, value.dtype, 1), value.dtype, 1)
            name = code.let(f"insertelement {first.kind} {name}, {one.kind} {one.name}, i64 {lane}")
        return Lane(code, name, value.dtype, width)

    def define(self, value: Value, index: tuple[Index, ...]) -> Lane:
        if value.kind == "elementwise":
            assert value.formula is not None
            operands = [self.read(v, index) for v in value.inputs]
            return value.formula(lanes_xp, *operands, **value.settings)  # type: ignore[no-any-return]
        return self.read(value.inputs[0], index)


def in_step(reader: Reader, values: Sequence[Value]) -> list[int]:
    """How many places along each axis to work on together: as many as a window's steps, where gradients are spread."""
    tiles = [1] * values[0].ndim
    for value in _leaves(reader, values):
        if value.kind != "scatter_add" or value.ndim != len(tiles):
            continue
        for axis, item in enumerate(value.settings["key"][:-1]):
            if 1 < item.step <= 4 and axis:
                tiles[axis] = max(tiles[axis], item.step)
    return tiles


def _write_padded(reader: Reader, rows: Rows, value: Value) -> None:
    """A picture with its border: the border by itself, so that nothing inside asks where it is."""
    code, (x,), widths = reader.code, value.inputs, value.settings["widths"]
    border = constant(code, value.settings["value"], value.dtype)
    if widths[0] != (0, 0) or value.ndim < 2:
        for place in places(code, rows, value.shape):
            reader.write(value, place, reader.define(value, place))
        return
    shape = value.shape
    with code.loop(0, rows.length) as row:
        first = rows.first.plus(row)
        for axis in range(1, value.ndim):
            before, after = widths[axis]
            for start, length in ((0, before), (shape[axis] - after, after)):
                if not length:
                    continue
                sizes = [x.shape[i] if i < axis else length if i == axis else shape[i] for i in range(1, value.ndim)]
                shifts = [widths[i][0] if i < axis else start if i == axis else 0 for i in range(1, value.ndim)]
                for place in grid(code, (), sizes):
                    moved = tuple(p.plus(s) for p, s in zip(place, shifts, strict=True))
                    reader.write(value, (first, *moved), border)
    for tile in tiled_places(code, rows, x.shape, in_step(reader, [x])):
        lanes = [(index, reader.read(x, index)) for index in tile]
        for index, lane in lanes:
            reader.write(value, tuple(p.plus(w[0]) for p, w in zip(index, widths, strict=True)), lane)


def _write_strips(reader: Reader, rows: Rows, value: Value) -> None:
    """Strips of a picture: rows of it, and a border where there are none."""
    code, (x,), how = reader.code, value.inputs, value.settings
    _, tall, wide, channels = value.shape
    (height, width), left = x.shape[1:3], how["left"]
    border = constant(code, how["value"], value.dtype)
    with code.loop(0, rows.length) as row:
        strip = rows.first.plus(row)
        top = strip.times(how["step"]).plus(-how["top"])  # of the picture's rows, the one that the strip begins with
        before, after = (code.integer(top.times(-1).plus(n)) for n in (0, height))
        above = code.least(tall, code.most(0, before))
        below = code.most(above, code.least(tall, after))
        for start, stop in ((0, above), (below, tall)):
            with code.loop(start, stop) as i:
                for place in grid(code, (), (wide, channels)):
                    reader.write(value, (strip, i, *place), border)
        with code.loop(above, below) as i:
            for start, length in ((0, left), (left + width, wide - left - width)):
                for place in grid(code, (), (length, channels)) if length > 0 else ():
                    reader.write(value, (strip, i, place[0].plus(start), *place[1:]), border)
            for place in grid(code, (), (min(width, wide - left), channels)):
                lane = reader.read(x, (ZERO, top.plus(i), *place))
                reader.write(value, (strip, i, place[0].plus(left), *place[1:]), lane)
