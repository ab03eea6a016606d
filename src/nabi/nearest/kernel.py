"""Kernels for pixels: the sums of many short loops, for which NumPy has no function.

One measures pairs of rows, the other adds pixels up over cells. Here in LLVM's assembly language, as the fast engine's
kernels are, and compiled and kept like them.
"""

import functools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nabi import machine

LANES = 64
LONGEST = 32 * (2**32 // (4 * 255**2))  # numbers of a row, so that 32 bits hold each lane's sum

GIVEN = "ptr queries/ptr candidates/ptr rows/ptr columns/ptr found/i64 query_step/i64 candidate_step".split("/")

TEXT = """
DECLARED
declare i64 @llvm.vector.reduce.add.vSUMSi64(<SUMS x i64>)

define void @kernel(ptr %given, i64 %start, i64 %stop, i64 %length, ptr %unused) {
entry:
GIVEN
  %whole = and i64 %length, -LANES
  br label %pairs

pairs:
  %pair = phi i64 [ %start, %entry ], [ %next_pair, %done ]
  %has_pair = icmp slt i64 %pair, %stop
  br i1 %has_pair, label %begin, label %exit

begin:
  %row_at = getelementptr i64, ptr %rows, i64 %pair
  %row = load i64, ptr %row_at
  %column_at = getelementptr i64, ptr %columns, i64 %pair
  %column = load i64, ptr %column_at
  %row_offset = mul i64 %row, %query_step
  %query = getelementptr i8, ptr %queries, i64 %row_offset
  %column_offset = mul i64 %column, %candidate_step
  %candidate = getelementptr i8, ptr %candidates, i64 %column_offset
  br label %vectors

vectors:
  %i = phi i64 [ 0, %begin ], [ %next_i, %vector ]
  %sums = phi <SUMS x i32> [ zeroinitializer, %begin ], [ %next_sums, %vector ]
  %has_vector = icmp slt i64 %i, %whole
  br i1 %has_vector, label %vector, label %add

vector:
  %query_at = getelementptr i8, ptr %query, i64 %i
  %query_bytes = load <LANES x i8>, ptr %query_at, align 1
  %candidate_at = getelementptr i8, ptr %candidate, i64 %i
  %candidate_bytes = load <LANES x i8>, ptr %candidate_at, align 1
STEP
  %next_sums = add <SUMS x i32> %sums, %z
  %next_i = add i64 %i, LANES
  br label %vectors

add:
  %wide = zext <SUMS x i32> %sums to <SUMS x i64>
  %sum = call i64 @llvm.vector.reduce.add.vSUMSi64(<SUMS x i64> %wide)
  br label %rest

rest:
  %j = phi i64 [ %whole, %add ], [ %next_j, %one ]
  %total = phi i64 [ %sum, %add ], [ %next_total, %one ]
  %has_one = icmp slt i64 %j, %length
  br i1 %has_one, label %one, label %done

one:
  %query_one = getelementptr i8, ptr %query, i64 %j
  %query_byte = load i8, ptr %query_one
  %u = zext i8 %query_byte to i64
  %candidate_one = getelementptr i8, ptr %candidate, i64 %j
  %candidate_byte = load i8, ptr %candidate_one
  %v = zext i8 %candidate_byte to i64
LAST
  %next_total = add i64 %total, %w
  %next_j = add i64 %j, 1
  br label %rest

done:
  %number = sitofp i64 %total to double
  %target = getelementptr double, ptr %found, i64 %pair
  store double %number, ptr %target
  %next_pair = add i64 %pair, 1
  br label %pairs

exit:
  ret void
}
"""

WIDEN = """
  %x = zext <LANES x i8> %query_bytes to <LANES x i32>
  %y = zext <LANES x i8> %candidate_bytes to <LANES x i32>
  %d = sub <LANES x i32> %x, %y"""
STEP = {
    "l2": WIDEN + "\n  %z = mul <LANES x i32> %d, %d",
    "l1": WIDEN + "\n  %z = call <LANES x i32> @llvm.abs.vLANESi32(<LANES x i32> %d, i1 true)",
}

# Where there is an instruction that multiplies 16-bit numbers and adds each two products: a third of the instructions.
MULTIPLY_ADD = {64: "@llvm.x86.avx512.pmaddw.d.512", 32: "@llvm.x86.avx2.pmadd.wd"}
IN_PAIRS = """
  %most = call <LANES x i8> @llvm.umax.vLANESi8(<LANES x i8> %query_bytes, <LANES x i8> %candidate_bytes)
  %least = call <LANES x i8> @llvm.umin.vLANESi8(<LANES x i8> %query_bytes, <LANES x i8> %candidate_bytes)
  %bytes = sub <LANES x i8> %most, %least
  %d = zext <LANES x i8> %bytes to <LANES x i16>
  %low = shufflevector <LANES x i16> %d, <LANES x i16> poison, <HALF x i32> <FIRST>
  %high = shufflevector <LANES x i16> %d, <LANES x i16> poison, <HALF x i32> <SECOND>
  %low_sums = call <SUMS x i32> CALLED(<HALF x i16> %low, <HALF x i16> %low)
  %high_sums = call <SUMS x i32> CALLED(<HALF x i16> %high, <HALF x i16> %high)
  %z = add <SUMS x i32> %low_sums, %high_sums"""

LAST = {
    "l2": "  %e = sub i64 %u, %v\n  %w = mul i64 %e, %e",
    "l1": "  %e = sub i64 %u, %v\n  %f = sub i64 %v, %u\n"
    "  %g = icmp slt i64 %e, 0\n  %w = select i1 %g, i64 %f, i64 %e",
}


@functools.cache
def text(metric: str, processor: machine.Processor) -> str:
    """The kernel for a processor."""
    lanes = sums = LANES
    step = STEP[metric]
    declared = "declare <LANES x i32> @llvm.abs.vLANESi32(<LANES x i32>, i1)"
    if metric == "l2" and processor.vector in MULTIPLY_ADD and "+avx2" in processor.features.split(","):
        lanes = processor.vector
        half, sums = lanes // 2, lanes // 4
        called = MULTIPLY_ADD[lanes]
        step = IN_PAIRS.replace("CALLED", called).replace("HALF", str(half))
        step = step.replace("FIRST", ", ".join(f"i32 {place}" for place in range(half)))
        step = step.replace("SECOND", ", ".join(f"i32 {place}" for place in range(half, lanes)))
        declared = f"""declare <{sums} x i32> {called}(<{half} x i16>, <{half} x i16>)
declare <LANES x i8> @llvm.umax.vLANESi8(<LANES x i8>, <LANES x i8>)
declare <LANES x i8> @llvm.umin.vLANESi8(<LANES x i8>, <LANES x i8>)"""
    found = (
        TEXT.replace("DECLARED", declared)
        .replace("GIVEN", machine.words("%given", GIVEN))
        .replace("STEP", step)
        .replace("LAST", LAST[metric])
    )
    return found.replace("LANES", str(lanes)).replace("SUMS", str(sums))


def measure_pixels(
    queries: NDArray[np.uint8],
    candidates: NDArray[np.uint8],
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    metric: str,
) -> NDArray[np.float64]:
    """Exact distances of pairs of rows of at most `LONGEST` pixels, squared ones for L2; as `nabi.nearest.measure`.

    Quickest for pairs that are ordered by their candidates.
    """
    queries, candidates = (given if given.strides[1] == 1 else given.copy() for given in (queries, candidates))
    rows, columns = np.ascontiguousarray(rows), np.ascontiguousarray(columns)
    found = np.empty(len(rows))
    places = [array.ctypes.data for array in (queries, candidates, rows, columns, found)]
    given = np.array([*places, queries.strides[0], candidates.strides[0]], np.int64)
    kernel = machine.compile(text(metric, machine.processor()))
    kernel(given.ctypes.data, 0, len(rows), queries.shape[1], 0)
    return found


def squared_norms(rows: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Exact sums of squares of rows of at most `LONGEST` pixels: their distances from nothing."""
    count, length = rows.shape
    zeros = np.zeros(count, np.int64)
    return measure_pixels(np.zeros((1, length), np.uint8), rows, zeros, np.arange(count), "l2")


ADDED = 128
"""Pixels of a row of a picture that are added up together, at most."""


def adds_cells(shape: Sequence[int], side: int) -> bool:
    """Whether `cells` knows pictures of a shape (H, W, C): those of whole cells, whose sums 16 bits hold."""
    return len(shape) == 3 and 1 < side <= 16 and shape[0] % side == shape[1] % side == 0 and _across(shape, side) > 0


def _across(shape: Sequence[int], side: int) -> int:
    """How many cells beside one another are added up together."""
    _, width, channels = shape
    fitting = [n for n in range(1, ADDED // (side * channels) + 1) if width // side % n == 0]
    return max(fitting, default=0)


@functools.cache
def cells_text(shape: tuple[int, ...], side: int) -> str:
    """The kernel for pictures of a shape."""
    height, width, channels = shape
    across = _across(shape, side)
    lanes, cells = across * side * channels, across * channels
    bytes_, sums, some = f"<{lanes} x i8>", f"<{lanes} x i16>", f"<{cells} x i16>"
    line = width * channels
    lines = [
        "define void @kernel(ptr %given, i64 %start, i64 %stop, i64 %unused, ptr %nothing) {",
        "entry:",
        machine.words("%given", ["ptr images", "ptr found"]),
        f"  %first = mul i64 %start, {height // side * (width // side // across)}",
        f"  %last = mul i64 %stop, {height // side * (width // side // across)}",
        "  br label %next",
        "next:",  # some cells beside one another, and all such of all pictures in the order of their pixels
        "  %i = phi i64 [ %first, %entry ], [ %after, %do ]",
        "  %more = icmp slt i64 %i, %last",
        "  br i1 %more, label %do, label %exit",
        "do:",
        f"  %across = urem i64 %i, {width // side // across}",
        f"  %down = udiv i64 %i, {width // side // across}",
        f"  %from_left = mul i64 %across, {lanes}",
        f"  %from_top = mul i64 %down, {side * line}",
        "  %corner = add i64 %from_top, %from_left",
    ]
    for row in range(side):
        before = f"%s{row - 1}" if row else "zeroinitializer"
        lines += [
            f"  %o{row} = add i64 %corner, {row * line}",
            f"  %p{row} = getelementptr i8, ptr %images, i64 %o{row}",
            f"  %b{row} = load {bytes_}, ptr %p{row}, align 1",
            f"  %w{row} = zext {bytes_} %b{row} to {sums}",
            f"  %s{row} = add {sums} {before}, %w{row}",
        ]
    for column in range(side):
        places = [(n // channels * side + column) * channels + n % channels for n in range(cells)]
        chosen = ", ".join(f"i32 {place}" for place in places)
        before = f"%t{column - 1}" if column else "zeroinitializer"
        lines += [
            f"  %c{column} = shufflevector {sums} %s{side - 1}, {sums} poison, <{cells} x i32> <{chosen}>",
            f"  %t{column} = add {some} {before}, %c{column}",
        ]
    return "\n".join(
        [
            *lines,
            f"  %numbers = uitofp {some} %t{side - 1} to <{cells} x float>",
            f"  %centred = fsub <{cells} x float> %numbers, splat (float {128 * side * side}.0)",
            f"  %place = mul i64 %i, {cells}",
            "  %target = getelementptr float, ptr %found, i64 %place",
            f"  store <{cells} x float> %centred, ptr %target, align 4",
            "  %after = add i64 %i, 1",
            "  br label %next",
            "exit:",
            "  ret void",
            "}",
            "",
        ]
    )


def cells(images: NDArray[np.uint8], side: int) -> NDArray[np.float32]:
    """Sums of pixels less 128 over cells of ``side`` by ``side`` (N, H/side · W/side · C), exact."""
    images = np.ascontiguousarray(images)
    count, shape = len(images), images.shape[1:]
    found = np.empty((count, math.prod(shape) // side**2), np.float32)
    given = np.array([images.ctypes.data, found.ctypes.data], np.int64)
    machine.compile(cells_text(shape, side))(given.ctypes.data, 0, count, 0, 0)
    return found
