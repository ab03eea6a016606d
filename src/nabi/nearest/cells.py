"""Sums of pixels over cells of a picture, their averages and squares, in one look at each pixel.

In LLVM's assembly language, as the fast engine's kernels are, and compiled and kept like them.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nabi import machine
from nabi.engines.cpu.code import Code, Index
from nabi.nearest.bounds import sums_of_runs
from nabi.nearest.instructions import BESIDE, added_up
from nabi.nearest.pairs import cut, flat, squared_norms

GRID = 1024  # cells of a picture, at most
ROW = 4096  # likewise of a row, whose numbers need not be alike because they are neighbours
TOGETHER = 2**21  # bytes of pixels that are looked at together, so that what is made of them stays in the cache
WHOLE = 64
"""Averages are kept in rows of a multiple of so many: what the largest registers hold."""

ADDED = 128
"""Pixels of a row of a picture that are added up together, at most."""
SQUARED = 2**32 // 255**2
"""Pixels of a row of cells, at most, so that 32 bits hold the sum of their squares."""


def adds_cells(shape: Sequence[int], side: int) -> bool:
    """Whether `add_cells` knows pictures of a shape (H, W, C): those of whole cells, whose sums 16 bits hold."""
    if len(shape) != 3 or not 1 < side <= 16 or shape[0] % side or shape[1] % side:
        return False
    return _across(shape, side) > 0 and side * shape[1] * shape[2] <= SQUARED


def _across(shape: Sequence[int], side: int) -> int:
    """How many cells beside one another are added up together."""
    _, width, channels = shape
    fitting = [n for n in range(1, ADDED // (side * channels) + 1) if width // side % n == 0]
    return max(fitting, default=0)


@functools.cache
def cells_text(shape: tuple[int, ...], side: int, processor: machine.Processor) -> str:
    """The kernel for pictures of a shape: row by row of cells, some beside one another at a time."""
    height, width, channels = shape
    across = _across(shape, side)
    lanes, number = across * side * channels, across * channels
    pixels, sums, some = f"<{lanes} x i8>", f"<{lanes} x i16>", f"<{number} x i16>"
    code = Code(processor.vector)
    images, found, averages, facts = (code.pointer(slot) for slot in range(4))
    step, average_step = code.word(4), code.word(5)
    rows, groups = height // side, width // side // across
    strip = side * width * channels

    def cell(image: str, row: Index, group: Index) -> str:
        corner = row.times(strip).plus(group.times(lanes))
        lines = [code.integer(corner.plus(line * width * channels)) for line in range(side)]
        read = [code.let(f"load {pixels}, ptr {code.at(image, 'i8', line)}, align 1") for line in lines]
        down = functools.reduce(add(sums), [code.let(f"zext {pixels} {each} to {sums}") for each in read])
        parts = []
        for column in range(side):
            places = [(n // channels * side + column) * channels + n % channels for n in range(number)]
            chosen = ", ".join(f"i32 {place}" for place in places)
            parts.append(code.let(f"shufflevector {sums} {down}, {sums} poison, <{number} x i32> <{chosen}>"))
        return functools.reduce(add(some), parts)

    def add(kind: str) -> Callable[[str, str], str]:
        return lambda x, y: code.let(f"add {kind} {x}, {y}")

    def squares(pixels: str) -> str:
        """Their sum over a row of cells, whose pixels lie one behind another."""
        beside = code.vector // 4
        kind = f"<{beside} x i32>"
        totals = [code.variable(kind, "zeroinitializer") for _ in range(BESIDE)]
        whole = strip // (beside * BESIDE) * beside * BESIDE
        with code.loop(0, whole, beside * BESIDE) as place:
            code.fetch(code.at(pixels, "i8", step), place, np.dtype(np.uint8), 3)  # of the next picture
            for number, total in enumerate(totals):
                at = code.at(pixels, "i8", code.integer(place.plus(number * beside)))
                read = code.let(f"load <{beside} x i8>, ptr {at}, align 1")
                wide = code.let(f"zext <{beside} x i8> {read} to {kind}")
                code.add_to(total, kind, code.let(f"mul {kind} {wide}, {wide}"))
        answer = code.variable("i32", added_up(code, totals, "i32", "i32"))
        with code.loop(whole, strip) as place:
            one = code.let(f"load i8, ptr {code.at(pixels, 'i8', code.integer(place))}")
            wide = code.let(f"zext i8 {one} to i32")
            code.add_to(answer, "i32", code.let(f"mul i32 {wide}, {wide}"))
        return code.let(f"zext i32 {code.let(f'load i32, ptr {answer}')} to i64")

    def of_sums(sums: str, averages: str) -> list[str]:
        """Of the sums c·m + d, m an average and d what rounding took: c²·Σm² + 2c·Σmd + Σd², which is the sum of their
        squares; Σd²; Σ|d|."""
        cells, count = rows * groups * number, side * side
        totals = [code.variable("i64", "0") for _ in range(4)]
        end = 0
        for beside in (code.vector // 4, 1):
            begin, end = end, end + (cells - end) // beside * beside
            kind = f"<{beside} x i32>"
            adds = f"@llvm.vector.reduce.add.v{beside}i32"
            code.declare(adds, f"declare i32 {adds}({kind})")
            parts = [code.variable(kind, "zeroinitializer") for _ in totals]
            with code.loop(begin, end, beside) as place:
                offset = code.integer(place)
                average = code.let(f"load <{beside} x i8>, ptr {code.at(averages, 'i8', offset)}, align 1")
                m = code.let(f"zext <{beside} x i8> {average} to {kind}")
                centred = code.let(f"load <{beside} x i16>, ptr {code.at(sums, 'i16', offset)}, align 2")
                less = code.let(f"mul {kind} {m}, splat (i32 {-count})")
                more = code.let(f"add {kind} {less}, splat (i32 {128 * count})")
                d = code.let(f"add {kind} {code.let(f'sext <{beside} x i16> {centred} to {kind}')}, {more}")
                for part, (x, y) in zip(parts, ((m, m), (m, d), (d, d)), strict=False):
                    code.add_to(part, kind, code.let(f"mul {kind} {x}, {y}"))
                absolute = code.declare(f"@llvm.abs.v{beside}i32", f"declare {kind} @llvm.abs.v{beside}i32({kind}, i1)")
                code.add_to(parts[-1], kind, code.let(f"call {kind} {absolute}({kind} {d}, i1 true)"))
            for total, part in zip(totals, parts, strict=True):
                short = code.let(f"call i32 {adds}({kind} {code.let(f'load {kind}, ptr {part}')})")
                code.add_to(total, "i64", code.let(f"sext i32 {short} to i64"))
        squares, mixed, left, moved = (code.let(f"load i64, ptr {total}") for total in totals)
        squares, mixed = code.let(f"mul i64 {squares}, {count**2}"), code.let(f"mul i64 {mixed}, {2 * count}")
        return [functools.reduce(lambda x, y: code.let(f"add i64 {x}, {y}"), (squares, mixed, left)), left, moved]

    with code.loop("%start", "%stop") as index:
        place = code.integer(index)
        image = code.at(images, "i8", code.let(f"mul i64 {place}, {step}"))
        target = code.at(found, "i16", code.integer(index.times(rows * groups * number)))
        average = code.at(averages, "i8", code.let(f"mul i64 {place}, {average_step}"))
        norm = code.variable("i64", "0")
        with code.loop(0, rows) as row:
            with code.loop(0, groups) as group:
                offset = code.integer(row.times(groups * number).plus(group.times(number)))
                total = cell(image, row, group)
                centred = code.let(f"sub {some} {total}, splat (i16 {128 * side * side})")
                code.emit(f"store {some} {centred}, ptr {code.at(target, 'i16', offset)}, align 2")
                with_half = code.let(f"add {some} {total}, splat (i16 {side * side // 2})")
                divided = code.let(f"udiv {some} {with_half}, splat (i16 {side * side})")
                narrow = code.let(f"trunc {some} {divided} to <{number} x i8>")
                code.emit(f"store <{number} x i8> {narrow}, ptr {code.at(average, 'i8', offset)}, align 1")
            code.add_to(norm, "i64", squares(code.at(image, "i8", code.integer(row.times(strip)))))
        whole_norm = code.let(f"load i64, ptr {norm}")
        for fact, each in enumerate((whole_norm, *of_sums(target, average))):
            at = code.at(code.at(facts, "[4 x double]", place), "double", str(fact))
            code.emit(f"store double {code.let(f'uitofp i64 {each} to double')}, ptr {at}")
    return code.text()


def add_cells(
    images: NDArray[np.uint8],
    side: int,
    sums: NDArray[np.int16],
    averages: NDArray[np.uint8],
    facts: NDArray[np.float64],
) -> None:
    """Add pixels up over cells of ``side`` by ``side``, and squares.

    Parameters
    ----------
    images : ndarray of uint8, (N, H, W, C)
    side : int
    sums : ndarray of int16, (N, H/side · W/side · C)
        Where the sums of pixels less 128 are written.
    averages : ndarray of uint8, (N, as many or more)
        Where the averages of pixels are written, rounded.
    facts : ndarray of float64, (N, 4)
        Where the sums of squares are written: of pixels, of sums, and of what rounding added to or took from these; and
        the sum of the absolute values of the last.
    """
    if len(images) and not images[0].flags.c_contiguous:
        images = images.copy()
    text = cells_text(images.shape[1:], side, machine.processor())
    machine.run(text, [images, sums, averages, facts], [images.strides[0], averages.strides[0]], len(images))


class Averages(NamedTuple):
    """Small pictures of N pictures.

    Attributes
    ----------
    pixels : ndarray of uint8, (N, cells or some more)
        Averages, rounded; and zeros.
    rest : ndarray of float64, (N,)
        The norm of what averages leave out, over the root of the pixels of a cell.
    off : ndarray of float64, (N,)
        How far rounding moved the averages together: the norm of what it added or took.
    moved : ndarray of int64, (N,)
        The sum of the absolute values of the same, times the pixels of a cell.
    """

    pixels: NDArray[np.uint8]
    rest: NDArray[np.float64]
    off: NDArray[np.float64]
    moved: NDArray[np.int64]


def size_of_averages(cells: int) -> int:
    """Bytes that those of a picture take."""
    return -(-cells // WHOLE) * WHOLE + 24


def room_for(count: int, cells: int) -> Averages:
    """Averages of so many pictures, to be filled in."""
    pixels = machine.empty((count, -(-cells // WHOLE) * WHOLE), np.uint8)
    pixels[:, cells:] = 0
    return Averages(pixels, np.empty(count), np.empty(count), np.empty(count, np.int64))


def has_pixels(shape: tuple[int, ...]) -> bool:
    """Whether cells are squares of a picture (H, W, C), whose channels are few; else they are runs of numbers."""
    return len(shape) == 3 and 0 < shape[2] <= GRID


def cells_of(shape: tuple[int, ...]) -> tuple[int, int]:
    """The side of the cells that pixels of such pictures are added up over, and how many pixels these are."""
    side = 1
    while number_of_cells(shape, side) > (GRID if has_pixels(shape) else ROW):
        side *= 2
    return side, pixels_of(shape, side)


def number_of_cells(shape: tuple[int, ...], side: int) -> int:
    """How many there are of a side."""
    if has_pixels(shape):
        return math.ceil(shape[0] / side) * math.ceil(shape[1] / side) * shape[2]
    return math.ceil(math.prod(shape) / side)


def pixels_of(shape: tuple[int, ...], side: int) -> int:
    """How many pixels a cell of a side has, where none is missing."""
    return side * side if has_pixels(shape) else side


def of_cells(
    images: NDArray[np.uint8], side: int, small: Averages | None = None
) -> Iterator[tuple[slice, NDArray[Any], NDArray[np.float64]]]:
    """Part by part: which images; sums over cells of pixels centred by 128, of int16 if that holds them; squared norms.

    The sums are there until the next are asked for. Averages over several pixels are written where they are wanted.
    """
    shape = images.shape[1:]
    number, count = number_of_cells(shape, side), pixels_of(shape, side)
    if small is None and side > 1:
        small = room_for(len(images), number)
    parts = cut(len(images), TOGETHER // max(1, math.prod(shape)))
    dtype = np.int16 if 128 * count <= 2**15 else np.float64
    kept = np.empty((max((part.stop - part.start for part in parts), default=0), number), dtype)
    quick = has_pixels(shape) and adds_cells(shape, side)
    counts = None if quick or small is None else added(np.ones((1, *shape), np.uint8), side)
    for part in parts:
        sums = kept[: part.stop - part.start]
        if small is None:
            np.subtract(flat(images[part]), 128, out=sums, dtype=np.int16)
            yield part, sums, squared_norms(images[part])
            continue
        facts = np.empty((len(sums), 4))
        if counts is None:
            add_cells(images[part], side, sums, small.pixels[part], facts)
        else:
            total = added(images[part], side).astype(np.float64)
            sums[...] = total - 128.0 * counts
            rounded = np.floor((total + count // 2) / count)
            small.pixels[part, :number] = rounded
            left = total - count * rounded
            facts[:, 0], facts[:, 1] = squared_norms(images[part]), np.vecdot(total, total)
            facts[:, 2], facts[:, 3] = np.vecdot(left, left), np.abs(left).sum(axis=1)
        squared, of_sums, of_rounding, small.moved[part] = np.ascontiguousarray(facts.T)
        small.rest[part] = np.sqrt(np.maximum(count * squared - of_sums, 0)) / count
        small.off[part] = np.sqrt(of_rounding) / count
        yield part, sums, squared


def added(images: NDArray[np.uint8], side: int) -> NDArray[Any]:
    """Sums over cells (N, cells), in as few bits as hold them."""
    most = 255 * side**2
    dtype = np.uint16 if most < 2**16 else np.float32 if most < 2**24 else np.float64
    if not has_pixels(images.shape[1:]):
        return sums_of_runs(flat(images), 1, side, dtype)
    rows = sums_of_runs(images, 1, side, dtype)
    # Channel by channel, since loops over a few channels are short ones.
    channels = [sums_of_runs(rows[..., channel], 2, side, dtype) for channel in range(images.shape[3])]
    return np.concatenate([flat(sums) for sums in channels], axis=1)
