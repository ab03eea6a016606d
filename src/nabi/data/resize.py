"""Pictures made larger or smaller, with antialiasing: Pillow's arithmetic to the bit, several times as fast.

Each pixel of the result is a weighted mean of the pixels under a filter's bump, along rows first and down columns then
(Pillow from version 13 on goes down first where that is quicker). The weights are whole multiples of 2⁻²², and what is
between the passes is rounded to whole levels: so the result depends neither on the order of additions nor on the
processor. The kernel, in LLVM's assembly language, turns some rows of the picture on their side, so that in both passes
numbers that lie one behind another get the same weight.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nabi import machine

Size = tuple[int, int]
Pictures = NDArray[np.uint8]

ONE = 1 << 22
"""What a weight of 1 is."""
SIDE = 16
"""Rows and columns of the tiles that are turned on their side; smaller pictures are made as large."""
BAND = 64
"""Rows that are turned on their side at a time: of wide photos, they stay in the cache."""


def _bilinear(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(1 - x, 0)


def _bicubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys, "Cubic convolution interpolation for digital image processing" (1981), with a = -1/2."""
    a = -0.5
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0))


FILTERS: dict[str, tuple[Callable[[NDArray[np.float64]], NDArray[np.float64]], float]] = {
    "bilinear": (_bilinear, 1.0),
    "bicubic": (_bicubic, 2.0),
}
"""The bumps, as functions of the distance from their middle, and how far they reach."""


class Taps(NamedTuple):
    """Which pixels along an axis each pixel of the result is a mean of.

    Attributes
    ----------
    starts, counts : array of int64, (N, length)
        The first of them, and how many.
    weights : array of int32, (N, length, most)
        In units of 2⁻²²; those of a pixel are the first ``counts``.
    """

    starts: NDArray[np.int64]
    counts: NDArray[np.int64]
    weights: NDArray[np.int32]

    def seen(self, fewest: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """From where to where pixels are looked at, or so many around them at least: (N,) each."""
        start, stop = self.starts.min(1), (self.starts + self.counts).max(1)
        start = np.maximum(np.minimum(start, stop - fewest), 0)
        return start, np.maximum(stop, start + fewest)


def taps(size: int, start: ArrayLike, stop: ArrayLike, length: int, filter: str) -> Taps:
    """How the stretch from ``start`` to ``stop`` of an axis of ``size`` pixels becomes ``length`` pixels.

    Parameters
    ----------
    size : int
    start, stop : array_like of float, (N,)
        Pixel i reaches from i to i + 1. Taken as float32, as Pillow does.
    length : int
    filter : str
        A name of `FILTERS`.

    Examples
    --------
    >>> found = taps(4, [0], [4], 2, "bilinear")
    >>> found.starts.tolist(), found.counts.tolist(), (found.weights / ONE).round(3).tolist()
    ([[0, 1]], [[3, 3]], [[[0.429, 0.429, 0.143], [0.143, 0.429, 0.429]]])
    """
    bump, reach = FILTERS[filter]
    begin, end = (np.asarray(place, np.float32).reshape(-1, 1) for place in (start, stop))
    scale = (end - begin).astype(np.float64) / length
    widened = np.maximum(scale, 1.0)
    support, shrink = reach * widened, 1 / widened
    centre = begin.astype(np.float64) + (np.arange(length) + 0.5) * scale
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    count = np.minimum((centre + support + 0.5).astype(np.int64), size) - first
    place = np.arange(int(count.max(initial=0)))
    weights = bump(np.abs(((place + first[..., None]) - centre[..., None] + 0.5) * shrink[..., None]))
    weights[place >= count[..., None]] = 0
    total = np.zeros(count.shape)
    for tap in place:  # in this order
        total += weights[..., tap]
    weights /= np.where(total == 0, 1, total)[..., None]
    weights *= ONE
    whole = np.trunc(np.where(weights < 0, weights - 0.5, weights + 0.5))
    return Taps(first, count, whole.astype(np.int32))


class Way(NamedTuple):
    """How pictures of one shape become others: all that the kernel is given but the pictures."""

    shape: tuple[int, int, int]
    """Height, width and channels before, `SIDE` at least."""
    tables: list[NDArray[Any]]
    places: list[int]
    """Where these lie."""
    sizes: list[int]
    room: tuple[int, int]
    """Bytes for pixels on their side, and for what is between the passes."""
    wide: int


def way(shape: tuple[int, ...], rows: Taps, columns: Taps) -> Way:
    """The way from N pictures of a shape (H, W, C) to those whose rows and columns are the means that the taps say."""
    height, width, channels = max(shape[0], SIDE), max(shape[1], SIDE), shape[2]
    wide = columns.starts.shape[1]
    if wide < SIDE:  # the last column is there several times
        again = np.minimum(np.arange(SIDE), wide - 1)
        columns = Taps(columns.starts[:, again], columns.counts[:, again], columns.weights[:, again])
    band = BAND if height >= BAND else SIDE
    bounds = np.stack([*rows.seen(band), *columns.seen(SIDE)], 1)
    tables = [np.ascontiguousarray(table) for table in (bounds, *rows, *columns)]
    tall, made_wide = rows.starts.shape[1], columns.starts.shape[1]
    taps_of_each = [rows.weights.shape[2], columns.weights.shape[2]]
    sizes = [height * width * channels, width * channels, tall, made_wide, channels, *taps_of_each, band]
    top, bottom, left, right = bounds.T
    sideways = (int((right - left).max(initial=0)) + made_wide) * channels * band
    between = int((bottom - top).max(initial=0)) * made_wide * channels
    places = [table.ctypes.data for table in tables]
    return Way((height, width, channels), tables, places, sizes, (sideways, between), wide)


def resize(images: Pictures, way: Way) -> Pictures:
    """Go a way with pictures (N, H, W, C).

    Examples
    --------
    >>> rows, columns = taps(4, [0], [4], 2, "bilinear"), taps(6, [1], [5], 2, "bilinear")
    >>> resize(np.arange(0, 240, 10, np.uint8).reshape(1, 4, 6, 1), way((4, 6, 1), rows, columns))[0, ..., 0]
    array([[ 58,  78],
           [152, 172]], dtype=uint8)
    """
    height, width, channels = way.shape
    missing = (height - images.shape[1], width - images.shape[2])
    if any(missing):  # nobody looks at what is added
        images = np.pad(images, [(0, 0), (0, missing[0]), (0, missing[1]), (0, 0)])
    images = np.ascontiguousarray(images)
    made = np.empty((len(images), *way.sizes[2:4], channels), np.uint8)
    sideways, between = way.room
    room = np.empty(sideways + between, np.uint8)
    at = room.ctypes.data
    bounds, *rest = way.places
    places = [images.ctypes.data, made.ctypes.data, bounds, at, at + sideways, *rest]
    given = np.array([*places, *way.sizes], np.int64)
    _compiled(machine.processor())(given.ctypes.data, 0, len(images), 0, 0)
    return made if way.wide == made.shape[2] else np.ascontiguousarray(made[:, :, : way.wide])


def fit(picture: Pictures, size: Size) -> Pictures:
    """Scale a picture (H, W, C) to cover ``size``, bicubic, and crop the centre: its short side fits.

    A picture that has the size already is returned as it is.

    Examples
    --------
    >>> fit(np.arange(0, 240, 10, np.uint8).reshape(4, 6, 1), (2, 2))[..., 0]
    array([[ 49,  71],
           [159, 181]], dtype=uint8)
    """
    if picture.shape[:2] == size:
        return picture
    found: Pictures = resize(picture[None], _covering(picture.shape, size))[0]
    return found


@functools.lru_cache(256)
def _covering(shape: tuple[int, int, int], size: Size) -> Way:
    """The way of `fit`: photos often have the same sizes."""
    height, width, _ = shape
    tall, wide = size
    ratio = wide / tall
    part = (height, ratio * height) if width / height >= ratio else (width / ratio, width)
    top, left = (height - part[0]) * 0.5, (width - part[1]) * 0.5
    rows = taps(height, [top], [top + part[0]], tall, "bicubic")
    columns = taps(width, [left], [left + part[1]], wide, "bicubic")
    return way(shape, rows, columns)


# --- the kernel ---

GIVEN = (
    "ptr images/ptr made/ptr bounds/ptr sideways/ptr between/ptr row_first/ptr row_count/ptr row_weights/"
    "ptr column_first/ptr column_count/ptr column_weights/i64 image_step/i64 line/i64 tall/i64 wide/i64 channels/"
    "i64 row_taps/i64 column_taps/i64 band"
).split("/")

COMBINE = """
define internal void @combine_LANES(ptr %from, i64 %step, ptr %weights, i64 %count, ptr %to, i64 %length) {
entry:
  %last = sub i64 %length, LANES
  br label %next
next:
  %i = phi i64 [ 0, %entry ], [ %after, %done ]
  %more = icmp slt i64 %i, %length
  br i1 %more, label %begin, label %exit
begin:
  %place = call i64 @llvm.smin.i64(i64 %i, i64 %last)
  %top = getelementptr i8, ptr %from, i64 %place
  br label %tap
tap:
  %k = phi i64 [ 0, %begin ], [ %next_k, %add ]
  %total = phi <LANES x i32> [ splat (i32 HALF), %begin ], [ %sum, %add ]
  %has_tap = icmp slt i64 %k, %count
  br i1 %has_tap, label %add, label %done
add:
  %weight_at = getelementptr i32, ptr %weights, i64 %k
  %weight = load i32, ptr %weight_at
  %first_lane = insertelement <LANES x i32> poison, i32 %weight, i64 0
  %factor = shufflevector <LANES x i32> %first_lane, <LANES x i32> poison, <LANES x i32> zeroinitializer
  %down = mul i64 %k, %step
  %pixels_at = getelementptr i8, ptr %top, i64 %down
  %pixels = load <LANES x i8>, ptr %pixels_at, align 1
  %levels = zext <LANES x i8> %pixels to <LANES x i32>
  %product = mul <LANES x i32> %levels, %factor
  %sum = add <LANES x i32> %total, %product
  %next_k = add i64 %k, 1
  br label %tap
done:
  %whole = ashr <LANES x i32> %total, splat (i32 BITS)
  %positive = call <LANES x i32> @llvm.smax.vLANESi32(<LANES x i32> %whole, <LANES x i32> zeroinitializer)
  %within = call <LANES x i32> @llvm.smin.vLANESi32(<LANES x i32> %positive, <LANES x i32> splat (i32 255))
  %made = trunc <LANES x i32> %within to <LANES x i8>
  %target = getelementptr i8, ptr %to, i64 %place
  store <LANES x i8> %made, ptr %target, align 1
  %after = add i64 %i, LANES
  br label %next
exit:
  ret void
}
"""

TURN = """
define internal void @turn(ptr %from, i64 %step, i64 %rows, i64 %columns, ptr %to) {
entry:
  %last_row = sub i64 %rows, SIDE
  %last_column = sub i64 %columns, SIDE
  br label %next_rows
next_rows:
  %i = phi i64 [ 0, %entry ], [ %next_i, %rows_done ]
  %more_rows = icmp slt i64 %i, %rows
  br i1 %more_rows, label %begin, label %exit
begin:
  %row = call i64 @llvm.smin.i64(i64 %i, i64 %last_row)
  br label %next_columns
next_columns:
  %j = phi i64 [ 0, %begin ], [ %next_j, %do ]
  %more_columns = icmp slt i64 %j, %columns
  br i1 %more_columns, label %do, label %rows_done
do:
  %column = call i64 @llvm.smin.i64(i64 %j, i64 %last_column)
TILE
  %next_j = add i64 %j, SIDE
  br label %next_columns
rows_done:
  %next_i = add i64 %i, SIDE
  br label %next_rows
exit:
  ret void
}
"""

KERNEL = """
define void @kernel(ptr %given, i64 %start, i64 %stop, i64 %unused, ptr %nothing) {
entry:
GIVEN
  %pixel_line = mul i64 %wide, %channels
  %group = mul i64 %channels, %band
  br label %pictures

pictures:
  %n = phi i64 [ %start, %entry ], [ %next_n, %rows ]
  %more = icmp slt i64 %n, %stop
  br i1 %more, label %picture, label %exit

picture:
  %n4 = mul i64 %n, 4
  %bound = getelementptr i64, ptr %bounds, i64 %n4
BOUNDS
  %from = mul i64 %n, %image_step
  %left_byte = mul i64 %left, %channels
  %from_left = add i64 %from, %left_byte
  %corner = getelementptr i8, ptr %images, i64 %from_left
  %across = sub i64 %right, %left
  %across_bytes = mul i64 %across, %channels
  %turned_size = mul i64 %across_bytes, %band
  %turned = getelementptr i8, ptr %sideways, i64 %turned_size
  %last_band = sub i64 %bottom, %band
  %n_wide = mul i64 %n, %wide
  %n_tall = mul i64 %n, %tall
  br label %bands

bands:
  %b = phi i64 [ %top, %picture ], [ %next_b, %begin_band ]
  %more_bands = icmp slt i64 %b, %bottom
  br i1 %more_bands, label %begin_band, label %rows

begin_band:
  %y = call i64 @llvm.smin.i64(i64 %b, i64 %last_band)
  %y_line = mul i64 %y, %line
  %strip = getelementptr i8, ptr %corner, i64 %y_line
  call void @turn(ptr %strip, i64 %line, i64 %band, i64 %across_bytes, ptr %sideways)
  call void @pass(ptr %sideways, i64 %left, i64 %group, ptr %column_first, ptr %column_count, ptr %column_weights, \
i64 %column_taps, i64 %n_wide, i64 %wide, ptr %turned)
  %y_within = sub i64 %y, %top
  %y_bytes = mul i64 %y_within, %pixel_line
  %band_to = getelementptr i8, ptr %between, i64 %y_bytes
  call void @turn(ptr %turned, i64 %band, i64 %pixel_line, i64 %band, ptr %band_to)
  %next_b = add i64 %b, %band
  br label %bands

rows:
  %made_before = mul i64 %n_tall, %pixel_line
  %picture_to = getelementptr i8, ptr %made, i64 %made_before
  call void @pass(ptr %between, i64 %top, i64 %pixel_line, ptr %row_first, ptr %row_count, ptr %row_weights, \
i64 %row_taps, i64 %n_tall, i64 %tall, ptr %picture_to)
  %next_n = add i64 %n, 1
  br label %pictures

exit:
  ret void
}

define internal void @pass(ptr %from, i64 %before, i64 %line, ptr %firsts, ptr %counts, ptr %weights, i64 %taps, \
i64 %start, i64 %length, ptr %to) {
entry:
  br label %next
next:
  %i = phi i64 [ 0, %entry ], [ %after, %one ]
  %more = icmp slt i64 %i, %length
  br i1 %more, label %one, label %exit
one:
  %number = add i64 %start, %i
  %first_at = getelementptr i64, ptr %firsts, i64 %number
  %first = load i64, ptr %first_at
  %count_at = getelementptr i64, ptr %counts, i64 %number
  %count = load i64, ptr %count_at
  %weight = mul i64 %number, %taps
  %weight_at = getelementptr i32, ptr %weights, i64 %weight
  %within = sub i64 %first, %before
  %source = mul i64 %within, %line
  %source_at = getelementptr i8, ptr %from, i64 %source
  %target = mul i64 %i, %line
  %target_at = getelementptr i8, ptr %to, i64 %target
  call void @combine(ptr %source_at, i64 %line, ptr %weight_at, i64 %count, ptr %target_at, i64 %line)
  %after = add i64 %i, 1
  br label %next
exit:
  ret void
}

define internal void @combine(ptr %from, i64 %step, ptr %weights, i64 %count, ptr %to, i64 %length) {
  %long = icmp sge i64 %length, 64
  br i1 %long, label %many, label %few
many:
  call void @combine_64(ptr %from, i64 %step, ptr %weights, i64 %count, ptr %to, i64 %length)
  ret void
few:
  call void @combine_16(ptr %from, i64 %step, ptr %weights, i64 %count, ptr %to, i64 %length)
  ret void
}
"""


@functools.cache
def _compiled(processor: machine.Processor) -> machine.Function:
    return machine.compile(text())


def text() -> str:
    """The kernel, for pictures of all sizes."""
    declared = ["declare i64 @llvm.smin.i64(i64, i64)"]
    declared += [
        f"declare <{lanes} x i32> @llvm.{which}.v{lanes}i32(<{lanes} x i32>, <{lanes} x i32>)"
        for lanes in (16, 64)
        for which in ("smin", "smax")
    ]
    combine = COMBINE.replace("HALF", str(ONE // 2)).replace("BITS", str(int(math.log2(ONE))))
    kernel = KERNEL.replace("GIVEN", machine.words("%given", GIVEN)).replace(
        "BOUNDS", machine.words("%bound", ["i64 top", "i64 bottom", "i64 left", "i64 right"])
    )
    turn = TURN.replace("TILE", _tile()).replace("SIDE", str(SIDE))
    return "\n".join([*declared, combine.replace("LANES", "64"), combine.replace("LANES", "16"), turn, kernel])


def _tile() -> str:
    """A tile of 16 by 16 bytes on its side: four times, rows i and i + 8 are interleaved to be rows 2 i and 2 i + 1."""
    low = ", ".join(f"i32 {place}" for n in range(8) for place in (n, n + 16))
    high = ", ".join(f"i32 {place}" for n in range(8, 16) for place in (n, n + 16))
    lines = []
    for n in range(16):
        lines += [
            f"  %i{n} = add i64 %row, {n}",
            f"  %o{n} = mul i64 %i{n}, %step",
            f"  %s{n} = add i64 %o{n}, %column",
            f"  %f{n} = getelementptr i8, ptr %from, i64 %s{n}",
            f"  %r0_{n} = load <16 x i8>, ptr %f{n}, align 1",
        ]
    for time in range(4):
        for n in range(8):
            pair = f"<16 x i8> %r{time}_{n}, <16 x i8> %r{time}_{n + 8}"
            lines += [
                f"  %r{time + 1}_{2 * n} = shufflevector {pair}, <16 x i32> <{low}>",
                f"  %r{time + 1}_{2 * n + 1} = shufflevector {pair}, <16 x i32> <{high}>",
            ]
    for n in range(16):
        lines += [
            f"  %j{n} = add i64 %column, {n}",
            f"  %p{n} = mul i64 %j{n}, %rows",
            f"  %q{n} = add i64 %p{n}, %row",
            f"  %t{n} = getelementptr i8, ptr %to, i64 %q{n}",
            f"  store <16 x i8> %r4_{n}, ptr %t{n}, align 1",
        ]
    return "\n".join(lines)
