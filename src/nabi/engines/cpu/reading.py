"""Reading an element of a value: from memory where it is stored, or by the formula that it is made with.

So whatever is not stored is computed where it is used, in registers: that is all there is to fusion. A picture's
max-pooling reads the rectified, normalised outputs of a convolution at four places, and nothing but the convolution's
outputs was ever in memory.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from nabi.engines.cpu.code import TYPES, ZERO, Code, Index, lane_numbers
from nabi.engines.cpu.lanes import Lane, Unwritten, constant, lanes_xp
from nabi.engines.cpu.values import Value


class Place(NamedTuple):
    """Where a value is stored: an array of the table, or, for the rows at hand alone, a part of the scratch memory."""

    slot: int
    offset: int = -1  # bytes into the scratch memory; -1 where it is an array

    @property
    def local(self) -> bool:
        return self.offset >= 0


class Reader:
    """Reads values while a kernel is written.

    Parameters
    ----------
    code : Code
    places : dict of int to Place
        Where values are stored, by serial number.
    first : Index
        The first of the rows at hand: local values begin there.
    rows : int
        How many rows there are in all; 0 where each value has its own.
    passing : mapping of int to int
        Values that are written by the cache, since nobody reads them soon, and the bytes that their vectors lie at
        multiples of.
    """

    def __init__(
        self,
        code: Code,
        places: dict[int, Place],
        first: Index,
        rows: int,
        passing: Mapping[int, int] = MappingProxyType({}),
    ) -> None:
        self.code = code
        self.places = places
        self.first = first
        self.rows = rows
        self.passing = passing

    def pointer(self, value: Value, row: Index | None = None) -> str:
        """Where a stored value begins in memory, or where one of its rows does."""
        place = self.places[value.serial]
        if place.local:
            base = self.code.let(f"getelementptr i8, ptr %scratch, i64 {place.offset}", "s")
            row = None if row is None else row.minus(self.first)
        else:
            base = self.code.pointer(place.slot)
        if row is None or row == ZERO:
            return base
        return self.code.address(base, row.times(value.strides[0]), TYPES[value.dtype])

    def offset(self, value: Value, index: tuple[Index, ...]) -> Index:
        return self._offset(index, value.strides, self.places[value.serial])

    def _offset(self, index: tuple[Index, ...], strides: tuple[int, ...], there: Place) -> Index:
        total = ZERO
        for i, (place, stride) in enumerate(zip(index, strides, strict=True)):
            if i == 0 and there.local:
                place = place.minus(self.first)
            total = total.plus(place.times(stride))
        return total

    def read(self, value: Value, index: tuple[Index, ...]) -> Lane:
        """The lanes of a value at a place."""
        key = (value.serial, index, self.code.mask, self.code.width)
        found = self.code.known(key)
        if found is None:
            found = self.code.remember(key, self._read(value, index))
        return found  # type: ignore[no-any-return]

    def read_whole(self, value: Value, index: tuple[Index, ...]) -> Lane:
        """A whole vector: zero in the lanes that are not there."""
        code = self.code
        lane = self.read(value, index).spread(code.width)
        if code.mask is None:
            return lane
        zero = constant(code, 0, value.dtype).spread(code.width)
        return lanes_xp.where(Lane(code, code.mask, bool, code.width), lane, zero)

    def write(self, value: Value, index: tuple[Index, ...], lane: Lane) -> None:
        width = self.code.width
        lane = lanes_xp.astype(lane, value.dtype).spread(width)
        pointer = self.pointer(value)
        offset = self.offset(value, index)
        self.code.store(pointer, offset, value.dtype, width, lane.name, self.passing.get(value.serial, 0))

    def keep(self, value: Value, index: tuple[Index, ...], lane: Lane) -> None:
        """Have what was just computed at a place be read from its register there, and not from memory."""
        place = _broadcast(value, value, index)
        self.code.remember((value.serial, place, self.code.mask, self.code.width), lane)

    def finish(self, made: Value, target: Value, index: tuple[Index, ...], lane: Lane) -> None:
        """Write what is to be stored of what a kernel has just computed: itself, or what alone is made of it."""
        if target is not made:
            self.keep(made, index, lane)
            lane = self.define(target, index)
        self.write(target, index, lane)

    def _read(self, value: Value, index: tuple[Index, ...]) -> Lane:
        if value.kind == "constant":
            return constant(self.code, value.held, value.dtype)
        if value.serial in self.places:
            offset = self.offset(value, index)
            width = self.code.width if offset.lanes else 1
            name = self.code.load(self.pointer(value), offset, value.dtype, width)
            return Lane(self.code, name, value.dtype, width)
        return self.define(value, index)

    def define(self, value: Value, index: tuple[Index, ...]) -> Lane:
        """The lanes of a value as its own formula gives them, even where the value has a place in memory."""
        if value.kind == "elementwise":
            operands = [self.read(v, _broadcast(v, value, index)) for v in value.inputs]
            assert value.formula is not None
            return value.formula(lanes_xp, *operands, **value.settings)  # type: ignore[no-any-return]
        found: Lane = getattr(self, "_" + value.kind)(value, index)
        return found

    def _broadcast_to(self, value: Value, index: tuple[Index, ...]) -> Lane:
        (x,) = value.inputs
        return self.read(x, _broadcast(x, value, index))

    def _reshape(self, value: Value, index: tuple[Index, ...]) -> Lane:
        (x,) = value.inputs
        if x.size == 1:
            return self.read(x, (ZERO,) * x.ndim)
        if only_unit_axes(value):
            kept = iter(place for place, n in zip(index, value.shape, strict=True) if n != 1)
            return self.read(x, tuple(next(kept) if n != 1 else ZERO for n in x.shape))
        total = self._offset(index, value.strides, self.places[x.serial])
        width = self.code.width if total.lanes else 1
        return Lane(self.code, self.code.load(self.pointer(x), total, x.dtype, width), x.dtype, width)

    def _permute_dims(self, value: Value, index: tuple[Index, ...]) -> Lane:
        (x,) = value.inputs
        order = value.settings["axes"]
        return self.read(x, tuple(index[order.index(axis)] for axis in range(x.ndim)))

    def _flip(self, value: Value, index: tuple[Index, ...]) -> Lane:
        (x,) = value.inputs
        return self.read(
            x,
            tuple(
                Index((), n - 1).minus(place) if i in value.settings["axis"] else place
                for i, (place, n) in enumerate(zip(index, x.shape, strict=True))
            ),
        )

    def _getitem(self, value: Value, index: tuple[Index, ...]) -> Lane:
        (x,) = value.inputs
        rest = iter(index)
        places = []
        for item in value.settings["key"]:
            if item is None:
                next(rest)
            elif isinstance(item, int):
                places.append(Index((), item))
            else:
                places.append(next(rest).times(item.step).plus(item.start))
        return self.read(x, tuple(places))

    def _pad(self, value: Value, index: tuple[Index, ...]) -> Lane:
        (x,) = value.inputs
        inner = [place.plus(-before) for place, (before, _) in zip(index, value.settings["widths"], strict=True)]
        outside = constant(self.code, value.settings["value"], value.dtype)
        return self._inside(inner, x.shape, lambda places: self.read(x, places), outside)

    def _panels(self, value: Value, index: tuple[Index, ...]) -> Lane:
        """Columns of weights side by side in panels, and zeros behind the last."""
        (x,), (panel, *place, lane) = value.inputs, index
        column = panel.times(value.shape[-1]).plus(lane)
        return self._inside(
            [*place, column], x.shape, lambda places: self.read(x, places), constant(self.code, 0, value.dtype)
        )

    def _concat(self, value: Value, index: tuple[Index, ...]) -> Lane:
        axis = value.settings["axis"]
        result = constant(self.code, 0, value.dtype)
        start = 0
        for x in value.inputs:
            inner = [place.plus(-start) if i == axis else place for i, place in enumerate(index)]
            result = self._inside(inner, x.shape, lambda places, x=x: self.read(x, places), result)
            start += x.shape[axis]
        return result

    def _scatter_add(self, value: Value, index: tuple[Index, ...]) -> Lane:
        x, updates = value.inputs
        before = self.read(x, index)
        inner = []
        exact: Any = True
        for place, item in zip(index, value.settings["key"], strict=True):
            moved = place.plus(-item.start)
            if abs(item.step) == 1:
                inner.append(moved.times(item.step))
                continue
            whole = moved.divided(item.step)
            if whole is None:
                if moved.lanes:
                    return self._lane_by_lane(value, index)
                if item.step < 0:
                    raise Unwritten("a scatter backwards in steps")
                if all(factor % item.step == 0 for _, factor in moved.terms):
                    return before  # never one of the places
                number = self.code.integer(moved)
                rest = self.code.let(f"srem i64 {number}, {item.step}")
                hit = Lane(self.code, self.code.let(f"icmp eq i64 {rest}, 0"), bool, 1)
                exact = hit if exact is True else exact & hit
                whole = Index(((self.code.let(f"sdiv i64 {number}, {item.step}"), 1),))
            inner.append(whole)
        return self._inside(inner, updates.shape, lambda places: before + self.read(updates, places), before, exact)

    def _lane_by_lane(self, value: Value, index: tuple[Index, ...]) -> Lane:
        """Each lane read by itself, where it is not known beforehand which of them are among the places."""
        code, width, mask = self.code, self.code.width, self.code.mask
        first = constant(code, 0, value.dtype).spread(width)
        name = first.name
        with code.masked(None), code.of_width(1):
            for lane in range(width):
                places = [place._replace(constant=place.constant + lane * place.lanes, lanes=0) for place in index]
                if mask is not None:  # a lane that is not there may lie outside of the array
                    inside = code.let(f"extractelement <{width} x i1> {mask}, i64 {lane}")
                    for axis, place in enumerate(places):
                        if index[axis].lanes:
                            safe = code.let(f"select i1 {inside}, i64 {code.integer(place)}, i64 0")
                            code.bounds[safe] = (0, value.shape[axis] - 1)
                            places[axis] = Index(((safe, 1),))
                one = self.read(value, tuple(places))
                name = code.let(f"insertelement {first.kind} {name}, {one.kind} {one.name}, i64 {lane}")
        return Lane(code, name, value.dtype, width)

    def _arange(self, value: Value, index: tuple[Index, ...]) -> Lane:
        place = index[0].times(value.settings["step"]).plus(value.settings["start"])
        return lanes_xp.astype(self.number(place), value.dtype)

    def number(self, place: Index) -> Lane:
        """A place as a number, int64; that of each lane, where they are at different ones."""
        lane = Lane(self.code, self.code.integer(place), np.int64, 1)
        if not place.lanes or self.code.width == 1:
            return lane
        spread, steps = lane.spread(self.code.width), lane_numbers(self.code.width, place.lanes)
        return Lane(self.code, self.code.let(f"add {spread.kind} {spread.name}, {steps}"), np.int64, spread.width)

    # --- choices by place ---

    def _is_row(self, place: Index) -> bool:
        """Whether a place along axis 0 is that of a row at hand, neither moved nor stretched."""
        rest = place.minus(self.first)
        return rest.constant == 0 and len(rest.terms) <= 1 and all(factor == 1 for _, factor in rest.terms)

    def _inside(
        self, index: list[Index], shape: tuple[int, ...], inside: Any, outside: Lane, condition: Any = True
    ) -> Lane:
        """What ``inside(places)`` gives where the places lie within a shape, ``outside`` elsewhere."""
        places = list(index)
        lanewise: Lane | None = None
        for i, (place, n) in enumerate(zip(index, shape, strict=True)):
            low, high = self.code.range(place)
            reach = place.lanes * (self.code.width - 1)
            low = None if low is None else low + min(0, reach)
            high = None if high is None else high + max(0, reach)
            if low is not None and high is not None and (high < 0 or low >= n) and not place.lanes:
                return outside
            if low is not None and high is not None and low >= 0 and high < n:
                continue
            if i == 0 and n == self.rows and self._is_row(place):
                continue  # there are no other rows than those asked for
            number = self.number(place)
            # One comparison for both ends: below zero is far above, without a sign.
            hit = Lane(
                self.code,
                self.code.let(
                    f"icmp ult {number.kind} {number.name}, " + (f"{n}" if number.width == 1 else f"splat (i64 {n})")
                ),
                bool,
                number.width,
            )
            if place.lanes:
                lanewise = hit if lanewise is None else lanewise & hit
            else:
                condition = hit if condition is True else condition & hit
                safe = self.code.let(f"select i1 {hit.name}, i64 {number.name}, i64 0")
                self.code.bounds[safe] = (0, n - 1)
                places[i] = Index(((safe, 1),))
        if lanewise is None and condition is True:
            return inside(tuple(places))  # type: ignore[no-any-return]
        mask = self.code.mask
        if lanewise is not None:
            if mask is not None:
                kind = f"<{self.code.width} x i1>"
                mask = self.code.let(f"and {kind} {mask}, {lanewise.name}")
            else:
                mask = lanewise.name
        with self.code.masked(mask) if lanewise is not None else nullcontext():
            found = inside(tuple(places))
        if lanewise is not None:
            found = lanes_xp.where(lanewise, found, outside)
        return found if condition is True else lanes_xp.where(condition, found, outside)


def _broadcast(x: Value, y: Value, index: tuple[Index, ...]) -> tuple[Index, ...]:
    """Where an element of ``y`` lies in ``x``, which is broadcast to its shape."""
    tail = index[len(index) - x.ndim :]
    return tuple(ZERO if n == 1 else place for n, place in zip(x.shape, tail, strict=True))


def only_unit_axes(value: Value) -> bool:
    """Whether a reshape adds and drops axes of length 1 alone."""
    (x,) = value.inputs
    return [n for n in x.shape if n != 1] == [n for n in value.shape if n != 1]
