"""Depthwise convolutions: each channel is seen through a window of its own.

Nothing is laid out anew, and no border is ever in memory. A few neighbouring outputs are summed up at once, of as many
channels as a register holds, so that what is read of the picture serves all windows that lie over it.
"""

from collections.abc import Iterator

import numpy as np

from nabi.engines.cpu.code import TYPES, ZERO, Index
from nabi.engines.cpu.kernels import Rows, lanes_for, vectors
from nabi.engines.cpu.lanes import Lane, add_product, constant, lanes_xp
from nabi.engines.cpu.reading import Reader
from nabi.engines.cpu.values import Value

FLOAT = np.dtype(np.float32)
PART = 32
"""Channels of a picture that a thread takes, at least."""
ABREAST = range(8, 3, -1)
"""Outputs that are summed up at once: with a row of weights they fill 16 registers."""


def depthwise(reader: Reader, rows: Rows, value: Value, target: Value) -> None:
    """Rows of a depthwise convolution; see `Reader.finish` for ``target``."""
    code, channels = reader.code, value.shape[3]
    one = _Outputs(reader, value, target)
    with code.loop(0, rows.length) as r, code.loop(0, value.shape[1]) as p:
        for q, size in one.along():
            for lane in vectors(code, channels, lanes_for(code, channels)):
                one.write(rows.first.plus(r), p, q, size, lane)


def depthwise_columns(reader: Reader, parts: Rows, value: Value, target: Value) -> None:
    """Some channels of a single picture: "rows" are parts of so many channels here."""
    code, one = reader.code, _Outputs(reader, value, target)
    with code.loop(0, value.shape[1]) as p:
        for q, size in one.along():
            with code.loop(0, parts.length) as part:
                for lane in vectors(code, PART, lanes_for(code, PART)):
                    one.write(ZERO, p, q, size, parts.first.plus(part).times(PART).plus(lane))


def is_by_columns(value: Value) -> bool:
    """Whether threads share out the channels of the only picture."""
    return value.shape[0] == 1 and value.shape[3] % PART == 0 and value.shape[3] > PART


def is_of_a_whole(value: Value) -> bool:
    """Whether its rows are strips of a picture that lies together, and is read wherever need be."""
    return value.settings["height"] > 0 and not value.settings["apart"]


def _tiles(columns: int) -> list[tuple[int, int]]:
    """Where outputs begin that are summed up at once, and how many: as few as do it, and as equal as can be."""
    size = min(ABREAST, key=lambda n: -(-columns // n) * (n + 1))
    return [(start, min(size, columns - start)) for start in range(0, columns, size)]


class _Outputs:
    """What is summed up at once."""

    def __init__(self, reader: Reader, value: Value, target: Value) -> None:
        self.reader, self.value, self.target = reader, value, target
        self.x, self.weight = value.inputs
        self.kernel, self.stride = value.settings["kernel"], value.settings["stride"]
        self.dilation = value.settings["dilation"]
        self.top, self.left = value.settings["corner"]
        self.height = value.settings["height"] or self.x.shape[1]

    def along(self) -> Iterator[tuple[Index, int]]:
        """Outputs of a row, some at a time: a loop of those whose windows lie inside, the others one by one."""
        tiles = _tiles(self.value.shape[2])
        inside = [tile for tile in tiles if tile[1] == tiles[0][1] and self._is_inside(*tile)]
        for start, size in tiles:
            if (start, size) not in inside:
                yield Index((), start), size
            elif (start, size) == inside[0]:
                with self.reader.code.loop(start, inside[-1][0] + size, size) as q:
                    yield q, size

    def _is_inside(self, start: int, size: int) -> bool:
        (_, kw), (_, sw), (_, dw) = self.kernel, self.stride, self.dilation
        first = start * sw - self.left
        last: int = first + (size - 1) * sw + (kw - 1) * dw
        return first >= 0 and last < self.x.shape[2]

    def write(self, picture: Index, p: Index, q: Index, size: int, lane: Index) -> None:
        """Some outputs beside each other, of a vector of channels."""
        reader, code = self.reader, self.reader.code
        (kh, kw), (_, sw), (_, dw) = self.kernel, self.stride, self.dilation
        width, (across, channels) = code.width, self.x.shape[2:]
        zero = constant(code, 0, FLOAT).spread(width)
        totals = [code.variable(zero.kind, zero.name) for _ in range(size)]
        source = reader.pointer(self.x, None if is_of_a_whole(self.value) else picture)
        weights = reader.pointer(self.weight)
        with code.loop(0, kh) as i:
            row, hit = self._row(picture, p, i)
            line = code.address(source, row.times(across * channels), TYPES[FLOAT])
            place = i.times(kw * channels).plus(lane)
            factors = [self._load(weights, place.plus(j * channels)) for j in range(kw)]
            taps = [(t * sw + j * dw, t, j) for t in range(size) for j in range(kw)]
            found: dict[int, Lane] = {}
            for reach, t, j in sorted(taps):
                if reach not in found:
                    column = q.times(sw).plus(reach - self.left)
                    known = not column.terms and not 0 <= column.constant < across
                    x = zero if known else self._load(line, column.times(channels).plus(lane))
                    found[reach] = x if known or hit is None else lanes_xp.where(hit, x, zero)
                add_product(totals[t], found[reach], factors[j])
        for t, total in enumerate(totals):
            made = Lane(code, code.let(f"load {zero.kind}, ptr {total}"), FLOAT, width)
            reader.finish(self.value, self.target, (picture, p, q.plus(t), lane), made)

    def _load(self, pointer: str, place: Index) -> Lane:
        code = self.reader.code
        return Lane(code, code.load(pointer, place, FLOAT, code.width), FLOAT, code.width)

    def _row(self, picture: Index, p: Index, i: Index) -> tuple[Index, Lane | None]:
        """The row that a window's row i lies over, from where its picture or strip begins, and whether it is one.

        Outside of the picture there are zeros, and another row is read instead.
        """
        code, how = self.reader.code, self.value.settings
        (stride, _), (dilation, _) = self.stride, self.dilation
        seen = p.times(stride).plus(i.times(dilation))
        before = picture.times(self.value.shape[1] * stride) if how["height"] else ZERO  # of the strips above
        row = before.plus(seen).plus(-self.top)
        low, high = code.range(row)
        if low is not None and low >= 0 and high is not None and high < self.height:
            return (seen if how["apart"] else row), None
        number = code.integer(row)
        hit = Lane(code, code.let(f"icmp ult i64 {number}, {self.height}"), bool, 1)
        if how["apart"]:
            return seen, hit
        return Index(((code.let(f"select i1 {hit.name}, i64 {number}, i64 0"), 1),)), hit
