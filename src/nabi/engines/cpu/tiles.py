"""Products in bfloat16 in the processor's matrix registers (AMX), which hold 16 rows of 16 words.

One instruction multiplies a register of a first matrix, 16 rows of 32 numbers, with one of a second, 32 rows of 16, and
adds the product to 16×16 sums in float32. Two of each are held at a time, beside the four registers of their sums: each
is used twice, so that loading takes half of the time of multiplying. What does not fill registers is left to
`nabi.engines.cpu.bfloat16`.

Source: Intel, "Intel 64 and IA-32 architectures software developer's manual", volume 1, chapter 18.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from nabi.engines.cpu.code import Code, Index
from nabi.engines.cpu.contract import Matrix

SIDE = 16
"""Rows of a register, words of each, and columns of its sums."""
HEIGHTS = (2 * SIDE, SIDE)
_LEFT, _RIGHT = 4, 6
"""The registers of the first and of the second matrix come behind those of the sums."""

_CONFIGURE, _RELEASE = "@llvm.x86.ldtilecfg", "@llvm.x86.tilerelease"
_ZERO, _LOAD, _STORE = "@llvm.x86.tilezero", "@llvm.x86.tileloadd64", "@llvm.x86.tilestored64"
_PRODUCT = "@llvm.x86.tdpbf16ps"


@contextmanager
def in_use(code: Code) -> Iterator[None]:
    """The matrix registers, each of 16 rows of 64 bytes, and given back at the end."""
    word = (4 * SIDE).to_bytes(2, "little")
    shape = b"\x01" + bytes(15) + 8 * word + bytes(16) + 8 * bytes([SIDE]) + bytes(8)
    text = "".join(f"\\{byte:02X}" for byte in shape)
    code.declare("@registers", f'@registers = private constant [64 x i8] c"{text}", align 64')
    code.declare(_CONFIGURE, f"declare void {_CONFIGURE}(ptr)")
    code.declare(_RELEASE, f"declare void {_RELEASE}()")
    code.declare(_ZERO, f"declare void {_ZERO}(i8)")
    code.declare(_PRODUCT, f"declare void {_PRODUCT}(i8, i8, i8)")
    for called in (_LOAD, _STORE):
        code.declare(called, f"declare void {called}(i8, ptr, i64)")
    code.emit(f"call void {_CONFIGURE}(ptr @registers)")
    yield
    code.emit(f"call void {_RELEASE}()")


def tile(
    code: Code, x: Matrix, y: Matrix, result: Matrix, row: Index, height: int, starts: Sequence[int],
    pairs: tuple[int | str, int | str], add: bool, along: int = 1,
) -> None:  # fmt: skip
    """Rows of a product of words, up to 32, by up to two registers of columns, and along the sum by whole registers.

    Parameters
    ----------
    x, y : Matrix
        Words (rows, pairs) and (pairs, columns).
    starts : sequence of int
        The first columns of the registers.
    pairs : pair of int or str
        From where to where along the sum.
    along : int
        Words of the first matrix from a pair to the next; where it is not 1, those of a register follow each other.
    """
    down = range(height // SIDE)

    def call(called: str, register: int, pointer: str, place: Index, kind: str, stride: int) -> None:
        code.emit(f"call void {called}(i8 {register}, ptr {code.address(pointer, place, kind)}, i64 {4 * stride})")

    def sums(called: str) -> None:
        for i in down:
            for j, start in enumerate(starts):
                place = result.offset(row.plus(i * SIDE), Index((), start))
                call(called, 2 * i + j, result.pointer, place, "float", result.stride)

    if add:
        sums(_LOAD)
    else:
        for i in down:
            for j in range(len(starts)):
                code.emit(f"call void {_ZERO}(i8 {2 * i + j})")
    with code.loop(*pairs, SIDE) as k:
        for i in down:
            call(_LOAD, _LEFT + i, x.pointer, x.offset(row.plus(i * SIDE), k.times(along)), "i32", x.stride)
        for j, start in enumerate(starts):
            call(_LOAD, _RIGHT + j, y.pointer, y.offset(k, Index((), start)), "i32", y.stride)
        for i in down:
            for j in range(len(starts)):
                code.emit(f"call void {_PRODUCT}(i8 {2 * i + j}, i8 {_LEFT + i}, i8 {_RIGHT + j})")
    sums(_STORE)
