"""Exact distances of pairs of rows of pixels: the sums of many short loops, for which NumPy has no function.

In LLVM's assembly language, as the fast engine's kernels are, and compiled and kept like them.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nabi import machine
from nabi.engines.cpu.code import ZERO, Code
from nabi.nearest.instructions import BESIDE, DIFFERENCES, MULTIPLY_ADD, add_dots, added_up, has_dots

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

# Likewise one that adds the absolute differences of each eight bytes: of a lane's sum the upper half stays 0.
AT_ONCE = """
  %eights = call <EIGHTS x i64> CALLED(<LANES x i8> %query_bytes, <LANES x i8> %candidate_bytes)
  %z = bitcast <EIGHTS x i64> %eights to <SUMS x i32>"""

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
    has_more = "+avx2" in processor.features.split(",")
    if metric == "l1" and processor.vector in DIFFERENCES and has_more:
        lanes, sums, eights = processor.vector, processor.vector // 4, processor.vector // 8
        called = DIFFERENCES[lanes]
        step = AT_ONCE.replace("CALLED", called).replace("EIGHTS", str(eights))
        declared = f"declare <{eights} x i64> {called}(<LANES x i8>, <LANES x i8>)"
    if metric == "l2" and processor.vector in MULTIPLY_ADD and has_more:
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
    squared: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """`nabi.nearest.pairs.measure` for rows of at most `LONGEST` pixels.

    Quickest for pairs that are ordered by their candidates.
    """
    queries, candidates = (given if given.strides[1] == 1 else given.copy() for given in (queries, candidates))
    rows, columns = np.ascontiguousarray(rows), np.ascontiguousarray(columns)
    length = queries.shape[1]
    found = np.empty(len(rows))
    arrays: list[NDArray[Any]] = [queries, candidates, rows, columns, found]
    steps = [queries.strides[0], candidates.strides[0]]
    processor = machine.processor()
    if metric == "l2" and squared is not None and has_dots(processor) and length <= LONGEST_OF_DOTS:
        arrays.append(squared)
        made = dots_text(processor)
    else:
        made = text(metric, processor)
    machine.run(made, arrays, steps, len(rows), length)
    return found


LONGEST_OF_DOTS = 2**19
"""Pixels of a row, so that 32 bits hold each lane's sum of them: of 4 · 255 · 128 at a time."""
AHEAD = 8
"""Pairs before which a candidate is fetched."""


@functools.cache
def dots_text(processor: machine.Processor) -> str:
    """The kernel for squared L2 distances by products: |q|² + |x|² - 2 q·x.

    The instruction takes pixels of one side as signed numbers, less 128: q·x = (q - 128)·x + 128 Σx. What is of a
    candidate alone is computed when it follows another.
    """
    code = Code(processor.vector)
    queries, candidates, rows, columns, found, squared = (code.pointer(slot) for slot in range(6))
    query_step, candidate_step = code.word(6), code.word(7)
    lanes = processor.vector
    kind, sums = f"<{lanes} x i8>", f"<{lanes // 4} x i32>"
    whole = code.let(f"and i64 %strand, -{lanes}")
    most = code.let(f"and i64 %strand, -{lanes * BESIDE}")

    def plus(number: str, other: str) -> str:
        return code.let(f"add i64 {number}, {other}")

    def times(number: str, factor: int) -> str:
        return code.let(f"mul i64 {number}, {factor}")

    def product(given: Callable[[str, str], list[tuple[str, str]]], number: int) -> list[str]:
        """Products of rows of bytes and of signed bytes, so many pairs of which are given for a type and a place."""
        totals = [[code.variable(sums, "zeroinitializer") for _ in range(BESIDE)] for _ in range(number)]
        for begin, end, many in (("0", most, BESIDE), (most, whole, 1)):
            with code.loop(begin, end, lanes * many) as index:
                for beside in range(many):
                    place = code.integer(index.plus(lanes * beside))
                    for row_totals, (one, other) in zip(totals, given(kind, place), strict=True):
                        add_dots(code, row_totals[beside], one, other)
        answers = [code.variable("i64", added_up(code, row_totals, "i32", "i64")) for row_totals in totals]
        with code.loop(whole, "%strand") as index:
            for answer, (one, other) in zip(answers, given("i8", code.integer(index)), strict=True):
                first, second = code.let(f"zext i8 {one} to i64"), code.let(f"sext i8 {other} to i64")
                code.add_to(answer, "i64", code.let(f"mul i64 {first}, {second}"))
        return [code.let(f"load i64, ptr {answer}") for answer in answers]

    def pixels(row: str, kind: str, place: str) -> str:
        return code.let(f"load {kind}, ptr {code.at(row, 'i8', place)}, align 1")

    def less_128(numbers: str, kind: str) -> str:
        return code.let(f"xor {kind} {numbers}, {'-128' if kind == 'i8' else 'splat (i8 -128)'}")

    def of_candidate_alone(kind: str, place: str) -> list[tuple[str, str]]:
        code.fetch(code.at(coming, "i8", place), ZERO, np.dtype(np.uint8), 2)
        numbers = pixels(candidate, kind, place)
        return [(numbers, less_128(numbers, kind)), (numbers, "1" if kind == "i8" else "splat (i8 1)")]

    def of_both(kind: str, place: str) -> list[tuple[str, str]]:
        code.fetch(code.at(next_query, "i8", place), ZERO, np.dtype(np.uint8), 3)
        return [(pixels(candidate, kind, place), less_128(pixels(query, kind, place), kind))]

    def no_later(pair: str) -> str:
        return code.least(pair, code.let("sub i64 %stop, 1"))

    def query_of(pair: str) -> str:
        row = code.let(f"load i64, ptr {code.at(rows, 'i64', pair)}")
        return code.at(queries, "i8", code.let(f"mul i64 {row}, {query_step}"))

    def candidate_of(pair: str) -> str:
        column = code.let(f"load i64, ptr {code.at(columns, 'i64', pair)}")
        return code.at(candidates, "i8", code.let(f"mul i64 {column}, {candidate_step}"))

    last, alone = code.variable("i64", "-1"), code.variable("i64", "0")
    with code.loop("%start", "%stop") as index:
        pair = code.integer(index)
        row = code.let(f"load i64, ptr {code.at(rows, 'i64', pair)}")
        column = code.let(f"load i64, ptr {code.at(columns, 'i64', pair)}")
        query = query_of(pair)
        next_query = query_of(no_later(plus(pair, "1")))
        candidate, coming = candidate_of(pair), candidate_of(no_later(plus(pair, str(AHEAD))))
        before = code.let(f"load i64, ptr {last}")
        changed = code.let(f"icmp ne i64 {column}, {before}")
        with code.loop(0, code.let(f"zext i1 {changed} to i64")):
            squares, total = product(of_candidate_alone, 2)
            # Σx² = Σx(x - 128) + 128 Σx, less twice the 128 Σx of the product with a query.
            code.emit(f"store i64 {plus(squares, times(total, -128))}, ptr {alone}")
            code.emit(f"store i64 {column}, ptr {last}")
        (both,) = product(of_both, 1)
        of_query = code.let(f"load double, ptr {code.at(squared, 'double', row)}")
        own = plus(code.let(f"fptosi double {of_query} to i64"), code.let(f"load i64, ptr {alone}"))
        distance = code.let(f"sitofp i64 {plus(own, times(both, -2))} to double")
        code.emit(f"store double {distance}, ptr {code.at(found, 'double', pair)}")
    return code.text()
