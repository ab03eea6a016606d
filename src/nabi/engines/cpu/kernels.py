"""Kernels: loops over the places of a value, writing what is read there.

Each kernel writes the rows at hand (places along axis 0) of one value, or of several alike. All sums are kept in
float64 and rounded once.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from nabi.engines.cpu.code import ZERO, Code, Index
from nabi.engines.cpu.lanes import Lane, constant, lanes_xp
from nabi.engines.cpu.reading import Reader
from nabi.engines.cpu.values import Value, is_awkward


class Rows(NamedTuple):
    """The rows at hand: the first, and how many; a number, or the name of one."""

    first: Index
    length: int | str


ABREAST = 4
"""Vectors that a fold works on side by side, so that additions need not wait for each other."""

Body = Callable[[tuple[Index, ...]], None]


def write(reader: Reader, rows: Rows, values: Sequence[Value]) -> None:
    """Write the rows of values of one shape: each element by its formula."""
    code, value = reader.code, values[0]
    if value.kind == "pad":
        _write_padded(reader, rows, value)
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
    tiles = _tiles(reader, values)
    offsets = list(itertools.product(*(range(t) for t in tiles)))
    for corner in places(code, rows, value.shape, tiles):
        _store(reader, values, [tuple(p.plus(o) for p, o in zip(corner, offset, strict=True)) for offset in offsets])


def _scatter(reader: Reader, rows: Rows, value: Value) -> None:
    """What elements are added to, and then the elements, one by one to their places: for rows that are all at hand."""
    code, (x, updates), key = reader.code, value.inputs, value.settings["key"]
    for place in places(code, rows, value.shape, [1] * value.ndim):
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


def _store(reader: Reader, values: Sequence[Value], indices: list[tuple[Index, ...]]) -> None:
    """Everything is read before anything is written, so that what is read twice is read once."""
    lanes = [(value, index, reader.define(value, index)) for index in indices for value in values]
    for value, index, lane in lanes:
        reader.write(value, index, lane)


def places(code: Code, rows: Rows, shape: Sequence[int], tiles: Sequence[int]) -> Iterator[tuple[Index, ...]]:
    """All places of some rows, vector by vector along the last axis, in steps of the tile along each axis."""
    if len(shape) == 1:
        for lane in vectors(code, rows.length, _width(code, rows.length)):
            yield (rows.first.plus(lane),)
        return
    with code.loop(0, rows.length, tiles[0]) as row:
        yield from _inner(code, (rows.first.plus(row),), shape[1:], tiles[1:])


def _inner(
    code: Code, outer: tuple[Index, ...], shape: Sequence[int], tiles: Sequence[int]
) -> Iterator[tuple[Index, ...]]:
    if len(shape) == 1:
        for lane in vectors(code, shape[0], _width(code, shape[0])):
            yield (*outer, lane)
        return
    with code.loop(0, shape[0], tiles[0]) as place:
        yield from _inner(code, (*outer, place), shape[1:], tiles[1:])


def vectors(code: Code, length: int | str, width: int) -> Iterator[Index]:
    """Places along an axis, a vector at a time; the last vector is masked where the axis ends inside it."""
    with code.of_width(width):
        if width == 1:
            with code.loop(0, length) as place:
                yield place
            return
        if isinstance(length, int):
            whole: int | str = length // width * width
        else:
            whole = code.let(f"and i64 {length}, {-width}")
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


def _width(code: Code, length: int | str) -> int:
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
    width = _width(reader.code, "many")
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
        for place in vectors(code, count, _width(code, count)):
            _store(flat, values, [(start.plus(place),)])
        return
    width = _width(code, "many")
    step = math.lcm(period, width)
    if isinstance(count, int):
        whole: int | str = count // step * step
    else:
        whole = code.let(f"mul i64 {code.let(f'udiv i64 {count}, {step}')}, {step}")
    with code.of_width(width):
        for phase in range(0, step, width):  # before the loop, so that it need not be done again and again
            flat.phase = phase % period
            flat.prefetch(values, period)
        with code.loop(0, whole, step) as place:
            for phase in range(0, step, width):
                flat.phase = phase % period
                _store(flat, values, [(start.plus(place).plus(phase)._replace(lanes=1),)])
        with code.loop(whole, count, step) as place:
            left = code.let(f"sub i64 {count}, {code.integer(place)}")
            for phase in range(0, step, width):
                flat.phase = phase % period
                rest = code.let(f"sub i64 {left}, {phase}")
                with code.masked(code.first_lanes(rest, width)):
                    _store(flat, values, [(start.plus(place).plus(phase)._replace(lanes=1),)])


class _Flattened(Reader):
    """Reads values of one shape as if they had a single axis; and others, one number a channel, in turn.

    Attributes
    ----------
    phase : int
        The channel that stands in the first lane.
    """

    def __init__(self, reader: Reader) -> None:
        super().__init__(reader.code, reader.places, reader.first, reader.rows)
        self.phase = 0
        self.in_turn: set[int] = set()

    def prefetch(self, values: Sequence[Value], period: int) -> None:
        """Read what there is one of for each channel."""
        channels = [value for value in _leaves(self, values) if value.shape == (period,)]
        self.in_turn |= {value.serial for value in channels}
        for value in channels:
            self.read(value, ())

    def read(self, value: Value, index: tuple[Index, ...]) -> Lane:
        if value.serial in self.in_turn:
            key: tuple[Any, ...] = ("in turn", value.serial, self.phase, self.code.width)
        else:
            key = ("flat", value.serial, index, self.code.mask, self.code.width)
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


def _tiles(reader: Reader, values: Sequence[Value]) -> list[int]:
    """How many places along each axis to work on together: as many as a window's steps, where gradients are spread."""
    tiles = [1] * values[0].ndim
    for value in _leaves(reader, values):
        if value.kind != "scatter_add" or value.ndim != len(tiles):
            continue
        for axis, item in enumerate(value.settings["key"][:-1]):
            if 1 < item.step <= 4 and values[0].shape[axis] % item.step == 0 and axis:
                tiles[axis] = max(tiles[axis], item.step)
    return tiles


def _write_padded(reader: Reader, rows: Rows, value: Value) -> None:
    """A picture with its border: the border by itself, so that nothing inside asks where it is."""
    code, (x,), widths = reader.code, value.inputs, value.settings["widths"]
    border = constant(code, value.settings["value"], value.dtype)
    if widths[0] != (0, 0) or value.ndim < 2:
        for place in places(code, rows, value.shape, [1] * value.ndim):
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
                for place in _inner(code, (), sizes, [1] * len(sizes)):
                    moved = tuple(p.plus(s) for p, s in zip(place, shifts, strict=True))
                    reader.write(value, (first, *moved), border)
    tiles = _tiles(reader, [x])
    offsets = list(itertools.product(*(range(t) for t in tiles)))
    for place in places(code, rows, x.shape, tiles):
        lanes = []
        for offset in offsets:
            index = tuple(p.plus(o) for p, o in zip(place, offset, strict=True))
            lanes.append((index, reader.read(x, index)))
        for index, lane in lanes:
            reader.write(value, tuple(p.plus(w[0]) for p, w in zip(index, widths, strict=True)), lane)


# --- folds ---


class _Fold(NamedTuple):
    """How a fold goes: what it starts with, how it takes in lanes, how it joins the lanes of one register."""

    first: Any
    take: Callable[[Lane, Lane], Lane]
    join: str


FOLDS = {
    "sum": _Fold(0, lambda a, x: a + x, "add"),
    "max": _Fold(-math.inf, lambda a, x: lanes_xp.maximum(a, x), "max"),
    "min": _Fold(math.inf, lambda a, x: lanes_xp.minimum(a, x), "min"),
    "any": _Fold(False, lambda a, x: lanes_xp.logical_or(a, x), "or"),
    "all": _Fold(True, lambda a, x: lanes_xp.logical_and(a, x), "and"),
}


def _kept_in(value: Value) -> np.dtype[Any]:
    """The dtype that a fold is kept in on the way."""
    (x,) = value.inputs
    if value.kind in ("any", "all"):
        return np.dtype(bool)
    if value.kind != "sum":
        return x.dtype
    return np.dtype(np.float64) if x.dtype.kind == "f" else np.dtype(np.int64)


def _start(code: Code, value: Value, width: int) -> Lane:
    dtype = _kept_in(value)
    first = FOLDS[value.kind].first
    if dtype.kind == "b":
        first = value.kind in ("min", "all")
    if dtype.kind in "iu" and value.kind != "sum":
        limits = np.iinfo(dtype)
        first = limits.min if value.kind == "max" else limits.max
    return constant(code, first, dtype).spread(width)


def _taken(value: Value, x: Lane) -> Lane:
    return lanes_xp.astype(x, _kept_in(value))


class _Accumulator:
    """A fold's value on the way."""

    def __init__(self, code: Code, value: Value, width: int) -> None:
        self.code, self.value, self.width = code, value, width
        first = _start(code, value, width)
        self.kind = first.kind
        self.dtype = first.dtype
        self.place = code.variable(self.kind, first.name)

    def get(self) -> Lane:
        return Lane(self.code, self.code.let(f"load {self.kind}, ptr {self.place}"), self.dtype, self.width)

    def take(self, x: Lane) -> None:
        lane = _taken(self.value, x).spread(self.width)
        if self.code.mask is not None and self.width > 1:  # lanes that are not there change nothing
            inside = Lane(self.code, self.code.mask, bool, self.width)
            lane = lanes_xp.where(inside, lane, _start(self.code, self.value, self.width))
        new = FOLDS[self.value.kind].take(self.get(), lane)
        self.code.emit(f"store {self.kind} {new.name}, ptr {self.place}")

    def joined(self) -> Lane:
        """The fold over the lanes as well."""
        total = self.get()
        if self.width == 1:
            return total
        code, join = self.code, FOLDS[self.value.kind].join
        one = (
            "i1"
            if self.dtype.kind == "b"
            else {"float32": "float", "float64": "double"}.get(self.dtype.name, f"i{8 * self.dtype.itemsize}")
        )
        suffix = f"v{self.width}" + {"float": "f32", "double": "f64"}.get(one, one)
        if self.dtype.kind == "f" and join == "add":
            called = f"@llvm.vector.reduce.fadd.{suffix}"
            code.declarations[called] = f"declare {one} {called}({one}, {self.kind})"
            name = code.let(f"call {one} {called}({one} 0.0, {self.kind} {total.name})")
        else:
            if self.dtype.kind == "f":
                which = {"max": "fmaximum", "min": "fminimum"}[join]
            else:
                sign = "u" if self.dtype.kind in "ub" else "s"
                which = sign + join if join in ("max", "min") else join
            called = f"@llvm.vector.reduce.{which}.{suffix}"
            code.declarations[called] = f"declare {one} {called}({self.kind})"
            name = code.let(f"call {one} {called}({self.kind} {total.name})")
        return Lane(code, name, self.dtype, 1)


def fold(reader: Reader, rows: Rows, value: Value) -> None:
    """Fold axes of each row away, or of all of them; rows are whole where axis 0 is folded."""
    code, (x,) = reader.code, value.inputs
    folded = value.settings["axes"]
    if value.kind in ("argmax", "argmin"):
        _position(reader, rows, value)
        return
    kept = [axis for axis in range(x.ndim) if axis not in folded]
    last = x.ndim - 1

    def over(axes: Sequence[int], index: dict[int, Index], body: Callable[[dict[int, Index]], None]) -> None:
        if not axes:
            body(index)
            return
        axis, *rest = axes
        if axis == 0:
            with code.loop(0, rows.length) as place:
                over(rest, {**index, 0: rows.first.plus(place)}, body)
        else:
            with code.loop(0, x.shape[axis]) as place:
                over(rest, {**index, axis: place}, body)

    def length(axis: int) -> int | str:
        return rows.length if axis == 0 else x.shape[axis]

    def along_last(index: dict[int, Index], lane: Index) -> dict[int, Index]:
        return {**index, last: rows.first.plus(lane) if last == 0 else lane}

    def target(index: dict[int, Index]) -> tuple[Index, ...]:
        return tuple(index[axis] for axis in kept)

    def source(index: dict[int, Index]) -> tuple[Index, ...]:
        return tuple(index[axis] for axis in range(x.ndim))

    if last in kept:  # each lane a fold of its own

        def columns(index: dict[int, Index]) -> None:
            for lane in vectors(code, length(last), _width(code, length(last))):
                total = _Accumulator(code, value, code.width)
                here = along_last(index, lane)
                over(list(folded), here, lambda i, total=total: total.take(reader.read(x, source(i))))  # type: ignore[misc]
                reader.write(value, target(here), total.get())

        over([axis for axis in kept if axis != last], {}, columns)
        return

    def across(index: dict[int, Index]) -> None:
        width = _width(code, length(last))
        total = _Accumulator(code, value, width)

        def row(i: dict[int, Index]) -> None:
            for lane in vectors(code, length(last), width):
                total.take(reader.read(x, source(along_last(i, lane))))

        over([axis for axis in folded if axis != last], index, row)
        with code.of_width(1):
            reader.write(value, target(index), total.joined())

    over(kept, {}, across)


def _position(reader: Reader, rows: Rows, value: Value) -> None:
    """Where along the last axis the largest, or smallest, stands: the first of equals, or of what is not a number."""
    code, (x,) = reader.code, value.inputs
    length = x.shape[-1]
    extreme = Value(None, value.kind.removeprefix("arg"), (x,), value.shape, x.dtype)
    width = _width(code, rows.length if x.ndim == 1 else length)

    def row(index: tuple[Index, ...]) -> None:
        best = _Accumulator(code, extreme, width)
        first = _Accumulator(code, _PLACE, width)

        def place(lane: Index) -> tuple[Index, ...]:
            return (*index, rows.first.plus(lane) if x.ndim == 1 else lane)

        for lane in vectors(code, length, width):
            best.take(reader.read(x, place(lane)))
        with code.of_width(1):
            most = best.joined()
        for lane in vectors(code, length, width):
            here = reader.read(x, place(lane))
            found = here == most
            if x.dtype.kind == "f":  # the first that is not a number, where there is one
                found = found | ((most != most) & (here != here))
            number = reader.number(lane)
            first.take(lanes_xp.where(found, number, length))
        with code.of_width(1):
            reader.write(value, index, first.joined())

    def over(axes: Sequence[int], index: tuple[Index, ...]) -> None:
        if not axes:
            row(index)
            return
        axis, *rest = axes
        with code.loop(0, rows.length if axis == 0 else x.shape[axis]) as i:
            over(rest, (*index, rows.first.plus(i) if axis == 0 else i))

    over(range(x.ndim - 1), ())


_PLACE = Value(None, "min", (Value(None, "input", (), (1,), np.int64),), (), np.int64)
"""A fold to the lowest place."""


def fold_rows(reader: Reader, rows: Rows, values: Sequence[Value], partial: dict[int, str]) -> None:
    """Add the rows at hand to the partial sums of values that fold axis 0 away, all of one source's shape."""
    code, x = reader.code, values[0].inputs[0]
    folded = values[0].settings["axes"]
    kept = [axis for axis in range(x.ndim) if axis not in folded]
    assert kept in ([], [x.ndim - 1]), "rows are folded together with all axes but the last"
    channels = x.shape[-1] if kept else 1
    sources = [value.inputs[0] for value in values]
    if not kept:
        for value in values:
            width = _width(code, x.shape[-1] if x.ndim > 1 else rows.length)
            total = _Accumulator(code, value, width)
            for place in places(code, rows, value.inputs[0].shape, [1] * x.ndim):
                total.take(reader.read(value.inputs[0], place))
            _add_partial(code, partial[value.serial], ZERO, total.joined(), 1)
        return
    width = _width(code, channels)
    most = max(1, ABREAST // len(values))
    abreast = min(most, channels // width) or 1
    step = width * abreast
    whole = channels // step * step

    def columns(start: Index, count: int, mask: str | None) -> None:
        with code.of_width(width), code.masked(mask):
            totals = [[_Accumulator(code, value, width) for _ in range(count)] for value in values]
            tiles = _tiles(reader, sources)
            with code.loop(0, rows.length) as row:
                for place in _grid(code, (rows.first.plus(row),), x.shape[1:-1], tiles[1:-1]):
                    for offset in itertools.product(*(range(t) for t in tiles[:-1])):
                        for number in range(count):
                            lane = start.plus(number * width)._replace(lanes=1)
                            moved = tuple(p.plus(o) for p, o in zip(place, offset, strict=True))
                            for total, source in zip(totals, sources, strict=True):
                                total[number].take(reader.read(source, (*moved, lane)))
            for value, total in zip(values, totals, strict=True):
                for number, one in enumerate(total):
                    lane = start.plus(number * width)._replace(lanes=1)
                    _add_partial(code, partial[value.serial], lane, one.get(), width)

    with code.loop(0, whole, step) as start:
        columns(start, abreast, None)
    done = whole
    while done < channels:
        left = channels - done
        columns(Index((), done), 1, None if left >= width else code.first_lanes(left, width))
        done += width


def _grid(
    code: Code, outer: tuple[Index, ...], shape: Sequence[int], tiles: Sequence[int]
) -> Iterator[tuple[Index, ...]]:
    if not shape:
        yield outer
        return
    with code.loop(0, shape[0], tiles[0]) as place:
        yield from _grid(code, (*outer, place), shape[1:], tiles[1:])


def _add_partial(code: Code, pointer: str, offset: Index, lane: Lane, width: int) -> None:
    dtype = lane.dtype
    before = Lane(code, code.load(pointer, offset, dtype, width), dtype, width)
    code.store(pointer, offset, dtype, width, (before + lane).name)


def moments(reader: Reader, rows: Rows, value: Value, partial: str, before: str) -> None:
    """Take the rows at hand into the mean and the sum of squared deviations of each channel.

    Each block of rows has its own mean first; then two sets of moments become one. Source: Chan, Golub and LeVeque,
    "Updating formulae and a pairwise algorithm for computing sample variances" (1979), equations 2.1. ``before`` is
    how many rows were taken in already.
    """
    code, (x,) = reader.code, value.inputs
    channels = x.shape[-1]
    inner = math.prod(x.shape[1:-1])
    width = _width(code, channels)
    count = _as_double(code, rows.length, inner)
    earlier = _as_double(code, before, inner)
    both = lanes_xp.add(count, earlier)

    def columns(start: Index, number: int, mask: str | None) -> None:
        with code.of_width(width), code.masked(mask):
            lanes = [start.plus(i * width)._replace(lanes=1) for i in range(number)]

            def total(of: Callable[[int, Lane], Lane]) -> list[Lane]:
                sums = [code.variable(f"<{width} x double>" if width > 1 else "double",
                                      "zeroinitializer" if width > 1 else "0.0") for _ in lanes]  # fmt: skip
                with code.loop(0, rows.length) as row:
                    for place in _grid(code, (rows.first.plus(row),), x.shape[1:-1], [1] * (x.ndim - 2)):
                        for i, lane in enumerate(lanes):
                            read = lanes_xp.astype(reader.read(x, (*place, lane)), np.float64).spread(width)
                            old = Lane(code, code.let(f"load {read.kind}, ptr {sums[i]}"), np.float64, width)
                            new = old + of(i, read)
                            code.emit(f"store {read.kind} {new.name}, ptr {sums[i]}")
                kind = f"<{width} x double>" if width > 1 else "double"
                return [Lane(code, code.let(f"load {kind}, ptr {one}"), np.float64, width) for one in sums]

            means = [one / count for one in total(lambda i, read: read)]
            squares = total(lambda i, read: (read - means[i]) * (read - means[i]))
            for i, lane in enumerate(lanes):
                mean = Lane(code, code.load(partial, lane, means[i].dtype, width), np.float64, width)
                square_place = lane.plus(channels)
                square = Lane(code, code.load(partial, square_place, np.dtype(np.float64), width), np.float64, width)
                difference = means[i] - mean
                share = count / both
                joined = mean + difference * share
                spread = square + squares[i] + difference * difference * (earlier * share)
                code.store(partial, lane, joined.dtype, width, joined.name)
                code.store(partial, square_place, spread.dtype, width, spread.name)

    whole = channels // width * width
    abreast = next(n for n in range(ABREAST, 0, -1) if whole // width % n == 0)
    with code.loop(0, whole, width * abreast) as start:
        columns(start, abreast, None)
    if whole < channels:
        columns(Index((), whole), 1, code.first_lanes(channels - whole, width))


def _as_double(code: Code, count: int | str, factor: int) -> Lane:
    if isinstance(count, int):
        return constant(code, count * factor, np.float64)
    number = code.let(f"sitofp i64 {count} to double")
    return lanes_xp.multiply(Lane(code, number, np.float64, 1), float(factor))


def combine(reader: Reader, value: Value, partial: str, counts: Sequence[int]) -> None:
    """From the partial sums of each strand, in their order, to the value. ``counts``: rows of each strand."""
    code = reader.code
    if value.kind == "moments":
        _combine_moments(reader, value, partial, counts)
        return
    size = max(1, value.size)
    kept_in = _kept_in(value) if value.kind in FOLDS else np.dtype(np.float32)
    for lane in vectors(code, size, _width(code, size)):
        total: Lane | None = None
        for strand in range(len(counts)):
            place = lane.plus(strand * size)
            one = Lane(code, code.load(partial, place, kept_in, code.width), kept_in, code.width)
            total = one if total is None else total + one
        assert total is not None
        total = lanes_xp.astype(total, value.dtype).spread(code.width)
        code.store(reader.pointer(value), lane, value.dtype, code.width, total.name)


def _combine_moments(reader: Reader, value: Value, partial: str, counts: Sequence[int]) -> None:
    code, channels = reader.code, value.shape[1]
    inner = math.prod(value.inputs[0].shape[1:-1])
    double = np.dtype(np.float64)
    for lane in vectors(code, channels, _width(code, channels)):

        def at(strand: int, part: int, lane: Index = lane) -> Lane:
            place = lane.plus((2 * strand + part) * channels)
            return Lane(code, code.load(partial, place, double, code.width), double, code.width)

        mean, square, done = at(0, 0), at(0, 1), counts[0] * inner
        for strand, count in enumerate(counts):
            if not strand or not count:
                continue
            more = count * inner
            difference = at(strand, 0) - mean
            mean = mean + difference * (more / (done + more))
            square = square + at(strand, 1) + difference * difference * (done * more / (done + more))
            done += more
        for part, lanes in enumerate((mean, square / float(done))):
            rounded = lanes_xp.astype(lanes, np.float32).spread(code.width)
            place = lane.plus(part * channels)
            code.store(reader.pointer(value), place, np.dtype(np.float32), code.width, rounded.name)
