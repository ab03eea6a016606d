"""The mean and standard deviation of what a classifier is given, which its first layer standardises by."""

import functools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nabi import machine, threads
from nabi.engines.cpu.code import Code

MANY = 2**22
"""Pixels, from which on it pays to have a kernel for them."""
TOGETHER = 8
"""Rows whose pixels are added up before they are added to the sums in memory."""


def statistics(images: NDArray[Any], axes: tuple[int, ...] | None) -> tuple[NDArray[Any], NDArray[Any]]:
    """Mean and standard deviation over these axes, on the scale where white is 1; 1 for what never varies.

    Some rows at a time, so that a memory map stays on the disk. Of uint8 the sums are exact, which takes one look at
    each picture; other numbers are looked at twice, in float64, since a sum of their squares would round too much away.

    Parameters
    ----------
    images : array, (N, ...)
    axes : tuple of int, or None
        The first among them; None for all.
    """
    pixels = images.dtype == np.uint8
    some = max(1, min(1000, 2 ** (22 if pixels else 20) // max(1, math.prod(images.shape[1:]))))
    blocks = [slice(start, start + some) for start in range(0, len(images), some)]
    mean, deviation = (_of_pixels if pixels else _of_numbers)(images, axes, blocks)
    # What varies less than float32 can say does not vary.
    return mean, np.where(deviation > np.finfo(np.float32).tiny, deviation, 1.0)


def _of_pixels(images: Any, axes: tuple[int, ...] | None, blocks: list[slice]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Mean and deviation of uint8, over 255, by σ² = (n·Σx² − (Σx)²) / n² in whole numbers."""
    shape = images.shape[1:]
    features = math.prod(shape)
    others = tuple(range(1, images.ndim)) if axes is None else tuple(axis for axis in axes if axis)

    def sums(block: slice) -> NDArray[np.int64]:
        """Of pixels and of their squares: of 1000, 32 bits hold them."""
        pixels = np.ascontiguousarray(images[block])
        if images.size < MANY:
            found = np.stack([pixels.sum(0, np.uint32), np.square(pixels, dtype=np.uint32).sum(0, np.uint32)])
        else:
            found = np.zeros((2, *shape), np.uint32)
            machine.run(_sums_text(machine.processor()), [pixels, found], [features], len(pixels))
        total: NDArray[np.int64] = found.sum(others, dtype=np.int64)
        return total

    found = sum(threads.map_in_order(sums, blocks), np.int64(0))
    total, total_of_squares = np.asarray(found).astype(object)  # whose products pass 64 bits
    count = images.size // np.size(total)
    variance = (count * total_of_squares - total * total) / count**2
    mean, deviation = np.asarray(total / count, np.float64), np.sqrt(np.asarray(variance, np.float64))
    return mean / 255, deviation / 255


def _of_numbers(
    images: NDArray[Any], axes: tuple[int, ...] | None, blocks: list[slice]
) -> tuple[NDArray[Any], NDArray[Any]]:
    parts = [images[block].sum(axis=axes, dtype=np.float64) for block in blocks]
    count = images.size / max(1, np.size(parts[0]))
    mean = np.sum(parts, axis=0) / count
    parts = [np.square(images[block] - mean).sum(axis=axes) for block in blocks]
    return mean, np.sqrt(np.sum(parts, axis=0) / count)


@functools.cache
def _sums_text(processor: machine.Processor) -> str:
    """The kernel that adds rows of bytes, and their squares, to sums of 32 bits."""
    code = Code(processor.vector)
    pixels, sums = code.pointer(0), code.pointer(1)
    features = code.word(2)
    squares = code.at(sums, "i32", features)

    def added(first: str, rows: int, place: str, lanes: int) -> None:
        """Add the pixels of some rows from a place on."""
        wide = f"<{lanes} x i32>"
        totals = [(code.at(each, "i32", place), code.variable(wide, "zeroinitializer")) for each in (sums, squares)]
        for row in range(rows):
            begin = code.let(f"mul i64 {code.let(f'add i64 {first}, {row}')}, {features}")
            at = code.at(code.at(pixels, "i8", begin), "i8", place)
            read = code.let(f"load <{lanes} x i8>, ptr {at}, align 1")
            number = code.let(f"zext <{lanes} x i8> {read} to {wide}")
            for (_, total), each in zip(totals, (number, code.let(f"mul {wide} {number}, {number}")), strict=True):
                code.add_to(total, wide, each)
        for at, total in totals:
            before = code.let(f"load {wide}, ptr {at}, align 4")
            after = code.let(f"add {wide} {before}, {code.let(f'load {wide}, ptr {total}')}")
            code.emit(f"store {wide} {after}, ptr {at}, align 4")

    whole = code.let(f"and i64 {features}, -{processor.vector}")
    together = code.let(f"and i64 %stop, -{TOGETHER}")
    for begin, end, rows in (("%start", together, TOGETHER), (together, "%stop", 1)):
        with code.loop(begin, end, rows) as row:
            first = code.integer(row)
            for left, right, lanes in (("0", whole, processor.vector), (whole, features, 1)):
                with code.loop(left, right, lanes) as place:
                    added(first, rows, code.integer(place), lanes)
    return code.text()
