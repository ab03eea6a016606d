"""Sums of pixels over cells of a picture, their averages and squares, in one look at each pixel.

In LLVM's assembly language, as the fast engine's kernels are, and compiled and kept like them.
"""

import functools
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from nabi import machine
from nabi.engines.cpu.code import Code, Index

ADDED = 128
"""Pixels of a row of a picture that are added up together, at most."""
SQUARED = 2**32 // 255**2
"""Pixels of a row of cells, at most, so that 32 bits hold the sum of their squares."""
BESIDE = 4
"""Sums of squares that are kept beside one another, since each next one would wait for the one before."""


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
        adds = f"@llvm.vector.reduce.add.v{beside}i32"
        code.declare(adds, f"declare i32 {adds}({kind})")
        totals = [code.variable(kind, "zeroinitializer") for _ in range(BESIDE)]
        whole = strip // (beside * BESIDE) * beside * BESIDE
        with code.loop(0, whole, beside * BESIDE) as place:
            code.fetch(code.at(pixels, "i8", step), place, np.dtype(np.uint8), 3)  # of the next picture
            for number, total in enumerate(totals):
                at = code.at(pixels, "i8", code.integer(place.plus(number * beside)))
                read = code.let(f"load <{beside} x i8>, ptr {at}, align 1")
                wide = code.let(f"zext <{beside} x i8> {read} to {kind}")
                code.add_to(total, kind, code.let(f"mul {kind} {wide}, {wide}"))
        parts = [code.let(f"load {kind}, ptr {total}") for total in totals]
        answer = code.variable("i32", code.let(f"call i32 {adds}({kind} {functools.reduce(add(kind), parts)})"))
        with code.loop(whole, strip) as place:
            one = code.let(f"load i8, ptr {code.at(pixels, 'i8', code.integer(place))}")
            wide = code.let(f"zext i8 {one} to i32")
            code.add_to(answer, "i32", code.let(f"mul i32 {wide}, {wide}"))
        return code.let(f"zext i32 {code.let(f'load i32, ptr {answer}')} to i64")

    def of_sums(sums: str, averages: str) -> list[str]:
        """Of the sums c·m + d, m an average and d what rounding took: Σ(c·m + d)² = c²·Σm² + 2c·Σmd + Σd², and Σd²."""
        cells, count = rows * groups * number, side * side
        totals = [code.variable("i64", "0") for _ in range(3)]
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
                for part, (x, y) in zip(parts, ((m, m), (m, d), (d, d)), strict=True):
                    code.add_to(part, kind, code.let(f"mul {kind} {x}, {y}"))
            for total, part in zip(totals, parts, strict=True):
                short = code.let(f"call i32 {adds}({kind} {code.let(f'load {kind}, ptr {part}')})")
                code.add_to(total, "i64", code.let(f"sext i32 {short} to i64"))
        squares, mixed, left = (code.let(f"load i64, ptr {total}") for total in totals)
        squares, mixed = code.let(f"mul i64 {squares}, {count**2}"), code.let(f"mul i64 {mixed}, {2 * count}")
        return [functools.reduce(lambda x, y: code.let(f"add i64 {x}, {y}"), (squares, mixed, left)), left]

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
            at = code.at(code.at(facts, "[3 x double]", place), "double", str(fact))
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
    facts : ndarray of float64, (N, 3)
        Where the sums of squares are written: of pixels, of sums, and of what rounding added to or took from these.
    """
    if len(images) and not images[0].flags.c_contiguous:
        images = images.copy()
    text = cells_text(images.shape[1:], side, machine.processor())
    machine.run(text, [images, sums, averages, facts], [images.strides[0], averages.strides[0]], len(images))
