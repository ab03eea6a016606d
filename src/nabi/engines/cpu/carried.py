"""Panels of weights for the next step, written where the weights' new values are in registers.

In training all weights change in every step, and are more than the cache holds: to lay them out at the beginning of a
step, all of them would have to be read once more.
"""

from collections.abc import Sequence

import numpy as np

from nabi.engines.cpu.bfloat16 import beside, nothing
from nabi.engines.cpu.code import Index
from nabi.engines.cpu.kernels import Places, Rows, store
from nabi.engines.cpu.lanes import Lane
from nabi.engines.cpu.panels import in_panels, put
from nabi.engines.cpu.reading import Reader
from nabi.engines.cpu.values import COLUMNS, Value

FLOAT, WORD = np.dtype(np.float32), np.dtype(np.uint32)


def write(reader: Reader, rows: Rows, values: Sequence[tuple[Value, Sequence[Value]]]) -> None:
    """Write the rows of values of one shape, (rows, columns), each with the same rows of its panels.

    What lies behind the last column stays as it was when the panels were first laid out.
    """
    code, columns = reader.code, values[0][0].shape[1]
    width = code.vector // FLOAT.itemsize

    def across(first: Index, count: int) -> None:
        """One row, or two that words are made of."""
        whole = columns // COLUMNS
        with code.loop(0, whole) as block:
            along(first, count, block, COLUMNS)
        if columns % COLUMNS:
            along(first, count, Index((), whole), columns % COLUMNS)

    def along(first: Index, count: int, block: Index, length: int) -> None:
        for start in range(0, length, width):
            with code.masked(code.lanes_left(length - start, width)):
                column = block.times(COLUMNS).plus(Index((), start, 1))
                places: list[Places] = [(first.plus(i), column) for i in range(count)]
                store(reader, [value for value, _ in values], places)
                for value, carried in values:
                    lanes = [reader.read_whole(value, place) for place in places] if carried else []
                    with code.masked(None):
                        for panels in carried:
                            _put(reader, panels, (first, column), lanes)

    height = 2 if any(panels.dtype == WORD for _, carried in values for panels in carried) else 1
    whole = code.whole_steps(rows.length, height)
    with code.of_width(width):
        with code.loop(0, whole, height) as row:
            across(rows.first.plus(row), height)
        with code.loop(whole, rows.length) as row:
            across(rows.first.plus(row), 1)


def _put(reader: Reader, panels: Value, place: tuple[Index, Index], lanes: Sequence[Lane]) -> None:
    """A vector of one row, or of each of two, to its place in panels."""
    row, column = place
    if panels.dtype == FLOAT:
        for i, lane in enumerate(lanes):
            put(reader, panels, (row.plus(i), column), lane)
        return
    code, wide = reader.code, panels.shape[2]  # words of two rows, the first of which is even
    low, high = lanes if len(lanes) == 2 else (*lanes, nothing(code))
    spot = in_panels(panels, column).plus(row.times(wide // 2))
    passes_by = reader.passing.get(panels.serial, 0)
    code.store(reader.pointer(panels), spot, WORD, code.width, beside(low, high), passes_by)
