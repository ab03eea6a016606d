"""Projections of pictures as short vectors of whole numbers: the last step of `nabi.nearest.projection`.

In LLVM's assembly language, as the fast engine's kernels are, and compiled and kept like them.
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nabi import machine
from nabi.engines.cpu.code import Code


@functools.cache
def rounding_text(processor: machine.Processor) -> str:
    """The kernel that makes whole numbers of projected pictures, row by row."""
    code = Code(processor.vector)
    products, squared, numbers, norms, constants = (code.pointer(slot) for slot in range(5))
    width = code.word(5)
    lanes = processor.vector // 8
    doubles, narrow, short = f"<{lanes} x double>", f"<{lanes} x i32>", f"<{lanes} x i16>"
    root, rint = "@llvm.sqrt.f64", f"@llvm.rint.v{lanes}f64"
    code.declare(root, f"declare double {root}(double)")
    code.declare(rint, f"declare {doubles} {rint}({doubles})")
    most = code.declare("@llvm.maxnum.f64", "declare double @llvm.maxnum.f64(double, double)")
    sums = {"double": f"@llvm.vector.reduce.fadd.v{lanes}f64", "i32": f"@llvm.vector.reduce.add.v{lanes}i32"}
    code.declare(sums["double"], f"declare double {sums['double']}(double, {doubles})")
    code.declare(sums["i32"], f"declare i32 {sums['i32']}({narrow})")
    share, part, scale, black = (
        code.let(f"load double, ptr {code.at(constants, 'double', str(place))}") for place in range(4)
    )
    first = code.let(f"insertelement {doubles} zeroinitializer, double {share}, i64 0")
    shares = code.let(f"shufflevector {doubles} {first}, {doubles} poison, <{lanes} x i32> zeroinitializer")

    def numbers_at(place: str, instead: str) -> str:
        """Products from a place on; the first of a row, the sum of all pixels, gives way to another number."""
        read = code.let(f"load {narrow}, ptr {code.at(given, 'i32', place)}, align 4")
        each = code.let(f"sitofp {narrow} {read} to {doubles}")
        replaced = code.let(f"insertelement {doubles} {each}, double {instead}, i64 0")
        return code.let(f"select i1 {code.let(f'icmp eq i64 {place}, 0')}, {doubles} {replaced}, {doubles} {each}")

    with code.loop("%start", "%stop") as index:
        row = code.integer(index)
        begin = code.let(f"mul i64 {row}, {width}")
        given, written = code.at(products, "i32", begin), code.at(numbers, "i16", begin)
        squares, norm = code.variable(doubles, "zeroinitializer"), code.variable(narrow, "zeroinitializer")
        with code.loop(0, width, lanes) as place:
            each = numbers_at(code.integer(place), "0.0")
            code.add_to(squares, doubles, code.let(f"fmul {doubles} {each}, {each}"), by="fadd")
        together = code.let(f"load {doubles}, ptr {squares}")
        inside = code.let(f"call reassoc double {sums['double']}(double 0.0, {doubles} {together})")
        total = code.let(f"sitofp i32 {code.let(f'load i32, ptr {given}')} to double")
        whole = code.let(f"load double, ptr {code.at(squared, 'double', row)}")
        for taken in (code.let(f"fmul double {total}, 256.0"), black, code.let(f"fmul double {inside}, {part}")):
            whole = code.let(f"fsub double {whole}, {taken}")
        positive = code.let(f"call double {most}(double {whole}, double 0.0)")
        rest = code.let(f"fmul double {code.let(f'call double {root}(double {positive})')}, {scale}")
        unscaled = code.let(f"fdiv double {rest}, {share}")
        with code.loop(0, width, lanes) as place:
            at = code.integer(place)
            scaled = code.let(f"fmul {doubles} {numbers_at(at, unscaled)}, {shares}")
            nearest = code.let(f"call {doubles} {rint}({doubles} {scaled})")
            each = code.let(f"fptosi {doubles} {nearest} to {narrow}")
            short_ones = code.let(f"trunc {narrow} {each} to {short}")
            code.emit(f"store {short} {short_ones}, ptr {code.at(written, 'i16', at)}, align 2")
            code.add_to(norm, narrow, code.let(f"mul {narrow} {each}, {each}"))
        all_norms = code.let(f"load {narrow}, ptr {norm}")
        answer = code.let(f"call i32 {sums['i32']}({narrow} {all_norms})")
        code.emit(f"store i32 {answer}, ptr {code.at(norms, 'i32', row)}")
    return code.text()


def round_projected(
    products: NDArray[np.int32],
    squared: NDArray[np.float64],
    numbers: NDArray[np.int16],
    norms: NDArray[np.int32],
    constants: Sequence[float],
) -> None:
    """Whole numbers of projected pictures, as `nabi.nearest.projection` has them: see there for ``constants``."""
    arrays: list[NDArray[Any]] = [products, squared, numbers, norms, np.array(constants, np.float64)]
    machine.run(rounding_text(machine.processor()), arrays, [products.shape[1]], len(products))
