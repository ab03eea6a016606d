"""Where the boxes of a picture go: in columns from left to right, with few crossings and straight lines.

The layered method in four steps. Each box goes into the column just before the earliest that uses it; a line that
passes a column gets a place of its own there; the places within a column are sorted by where their neighbours lie; and
each takes the height that its neighbours ask for, as far as the others leave room. Columns that do not fit beside each
other go on below, like words on the next line. Source: Sugiyama, Tagawa and Toda, "Methods for visual understanding of
hierarchical system structures" (1981); the heights by pooling adjacent violators.
"""

from bisect import bisect_right, insort
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

SWEEPS = 12  # over the columns, to and fro: more change little


class Place(NamedTuple):
    """Where a box lies: the left and right edge of its column, and its middle height."""

    left: float
    right: float
    middle: float


class Link(NamedTuple):
    """A line from one column to the next: from the right edge of what lies there to the left edge of what follows.

    ``source`` and ``target`` are boxes, or None where the line only passes. A link that goes on in the next row of
    columns comes as two: one whose end is the right margin and one whose start is the left margin.
    """

    start: tuple[float, float]
    end: tuple[float, float]
    source: int
    target: int | None
    wraps: bool


class Layout(NamedTuple):
    """Everything placed."""

    places: list[Place]
    links: list[Link]
    width: float
    height: float


class _Slot:
    """What takes up room in a column: a box, or a line that passes."""

    __slots__ = ("after", "before", "box", "column", "height", "origin", "wish", "y")

    def __init__(self, column: int, height: float, origin: int, box: int | None, wish: int) -> None:
        self.column = column
        self.height = height
        self.origin = origin  # the box that the value comes from
        self.box = box
        self.wish = wish
        self.before: list[_Slot] = []
        self.after: list[_Slot] = []
        self.y = 0.0


def arrange(
    sizes: Sequence[tuple[float, float]],
    inputs: Sequence[Sequence[int]],
    width: float = 1200.0,
    gap: tuple[float, float] = (30.0, 14.0),
    margin: float = 28.0,
) -> Layout:
    """Place boxes.

    Parameters
    ----------
    sizes : sequence of (float, float)
        Width and height of each box.
    inputs : sequence of sequences of int
        For each box, the boxes that lines come from; all before it in the sequence.
    width : float
        Where to go on in a new row of columns.
    gap : (float, float)
        Between columns, and between boxes of one column.
    margin : float
        All around, and between rows.

    Examples
    --------
    >>> [(p.left, p.middle) for p in arrange([(10, 10), (10, 10), (10, 10)], [[], [], [0, 1]]).places]
    [(28.0, 33.0), (28.0, 57.0), (68.0, 45.0)]
    """
    columns = _columns(sizes, inputs)
    _sort(columns)
    _settle(columns, gap[1])
    return _lay_out(columns, sizes, width, gap, margin)


def _columns(sizes: Sequence[tuple[float, float]], inputs: Sequence[Sequence[int]]) -> list[list[_Slot]]:
    count = len(sizes)
    to_end = [0] * count  # the longest way to a box that nothing follows
    for box in reversed(range(count)):
        for source in inputs[box]:
            to_end[source] = max(to_end[source], to_end[box] + 1)
    last = max(to_end, default=-1)
    order = _reading_order(inputs)
    slots = [_Slot(last - to_end[box], sizes[box][1], box, box, order[box]) for box in range(count)]
    columns: list[list[_Slot]] = [[] for _ in range(last + 1)]
    for slot in slots:
        columns[slot.column].append(slot)
    ways: dict[int, list[_Slot]] = {}  # from each box, the places where its line passes
    for box in range(count):
        for source in dict.fromkeys(inputs[box]):
            way = ways.setdefault(source, [slots[source]])
            while way[-1].column < slots[box].column - 1:
                passing = _Slot(way[-1].column + 1, 0.0, source, None, order[source])
                _join(way[-1], passing)
                columns[passing.column].append(passing)
                way.append(passing)
            _join(way[slots[box].column - 1 - slots[source].column], slots[box])
    return columns


def _join(before: _Slot, after: _Slot) -> None:
    before.after.append(after)
    after.before.append(before)


def _reading_order(inputs: Sequence[Sequence[int]]) -> list[int]:
    """A number for each box, so that what stands first in a formula is drawn above what stands second."""
    order = [-1] * len(inputs)
    number = 0
    for start in reversed(range(len(inputs))):
        pending = [start]
        while pending:
            box = pending.pop()
            if order[box] < 0:
                order[box] = number
                number += 1
                pending.extend(reversed(inputs[box]))
    return order


# --- the order within each column ---


def _sort(columns: list[list[_Slot]]) -> None:
    """Order each column so that few lines cross."""
    for column in columns:
        column.sort(key=lambda slot: slot.wish)
        _number(column)
    best, fewest = [list(column) for column in columns], _crossings(columns)
    for sweep in range(SWEEPS):
        if not fewest:
            break
        forward = sweep % 2 == 1
        for column in columns if forward else reversed(columns):
            column.sort(key=lambda slot: _mean(slot.before if forward else slot.after, slot))
            _number(column)
        crossings = _crossings(columns)
        if crossings < fewest:
            best, fewest = [list(column) for column in columns], crossings
    for column, order in zip(columns, best, strict=True):
        column[:] = order


def _number(column: list[_Slot]) -> None:
    for place, slot in enumerate(column):
        slot.y = float(place)


def _mean(neighbours: list[_Slot], slot: _Slot) -> float:
    if not neighbours:
        return slot.y
    return sum(_weight(other) * other.y for other in neighbours) / sum(map(_weight, neighbours))


def _weight(slot: _Slot) -> float:
    """Where a line starts, it gives way, so that what is computed one after another lies on one line."""
    return 1.0 if slot.before else 0.03


def _crossings(columns: list[list[_Slot]]) -> int:
    total = 0
    for column in columns[:-1]:
        seen: list[float] = []
        for slot in column:
            ends = sorted(other.y for other in slot.after)
            total += sum(len(seen) - bisect_right(seen, end) for end in ends)
            for end in ends:
                insort(seen, end)
    return total


# --- the height of each place ---


def _settle(columns: list[list[_Slot]], gap: float) -> None:
    """Give each place the mean height of its neighbours, as far as order and room allow."""
    for column in columns:
        _spread(column, [0.0] * len(column), gap)
    for sweep in range(2 * SWEEPS):
        forward = sweep % 2 == 1
        for column in columns if forward else reversed(columns):
            _spread(column, [_mean(slot.before if forward else slot.after, slot) for slot in column], gap)
    for sweep in range(SWEEPS):
        for column in columns if sweep % 2 else reversed(columns):
            _spread(column, [_mean(slot.before + slot.after, slot) for slot in column], gap)


def _spread(column: list[_Slot], wishes: list[float], gap: float) -> None:
    """Heights as near to the wishes as can be, in order and without overlap: least squares, by pooling."""
    offsets = [0.0]
    for above, below in pairwise(column):
        offsets.append(offsets[-1] + (above.height + below.height) / 2 + gap)
    pools: list[tuple[float, float, int]] = []  # weighted sum, weight and number of what moves together
    for slot, wish, offset in zip(column, wishes, offsets, strict=False):
        weight = _weight(slot)
        pool = (weight * (wish - offset), weight, 1)
        while pools and pools[-1][0] / pools[-1][1] > pool[0] / pool[1]:
            pool = tuple(map(sum, zip(pool, pools.pop(), strict=True)))  # type: ignore[assignment]
        pools.append(pool)
    levels = [total / weight for total, weight, number in pools for _ in range(number)]
    for slot, level, offset in zip(column, levels, offsets, strict=False):
        slot.y = level + offset


# --- rows of columns ---


def _lay_out(
    columns: list[list[_Slot]],
    sizes: Sequence[tuple[float, float]],
    width: float,
    gap: tuple[float, float],
    margin: float,
) -> Layout:
    widths = [max((sizes[s.box][0] for s in column if s.box is not None), default=0.0) for column in columns]
    rows, lefts = _rows(widths, width, gap[0], margin)
    for percent in range(95, 40, -5):  # rows of much the same length
        narrower = _rows(widths, width * percent / 100, gap[0], margin)
        if len(narrower[0]) > len(rows):
            break
        rows, lefts = narrower
    right_margin = max((lefts[i] + widths[i] for i in range(len(columns))), default=0.0)
    right_margin += gap[0] if len(rows) > 1 else 0.0

    places: list[Place | None] = [None] * len(sizes)
    links: list[Link] = []
    shift = margin
    previous = 0.0  # the shift of the row above
    for row in rows:
        arriving = list(columns[row[0] - 1]) if row[0] else []
        top = min((s.y - s.height / 2 for i in row for s in columns[i]), default=0.0)
        bottom = max((s.y + s.height / 2 for i in row for s in columns[i]), default=0.0)
        top = min([top, *(s.y for s in arriving)])
        bottom = max([bottom, *(s.y for s in arriving)])
        down = shift - top
        for index in row:
            for slot in columns[index]:
                if slot.box is not None:
                    places[slot.box] = Place(lefts[index], lefts[index] + widths[index], slot.y + down)
                else:
                    here = slot.y + down
                    end = (lefts[index] + widths[index], here)
                    links.append(Link((lefts[index], here), end, slot.origin, None, False))
                for source in slot.before:
                    end = (lefts[index], slot.y + down)
                    if source.column in row:
                        start = (lefts[source.column] + widths[source.column], source.y + down)
                        links.append(Link(start, end, source.origin, slot.box, False))
                    else:
                        links.append(Link((margin, source.y + down), end, source.origin, slot.box, True))
        for slot in arriving:
            edge = lefts[slot.column] + widths[slot.column]
            links.append(Link((edge, slot.y + previous), (right_margin, slot.y + previous), slot.origin, None, True))
        previous = down
        shift = bottom + down + margin
    return Layout([place for place in places if place is not None], links, right_margin + margin, shift)


def _rows(widths: Sequence[float], width: float, gap: float, margin: float) -> tuple[list[list[int]], list[float]]:
    """Which columns stand beside each other, and the left edge of each."""
    rows: list[list[int]] = []
    lefts: list[float] = []
    for index, wide in enumerate(widths):
        left = lefts[-1] + widths[index - 1] + gap if rows else margin
        if not rows or left + wide > width - margin:
            rows.append([])
            left = margin + (gap if index else 0.0)
        rows[-1].append(index)
        lefts.append(left)
    return rows, lefts
