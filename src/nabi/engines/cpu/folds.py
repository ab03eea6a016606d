"""Folds: axes are summed away, or only the largest is kept; and the moments of a batch.

Within a row, a fold is written like any other value. Over rows, each strand has a partial fold of its own, and those
are combined in their order. All sums are kept in float64 and rounded once.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from nabi.engines.cpu.code import ZERO, Code, Index, in_register, suffix
from nabi.engines.cpu.kernels import Rows, in_step, lanes_for, places, tiled, vectors
from nabi.engines.cpu.lanes import Lane, constant, lanes_xp
from nabi.engines.cpu.reading import Reader
from nabi.engines.cpu.values import Value

ABREAST = 4
"""Vectors that a fold works on side by side, so that additions need not wait for each other."""


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
        one = in_register(self.dtype)
        ending = suffix(one, self.width)
        if self.dtype.kind == "f" and join == "add":
            called = f"@llvm.vector.reduce.fadd.{ending}"
            code.declare(called, f"declare {one} {called}({one}, {self.kind})")
            name = code.let(f"call {one} {called}({one} 0.0, {self.kind} {total.name})")
        else:
            if self.dtype.kind == "f":
                which = {"max": "fmaximum", "min": "fminimum"}[join]
            else:
                sign = "u" if self.dtype.kind in "ub" else "s"
                which = sign + join if join in ("max", "min") else join
            called = f"@llvm.vector.reduce.{which}.{ending}"
            code.declare(called, f"declare {one} {called}({self.kind})")
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
            for lane in vectors(code, length(last), lanes_for(code, length(last))):
                total = _Accumulator(code, value, code.width)
                here = along_last(index, lane)
                over(list(folded), here, lambda i, total=total: total.take(reader.read(x, source(i))))  # type: ignore[misc]
                reader.write(value, target(here), total.get())

        over([axis for axis in kept if axis != last], {}, columns)
        return

    def across(index: dict[int, Index]) -> None:
        width = lanes_for(code, length(last))
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
    width = lanes_for(code, rows.length if x.ndim == 1 else length)

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
            width = lanes_for(code, x.shape[-1] if x.ndim > 1 else rows.length)
            total = _Accumulator(code, value, width)
            for place in places(code, rows, value.inputs[0].shape):
                total.take(reader.read(value.inputs[0], place))
            _add_partial(code, partial[value.serial], ZERO, total.joined(), 1)
        return
    width = lanes_for(code, channels)
    most = max(1, ABREAST // len(values))
    abreast = min(most, channels // width) or 1
    step = width * abreast
    whole = channels // step * step

    def columns(start: Index, count: int, mask: str | None) -> None:
        with code.of_width(width), code.masked(mask):
            totals = [[_Accumulator(code, value, width) for _ in range(count)] for value in values]
            tiles = in_step(reader, sources)
            with code.loop(0, rows.length) as row:
                for tile in tiled(code, [(rows.first.plus(row),)], x.shape[1:-1], tiles[1:-1]):
                    for place, number in itertools.product(tile, range(count)):
                        lane = start.plus(number * width)._replace(lanes=1)
                        for total, source in zip(totals, sources, strict=True):
                            total[number].take(reader.read(source, (*place, lane)))
            for value, total in zip(values, totals, strict=True):
                for number, one in enumerate(total):
                    lane = start.plus(number * width)._replace(lanes=1)
                    _add_partial(code, partial[value.serial], lane, one.get(), width)

    with code.loop(0, whole, step) as start:
        columns(start, abreast, None)
    done = whole
    while done < channels:
        left = channels - done
        columns(Index((), done), 1, code.lanes_left(left, width))
        done += width


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
    width = lanes_for(code, channels)
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
                    for (place,) in tiled(code, [(rows.first.plus(row),)], x.shape[1:-1], [1] * (x.ndim - 2)):
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
    for lane in vectors(code, size, lanes_for(code, size)):
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
    for lane in vectors(code, channels, lanes_for(code, channels)):

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
