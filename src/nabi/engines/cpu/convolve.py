"""Convolutions: windows laid out as rows in the cache, or Winograd's transformation, and then a product of matrices.

F(4×4, 3×3) computes 4×4 outputs of a 3×3 window with 36 multiplications for 144: y = Aᵀ[(G w Gᵀ) ⊙ (Bᵀ x B)]A, tile by
tile. Its gradient on the weights is the transpose of the same formula: Gᵀ[Σ (Bᵀ x B) ⊙ (A g Aᵀ)]G. Source: Lavin and
Gray, "Fast algorithms for convolutional neural networks" (2016), equations 12 and 19 to 21.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from nabi.engines.cpu import bfloat16, shifted
from nabi.engines.cpu.bfloat16 import Left, Right
from nabi.engines.cpu.code import ZERO, Code, Index
from nabi.engines.cpu.contract import Blas, Matrix, product
from nabi.engines.cpu.kernels import Rows, lanes_for, vectors
from nabi.engines.cpu.lanes import Lane, constant, fused, lanes_xp
from nabi.engines.cpu.panels import Panels, falls_together, panels_product, spread_size
from nabi.engines.cpu.reading import Reader
from nabi.engines.cpu.values import COLUMNS, WORDS, Value, apart, panel, stretches

FLOAT = np.dtype(np.float32)
TILE, REACH, POINTS = 4, 6, 36
FEW_TILES = 16
"""Tiles of all pictures that are multiplied with the weights at one point."""
MANY_WEIGHTS = 1 << 13
"""Pairs of channels, at least, that are shared out among threads where tiles are few."""
ENOUGH_ROWS = 48
"""Windows of a picture that make a product by themselves."""
ENOUGH_TO_ADD = 256
"""Windows of a picture whose sum is worth going through a gradient in memory, in bfloat16."""

# --- windows laid out as rows ---


def _is_plain(kernel: Sequence[int], value: Value) -> bool:
    """Whether a window is one pixel, so that pictures are rows already."""
    return tuple(kernel) == (1, 1) and value.settings["stride"] == (1, 1)


def _is_spread(value: Value) -> bool:
    """Whether pictures are rows already, but rows that a product is faster of where they do not fall together."""
    kernel, _, channels = _geometry(value)
    by_panels = value.kind == "convolution" and value.inputs[1].kind == "panels"
    return by_panels and _is_plain(kernel, value) and falls_together(channels)


def patches_size(value: Value, rows: int) -> int:
    """Bytes of the windows of the pictures that are laid out together, of ``rows`` at hand."""
    kernel, steps, channels = _geometry(value)
    if value.settings["shifted"]:
        return shifted.size(value, rows)
    rows = 1 if is_one_by_one(value) else rows
    if value.settings["rounded"]:
        return 4 * (rows * _words(value) + 2 * WORDS)
    if _is_spread(value):
        return spread_size(rows * math.prod(steps), channels, known=is_one_by_one(value))
    return 0 if _is_plain(kernel, value) else 4 * rows * math.prod(kernel) * channels * math.prod(steps)


def _geometry(value: Value) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """The window, how often it fits along height and width, and the channels that it sees."""
    x, other = value.inputs
    steps = value.shape[1:3] if value.kind == "convolution" else other.shape[1:3]
    return value.settings["kernel"], steps, x.shape[3]


def _corner(value: Value, p: Index, q: Index) -> Index:
    """Where the window of an output begins in its picture."""
    (down, across), (sh, sw) = value.inputs[0].strides[1:3], value.settings["stride"]
    return p.times(sh * down).plus(q.times(sw * across))


def _stretches(value: Value) -> list[tuple[int, int, int]]:
    """What lies together of a window: how far from its corner in the picture, how far in the window, and how long."""
    kernel, _, channels = _geometry(value)
    found = stretches(kernel, value.settings["dilation"], value.inputs[0].strides[1], channels)
    return [(there, number * length, length) for number, (there, length) in enumerate(found)]


def _patches(reader: Reader, row: Index, value: Value, work: str) -> Matrix:
    """One picture's windows, each a row: (oh·ow, kh·kw·C)."""
    code, x = reader.code, value.inputs[0]
    (kh, kw), (oh, ow), channels = _geometry(value)
    source = reader.pointer(x, row)
    depth = kh * kw * channels
    if _is_plain((kh, kw), value):
        return Matrix(source, oh * ow, depth, depth)
    with code.loop(0, oh) as p, code.loop(0, ow) as q:
        corner, target = _corner(value, p, q), p.times(ow * depth).plus(q.times(depth))
        for there, here, length in _stretches(value):
            for lane in vectors(code, length, lanes_for(code, length)):
                found = code.load(source, corner.plus(there).plus(lane), FLOAT, code.width)
                code.store(work, target.plus(here).plus(lane), FLOAT, code.width, found)
    return Matrix(work, oh * ow, depth, depth)


def _together(code: Code, count: int | str, each: int) -> int | str:
    """Rows of so many pictures."""
    return count * each if isinstance(count, int) else code.let(f"mul nsw i64 {count}, {each}")


def _laid_out(reader: Reader, rows: Rows, value: Value, work: str) -> Iterator[tuple[Index, Matrix]]:
    """Windows as rows of one matrix: of one picture after another, or of all rows at hand, where each has but few."""
    code = reader.code
    if is_one_by_one(value):
        with code.loop(0, rows.length) as r:
            row = rows.first.plus(r)
            yield row, _patches(reader, row, value, work)
        return
    kernel, steps, channels = _geometry(value)
    each, depth = math.prod(steps), math.prod(kernel) * channels
    count = _together(code, rows.length, each)
    if _is_plain(kernel, value):
        yield rows.first, Matrix(reader.pointer(value.inputs[0], rows.first), count, depth, depth)
        return
    with code.loop(0, rows.length) as r:
        _patches(reader, rows.first.plus(r), value, code.address(work, r.times(each * depth), "float"))
    yield rows.first, Matrix(work, count, depth, depth)


def is_one_by_one(value: Value) -> bool:
    """Whether each picture has windows enough for a product of its own."""
    if value.settings["shifted"]:
        return False
    windows = math.prod(_geometry(value)[1])
    return windows >= ENOUGH_ROWS and enough_pictures(value) == 1


def enough_pictures(value: Value) -> int:
    """Pictures that are worth a product by themselves, as far as it is added to what is in memory."""
    if value.settings["shifted"]:
        return shifted.enough_pictures(value)
    added = value.kind == "convolution_gradient" and value.settings["rounded"]
    return -(-ENOUGH_TO_ADD // math.prod(_geometry(value)[1])) if added else 1


def is_by_columns(value: Value) -> bool:
    """Whether threads share out the panels of weights that single pixels of the only picture are multiplied with."""
    (x, weight), (kernel, _, _) = value.inputs, _geometry(value)
    if weight.kind != "panels" or x.shape[0] > 1 or not _is_plain(kernel, value):
        return False
    return weight.shape[0] > 1 and value.shape[3] % weight.shape[4] == 0


def convolution_columns(reader: Reader, panels: Rows, value: Value, target: Value, work: str) -> None:
    """Some panels of the outputs' channels of a single picture: "rows" are panels here."""
    convolution(reader, Rows(ZERO, 1), value, target, None, work, panels)


def convolution(
    reader: Reader, rows: Rows, value: Value, target: Value, blas: Blas | None, work: str, some: Rows | None = None
) -> None:
    """Rows of a convolution of a padded picture; see `Reader.finish` for ``target``."""
    if value.settings["shifted"]:
        shifted.convolution(reader, rows, value, work)
        return
    if value.settings["rounded"]:
        _rounded_convolution(reader, rows, value, work)
        return
    code, weight = reader.code, value.inputs[1]
    outputs = value.shape[3]
    if weight.kind == "panels":
        panels = Panels(reader.pointer(weight), weight.shape[4], weight.strides[0])
        for row, left in _laid_out(reader, rows, value, work):

            def finish(place: Index, column: Index, lane: Lane, row: Index = row) -> None:
                reader.finish(value, target, _along_rows(value, row, place, column), lane)

            panels_product(code, left, panels, outputs, finish, work if _is_spread(value) else None, some)
        return
    right = Matrix(reader.pointer(weight), _depth(value), outputs, outputs)
    for row, left in _laid_out(reader, rows, value, work):
        product(code, left, right, Matrix(reader.pointer(value, row), left.rows, outputs, outputs), FLOAT, blas)


def _along_rows(value: Value, picture: Index, place: Index, column: Index) -> tuple[Index, ...]:
    """Where a row of windows, counted from a picture's first, stands: along the last axis that has more than one place.

    Behind its end the next line of the picture begins, as it does in memory.
    """
    _, oh, ow, _ = value.shape
    if ow > 1:
        return picture, ZERO, place, column
    return (picture, place, ZERO, column) if oh > 1 else (picture.plus(place), ZERO, ZERO, column)


def convolution_gradient(
    reader: Reader, rows: Rows, value: Value, partial: str, blas: Blas | None, work: str, block: int
) -> None:
    """Add the rows at hand to the partial sum of a gradient on weights."""
    if value.settings["shifted"]:
        shifted.convolution_gradient(reader, rows, value, partial, work, block)
        return
    if value.settings["rounded"]:
        _rounded_gradient(reader, rows, value, partial, work)
        return
    code, g = reader.code, value.inputs[1]
    outputs = value.shape[3]
    for row, left in _laid_out(reader, rows, value, work):
        turned = Matrix(left.pointer, left.columns, left.rows, left.stride, turned=True)
        right = Matrix(reader.pointer(g, row), left.rows, outputs, outputs)
        product(code, turned, right, Matrix(partial, left.columns, outputs, outputs), FLOAT, blas, add=True)


# --- in bfloat16 ---


def _depth(value: Value) -> int:
    """Numbers in a window."""
    kernel, _, channels = _geometry(value)
    return math.prod(kernel) * channels


def _row_words(value: Value) -> int:
    """Words of a window, from one to the next."""
    return apart(-(-_depth(value) // 2))


def _words(value: Value) -> int:
    """Words of one picture that are laid out anew."""
    _, (oh, ow), _ = _geometry(value)
    if value.kind == "convolution":
        return oh * ow * _row_words(value)
    return oh * -(-ow // 2) * (apart(_depth(value)) + apart(value.shape[3]))


def _products(reader: Reader, rows: Rows, value: Value) -> Iterator[tuple[Index, int | str]]:
    """The pictures of a product, the first and how many: one after another, or all at hand; see `_laid_out`."""
    if is_one_by_one(value):
        with reader.code.loop(0, rows.length) as r:
            yield rows.first.plus(r), 1
    else:
        yield rows.first, rows.length


def _chunks(code: Code, length: int, step: int) -> Iterator[tuple[Index, int]]:
    """Places along a stretch, in steps, and how much of it is left there; a whole step where that is not known."""
    whole = length // step * step
    with code.loop(0, whole, step) as k:
        yield k, step
    if whole < length:
        yield Index((), whole), length - whole


def _rounded_convolution(reader: Reader, rows: Rows, value: Value, work: str) -> None:
    """Windows are rounded while they are laid out, each a row of words.

    Vectors that reach beyond the end of a stretch write zeros there, which what comes next is written over.
    """
    code, (x, panels) = reader.code, value.inputs
    _, (oh, ow), _ = _geometry(value)
    outputs, words = value.shape[3], _row_words(value)
    right = Right(reader.pointer(panels), panels.strides[0], panels.strides[1])
    for first, count in _products(reader, rows, value):
        source = reader.pointer(x, first)
        with code.loop(0, count) as r, code.loop(0, oh) as p, code.loop(0, ow) as q:
            corner = _corner(value, p, q).plus(r.times(x.strides[0]))
            target = r.times(oh * ow).plus(p.times(ow)).plus(q).times(2 * words)
            for there, here, length in _stretches(value):
                for k, left in _chunks(code, length, 2 * WORDS):
                    low, high = (
                        bfloat16.load(code, source, corner.plus(there).plus(k).plus(n), left - n) for n in (0, WORDS)
                    )
                    bfloat16.put(code, work, target.plus(here).plus(k), bfloat16.along(low, high), "i16")
        windows = _together(code, count, oh * ow)
        result = Matrix(reader.pointer(value, first), windows, outputs, outputs)
        bfloat16.product(code, Left(work, words, 1), right, windows, panels.shape[1], result)


def _rounded_gradient(reader: Reader, rows: Rows, value: Value, partial: str, work: str) -> None:
    """Neighbouring windows are laid out in pairs, number beside number, and so is what is upstream of them."""
    code, (x, g) = reader.code, value.inputs
    _, (oh, ow), _ = _geometry(value)
    depth, outputs = _depth(value), value.shape[3]
    across = -(-ow // 2)
    wide, broad = apart(depth), apart(outputs)
    for first, count in _products(reader, rows, value):
        pairs = _together(code, count, oh * across)
        after = Index(((pairs, wide),)) if isinstance(pairs, str) else Index((), pairs * wide)
        second = code.address(work, after.plus(WORDS), "i32")  # behind what a vector may reach beyond
        source, upstream = reader.pointer(x, first), reader.pointer(g, first)
        with code.loop(0, count) as r, code.loop(0, oh) as p:
            for q, alone in _in_pairs(code, ow):
                number = r.times(oh).plus(p).times(across).plus(q)
                corners = [_corner(value, p, q.times(2).plus(n)).plus(r.times(x.strides[0])) for n in (0, 1)]
                for there, here, length in _stretches(value):
                    places = [corner.plus(there) for corner in corners]
                    _beside(code, source, places, length, alone, work, number.times(wide).plus(here))
                place = r.times(oh).plus(p).times(ow).plus(q.times(2)).times(outputs)
                places = [place, place.plus(outputs)]
                _beside(code, upstream, places, outputs, alone, second, number.times(broad))
        result = Matrix(partial, depth, outputs, outputs)
        left, right = Left(work, 1, wide), Right(second, COLUMNS, broad)
        bfloat16.product(code, left, right, depth, pairs, result, add=True)


def _in_pairs(code: Code, length: int) -> Iterator[tuple[Index, bool]]:
    """Pairs along an axis; the last is alone where they are odd."""
    with code.loop(0, length // 2) as q:
        yield q, False
    if length % 2:
        yield Index((), length // 2), True


def _beside(
    code: Code, source: str, places: Sequence[Index], length: int, alone: bool, target: str, place: Index
) -> None:
    """Lay out numbers of two places as words, or of the first alone, beside zeros."""
    for k, left in _chunks(code, length, WORDS):
        low = bfloat16.load(code, source, places[0].plus(k), left)
        high = bfloat16.load(code, source, places[1].plus(k), 0 if alone else left)
        bfloat16.put(code, target, place.plus(k), bfloat16.beside(low, high))


# --- Winograd ---

Lanes = list[Lane]


def _times(factor: float, x: Lane, plus: Lane | None = None) -> Lane:
    """factor·x + plus."""
    if plus is None:
        return lanes_xp.multiply(x, factor)
    return fused(constant(x.code, factor, FLOAT).spread(x.width), x, plus)


def _input(x: Lanes) -> Lanes:
    """Bᵀx: six numbers of a tile's row."""
    even, odd = _times(-4, x[2], x[4]), _times(-4, x[1], x[3])
    far, near = x[4] - x[2], x[3] - x[1]
    return [
        _times(4, x[0], _times(-5, x[2], x[4])),
        even + odd,
        even - odd,
        _times(2, near, far),
        _times(-2, near, far),
        _times(4, x[1], _times(-5, x[3], x[5])),
    ]


def _output(m: Lanes) -> Lanes:
    """Aᵀm: from six points to four outputs."""
    a, b, c, d = m[1] + m[2], m[1] - m[2], m[3] + m[4], m[3] - m[4]
    return [m[0] + a + c, _times(2, d, b), _times(4, c, a), _times(8, d, b) + m[5]]


def _points(y: Lanes) -> Lanes:
    """Ay: the transpose of `_output`."""
    a, b = y[0] + y[2], y[1] + y[3]
    c, d = _times(4, y[2], y[0]), _times(8, y[3], y[1] * 2.0)
    return [y[0], a + b, a - b, c + d, c - d, y[3]]


def _weight(w: Lanes) -> Lanes:
    """Gw: from three weights to six points."""
    a = (w[0] + w[2]) * (-1 / 6)
    b = _times(1 / 24, w[0], w[2] * (1 / 6))
    return [
        w[0] * 0.25,
        _times(-1 / 6, w[1], a),
        _times(1 / 6, w[1], a),
        _times(1 / 12, w[1], b),
        _times(-1 / 12, w[1], b),
        w[2],
    ]


def _weights_back(z: Lanes) -> Lanes:
    """Gᵀz: the transpose of `_weight`."""
    a, b, c, d = z[1] + z[2], z[2] - z[1], z[3] + z[4], z[3] - z[4]
    return [
        _times(0.25, z[0], _times(-1 / 6, a, c * (1 / 24))),
        _times(1 / 6, b, d * (1 / 12)),
        _times(-1 / 6, a, _times(1 / 6, c, z[5])),
    ]


def _both_ways(way: object, square: list[Lanes]) -> list[Lanes]:
    """A transformation along rows and along columns."""
    down = [list(column) for column in zip(*[way(column) for column in zip(*square, strict=True)], strict=True)]  # type: ignore[operator]
    return [way(row) for row in down]  # type: ignore[operator]


def winograd_weight(reader: Reader, value: Value) -> None:
    """The weights at 36 points, (36, panels of C_out, C_in, C_out of a panel); ``turned``: of the window turned around.

    Turned around, C_in and C_out change places.
    """
    code, (weight,) = reader.code, value.inputs
    turned, (_, panels, inputs, wide) = value.settings["turned"], value.shape
    with code.loop(0, panels) as which, code.loop(0, inputs) as i:
        for lane in vectors(code, wide, lanes_for(code, wide)):
            square = []
            output = which.times(wide).plus(lane)
            for row in range(3):
                places = [(2 - row, 2 - column) if turned else (row, column) for column in range(3)]
                channels = (output, i) if turned else (i, output)
                square.append([reader.read(weight, (Index((), a), Index((), b), *channels)) for a, b in places])
            for point, found in enumerate(found for line in _both_ways(_weight, square) for found in line):
                reader.write(value, (Index((), point), which, i, lane), found)


def tiles_of(steps: Sequence[int]) -> tuple[int, int]:
    return -(-steps[0] // TILE), -(-steps[1] // TILE)


def tiles_each(value: Value) -> int:
    """Tiles of one picture, for a convolution or for its gradient on weights."""
    return math.prod(tiles_of(value.shape[1:3] if value.kind == "winograd" else value.settings["steps"]))


def sums_size(value: Value) -> int:
    """Bytes of the sums at 36 points that a gradient on weights is made of."""
    return 4 * POINTS * math.prod(value.shape[2:])


def _tiles(reader: Reader, rows: Rows, steps: Sequence[int]) -> Iterator[tuple[Index, Index, Index, Index]]:
    """Tile by tile: the picture, the tile's row and column, and its number in the block."""
    code = reader.code
    down, across = tiles_of(steps)
    with code.loop(0, rows.length) as r, code.loop(0, down) as i, code.loop(0, across) as j:
        yield rows.first.plus(r), i, j, r.times(down * across).plus(i.times(across)).plus(j)


def _to_points(
    reader: Reader, rows: Rows, x: Value, steps: Sequence[int], block: int, work: str, way: object, side: int,
    first: Index = ZERO, channels: int = 0, corner: tuple[int, int] = (0, 0),
) -> None:  # fmt: skip
    """Tiles of a picture at 36 points, (36, tiles, channels): of some channels, from the first on, or of all.

    ``corner``: where in the picture the first tile begins.
    """
    code, channels = reader.code, channels or x.shape[3]
    tiles = block * math.prod(tiles_of(steps))
    for picture, i, j, number in _tiles(reader, rows, steps):
        for lane in vectors(code, channels, lanes_for(code, channels)):
            square = [
                [
                    reader.read(x, (picture, i.times(TILE).plus(a), j.times(TILE).plus(b), first.plus(lane)))
                    for b in range(corner[1], corner[1] + side)
                ]
                for a in range(corner[0], corner[0] + side)
            ]
            for point, found in enumerate(found for line in _both_ways(way, square) for found in line):
                place = number.times(channels).plus(lane).plus(point * plane(tiles, channels))
                code.store(work, place, FLOAT, code.width, found.spread(code.width).name)


def plane(tiles: int, channels: int) -> int:
    """Elements from one point to the next: a cache line more than is needed, or all points would share a few sets."""
    return tiles * channels + 16


def _count(code: Code, rows: Rows, steps: Sequence[int]) -> int | str:
    return _together(code, rows.length, math.prod(tiles_of(steps)))


def has_few_tiles(value: Value) -> bool:
    """Whether there are so few tiles that most of the time goes into fetching the weights, of which there are many."""
    inputs, outputs = value.inputs[0].shape[3], value.shape[3]
    tiles = value.shape[0] * tiles_each(value)
    return tiles <= FEW_TILES and inputs * outputs >= MANY_WEIGHTS and outputs > panel(outputs)


def winograd_columns(reader: Reader, panels: Rows, value: Value, blas: Blas | None, work: str) -> None:
    """Some panels of the outputs' channels of a 3×3 convolution, of all pictures: "rows" are panels here."""
    pictures = value.shape[0]
    winograd(reader, Rows(ZERO, pictures), value, blas, work, pictures, panels)


def winograd(
    reader: Reader, rows: Rows, value: Value, blas: Blas | None, work: str, block: int, panels: Rows | None = None
) -> None:
    """Rows of a 3×3 convolution by way of 36 products."""
    code, (x, u) = reader.code, value.inputs
    steps, outputs, inputs = value.shape[1:3], value.shape[3], x.shape[3]
    tiles, some = block * math.prod(tiles_of(steps)), panel(outputs)
    _to_points(reader, rows, x, steps, block, work, _input, REACH)
    second = code.address(work, Index((), POINTS * plane(tiles, inputs)), "float")
    count = _count(code, rows, steps)
    weights = reader.pointer(u)
    panels = panels or Rows(ZERO, outputs // some)
    with code.loop(0, panels.length) as which:
        first = panels.first.plus(which).times(some)
        with code.loop(0, POINTS) as point:
            left = Matrix(code.address(work, point.times(plane(tiles, inputs)), "float"), count, inputs, inputs)
            place = point.times(u.strides[0]).plus(first.times(inputs))
            right = Matrix(code.address(weights, place, "float"), inputs, some, some)
            result = Matrix(code.address(second, point.times(plane(tiles, some)), "float"), count, some, some)
            product(code, left, right, result, FLOAT, blas)
        for (picture, i, j, number), (down, across) in _edges(reader, rows, steps):
            for lane in vectors(code, some, lanes_for(code, some)):
                square = []
                for a in range(REACH):
                    line = []
                    for b in range(REACH):
                        place = number.times(some).plus(lane).plus((a * REACH + b) * plane(tiles, some))
                        line.append(Lane(code, code.load(second, place, FLOAT, code.width), FLOAT, code.width))
                    square.append(line)
                found = _both_ways(_output, square)
                for a in range(down):
                    for b in range(across):
                        target = (picture, i.times(TILE).plus(a), j.times(TILE).plus(b), first.plus(lane))
                        reader.write(value, target, found[a][b])


def _edges(
    reader: Reader, rows: Rows, steps: Sequence[int]
) -> Iterator[tuple[tuple[Index, Index, Index, Index], tuple[int, int]]]:
    """Tiles, each with how much of it lies inside: the last row and column may stick out."""
    code = reader.code
    down, across = tiles_of(steps)

    def parts(length: int, tiles: int) -> list[tuple[int, int, int]]:
        whole = length // TILE
        return [(0, whole, TILE)] * (whole > 0) + [(whole, tiles, length - whole * TILE)] * (tiles > whole)

    with code.loop(0, rows.length) as r:
        for top, bottom, height in parts(steps[0], down):
            with code.loop(top, bottom) as i:
                for left, right, width in parts(steps[1], across):
                    with code.loop(left, right) as j:
                        number = r.times(down * across).plus(i.times(across)).plus(j)
                        yield (rows.first.plus(r), i, j, number), (height, width)


def winograd_size(value: Value) -> int:
    """Bytes of one picture's tiles at 36 points, before and after the products."""
    return 4 * POINTS * tiles_each(value) * (value.inputs[0].shape[3] + panel(value.shape[3]) + 32)


def winograd_gradient(
    reader: Reader, rows: Rows, value: Value, sums: str, blas: Blas | None, work: str, block: int, add: str | bool
) -> None:
    """The sums of a 3×3 convolution's gradient on weights at 36 points, or the rows' share, to be added to others'."""
    code, (x, g) = reader.code, value.inputs
    steps, inputs, outputs = value.settings["steps"], value.shape[2], value.shape[3]
    tiles = block * math.prod(tiles_of(steps))
    _to_points(reader, rows, x, steps, block, work, _input, REACH)
    second = code.address(work, Index((), POINTS * plane(tiles, inputs)), "float")
    count, some = _count(code, rows, steps), panel(outputs)
    with code.loop(0, outputs, some) as first:
        _to_points(reader, rows, g, steps, block, second, _points, TILE, first, some, value.settings["corner"])
        with code.loop(0, POINTS) as point:
            place = point.times(plane(tiles, inputs))
            left = Matrix(code.address(work, place, "float"), inputs, count, inputs, turned=True)
            right = Matrix(code.address(second, point.times(plane(tiles, some)), "float"), count, some, some)
            place = point.times(inputs * outputs).plus(first.times(inputs))
            target = Matrix(code.address(sums, place, "float"), inputs, some, some)
            product(code, left, right, target, FLOAT, blas, add)


def winograd_gradient_back(reader: Reader, value: Value, sums: str, partial: str) -> None:
    """From sums at 36 points, (36, panels of C_out, C_in, C_out of a panel), to a strand's part of the gradient."""
    code, (inputs, outputs) = reader.code, value.shape[2:]
    each, wide = inputs * outputs, panel(outputs)
    with code.loop(0, outputs, wide) as first, code.loop(0, inputs) as i:
        for lane in vectors(code, wide, lanes_for(code, wide)):
            there = first.times(inputs).plus(i.times(wide)).plus(lane)
            points = [code.load(sums, there.plus(point * each), FLOAT, code.width) for point in range(POINTS)]
            lanes = [Lane(code, point, FLOAT, code.width) for point in points]
            square = [lanes[a : a + REACH] for a in range(0, POINTS, REACH)]
            found = _both_ways(_weights_back, square)
            here = i.times(outputs).plus(first).plus(lane)
            for a in range(3):
                for b in range(3):
                    code.store(partial, here.plus((a * 3 + b) * each), FLOAT, code.width, found[a][b].name)
