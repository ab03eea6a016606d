"""Kernels that go through pairs of queries and candidates, and keep those that may be near.

In LLVM's assembly language, as the fast engine's kernels are, and compiled and kept like them.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nabi import machine
from nabi.engines.cpu.code import Code


def sifted(
    text: str, arrays: Sequence[NDArray[Any]], rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The pairs that a kernel keeps of queries ``rows[i]`` and candidates ``columns[i]``.

    ``arrays`` come first in its table. ``rows`` and ``columns``, contiguous, are written over.
    """
    kept = np.zeros(1, np.int64)
    machine.run(text, [*arrays, rows, columns, kept], [], len(rows))
    return rows[: kept[0]], columns[: kept[0]]


@contextmanager
def each_pair(code: Code, arrays: int) -> Iterator[tuple[str, str, list[str]]]:
    """The loop of such a kernel, behind so many arrays: row, column, and a list for the bit that says what is near."""
    rows, columns, kept = (code.pointer(arrays + slot) for slot in range(3))
    count = code.variable("i64", "0")
    with code.loop("%start", "%stop") as index:
        pair = code.integer(index)
        row, column = (code.let(f"load i64, ptr {code.at(each, 'i64', pair)}") for each in (rows, columns))
        near: list[str] = []
        yield row, column, near
        target = code.let(f"load i64, ptr {count}")
        code.emit(f"store i64 {row}, ptr {code.at(rows, 'i64', target)}")
        code.emit(f"store i64 {column}, ptr {code.at(columns, 'i64', target)}")
        code.add_to(count, "i64", code.let(f"zext i1 {near[0]} to i64"))
    code.emit(f"store i64 {code.let(f'load i64, ptr {count}')}, ptr {kept}")
