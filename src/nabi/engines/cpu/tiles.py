"""Products in bfloat16 in the processor's matrix registers (AMX), which hold 16 rows of 16 words.

One instruction multiplies a register of a first matrix, 16 rows of 32 numbers, with one of a second, 32 rows of 16, and
adds the product to 16×16 sums in float32. Two of each are held at a time, beside the four registers of their sums: each
is used twice, so that loading takes half of the time of multiplying. What does not fill registers is left to
`nabi.engines.cpu.bfloat16`.

Source: Intel, "Intel 64 and IA-32 architectures software developer's manual", volume 1, chapter 18.
"""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from nabi.engines.cpu.code import Code, Index
from nabi.engines.cpu.contract import Matrix

SIDE = 16
"""Rows of a register, words of each, and columns of its sums."""
BYTE = np.dtype(np.uint8)
AHEAD = 2
"""Products from fetching what a register takes to loading it."""
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


class Register(NamedTuple):
    """What a register is loaded with.

    Attributes
    ----------
    pointer : str
    stride : int
        Bytes from one row to the next.
    step : int
        Bytes to what it is loaded with for the next product.
    """

    pointer: str
    stride: int
    step: int


class Sums:
    """A product's sums in registers, one or two down and across."""

    def __init__(self, code: Code, down: int, across: int) -> None:
        self.code = code
        self.down, self.across = range(down), range(across)

    def begin(self) -> None:
        """From zero."""
        for i, j in itertools.product(self.down, self.across):
            self.code.emit(f"call void {_ZERO}(i8 {2 * i + j})")

    def load(self, columns: Sequence[str], stride: int) -> None:
        """From what is in memory: where each register's columns begin, and numbers from one row to the next."""
        self._move(_LOAD, columns, stride)

    def store(self, columns: Sequence[str], stride: int) -> None:
        self._move(_STORE, columns, stride)

    def _move(self, called: str, columns: Sequence[str], stride: int) -> None:
        for (j, column), i in itertools.product(enumerate(columns), self.down):
            pointer = self.code.address(column, Index((), i * SIDE * stride), "float")
            self.code.emit(f"call void {called}(i8 {2 * i + j}, ptr {pointer}, i64 {4 * stride})")

    def add(self, lefts: Sequence[Register], rights: Sequence[Register]) -> None:
        """The product of registers of the first matrix and of the second; what products after it take is fetched."""
        code = self.code
        fetches = [
            (source.pointer, Index((), AHEAD * source.step + row * source.stride))
            for source in (*lefts, *rights)
            for row in range(SIDE)
        ]
        share = -(-len(fetches) // (len(lefts) * len(rights)))

        def load(register: int, source: Register) -> None:
            code.emit(f"call void {_LOAD}(i8 {register}, ptr {source.pointer}, i64 {source.stride})")

        for (i, left), (j, right) in itertools.product(enumerate(lefts), enumerate(rights)):
            if i == 0:
                load(_RIGHT + j, right)
            if j == 0:
                load(_LEFT + i, left)
            for pointer, place in fetches[:share]:
                code.fetch(pointer, place, BYTE, near=3)
            del fetches[:share]
            code.emit(f"call void {_PRODUCT}(i8 {2 * i + j}, i8 {_LEFT + i}, i8 {_RIGHT + j})")


def tile(
    code: Code, x: Matrix, y: Matrix, result: Matrix, row: Index, height: int, starts: Sequence[int],
    pairs: tuple[int | str, int | str], add: bool,
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
    """
    sums = Sums(code, height // SIDE, len(starts))
    columns = [code.address(result.pointer, result.offset(row, Index((), start)), "float") for start in starts]
    if add:
        sums.load(columns, result.stride)
    else:
        sums.begin()

    def register(matrix: Matrix, row: Index, column: Index, step: int) -> Register:
        return Register(code.address(matrix.pointer, matrix.offset(row, column), "i32"), 4 * matrix.stride, 4 * step)

    with code.loop(*pairs, SIDE) as k:
        lefts = [register(x, row.plus(i * SIDE), k, SIDE) for i in sums.down]
        sums.add(lefts, [register(y, k, Index((), start), SIDE * y.stride) for start in starts])
    sums.store(columns, result.stride)
