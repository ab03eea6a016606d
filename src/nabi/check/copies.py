"""Groups of pictures that are copies of each other: the same file, the same pixels, or the same to the eye."""

import heapq
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nabi.check.crops import MOST_PICTURES, cropped_pairs
from nabi.check.fingerprints import SIDE, SMALLEST, fingerprints
from nabi.check.pairs import NEAR, Pair, near_pairs
from nabi.data.files import Progress
from nabi.waiting import Show

HOW = ("bytes", "pixels", "near", "mirrored", "part")  # the closest first


class Copy(NamedTuple):
    """A picture in a group: its position, what it is a copy of (-1 for the first), how, and how alike (to 1)."""

    row: int
    of: int
    how: str
    similarity: float


class _Edge(NamedTuple):
    distance: float
    how: str
    similarity: float


@dataclass(frozen=True)
class Looked:
    """What was looked for beside exact copies: near ones, so alike or more, unless None; parts of pictures."""

    near: float | None
    parts: bool


def to_look_for(sizes: NDArray[np.int64], keys: NDArray[np.uint64], near: float | None) -> Looked:
    """What is worth looking for in a set; a person's own ``near`` is taken as it is.

    Pictures of less than 32 pixels look the same even where they are not (docs/check.md has how many), in those of less
    than 64 parts do; and where there are very many, looking for parts would take too long.
    """
    side = float(np.median(sizes.min(1)))
    least = NEAR if near is None and side >= SMALLEST else near
    return Looked(least, least is not None and side >= SIDE and len(np.unique(keys)) <= MOST_PICTURES)


def copies(
    digests: NDArray[np.uint64],
    keys: NDArray[np.uint64],
    thumbnails: NDArray[np.uint8],
    looked: Looked,
    show: Show = lambda what, done, total: None,
) -> list[list[Copy]]:
    """Groups of at least two copies, each in an order in which every copy but the first follows what it is one of.

    Parameters
    ----------
    digests, keys : arrays of uint64, shape (N,)
        Of the files' bytes, and of their decoded pixels.
    thumbnails : array of uint8, shape (N, 64, 64)
    looked : Looked
        What is looked for.
    """
    edges: dict[int, dict[int, _Edge]] = defaultdict(dict)

    def join(first: int, second: int, edge: _Edge) -> None:
        if second not in edges[first] or edge < edges[first][second]:
            edges[first][second] = edges[second][first] = edge

    _, firsts = np.unique(keys, return_index=True)
    firsts = np.sort(firsts)
    for same in _equal(keys):
        for row in same[1:]:
            how = "bytes" if digests[row] == digests[same[0]] else "pixels"
            join(same[0], row, _Edge(HOW.index(how), how, 1.0))
    if looked.near is not None:
        some = thumbnails[firsts]
        near = near_pairs(fingerprints(some), least=looked.near, report=_named(show, "comparing pictures"))
        for pair in near:
            join(*_rows(pair, firsts), _edge(pair, "mirrored" if pair.mirrored else "near"))
        if looked.parts:
            for pair in cropped_pairs(some, report=_named(show, "looking for parts of pictures")):
                join(*_rows(pair, firsts), _edge(pair, "part"))
    return _grouped(edges)


def _named(show: Show, what: str) -> Progress:
    return lambda done, total: show(what, done, total)


def _equal(keys: NDArray[np.uint64]) -> Iterable[list[int]]:
    order = np.argsort(keys, kind="stable")
    borders = np.flatnonzero(np.diff(keys[order])) + 1
    return (part.tolist() for part in np.split(order, borders) if len(part) > 1)


def _rows(pair: Pair, firsts: NDArray[np.intp]) -> tuple[int, int]:
    return int(firsts[pair.first]), int(firsts[pair.second])


def _edge(pair: Pair, how: str) -> _Edge:
    return _Edge(HOW.index(how) + 1 - pair.similarity, how, pair.similarity)


def _grouped(edges: dict[int, dict[int, _Edge]]) -> list[list[Copy]]:
    """What hangs together, from the first picture on by the closest relation there is (Prim's tree)."""
    groups, placed = [], set[int]()
    for start in sorted(edges):
        if start in placed:
            continue
        group: list[Copy] = []
        waiting: list[tuple[float, int, int, str, float]] = [(0.0, start, -1, "", 1.0)]
        while waiting:
            _, row, of, how, similarity = heapq.heappop(waiting)
            if row in placed:
                continue
            placed.add(row)
            group.append(Copy(row, of, how, similarity))
            for other, edge in edges[row].items():
                if other not in placed:
                    heapq.heappush(waiting, (edge.distance, other, row, edge.how, edge.similarity))
        groups.append(group)
    return groups
