"""Convolutions in matrix registers: a picture is one line of pixels, and each pixel of a window sees it shifted.

Of a padded picture of so many pixels a row, the window that begins at place t = p·width + q sees t + i·width + j. So a
register's rows are places that follow each other, wherever the first is: windows are not laid out. At the end of each
row are places that no window begins at; what comes of them is dropped, and is zero in a gradient on the weights, which
is the product of the line, turned and shifted, and of what is upstream.
"""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from nabi.engines.cpu import bfloat16, tiles
from nabi.engines.cpu.code import ZERO, Code, Index
from nabi.engines.cpu.contract import Matrix
from nabi.engines.cpu.kernels import Rows
from nabi.engines.cpu.lanes import Lane
from nabi.engines.cpu.panels import transposed
from nabi.engines.cpu.reading import Reader
from nabi.engines.cpu.tiles import SIDE, Register
from nabi.engines.cpu.values import WORDS, Value, apart, line_places, stretches

FLOAT = np.dtype(np.float32)
BLOCK = 2 * SIDE
"""Numbers along the sum of one product of registers."""
ENOUGH = 32
"""Products that are added to sums of a gradient at once: so many for each time that these are fetched and stored."""


class Line(NamedTuple):
    """A picture as one line of pixels.

    Attributes
    ----------
    width, pixels : int
        Of a row of the padded picture, and of all of it.
    channels : int
    down, across : int
        Windows.
    places : int
        Pixels from the first that a window begins at to the last.
    """

    width: int
    pixels: int
    channels: int
    down: int
    across: int
    places: int


def line(value: Value) -> Line:
    """The line of a convolution's picture, or of its gradient's on weights."""
    x, other = value.inputs
    down, across = value.shape[1:3] if value.kind == "convolution" else other.shape[1:3]
    places = line_places(x.shape[2], (down, across))
    return Line(x.shape[2], x.shape[1] * x.shape[2], x.shape[3], down, across, places)


def _up(number: int, step: int) -> int:
    return -(-number // step) * step


def _begins(value: Value) -> list[int]:
    """How far from a window's place each stretch begins, in numbers."""
    (kh, kw), (dh, dw), own = value.settings["kernel"], value.settings["dilation"], line(value)
    return [(i * dh * own.width + j * dw) * own.channels for i in range(kh) for j in range(1 if dw == 1 else kw)]


# --- a convolution ---


def size(value: Value, rows: int) -> int:
    """Bytes of the pictures that are laid out together."""
    if value.kind == "convolution":
        own = line(value)
        _, length = stretches(value.settings["kernel"], value.settings["dilation"], own.channels)
        most = (_up(own.places, SIDE) - 1) * own.channels + max(_begins(value)) + _up(length, BLOCK)
        return 2 * ((rows - 1) * _pitch(value) + max(_pitch(value), _up(most, BLOCK)))
    return 4 * (_high(value) * _row_words(value, rows) + rows * _blocks(value) * SIDE * value.shape[3])


def _pitch(value: Value) -> int:
    """Halves from one picture to the next: zeros behind each, as far as a last window's whole registers reach."""
    own = line(value)
    _, length = stretches(value.settings["kernel"], value.settings["dilation"], own.channels)
    return _up(own.pixels * own.channels, BLOCK) + _up(length, BLOCK)


def convolution(reader: Reader, rows: Rows, value: Value, work: str) -> None:
    """Rows of a convolution, tile after tile of places, of all pictures at hand."""
    code, panels, own = reader.code, value.inputs[1], line(value)
    outputs, each = value.shape[3], -(-own.places // SIDE)
    with code.of_width(WORDS), code.loop(0, rows.length) as r:
        _round(reader, rows.first.plus(r), value, work, r.times(_pitch(value)))
    count = rows.length * each if isinstance(rows.length, int) else code.let(f"mul nsw i64 {rows.length}, {each}")
    pairs = code.whole_steps(count, 2)
    square = code.name("square")
    code.top.append(f"  {square} = alloca [{4 * SIDE * SIDE} x float], align 64")
    wide = panels.shape[2]
    with tiles.in_use(code), code.of_width(WORDS):

        def down(panel: Index, columns: int) -> None:
            pointer = code.address(reader.pointer(panels), panel.times(panels.strides[0]), "i32")
            right = Matrix(pointer, panels.shape[1], columns, wide)
            for begin, end, together in ((0, pairs, 2), (pairs, count, 1)):
                with code.loop(begin, end, together) as tile:
                    _tile(reader, rows, value, work, right, (tile, together), panel.times(wide), square)

        with code.loop(0, outputs // wide) as panel:
            down(panel, wide)
        if outputs % wide:
            down(Index((), outputs // wide), outputs % wide)


def _round(reader: Reader, row: Index, value: Value, work: str, place: Index) -> None:
    """A picture's numbers, rounded, and zeros behind them."""
    code, x, own = reader.code, value.inputs[0], line(value)
    source, length = reader.pointer(x, row), own.pixels * own.channels
    whole = length // BLOCK * BLOCK
    with code.loop(0, whole, BLOCK) as k:
        bfloat16.put(
            code,
            work,
            place.plus(k),
            bfloat16.along(*(_load(code, source, k.plus(n), WORDS) for n in (0, WORDS))),
            "i16",
        )
    for k in range(whole, _pitch(value), BLOCK):
        halves = [_load(code, source, Index((), k + n), length - k - n) for n in (0, WORDS)]
        bfloat16.put(code, work, place.plus(k), bfloat16.along(*halves), "i16")


def _load(code: Code, pointer: str, place: Index, left: int) -> Lane:
    """A vector, zero behind the last of what is left."""
    if left <= 0:
        return bfloat16.nothing(code)
    with code.masked(code.lanes_left(left, WORDS)):
        return Lane(code, code.load(pointer, place._replace(lanes=1), FLOAT, WORDS), FLOAT, WORDS)


def _tile(
    reader: Reader, rows: Rows, value: Value, work: str, right: Matrix, number: tuple[Index, int], first: Index,
    square: str,
) -> None:  # fmt: skip
    """Two tiles of places, or one, of a panel of outputs, of which so many columns are there."""
    code, own, width = reader.code, line(value), right.columns
    assert isinstance(width, int)
    each = -(-own.places // SIDE)
    found: list[tuple[Index, Index]] = []  # each tile's picture, of those at hand, and its first place
    for i in range(number[1]):
        tile = number[0].plus(i)
        picture = _named(code.let(f"udiv i64 {code.integer(tile)}, {each}")) if each > 1 else tile
        found.append((picture, _named(code.integer(tile.minus(picture.times(each)).times(SIDE)))))
    lefts = [
        code.address(work, picture.times(_pitch(value)).plus(place.times(own.channels)), "i16")
        for picture, place in found
    ]
    count = -(-width // SIDE)
    sums = tiles.Sums(code, len(lefts), count)
    sums.begin()
    _, length = stretches(value.settings["kernel"], value.settings["dilation"], own.channels)
    words = _up(length, BLOCK) // 2
    for stretch, there in enumerate(_begins(value)):
        with code.loop(0, words, SIDE) as k:
            sums.add(
                [Register(code.address(p, k.times(2).plus(there), "i16"), 2 * own.channels, 2 * BLOCK) for p in lefts],
                [
                    Register(
                        code.address(right.pointer, k.plus(stretch * words).times(right.stride).plus(j * SIDE), "i32"),
                        4 * right.stride,
                        4 * SIDE * right.stride,
                    )
                    for j in range(count)
                ],
            )
    wide = 2 * SIDE
    sums.store(Matrix(square, wide, wide, wide), ZERO, ZERO)
    target = reader.pointer(value, rows.first)
    for i, (picture, place) in enumerate(found):
        start, end = code.integer(place), code.integer(place.plus(SIDE))
        top = code.let(f"udiv i64 {start}, {own.width}")
        last = code.let(f"udiv i64 {code.integer(place.plus(SIDE - 1))}, {own.width}")
        bottom = code.least(code.let(f"add i64 {last}, 1"), own.down)
        with code.loop(top, bottom) as p:
            low = code.most(start, code.integer(p.times(own.width)))
            high = code.least(end, code.integer(p.times(own.width).plus(own.across)))
            with code.loop(low, high) as t:
                here = t.minus(place).plus(i * SIDE).times(wide)
                window = picture.times(own.down * own.across).plus(p.times(own.across - own.width)).plus(t)
                there_ = window.times(value.shape[3]).plus(first)
                for j in range(count):
                    with code.masked(code.lanes_left(width - j * SIDE, WORDS)):
                        numbers = code.load(square, here.plus(Index((), j * SIDE, 1)), FLOAT, WORDS)
                        code.store(target, there_.plus(Index((), j * SIDE, 1)), FLOAT, WORDS, numbers)


def _named(number: str) -> Index:
    return Index(((number, 1),)) if number.startswith("%") else Index((), int(number))


# --- its gradient on the weights ---


def _high(value: Value) -> int:
    """Channels, in whole registers."""
    return _up(line(value).channels, SIDE)


def _blocks(value: Value) -> int:
    """Products of registers along a picture's line."""
    return -(-line(value).places // BLOCK)


def _line_words(value: Value) -> int:
    """Words of a picture's line: as far as the last product's register, shifted, reaches."""
    own, ((kh, kw), (dh, dw)) = line(value), (value.settings["kernel"], value.settings["dilation"])
    return _up(_blocks(value) * BLOCK + (kh - 1) * dh * own.width + (kw - 1) * dw, BLOCK) // 2


def _row_words(value: Value, rows: int) -> int:
    """Words from one channel of all pictures at hand to the next."""
    return apart(rows * _line_words(value))


def enough_pictures(value: Value) -> int:
    """Pictures that are worth going through the sums in memory."""
    return max(1, ENOUGH // _blocks(value)) if value.kind == "convolution_gradient" else 1


def convolution_gradient(reader: Reader, rows: Rows, value: Value, partial: str, work: str, block: int) -> None:
    """Add the rows at hand to the partial sum of a gradient on weights, (kh, kw, whole registers of C, O)."""
    code, (kh, kw) = reader.code, value.settings["kernel"]
    (dh, dw), own = value.settings["dilation"], line(value)
    high, outputs, blocks = _high(value), value.shape[3], _blocks(value)
    pitch = _row_words(value, block)
    second = code.address(work, Index((), high * pitch), "i32")
    with code.of_width(WORDS), code.loop(0, rows.length) as r:
        _turn(reader, rows.first.plus(r), value, work, r.times(_line_words(value)), pitch)
        _pair(reader, rows.first.plus(r), value, second, r.times(blocks * SIDE * SIDE), block)
    with tiles.in_use(code):
        for (begin, end, down), (left, right, across) in itertools.product(_pairs(high), _pairs(outputs)):
            with (
                code.loop(begin, end, down * SIDE) as c,
                code.loop(0, kh) as i,
                code.loop(0, kw) as j,
                code.loop(left, right, across * SIDE) as o,
            ):
                target = i.times(kw).plus(j).times(high).plus(c).times(outputs).plus(o)
                result = Matrix(code.address(partial, target, "float"), down * SIDE, across * SIDE, outputs)
                sums = tiles.Sums(code, down, across)
                sums.load(result, ZERO, ZERO)
                shift = i.times(dh * own.width).plus(j.times(dw))
                with code.loop(0, rows.length) as r, code.loop(0, blocks) as b:
                    there = c.times(2 * pitch).plus(r.times(2 * _line_words(value))).plus(b.times(BLOCK)).plus(shift)
                    here = o.times(block * blocks * SIDE).plus(r.times(blocks).plus(b).times(SIDE * SIDE))
                    sums.add(
                        [
                            Register(code.address(work, there.plus(n * SIDE * 2 * pitch), "i16"), 4 * pitch, 2 * BLOCK)
                            for n in range(down)
                        ],
                        [
                            Register(
                                code.address(second, here.plus(n * block * blocks * SIDE * SIDE), "i32"),
                                4 * SIDE,
                                4 * SIDE * SIDE,
                            )
                            for n in range(across)
                        ],
                    )
                sums.store(result, ZERO, ZERO)


def _pairs(length: int) -> Iterator[tuple[int, int, int]]:
    """A length in whole registers, in twos and then one by one: from where, to where, and how many at once."""
    whole = length // (2 * SIDE) * 2 * SIDE
    if whole:
        yield 0, whole, 2
    if whole < length:
        yield whole, length, 1


def _turn(reader: Reader, row: Index, value: Value, work: str, first: Index, pitch: int) -> None:
    """A picture's channels, each a line of pixels, rounded, and zeros behind it; channels that are not there are
    zero."""
    code, x, own = reader.code, value.inputs[0], line(value)
    source = reader.pointer(x, row)

    def square(c: Index, channels: int, k: Index, left: int) -> None:
        """Of up to 16 channels, words from the k-th on, of so many pixels."""
        words = ["zeroinitializer"] * SIDE
        for i in range(-(-left // 2)):
            pixel = k.plus(i).times(2)
            two = [pixel.plus(n).times(own.channels).plus(c) for n in (0, 1)]
            lefts = channels, channels if 2 * i + 1 < left else 0
            words[i] = bfloat16.beside(*(_load(code, source, place, n) for place, n in zip(two, lefts, strict=True)))
        place = first.plus(c.times(pitch)).plus(k)
        for i, words_of_one in enumerate(transposed(code, words, f"<{SIDE} x i32>", SIDE)):
            bfloat16.put(code, work, place.plus(i * pitch), words_of_one)

    whole, inside = own.pixels // BLOCK * SIDE, own.channels // SIDE * SIDE
    for begin, end in ((0, inside), (inside, own.channels)):
        with code.loop(begin, end, SIDE) as c:
            channels = min(SIDE, end - begin)
            with code.loop(0, whole, SIDE) as k:
                square(c, channels, k, BLOCK)
            for k in range(whole, _line_words(value), SIDE):
                square(c, channels, Index((), k), max(0, min(BLOCK, own.pixels - 2 * k)))


def _pair(reader: Reader, row: Index, value: Value, work: str, first: Index, rows: int) -> None:
    """What is upstream, for each 16 outputs one register after another: words of two places each, zero where no window
    begins."""
    code, g, own = reader.code, value.inputs[1], line(value)
    source, outputs = reader.pointer(g, row), value.shape[3]
    zeros = f"@zeros{outputs}"
    code.declare(zeros, f"{zeros} = private constant [{outputs} x float] zeroinitializer, align 64")
    with code.loop(0, _blocks(value)) as b:
        lines = []
        for n in range(BLOCK):
            t = code.integer(b.times(BLOCK).plus(n))
            p = code.let(f"udiv i64 {t}, {own.width}")
            q = code.let(f"sub i64 {t}, {code.let(f'mul i64 {p}, {own.width}')}")
            inside = code.let(f"icmp slt i64 {q}, {own.across}")
            inside = code.let(f"and i1 {inside}, {code.let(f'icmp slt i64 {p}, {own.down}')}")
            place = _named(p).times(own.across).plus(_named(q)).times(outputs)
            found = code.address(source, place, "float")
            lines.append(code.let(f"select i1 {inside}, ptr {found}, ptr {zeros}"))
        with code.loop(0, outputs, SIDE) as o:
            place = first.plus(b.times(SIDE * SIDE)).plus(o.times(rows * _blocks(value) * SIDE))
            for i in range(SIDE):
                two = [_load(code, lines[2 * i + n], o, SIDE) for n in (0, 1)]
                bfloat16.put(code, work, place.plus(i * SIDE), bfloat16.beside(*two))
