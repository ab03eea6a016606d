"""Which pictures are parts of others: cut out, and perhaps mirrored.

A picture is compared, whole, with a hundred windows of every other, by the lowest frequencies; the windows of the few
that are most like it are then moved, edge by edge, until they fit best; and what is in the best window is compared as
pictures are. Windows have at least 0.66 of a picture's width and height.
"""

from functools import cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from nabi import threads
from nabi.check.fingerprints import KEPT, SIDE, Floats, cosines, mirror, scaled
from nabi.check.pairs import Pair
from nabi.data.files import Progress

LEAST = 0.96  # the least correlation of a part with what it was cut out from; docs/check.md
MOST_PICTURES = 10_000  # the time goes with the square of their number
COARSE = 5  # frequencies in each direction by which windows are chosen
FINER = 8  # and by which they are moved
CHOSEN = 8  # pictures that each may be a part of
HOPELESS = 0.8  # where nothing is worth moving a window
STEPS = ((4, 0.84), (2, 0.88), (1, 0.0))  # how far edges move, in thumbnail pixels; and what must be reached by it
SHORTEST = 42  # thumbnail pixels of a window's side
QUERIES, ACROSS = 128, 512  # of a block: so that what is computed stays in the processor's cache
TOGETHER = 1024


def cropped_pairs(
    thumbnails: NDArray[np.uint8],
    *,
    least: float = LEAST,
    report: Progress = lambda done, total: None,
) -> list[Pair]:
    """Pairs of which one looks like a part of the other: ``second`` lies inside of ``first``.

    Parameters
    ----------
    thumbnails : array of uint8, shape (N, 64, 64)
    """
    windows = _windows(thumbnails)
    whole, part, best = [], [], []
    starts = range(0, len(thumbnails), QUERIES)
    with threads.one_blas_thread():
        choose = lambda start: _chosen(windows, start)
        chosen = threads.map_in_order(choose, starts, ahead=threads.get_num_threads())
        for done, (of, cut, window) in enumerate(chosen, 1):
            whole.append(of)
            part.append(cut)
            best.append(window)
            report(done, 2 * len(starts))
        of, cut, window = (np.concatenate(lists) if lists else np.empty(0, np.intp) for lists in (whole, part, best))
        blocks = range(0, len(of), TOGETHER)

        def fit(start: int) -> list[Pair]:
            some = slice(start, start + TOGETHER)
            return _fitted(thumbnails, of[some], cut[some], window[some], least)

        found: list[Pair] = []
        for done, pairs in enumerate(threads.map_in_order(fit, blocks), 1):
            found += pairs
            report(len(blocks) + done, 2 * len(blocks))
    return sorted(found)


def _spans() -> list[tuple[int, int]]:
    """Where the windows of the first look begin and end, in one direction: all of it first."""
    sides = {SIDE: 1, 58: 2, 51: 3, 45: 4}
    return [
        (round(start), round(start) + side)
        for side, many in sides.items()
        for start in np.linspace(0, SIDE - side, many)
    ]


def _windows(thumbnails: NDArray[np.uint8]) -> Floats:
    """The lowest frequencies of all windows of all pictures: (windows, N, 24); the first window is the whole."""
    spans = _spans()
    rows = np.concatenate([_span(COARSE, *span) for span in spans])
    found = np.empty((len(spans) ** 2, len(thumbnails), COARSE**2 - 1), np.float32)
    for start in range(0, len(thumbnails), TOGETHER):
        block = rows @ thumbnails[start : start + TOGETHER].astype(np.float32) @ rows.T
        parts = block.reshape(-1, len(spans), COARSE, len(spans), COARSE).transpose(1, 3, 0, 2, 4)
        prints = scaled(parts).reshape(len(spans) ** 2, -1, COARSE**2 - 1)
        found[:, start : start + TOGETHER] = prints[..., _even_first()]
    return found


def _even_first() -> NDArray[np.intp]:
    """The order of frequencies in which those that change their sign in a mirror come last."""
    return np.argsort(-mirror(COARSE), kind="stable")


def _halves() -> tuple[slice, slice]:
    even = int((mirror(COARSE) > 0).sum())
    return slice(0, even), slice(even, None)


def _chosen(windows: Floats, start: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """For some pictures, those that they are most like a part of, and in which window (minus one: mirrored)."""
    signs = mirror(COARSE)[_even_first()]
    whole = windows[0, start : start + QUERIES]
    halves = _halves()
    queries = [np.ascontiguousarray(whole[:, half]) for half in halves]
    count = windows.shape[1]
    score = np.full((len(whole), count), -1, np.float32)
    for block in range(0, count, ACROSS):
        best = score[:, block : block + ACROSS]
        even, odd = np.empty_like(best), np.empty_like(best)
        for window in windows[1:, block : block + ACROSS]:
            for query, half, into in zip(queries, halves, (even, odd), strict=True):
                np.matmul(query, window[:, half].T, out=into)
            np.abs(odd, out=odd)
            np.add(even, odd, out=odd)
            np.maximum(best, odd, out=best)
    score[np.arange(len(whole)), start + np.arange(len(whole))] = -1
    many = min(CHOSEN, count)
    top = np.argpartition(score, count - many, axis=1)[:, count - many :]
    cut, place = np.nonzero(np.take_along_axis(score, top, axis=1) >= HOPELESS)
    of = top[cut, place]
    window = np.empty(len(of), np.intp)
    for first in range(0, len(of), TOGETHER):
        some = slice(first, first + TOGETHER)
        products = windows[1:, of[some]] * whole[cut[some]]
        scores = np.stack([products.sum(-1), products @ signs], axis=-1)  # (windows, pairs, 2)
        window[some] = scores.transpose(1, 0, 2).reshape(len(products[0]), -1).argmax(1)
    return of, cut + start, window


def _fitted(
    thumbnails: NDArray[np.uint8],
    of: NDArray[np.intp],
    cut: NDArray[np.intp],
    window: NDArray[np.intp],
    least: float,
) -> list[Pair]:
    """Move the windows to where they fit best; the pairs that are alike there."""
    spans = np.array(_spans())
    mirrored = window % 2 == 1
    down, along = np.divmod(window // 2 + 1, len(spans))
    edges = np.concatenate([spans[down], spans[along]], axis=1)  # top, bottom, left, right
    for step, hope in STEPS:
        wholes = _queries(thumbnails, cut, mirrored, FINER)
        there = thumbnails[of].astype(np.float32)
        for _ in range(2):
            for axis in (0, 1):
                edges, score = _moved(there, wholes, edges, axis, step)
        stay = score >= hope
        of, cut, mirrored, edges = of[stay], cut[stay], mirrored[stay], edges[stay]
    down_rows, along_rows = _rows(KEPT, edges[:, :2]), _rows(KEPT, edges[:, 2:])
    inside = scaled(down_rows @ thumbnails[of].astype(np.float32) @ along_rows.transpose(0, 2, 1))
    alike = (inside * _queries(thumbnails, cut, mirrored, KEPT)).sum(1)
    return [
        Pair(int(of[place]), int(cut[place]), float(min(alike[place], 1)), bool(mirrored[place]))
        for place in np.flatnonzero(alike >= least).tolist()
    ]


def _queries(thumbnails: NDArray[np.uint8], chosen: NDArray[np.intp], mirrored: NDArray[np.bool_], kept: int) -> Floats:
    """Whole pictures, mirrored where they are."""
    rows = _span(kept, 0, SIDE)
    prints = scaled(rows @ thumbnails[chosen].astype(np.float32) @ rows.T)
    found: Floats = np.where(mirrored[:, None], prints * mirror(kept), prints)
    return found


def _moved(
    there: Floats, wholes: Floats, edges: NDArray[np.intp], axis: int, step: int
) -> tuple[NDArray[np.intp], Floats]:
    """Move the two edges of one direction, each by a step or not at all, to where it fits best."""
    other = _rows(FINER, edges[:, 2:] if axis == 0 else edges[:, :2])
    squeezed = there @ other.transpose(0, 2, 1) if axis == 0 else other @ there  # across the direction that stays
    tried, scores = [], []
    for first, second in product((0, -step, step), repeat=2):
        moved = edges.copy()
        moved[:, 2 * axis] = np.clip(moved[:, 2 * axis] + first, 0, SIDE - SHORTEST)
        moved[:, 2 * axis + 1] = np.clip(moved[:, 2 * axis + 1] + second, moved[:, 2 * axis] + SHORTEST, SIDE)
        rows = _rows(FINER, moved[:, 2 * axis : 2 * axis + 2])
        inside = rows @ squeezed if axis == 0 else squeezed @ rows.transpose(0, 2, 1)
        tried.append(moved)
        scores.append((scaled(inside) * wholes).sum(1))
    score = np.stack(scores)
    best = score.argmax(0)
    places = np.arange(len(edges))
    return np.stack(tried)[best, places], score[best, places]


def _rows(kept: int, spans: NDArray[np.intp]) -> Floats:
    return _all_spans(kept)[spans[:, 0], spans[:, 1] - SHORTEST]


@cache
def _all_spans(kept: int) -> Floats:
    """By where a window begins and by where it ends (less 42): (23, 23, kept, 64); zeros where it is too short."""
    most = SIDE - SHORTEST + 1
    found = np.zeros((most, most, kept, SIDE), np.float32)
    for start, end in product(range(most), range(SHORTEST, SIDE + 1)):
        if end - start >= SHORTEST:
            found[start, end - SHORTEST] = _span(kept, start, end)
    return found


@cache
def _span(kept: int, start: int, end: int) -> Floats:
    """What gives the cosine transform of a window of a row of 64 pixels: (kept, 64).

    As a matrix that first brings the window to 64 cells, each the mean of what it covers.
    """
    borders = start + (end - start) * np.arange(SIDE + 1) / SIDE
    pixels = np.arange(SIDE)
    overlap = np.minimum(borders[1:, None], pixels + 1) - np.maximum(borders[:-1, None], pixels)
    overlap = np.clip(overlap, 0, None)
    found: Floats = cosines(SIDE, kept) @ (overlap / overlap.sum(1, keepdims=True)).astype(np.float32)
    return found
