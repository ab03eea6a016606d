"""Convolutions in matrix registers: a picture is one line of pixels, and each pixel of a window sees it shifted.

Of a padded picture of so many pixels a row, the window at place t = p·width + q sees the pixels s·t + i·width + j,
with a stride of s. So a register's rows are places that follow each other, wherever the first is: windows are not
laid out. At the end of each row are places that are no window's; what comes of them is dropped. The gradient on the
weights is the product of what is upstream, turned, zero at these places, and of the line, shifted.

A number that is not finite may spread to windows with a stretch that ends up to 31 numbers before it, and to other
weights of a gradient: zero times it is no number.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from nabi.engines.cpu import bfloat16, tiles
from nabi.engines.cpu.code import Code, Index
from nabi.engines.cpu.contract import Matrix
from nabi.engines.cpu.kernels import Rows
from nabi.engines.cpu.panels import transposed
from nabi.engines.cpu.reading import Reader
from nabi.engines.cpu.tiles import SIDE, Register
from nabi.engines.cpu.values import WORDS, Value, line_places, stretches

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
        From the first window's to the last one's.
    stride : int
        Pixels from one place to the next.
    """

    width: int
    pixels: int
    channels: int
    down: int
    across: int
    places: int
    stride: int


def line(value: Value) -> Line:
    """The line of a convolution's picture, or of its gradient's on weights."""
    x, other = value.inputs
    down, across = value.shape[1:3] if value.kind == "convolution" else other.shape[1:3]
    places = line_places(x.shape[2], (down, across))
    return Line(x.shape[2], x.shape[1] * x.shape[2], x.shape[3], down, across, places, value.settings["stride"][0])


def _up(number: int, step: int) -> int:
    return -(-number // step) * step


def _begins(value: Value) -> list[int]:
    """How far from a window's place each stretch begins, in numbers."""
    return [begin for begin, _ in _stretches(value)]


def _stretch(value: Value) -> int:
    """Numbers of a stretch, filled up to whole registers."""
    return _up(_stretches(value)[0][1], BLOCK)


def _stretches(value: Value) -> list[tuple[int, int]]:
    x, how = value.inputs[0], value.settings
    return stretches(how["kernel"], how["dilation"], x.strides[1], x.shape[3])


# --- a convolution ---


def size(value: Value, rows: int) -> int:
    """Bytes of the pictures that are laid out together."""
    if value.kind == "convolution":
        own = line(value)
        most = (_up(own.places, SIDE) - 1) * own.stride * own.channels + max(_begins(value)) + _stretch(value)
        return 2 * ((rows - 1) * _pitch(value) + max(_pitch(value), _up(most, BLOCK)))
    upstream, pairs = _blocks(value) * SIDE * value.shape[2], _line_pairs(value) * len(_lines(value)) * _filled(value)
    return 4 * rows * (upstream + pairs)


def _pitch(value: Value) -> int:
    """Halves from one picture to the next: zeros behind each, as far as a last window's whole registers reach."""
    own = line(value)
    return _up(own.pixels * own.channels, BLOCK) + _stretch(value)


def convolution(reader: Reader, rows: Rows, value: Value, work: str) -> None:
    """Rows of a convolution: panel after panel of outputs, of all pictures at hand."""
    code, panels = reader.code, value.inputs[1]
    outputs, wide, each = value.shape[3], panels.shape[2], _tiles_each(value)
    with code.of_width(WORDS), code.loop(0, rows.length) as r:
        _round(reader, rows.first.plus(r), value, work, r.times(_pitch(value)))
    count = rows.length * each if isinstance(rows.length, int) else code.let(f"mul nsw i64 {rows.length}, {each}")
    pairs = code.whole_steps(count, 2)
    square = code.name("square")
    code.top.append(f"  {square} = alloca [{4 * SIDE * SIDE} x float], align 64")

    def down(panel: Index, columns: int) -> None:
        pointer = code.address(reader.pointer(panels), panel.times(panels.strides[0]), "i32")
        right = Matrix(pointer, panels.shape[1], columns, wide)
        for begin, end, together in ((0, pairs, 2), (pairs, count, 1)):
            with code.loop(begin, end, together) as number:
                found = [_tile(code, value, number.plus(i)) for i in range(together)]
                _multiply(code, value, work, found, right, square)
                for i, tile in enumerate(found):
                    column = panel.times(wide)
                    _keep(reader, rows, value, tile, (square, i * SIDE), (column, columns))

    with tiles.in_use(code), code.of_width(WORDS):
        with code.loop(0, outputs // wide) as panel:
            down(panel, wide)
        if outputs % wide:
            down(Index((), outputs // wide), outputs % wide)


def _round(reader: Reader, row: Index, value: Value, work: str, place: Index) -> None:
    """A picture's numbers, rounded, and zeros behind them."""
    code, x, own = reader.code, value.inputs[0], line(value)
    source, length = reader.pointer(x, row), own.pixels * own.channels

    def put(k: Index, left: int) -> None:
        halves = [bfloat16.load(code, source, k.plus(n), left - n) for n in (0, WORDS)]
        bfloat16.put(code, work, place.plus(k), bfloat16.along(*halves), "i16")

    whole = length // BLOCK * BLOCK
    with code.loop(0, whole, BLOCK) as k:
        put(k, BLOCK)
    for rest in range(whole, _pitch(value), BLOCK):
        put(Index((), rest), length - rest)


def _tiles_each(value: Value) -> int:
    """Tiles of a picture's places, the last of which may stick out."""
    return -(-line(value).places // SIDE)


class _Tile(NamedTuple):
    """Places that fill a register.

    Attributes
    ----------
    picture : Index
        Of those at hand.
    first : Index
        The first place.
    """

    picture: Index
    first: Index


def _tile(code: Code, value: Value, number: Index) -> _Tile:
    """The tile of this number, of all pictures at hand."""
    each = _tiles_each(value)
    picture = number if each == 1 else _named(code.let(f"udiv i64 {code.integer(number)}, {each}"))
    return _Tile(picture, _named(code.integer(number.minus(picture.times(each)).times(SIDE))))


def _named(number: str) -> Index:
    return Index(((number, 1),)) if number.startswith("%") else Index((), int(number))


def _multiply(code: Code, value: Value, work: str, found: Sequence[_Tile], right: Matrix, square: str) -> None:
    """Windows of up to two tiles, times the weights of a panel: to a square of sums."""
    own = line(value)
    assert isinstance(right.columns, int)
    across = range(0, right.columns, SIDE)
    places = [tile.picture.times(_pitch(value)).plus(tile.first.times(own.stride * own.channels)) for tile in found]
    words = _stretch(value) // 2
    sums = tiles.Sums(code, len(found), len(across))
    sums.begin()
    for number, begin in enumerate(_begins(value)):
        with code.loop(0, words, SIDE) as k:
            halves, row = k.times(2).plus(begin), k.plus(number * words).times(right.stride)
            lefts = [code.address(work, place.plus(halves), "i16") for place in places]
            rights = [code.address(right.pointer, row.plus(column), "i32") for column in across]
            sums.add(
                [Register(pointer, 2 * own.stride * own.channels, 2 * BLOCK) for pointer in lefts],
                [Register(pointer, 4 * right.stride, 4 * SIDE * right.stride) for pointer in rights],
            )
    sums.store([code.address(square, Index((), column), "float") for column in across], 2 * SIDE)


def _keep(
    reader: Reader, rows: Rows, value: Value, tile: _Tile, source: tuple[str, int], columns: tuple[Index, int]
) -> None:
    """What comes of a tile's places that windows begin at.

    Parameters
    ----------
    source : (str, int)
        The square, and the row there that belongs to the tile's first place.
    columns : (Index, int)
        The first output, and how many there are.
    """
    code, own, (square, above), (column, count) = reader.code, line(value), source, columns
    target, end = reader.pointer(value, rows.first), tile.first.plus(SIDE)
    top, last = (
        code.let(f"udiv i64 {code.integer(place)}, {own.width}") for place in (tile.first, tile.first.plus(SIDE - 1))
    )
    bottom = code.least(code.let(f"add i64 {last}, 1"), own.down)
    with code.loop(top, bottom) as p:
        begin = p.times(own.width)
        low = code.most(code.integer(tile.first), code.integer(begin))
        high = code.least(code.integer(end), code.integer(begin.plus(own.across)))
        with code.loop(low, high) as t:
            here = t.minus(tile.first).plus(above).times(2 * SIDE)
            window = tile.picture.times(own.down * own.across).plus(p.times(own.across)).plus(t.minus(begin))
            there = window.times(value.shape[3]).plus(column)
            for start in range(0, count, SIDE):
                with code.masked(code.lanes_left(count - start, WORDS)):
                    lanes = Index((), start, 1)
                    numbers = code.load(square, here.plus(lanes), FLOAT, WORDS)
                    code.store(target, there.plus(lanes), FLOAT, WORDS, numbers)


# --- its gradient on the weights ---


def _filled(value: Value) -> int:
    """Channels, filled up to whole registers."""
    return _up(line(value).channels, SIDE)


def _blocks(value: Value) -> int:
    """Products of registers along a picture's line."""
    return -(-line(value).places // BLOCK)


def _shifts(value: Value) -> list[int]:
    """How far from a window's place each of its pixels is."""
    (kh, kw), (dh, dw), wide = value.settings["kernel"], value.settings["dilation"], line(value).width
    return [i * dh * wide + j * dw for i in range(kh) for j in range(kw)]


def _lines(value: Value) -> list[int]:
    """The pixels that lines of pairs begin with: pixel r + 2s·i and the one a stride s behind it are the i-th pair."""
    return sorted({shift % (2 * line(value).stride) for shift in _shifts(value)})


def _line_pairs(value: Value) -> int:
    """Pairs of each: as far as the last product's register, shifted, reaches."""
    return _blocks(value) * SIDE + max(_shifts(value)) // (2 * line(value).stride)


def enough_pictures(value: Value) -> int:
    """Pictures that are worth going through the sums in memory."""
    return max(1, ENOUGH // _blocks(value)) if value.kind == "convolution_gradient" else 1


def convolution_gradient(reader: Reader, rows: Rows, value: Value, partial: str, work: str, block: int) -> None:
    """Add the rows at hand to the partial sum of a gradient on weights, (kh, kw, O, whole registers of C)."""
    code, channels, outputs, blocks = reader.code, _filled(value), value.shape[2], _blocks(value)
    upstream, pairs = block * blocks * SIDE, block * _line_pairs(value)  # words of 16 outputs, and of 16 channels
    lines = code.address(work, Index((), outputs * upstream), "i32")
    with code.of_width(WORDS), code.loop(0, rows.length) as r:
        _turn(reader, rows.first.plus(r), value, work, r.times(blocks * SIDE * SIDE), upstream)
        _pair(reader, rows.first.plus(r), value, lines, r.times(_line_pairs(value) * SIDE), pairs)

    def add(o: Index, down: int, c: Index, seen: Sequence[tuple[Index, Index]]) -> None:
        """What comes of up to two registers of outputs, and of as many of what pixels of a window see: where that lies
        in the lines, and its sums in the gradient."""
        place = o.times(channels).plus(c)
        targets = [code.address(partial, place.plus(target), "float") for _, target in seen]
        sums = tiles.Sums(code, down, len(seen))
        sums.load(targets, channels)
        with code.loop(0, rows.length) as r, code.loop(0, blocks) as b:
            here = o.times(upstream).plus(r.times(blocks).plus(b).times(SIDE * SIDE))
            there = c.times(pairs).plus(r.times(_line_pairs(value)).plus(b.times(SIDE)).times(SIDE))
            sums.add(
                [_register(code, work, here.plus(n * SIDE * upstream)) for n in range(down)],
                [_register(code, lines, there.plus(source)) for source, _ in seen],
            )
        sums.store(targets, channels)

    with tiles.in_use(code):
        for (begin, end, down), (left, right, across) in itertools.product(_twos(outputs), _twos(channels)):
            seen = [found for n in range(across) for found in _seen(value, n * SIDE, pairs)]
            table = f"@seen{code.numbers}"
            numbers = ", ".join(f"i64 {number}" for found in seen for number in found)
            code.declare(table, f"{table} = private constant [{2 * len(seen)} x i64] [{numbers}]")
            with code.loop(begin, end, down * SIDE) as o, code.loop(left, right, across * SIDE) as c:
                for first, last, together in ((0, len(seen) // 2 * 2, 2), (len(seen) // 2 * 2, len(seen), 1)):
                    with code.loop(first, last, together) as number:
                        places = [code.integer(number.plus(i).times(2)) for i in range(together)]
                        add(o, down, c, [_looked_up(code, table, place) for place in places])


def _seen(value: Value, channel: int, pairs: int) -> list[tuple[int, int]]:
    """For each pixel of a window, of 16 channels from one on: where what it sees lies in the lines, in words, and its
    sums in the gradient. Neighbours see most of the same pixels."""
    own, lines, found = line(value), _lines(value), []
    for tap, shift in enumerate(_shifts(value)):
        which, far = lines.index(shift % (2 * own.stride)), shift // (2 * own.stride)
        source = which * _filled(value) * pairs + channel * pairs + far * SIDE
        found.append((source, tap * value.shape[2] * _filled(value) + channel))
    return sorted(found)


def _looked_up(code: Code, table: str, place: str) -> tuple[Index, Index]:
    """Two numbers of a table that follow each other."""
    pointer = code.at(table, "i64", place)
    first, second = (code.let(f"load i64, ptr {code.at(pointer, 'i64', str(i))}") for i in range(2))
    return _named(first), _named(second)


def _register(code: Code, pointer: str, place: Index) -> Register:
    """Words that follow each other, and that others follow."""
    return Register(code.address(pointer, place, "i32"), 4 * SIDE, 4 * SIDE * SIDE)


def _twos(length: int) -> Iterator[tuple[int, int, int]]:
    """A length in whole registers, in twos and then one by one: from where, to where, and how many at once."""
    whole = length // (2 * SIDE) * 2 * SIDE
    if whole:
        yield 0, whole, 2
    if whole < length:
        yield whole, length, 1


def _turn(reader: Reader, row: Index, value: Value, work: str, first: Index, apart: int) -> None:
    """What is upstream of a picture, for each 16 outputs one register after another: words of two places each, zero
    where no window begins."""
    code, g, own = reader.code, value.inputs[1], line(value)
    source, outputs = reader.pointer(g, row), g.shape[3]
    zeros = f"@zeros{outputs}"
    code.declare(zeros, f"{zeros} = private constant [{outputs} x float] zeroinitializer, align 64")
    with code.loop(0, _blocks(value)) as b:
        places = []
        for n in range(BLOCK):
            t = code.integer(b.times(BLOCK).plus(n))
            p = code.let(f"udiv i64 {t}, {own.width}")
            q = code.let(f"sub i64 {t}, {code.let(f'mul i64 {p}, {own.width}')}")
            inside = code.let(f"icmp slt i64 {q}, {own.across}")
            inside = code.let(f"and i1 {inside}, {code.let(f'icmp slt i64 {p}, {own.down}')}")
            place = _named(p).times(own.across).plus(_named(q)).times(outputs)
            found = code.address(source, place, "float")
            places.append(code.let(f"select i1 {inside}, ptr {found}, ptr {zeros}"))
        with code.loop(0, outputs, SIDE) as o:
            words = [
                bfloat16.beside(*(bfloat16.load(code, places[i + n], o, SIDE) for n in (0, 1)))
                for i in range(0, BLOCK, 2)
            ]
            place = first.plus(o.times(apart)).plus(b.times(SIDE * SIDE))
            for i, turned in enumerate(transposed(code, words, f"<{SIDE} x i32>", SIDE)):
                bfloat16.put(code, work, place.plus(i * SIDE), turned)


def _pair(reader: Reader, row: Index, value: Value, lines: str, first: Index, apart: int) -> None:
    """A picture's lines, for each 16 channels one pair after another: words of two pixels each, zero
    behind the last."""
    code, x, own = reader.code, value.inputs[0], line(value)
    source, step, begins = reader.pointer(x, row), 2 * own.stride, _lines(value)
    whole = max(0, (own.pixels - own.stride - begins[-1] - 1) // step + 1)
    inside = own.channels // SIDE * SIDE

    def put(c: Index, channels: int, pair: Index, left: int) -> None:
        """The words of a pair; so many pixels are left from where the line at pixel 0 has its first."""
        places = {n for begin in begins for n in (begin, begin + own.stride)}
        pixels = {
            n: bfloat16.load(
                code, source, pair.times(step).plus(n).times(own.channels).plus(c), channels if n < left else 0
            )
            for n in sorted(places)
        }
        for number, begin in enumerate(begins):
            place = first.plus(c.times(apart)).plus(pair.times(SIDE)).plus(number * _filled(value) * apart)
            bfloat16.put(code, lines, place, bfloat16.beside(pixels[begin], pixels[begin + own.stride]))

    for begin, end in ((0, inside), (inside, own.channels)):
        with code.loop(begin, end, SIDE) as c:
            channels = min(SIDE, end - begin)
            with code.loop(0, min(whole, _line_pairs(value))) as pair:
                put(c, channels, pair, step + own.stride)
            for last in range(whole, _line_pairs(value)):
                put(c, channels, Index((), last), own.pixels - step * last)
