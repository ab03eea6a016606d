"""Instructions that do much at once with bytes and 16-bit numbers, for kernels that are being written.

They are of x86 with AVX2 or AVX-512. Elsewhere LLVM is told in smaller steps what is to come out, but for `add_dots`,
which is asked for where `has_dots` says so alone.
"""

import functools
from collections.abc import Sequence

from nabi import machine
from nabi.engines.cpu.code import Code

MULTIPLY_ADD = {64: "@llvm.x86.avx512.pmaddw.d.512", 32: "@llvm.x86.avx2.pmadd.wd"}
"""Multiplies 16-bit numbers and adds each two products, by the bytes of a register. With the sum behind it, it is one
instruction where the processor has that, too."""
DIFFERENCES = {64: "@llvm.x86.avx512.psad.bw.512", 32: "@llvm.x86.avx2.psad.bw"}
"""Adds the absolute differences of each eight bytes."""
BESIDE = 4
"""Sums that are kept beside one another, since each next one would wait for the one before."""
DOTS = {64: "@llvm.x86.avx512.vpdpbusd.512", 32: "@llvm.x86.avx512.vpdpbusd.256"}
"""Multiplies bytes with signed bytes, and adds each four products to a sum."""


def products_of_pairs(code: Code, one: str, other: str) -> str:
    """Products of two pairs of 16-bit numbers each, added: in registers of i32."""
    vector = code.vector
    sums, pairs = f"<{vector // 4} x i32>", f"<{vector // 2} x i16>"
    if vector in MULTIPLY_ADD:
        called = code.declare(MULTIPLY_ADD[vector], f"declare {sums} {MULTIPLY_ADD[vector]}({pairs}, {pairs})")
        given = [code.let(f"bitcast {sums} {each} to {pairs}") for each in (one, other)]
        return code.let(f"call {sums} {called}({pairs} {given[0]}, {pairs} {given[1]})")
    high = [code.let(f"ashr {sums} {each}, splat (i32 16)") for each in (one, other)]
    moved = [code.let(f"shl {sums} {each}, splat (i32 16)") for each in (one, other)]
    low = [code.let(f"ashr {sums} {each}, splat (i32 16)") for each in moved]
    both = [code.let(f"mul {sums} {first}, {second}") for first, second in (high, low)]
    return code.let(f"add {sums} {both[0]}, {both[1]}")


def differences_of_bytes(code: Code, one: str, other: str) -> str:
    """The absolute differences of each eight bytes, added: in registers of i64."""
    vector = code.vector
    sums, bytes_ = f"<{vector // 8} x i64>", f"<{vector} x i8>"
    given = [code.let(f"bitcast {sums} {each} to {bytes_}") for each in (one, other)]
    both = f"{bytes_} {given[0]}, {bytes_} {given[1]}"
    if vector in DIFFERENCES:
        called = code.declare(DIFFERENCES[vector], f"declare {sums} {DIFFERENCES[vector]}({bytes_}, {bytes_})")
        return code.let(f"call {sums} {called}({both})")
    ends = []
    for which in ("umax", "umin"):
        called = code.declare(
            f"@llvm.{which}.v{vector}i8", f"declare {bytes_} @llvm.{which}.v{vector}i8({bytes_}, {bytes_})"
        )
        ends.append(code.let(f"call {bytes_} {called}({both})"))
    apart = code.let(f"sub {bytes_} {ends[0]}, {ends[1]}")
    total = code.let(f"bitcast {bytes_} {apart} to {sums}")
    for bits, mask in ((8, 0x00FF00FF00FF00FF), (16, 0x0000FFFF0000FFFF), (32, 0x00000000FFFFFFFF)):
        low = code.let(f"and {sums} {total}, splat (i64 {mask})")
        moved = code.let(f"lshr {sums} {total}, splat (i64 {bits})")
        high = code.let(f"and {sums} {moved}, splat (i64 {mask})")
        total = code.let(f"add {sums} {low}, {high}")
    return total


def has_dots(processor: machine.Processor) -> bool:
    """Whether it has the instruction for `add_dots`."""
    words = processor.features.split(",")
    return (processor.vector == 64 and "+avx512vnni" in words) or (
        processor.vector == 32 and "+avx512vnni" in words and "+avx512vl" in words
    )


def add_dots(code: Code, total: str, numbers: str, signed: str) -> None:
    """Add the products of a register of bytes and one of signed bytes to a variable of i32, four by four."""
    lanes = code.vector
    sums = f"<{lanes // 4} x i32>"
    called = code.declare(DOTS[lanes], f"declare {sums} {DOTS[lanes]}({sums}, {sums}, {sums})")
    one, other = (code.let(f"bitcast <{lanes} x i8> {each} to {sums}") for each in (numbers, signed))
    before = code.let(f"load {sums}, ptr {total}")
    after = code.let(f"call {sums} {called}({sums} {before}, {sums} {one}, {sums} {other})")
    code.emit(f"store {sums} {after}, ptr {total}")


def added_up(code: Code, totals: Sequence[str], kind: str, wanted: str) -> str:
    """The sum of all lanes of such variables of a kind, in a kind that holds it."""
    lanes = 8 * code.vector // int(kind[1:])
    sums, wide, adds = f"<{lanes} x {kind}>", f"<{lanes} x {wanted}>", f"@llvm.vector.reduce.add.v{lanes}{wanted}"
    code.declare(adds, f"declare {wanted} {adds}({wide})")
    read = [code.let(f"load {sums}, ptr {total}") for total in totals]
    if wanted != kind:
        read = [code.let(f"sext {sums} {each} to {wide}") for each in read]
    together = functools.reduce(lambda x, y: code.let(f"add {wide} {x}, {y}"), read)
    return code.let(f"call {wanted} {adds}({wide} {together})")
