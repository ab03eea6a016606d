"""The instruction that multiplies bytes with signed bytes and adds each four products, where a processor has it."""

import functools
from collections.abc import Sequence

from nabi import machine
from nabi.engines.cpu.code import Code

CALLED = {64: "@llvm.x86.avx512.vpdpbusd.512", 32: "@llvm.x86.avx512.vpdpbusd.256"}
"""By the bytes of a register."""


def has_dots(processor: machine.Processor) -> bool:
    words = processor.features.split(",")
    return (processor.vector == 64 and "+avx512vnni" in words) or (
        processor.vector == 32 and "+avx512vnni" in words and "+avx512vl" in words
    )


def multiply(code: Code, total: str, numbers: str, signed: str) -> None:
    """Add the products of a register of bytes and one of signed bytes to a variable, four by four."""
    lanes = code.vector
    called, sums = CALLED[lanes], f"<{lanes // 4} x i32>"
    code.declare(called, f"declare {sums} {called}({sums}, {sums}, {sums})")
    one, other = (code.let(f"bitcast <{lanes} x i8> {each} to {sums}") for each in (numbers, signed))
    before = code.let(f"load {sums}, ptr {total}")
    after = code.let(f"call {sums} {called}({sums} {before}, {sums} {one}, {sums} {other})")
    code.emit(f"store {sums} {after}, ptr {total}")


def added_up(code: Code, totals: Sequence[str], kind: str) -> str:
    """The sum of all lanes of such variables, in a type that holds it."""
    lanes = code.vector // 4
    sums, wide, adds = f"<{lanes} x i32>", f"<{lanes} x {kind}>", f"@llvm.vector.reduce.add.v{lanes}{kind}"
    code.declare(adds, f"declare {kind} {adds}({wide})")
    read = [code.let(f"load {sums}, ptr {total}") for total in totals]
    if kind != "i32":
        read = [code.let(f"sext {sums} {each} to {wide}") for each in read]
    together = functools.reduce(lambda x, y: code.let(f"add {wide} {x}, {y}"), read)
    return code.let(f"call {kind} {adds}({wide} {together})")
