"""Matrix registers (AMX) in LLVM's assembly language, for processors that have none: what the manual says they do.

But that numbers below 1.2e-38 stay what they are, and that the registers always have their whole size. In memory that
all threads share: for one thread alone. Source: Intel, "Intel 64 and IA-32 architectures software developer's manual",
volume 2, TDPBF16PS.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from nabi import machine, threads

EMULATOR = """
@emulated_registers = internal global [8 x [16 x <16 x i32>]] zeroinitializer, align 64
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
declare <16 x float> @llvm.fma.v16f32(<16 x float>, <16 x float>, <16 x float>)

define internal void @emulated_ldtilecfg(ptr %shape) {
  ret void
}
define internal void @emulated_tilerelease() {
  ret void
}
define internal void @emulated_tilezero(i8 %t) {
  %n = zext i8 %t to i64
  %at = getelementptr [16 x <16 x i32>], ptr @emulated_registers, i64 %n
  store [16 x <16 x i32>] zeroinitializer, ptr %at
  ret void
}
MOVESdefine internal void @emulated_tdpbf16ps(i8 %c, i8 %a, i8 %b) {
entry:
  %cn = zext i8 %c to i64
  %an = zext i8 %a to i64
  %bn = zext i8 %b to i64
  br label %row
row:
  %i = phi i64 [ 0, %entry ], [ %next_row, %add ]
  %c_at = getelementptr [16 x <16 x i32>], ptr @emulated_registers, i64 %cn, i64 %i
  %a_row = getelementptr [16 x <16 x i32>], ptr @emulated_registers, i64 %an, i64 %i
  br label %step
step:
  %k = phi i64 [ 0, %row ], [ %next, %step ]
  %evens = phi <16 x float> [ zeroinitializer, %row ], [ %more_evens, %step ]
  %odds = phi <16 x float> [ zeroinitializer, %row ], [ %more_odds, %step ]
  %a_at = getelementptr i32, ptr %a_row, i64 %k
  %b_at = getelementptr [16 x <16 x i32>], ptr @emulated_registers, i64 %bn, i64 %k
  %word = load i32, ptr %a_at
  %one = insertelement <16 x i32> poison, i32 %word, i64 0
  %all = shufflevector <16 x i32> %one, <16 x i32> poison, <16 x i32> zeroinitializer
  %others = load <16 x i32>, ptr %b_at
  %al_bits = shl <16 x i32> %all, splat (i32 16)
  %bl_bits = shl <16 x i32> %others, splat (i32 16)
  %ah_bits = and <16 x i32> %all, splat (i32 -65536)
  %bh_bits = and <16 x i32> %others, splat (i32 -65536)
  %al = bitcast <16 x i32> %al_bits to <16 x float>
  %bl = bitcast <16 x i32> %bl_bits to <16 x float>
  %ah = bitcast <16 x i32> %ah_bits to <16 x float>
  %bh = bitcast <16 x i32> %bh_bits to <16 x float>
  %more_evens = call <16 x float> @llvm.fma.v16f32(<16 x float> %al, <16 x float> %bl, <16 x float> %evens)
  %more_odds = call <16 x float> @llvm.fma.v16f32(<16 x float> %ah, <16 x float> %bh, <16 x float> %odds)
  %next = add i64 %k, 1
  %more = icmp ult i64 %next, 16
  br i1 %more, label %step, label %add
add:
  %sum = load <16 x float>, ptr %c_at
  %both = fadd <16 x float> %more_evens, %more_odds
  %total = fadd <16 x float> %sum, %both
  store <16 x float> %total, ptr %c_at
  %next_row = add i64 %i, 1
  %more_rows = icmp ult i64 %next_row, 16
  br i1 %more_rows, label %row, label %exit
exit:
  ret void
}
"""
_MOVE = """
define internal void @emulated_NAME(i8 %t, ptr %memory, i64 %stride) {
entry:
  %n = zext i8 %t to i64
  br label %row
row:
  %i = phi i64 [ 0, %entry ], [ %next, %row ]
  %offset = mul i64 %i, %stride
  %there = getelementptr i8, ptr %memory, i64 %offset
  %here = getelementptr [16 x <16 x i32>], ptr @emulated_registers, i64 %n, i64 %i
  %words = load <16 x i32>, ptr %FROM, align 1
  store <16 x i32> %words, ptr %TO, align 1
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, 16
  br i1 %more, label %row, label %exit
exit:
  ret void
}
"""
_WAYS = (("tileloadd64", "there", "here"), ("tilestored64", "here", "there"))
_MOVES = "".join(
    _MOVE.replace("NAME", name).replace("FROM", source).replace("TO", target) for name, source, target in _WAYS
)
_REAL = re.compile(r"@llvm\.x86\.(ldtilecfg|tile\w+|tdpbf16ps)")
_TWICE = ("@llvm.memset.p0.i64(", "@llvm.fma.v16f32(")


@contextmanager
def emulated() -> Iterator[list[str]]:
    """Make kernels for this processor as though it had them; gives what was called of them, text by text."""
    emit, here = machine._emit, machine.processor()
    called: list[str] = []

    def emit_emulated(text: str, target: machine.Processor) -> bytes:
        called.extend(_REAL.findall(text))
        kept = [line for line in text.splitlines() if not (line.startswith("declare ") and _declared(line))]
        return emit(_REAL.sub(r"@emulated_\1", "\n".join(kept)) + EMULATOR.replace("MOVES", _MOVES), here)

    other = here._replace(features=",".join([here.features, "+amx-tile", "+amx-bf16", "+emulated"]))
    with pytest.MonkeyPatch.context() as patch, machine.pretending(other):
        patch.setattr(machine, "_emit", emit_emulated)
        threads.set_num_threads(1)
        try:
            yield called
        finally:
            threads.set_num_threads(None)


@contextmanager
def none() -> Iterator[None]:
    """Make kernels for this processor as though it had none."""
    here = machine.processor()
    kept = [word for word in here.features.split(",") if "amx" not in word]
    with machine.pretending(here._replace(features=",".join(kept))):
        yield


def _declared(line: str) -> Any:
    return _REAL.search(line) or any(name in line for name in _TWICE)
