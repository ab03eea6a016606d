"""Nearest neighbours: the same as going through all pairs, whatever is skipped on the way."""

import importlib.util
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fuzzing import examples
from nabi import machine, threads
from nabi import nearest as module
from nabi.errors import DTypeError, SettingError, ShapeError
from nabi.nearest import (
    METRICS,
    _merge,
    _merge_whole,
    averages,
    bound_for,
    bounds,
    cells,
    differences,
    nearest,
    pairs,
    projection,
    search,
)
from nabi.nearest.bounds import (
    Bound,
    compared,
    no_bound,
    products_of_bytes,
    products_of_numbers,
    products_of_pixels,
    sums_of_cells,
)
from nabi.nearest.differences import differences_of_averages
from nabi.nearest.pairs import measure, squared_norms
from nabi.nearest.pixels import LONGEST, LONGEST_OF_DOTS, measure_pixels
from nabi.nearest.projection import Projected, projections
from nabi.nearest.rounding import round_projected
from nabi.nearest.tiles import combined, laid_out, within

HERE = machine.processor()
PROCESSORS = [HERE, *(machine.narrower(HERE)._replace(vector=n) for n in (32, 16) if n <= HERE.vector)]
if HERE.vector == 64:  # the same instructions in narrower registers
    PROCESSORS.append(HERE._replace(vector=32))

numkong = importlib.util.find_spec("numkong") is not None
metrics = st.sampled_from(METRICS)


def all_distances(queries, candidates, metric: str):
    """Squared for L2. Pixels in Python's whole numbers, of which none is too large; others as float64 has them."""
    if queries.dtype == np.uint8:
        pairs = [[list(zip(q, x, strict=True)) for x in rows_of(candidates)] for q in rows_of(queries)]
        power = 2 if metric == "l2" else 1
        sums = [[sum(abs(a - b) ** power for a, b in pair) for pair in row] for row in pairs]
        return np.array(sums, object).reshape(len(queries), len(candidates))
    difference = flat(queries)[:, np.newaxis].astype(np.float64) - flat(candidates)
    return (difference**2 if metric == "l2" else np.abs(difference)).sum(axis=2)


def rows_of(images) -> list[list[int]]:
    return flat(images).tolist()


def flat(images):
    return images.reshape(len(images), np.prod(images.shape[1:]))


def by_going_through_all(queries, candidates, k: int, metric: str):
    distances = all_distances(queries, candidates, metric)
    order = [sorted(range(len(candidates)), key=lambda place, row=row: (row[place], place))[:k] for row in distances]
    positions = np.array(order, np.int64).reshape(len(queries), k)
    found = np.take_along_axis(distances, positions, axis=1).astype(np.float64)
    return np.sqrt(found) if metric == "l2" else found, positions


@st.composite
def searches(draw, elements):
    """Queries and candidates of one shape, often with many ties, and how many neighbours to look for."""
    shape = draw(st.sampled_from([(1,), (3,), (17,), (40,), (2, 3, 1), (5, 9, 2)]))
    counts = draw(st.integers(0, 9)), draw(st.integers(1, 40))
    numbers = draw(elements)
    queries, candidates = (draw(arrays(numbers.dtype, (n, *shape), elements=numbers.values)) for n in counts)
    return queries, candidates, draw(st.integers(1, counts[1]))


class Numbers:
    """A strategy of numbers that knows their dtype."""

    def __init__(self, dtype, values) -> None:
        self.dtype, self.values = np.dtype(dtype), values


pixels = st.sampled_from(
    [
        Numbers(np.uint8, st.integers(0, 255)),
        Numbers(np.uint8, st.sampled_from([0, 255])),
        Numbers(np.uint8, st.integers(100, 102)),
    ]
)
numbers = st.sampled_from(
    [
        Numbers(np.float32, st.floats(-(2.0**100), 2.0**100, width=32)),
        Numbers(np.float32, st.floats(-1, 1, width=32)),
        Numbers(np.float32, st.floats(1000, 1000.0625, width=32)),
        Numbers(np.float32, st.sampled_from([0.0, 0.1, -0.1])),
    ]
)


@pytest.fixture(params=["whole", "cut small", "by kernel"])
def cut(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """At their usual sizes, blocks and tiles would hold all of what these tests search at once, by NumPy."""
    if request.param == "by kernel":
        monkeypatch.setattr(pairs, "MANY_BYTES", 0)
        monkeypatch.setattr(module, "MAX_TILE", 8)
    if request.param == "cut small":
        for where, name, value in [
            (module, "MAX_BLOCK", 16),
            (module, "MAX_TILE", 8),
            (module, "MAX_PAIRS", 3),
            (module, "MAX_FOUND", 5),
            (module, "PIECES", 3),
            (pairs, "PAIR_BYTES", 64),
            (pairs, "SQUARES", 3),
            (pairs, "DIFFERENCES", 3),
            (bounds, "PART_BYTES", 64),
            (bounds, "EXACT", 5),
            (bounds, "RUN", 5),
            (bounds, "LARGE", 6),
            (differences, "LARGE", 6),
            (cells, "GRID", 8),
            (cells, "ROW", 8),
            (projection, "DIRECTIONS", 4),
            (projection, "SAMPLE", 6),
            (cells, "TOGETHER", 64),
            (projection, "TOGETHER", 64),
        ]:
            monkeypatch.setattr(where, name, value)


def bounds_for(images, metric: str) -> list[Bound]:
    """Every bound that there is for such images."""
    shape, whole = images.shape[1:], images.dtype == np.uint8
    length = math.prod(shape)
    if metric == "l1":
        return [differences_of_averages(shape) if whole else sums_of_cells(shape)]
    if not whole:
        return [products_of_numbers(length)]
    there = [products_of_bytes(length)] if numkong and length else []
    return [products_of_pixels(length), projections(images), no_bound(), *there]


def check(searched, metric: str) -> None:
    queries, candidates, k = searched
    distances, positions = nearest(queries, candidates, k, metric)
    expected_distances, expected_positions = by_going_through_all(queries, candidates, k, metric)
    assert distances.dtype == np.float64
    assert positions.dtype == np.int64
    assert positions.tolist() == expected_positions.tolist()
    assert distances.tolist() == expected_distances.tolist()


@pytest.mark.usefixtures("cut")
@settings(max_examples=150, deadline=None)
@given(searches(pixels), metrics)
def test_pixels_as_in_whole_numbers(searched, metric: str) -> None:
    check(searched, metric)


@pytest.mark.usefixtures("cut")
@settings(max_examples=150, deadline=None)
@given(searches(numbers), metrics)
def test_numbers_as_in_float64(searched, metric: str) -> None:
    check(searched, metric)


@pytest.mark.usefixtures("cut")
@settings(max_examples=150, deadline=None)
@given(searches(st.one_of(pixels, numbers)), metrics)
def test_every_bound_gives_the_same_answer(searched, metric: str) -> None:
    queries, candidates, k = searched
    expected_distances, expected_positions = by_going_through_all(queries, candidates, k, metric)
    for bound in bounds_for(candidates, metric):
        distances, positions = search(queries, candidates, k, metric, bound)
        assert positions.tolist() == expected_positions.tolist()
        assert (np.sqrt(distances) if metric == "l2" else distances).tolist() == expected_distances.tolist()


@pytest.mark.usefixtures("cut")
@settings(max_examples=150, deadline=None)
@given(searches(st.one_of(pixels, numbers)), metrics, st.integers(0, 2**32))
def test_any_lower_bound_gives_the_same_answer(searched, metric: str, seed: int) -> None:
    queries, candidates, k = searched
    random = np.random.default_rng(seed)

    def between(some, others):
        columns, rows = (index.reshape(-1) for index in np.indices((len(others), len(some))))
        exact = measure(some, others, rows, columns, metric).reshape(len(others), len(some))
        return exact * random.choice([0.0, 0.5, 0.999, 1.0], exact.shape)

    threads.set_num_threads(1)  # one generator for all
    try:
        bound = compared(lambda images: images, lambda images: images, between, 1, np.float64)
        distances, positions = search(queries, candidates, k, metric, bound)
    finally:
        threads.set_num_threads(None)
    expected_distances, expected_positions = by_going_through_all(queries, candidates, k, metric)
    assert positions.tolist() == expected_positions.tolist()
    assert (np.sqrt(distances) if metric == "l2" else distances).tolist() == expected_distances.tolist()


@pytest.mark.usefixtures("cut")
@settings(max_examples=150, deadline=None)
@given(searches(st.one_of(pixels, numbers)), metrics, st.sampled_from(PROCESSORS), st.integers(0, 2**32))
def test_our_bounds_are_bounds(searched, metric: str, processor: machine.Processor, seed: int) -> None:
    queries, candidates, _ = searched
    exact = all_distances(queries, candidates, metric).astype(np.float64)
    random = np.random.default_rng(seed)
    chosen = random.integers(0, len(candidates), len(queries))
    limit = np.where(random.random(len(queries)) < 0.1, np.inf, exact[np.arange(len(queries)), chosen])
    with machine.pretending(processor):
        every = [near(bound, queries, candidates, limit) for bound in bounds_for(candidates, metric)]
    for found in every:
        assert found[exact <= limit[:, np.newaxis]].all()


def near(bound: Bound, queries, candidates, limit):
    """Whether a bound says of a query (N,) and a candidate (M,) that they may be within the query's limit."""
    columns, rows = bound.near(bound.of_queries(queries), bound.of_candidates(candidates), limit)
    assert (np.diff(columns) >= 0).all()
    found = np.zeros((len(queries), len(candidates)), int)
    np.add.at(found, (rows, columns), 1)
    assert found.max(initial=0) <= 1
    return found.astype(bool)


def test_nobody_is_ranked_before_the_picture_itself() -> None:
    random = np.random.default_rng(0)
    for images in (random.integers(0, 256, (50, 8, 8, 3), np.uint8), random.random((50, 20), np.float32)):
        for bound in bounds_for(images, "l2"):
            rank = bound.rank(bound.of_queries(images[10:]), bound.of_candidates(images))
            assert rank.shape == (50, 40)
            assert (rank.min(axis=0) == rank[np.arange(10, 50), np.arange(40)]).all()


def test_a_bound_spares_nearly_all_comparisons(monkeypatch: pytest.MonkeyPatch) -> None:
    """Smooth pictures, as photographs are: what the bound is for."""
    random = np.random.default_rng(0)
    images = random.integers(0, 200, (600, 4, 4, 3)).repeat(4, axis=1).repeat(4, axis=2)
    images = (images + random.integers(0, 50, images.shape)).astype(np.uint8)
    counted = []

    def counting(queries, candidates, rows, columns, metric, squared):
        counted.append(len(rows))
        return measure(queries, candidates, rows, columns, metric, squared)

    monkeypatch.setattr(module, "measure", counting)
    for metric in METRICS:
        counted.clear()
        nearest(images[:100], images[100:], 1, metric)
        assert sum(counted) < 0.05 * 100 * 500


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize(("metric", "expected"), [("l1", 255 * 224 * 224 * 3), ("l2", 255 * (224 * 224 * 3) ** 0.5)])
def test_the_sum_of_a_large_picture_does_not_overflow(metric: str, expected: float, dtype) -> None:
    black, white = (np.full((1, 224, 224, 3), value, dtype) for value in (0, 255))
    assert 255**2 * 224 * 224 * 3 > 2**32
    distances, positions = nearest(black, np.concatenate([white, black, white]), 3, metric)
    assert distances.tolist() == [[0, expected, expected]]
    assert positions.tolist() == [[1, 0, 2]]


@st.composite
def chosen_pairs(draw):
    length = draw(st.one_of(st.integers(0, 140), st.sampled_from([192, 3072])))
    values = st.sampled_from([0, 1, 127, 128, 254, 255])
    rows, columns = (draw(st.lists(st.integers(0, 4), max_size=30)) for _ in range(2))
    number = min(len(rows), len(columns))
    images = [draw(arrays(np.uint8, (5, length), elements=values, fill=values)) for _ in range(2)]
    return *images, np.array(rows[:number], np.int64), np.array(columns[:number], np.int64)


@settings(max_examples=150, deadline=None)
@given(chosen_pairs(), metrics, st.integers(0, 3), st.booleans())
def test_the_kernel_measures_in_whole_numbers_on_any_processor(chosen, metric: str, which: int, gaps: bool) -> None:
    queries, candidates, rows, columns = chosen
    other = PROCESSORS[which % len(PROCESSORS)]
    if gaps:  # rows that lie apart, as those of a tile do
        candidates = np.concatenate([candidates, candidates], axis=1).reshape(10, -1)[::2]
    difference = queries[rows].astype(np.int64) - candidates[columns]
    expected = (difference**2 if metric == "l2" else np.abs(difference)).sum(axis=1)
    squared = (queries.astype(np.float64) ** 2).sum(axis=1)
    with machine.pretending(other):
        for known in (None, squared):
            found = measure_pixels(queries, candidates, rows, columns, metric, known)
            assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("length", [LONGEST, LONGEST_OF_DOTS])
@pytest.mark.parametrize("metric", METRICS)
def test_the_longest_rows_that_the_kernel_takes_do_not_overflow(metric: str, length: int) -> None:
    black, white = (np.full((1, length), value, np.uint8) for value in (0, 255))
    zero = np.zeros(1, np.int64)
    expected = length * (255**2 if metric == "l2" else 255)
    for processor in PROCESSORS:
        with machine.pretending(processor):
            for one, other in ((black, white), (white, black)):
                for known in (None, squared_norms(one)):
                    found = measure_pixels(one, other, zero, zero, metric, known)
                    assert found.tolist() == [expected]
            assert measure_pixels(white, white, zero, zero, metric, squared_norms(white)).tolist() == [0]


@pytest.mark.skipif(not numkong, reason="numkong is not installed")
def test_products_of_bytes_are_exact_to_the_last_bit_of_32() -> None:
    white = np.full((2, bounds.BYTES), 255, np.uint8)
    bound = products_of_bytes(bounds.BYTES)
    assert 255**2 * (bounds.BYTES + 1) >= 2**32
    lower = bound.rank(bound.of_queries(white), bound.of_candidates(white))
    scale = 2 * 255**2 * bounds.BYTES
    assert (lower <= 0).all()
    assert (lower >= -2 * 8 * bounds.UNIT * scale).all()


def test_which_products_are_taken_depends_on_what_the_processor_has(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.zeros((3, 600), np.uint8)
    monkeypatch.setattr(module, "counts_bytes", lambda: False)
    assert bound_for(rows, rows, 1, "l2").size == 4 * 602
    if numkong:
        monkeypatch.setattr(module, "counts_bytes", lambda: True)
        assert bound_for(rows, rows, 1, "l2").size == 604


def test_a_few_queries_are_compared_with_everything() -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (6000, 3000), np.uint8)
    assert bound_for(images[:3], images, 2, "l2").size == 0
    distances, positions = nearest(images[:3], images, 2)
    exact = np.array([np.square(images.astype(np.int32) - query).sum(axis=1) for query in images[:3]])
    assert np.array_equal(positions, np.argsort(exact, axis=1, kind="stable")[:, :2])
    assert np.array_equal(distances, np.sqrt(np.sort(exact, axis=1)[:, :2]))


def extremes():
    """Pictures whose sums of squares need more than the 24 bits of float32; every one twice, and constant ones."""
    random = np.random.default_rng(0)
    images = random.choice(np.array([0, 1, 254, 255], np.uint8), (40, 32, 32, 3))
    constant = np.arange(40, dtype=np.uint8)[:, np.newaxis, np.newaxis, np.newaxis] * np.ones_like(images)
    return np.concatenate([images, images, constant])


def test_the_room_for_rounding_is_needed_and_enough_and_small() -> None:
    images = extremes()

    def of_all_pairs():
        bound = products_of_pixels(3072)
        return bound.rank(bound.of_queries(images), bound.of_candidates(images)).astype(np.float64)

    exact = all_distances(images.reshape(len(images), -1).astype(np.float32), images.reshape(len(images), -1), "l2")
    with_room = of_all_pairs()
    assert (with_room <= exact).all()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bounds, "UNIT", 0.0)
        without_room = of_all_pairs()
    assert (without_room > exact).any()
    squared = np.square(images.reshape(len(images), -1).astype(np.float64) - 128).sum(axis=1)
    scale = squared[:, np.newaxis] + squared
    assert (without_room - with_room <= 1e-3 * scale).all()
    # What rounding did is less than the room, by an order of magnitude: worst cases do not happen by chance.
    assert ((without_room - exact) / scale).max() < 1e-4


@pytest.mark.parametrize("shape", [(32, 32, 3), (3072,)])
def test_the_room_for_rounding_of_projections_is_needed_and_enough_and_small(shape: tuple[int, ...]) -> None:
    """Pictures of few colours, so that what they are in a few directions is all that they are."""
    colours = np.random.default_rng(0).integers(0, 256, (60, 3)).astype(np.uint8)
    images = np.tile(colours, math.prod(shape) // 3).reshape(60, *shape)
    exact = all_distances(flat(images).astype(np.float32), flat(images), "l2")

    def missed(farther: float) -> int:
        """How many pairs are not let through at their own distance, or so many times it."""
        bound, number = projections(images), 0
        for shift in range(60):
            others = np.roll(np.arange(60), shift)
            found = near(bound, images, images, exact[np.arange(60), others] * farther**2)
            number += (~found[np.arange(60), others]).sum()
        return number

    assert missed(1) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(projection, "HALF", 0.0)
        assert missed(1) > 0
    assert missed(0.8) > 0.9 * 60 * 59


@settings(max_examples=examples(25), deadline=None)
@given(
    shape=st.sampled_from([(8, 8, 3), (7, 9, 3), (6, 6, 1), (40,), (2, 2, 30)]),
    grid=st.sampled_from([8, 20, 100]),
    low=st.integers(0, 250),
    colours=st.sampled_from([2, 5, 256]),
    farther=st.sampled_from([1.0, 1.1, 2.0]),
    processor=st.sampled_from(PROCESSORS),
    seed=st.integers(0, 1000),
)
def test_averages_leave_out_no_pair_that_is_near(
    shape: tuple[int, ...], grid: int, low: int, colours: int, farther: float, processor: machine.Processor, seed: int
) -> None:
    random = np.random.default_rng(seed)
    images = random.integers(low, min(256, low + colours), (60, *shape)).astype(np.uint8)
    exact = all_distances(flat(images).astype(np.float32), flat(images), "l2")
    columns, rows = np.divmod(np.arange(3600), 60)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cells, "GRID", grid)
        patch.setattr(cells, "ROW", grid)
        side, count = cells.cells_of(shape)
        small = cells.room_for(60, cells.number_of_cells(shape, side))
        assert sum(len(sums) for _, sums, _ in cells.of_cells(images, side, small)) == 60
        asked = averages.of_queries(small)
        limit = np.median(exact, axis=1) * farther
        with machine.pretending(processor):
            found = averages.reachable(asked, small, rows.copy(), columns.copy(), limit / count)
        patch.setattr(averages, "has_dots", lambda processor: False)
        for one, other in zip(found, averages.reachable(asked, small, rows, columns, limit / count), strict=True):
            np.testing.assert_array_equal(one, other)
    kept = np.zeros((60, 60), bool)
    kept[found] = True
    assert kept[exact <= limit[:, np.newaxis]].all()


def test_what_averages_leave_out_and_their_rounding_decide_about_pairs() -> None:
    """Of pictures that are alike at a smaller size one that is rougher is left out, and none for being rounded."""
    random = np.random.default_rng(0)
    images = np.repeat(np.repeat(random.integers(100, 102, (50, 16, 16, 3)), 2, axis=1), 2, axis=2).astype(np.uint8)
    images[:, ::2, ::2] += random.integers(0, 3, (50, 16, 16, 3)).astype(np.uint8)
    rough = images.copy()
    rough[:, ::2] += 20
    rough[:, 1::2] -= 20
    exact = all_distances(flat(images).astype(np.float32), flat(images), "l2")
    columns, rows = np.divmod(np.arange(2500), 50)

    def kept(others, rounded: float = 1):
        """Which pairs may be within the distance that pairs of pictures at their places have."""
        both = [cells.room_for(50, 768) for _ in range(2)]
        for pictures, small in zip((images, others), both, strict=True):
            list(cells.of_cells(pictures, 2, small))
            small.off[...] *= rounded
        asked, found = averages.of_queries(both[0]), np.zeros((50, 50), bool)
        for other in range(50):  # the limit of each query is its distance to this one
            one = columns == other
            limit = exact[:, other] / 4
            found[averages.reachable(asked, both[1], rows[one].copy(), columns[one].copy(), limit)] = True
        return found

    assert kept(images).all()
    assert not kept(images, rounded=0).all()
    assert not kept(rough)[~np.eye(50, dtype=bool)].any()


def test_the_room_for_rounding_of_differences_is_needed_and_enough_and_small() -> None:
    """Pictures of one colour, of which none to four pixels of each four are a level brighter."""
    images = np.full((5, 32, 32, 3), 100, np.uint8)
    for number, (row, column) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)], 1):
        images[number:, row::2, column::2] += 1
    exact = all_distances(flat(images).astype(np.float32), flat(images), "l1")
    bound = differences_of_averages((32, 32, 3))

    def kept(farther: float, moved: int = 1):
        """Which pairs are let through at their own distance, or so many times it."""
        asked, found, near = bound.of_queries(images), bound.of_candidates(images), np.zeros((5, 5), bool)
        for small in (*asked.seen, *found):
            small.moved[...] *= moved
        for shift in range(5):
            others = np.roll(np.arange(5), shift)
            columns, rows = bound.near(asked, found, exact[np.arange(5), others] * farther)
            near[rows, columns] |= columns == others[rows]
        return near

    assert kept(1).all()
    assert not kept(1, moved=0)[1, 2]
    assert not kept(0.9)[0, 4]


@pytest.mark.parametrize("shape", [(32, 32, 3), (3072,), (9, 11, 1), (90, 110, 3), (20_000,), (512, 512, 3)])
def test_directions_are_whole_and_make_nothing_longer(shape: tuple[int, ...]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, *shape), np.uint8)
    side, count = cells.cells_of(shape)
    parts = [(sums.copy(), squared) for _, sums, squared in cells.of_cells(images[:10], side)]
    sums, squared = (np.concatenate(each) for each in zip(*parts, strict=True))
    assert np.abs(sums.astype(np.float64)).max() <= 128 * count
    assert sums.astype(np.float64).sum() == (images[:10].astype(np.float64) - 128).sum()
    np.testing.assert_array_equal(squared, (flat(images[:10]).astype(np.int64) ** 2).sum(axis=1))
    directions = projection.principal_directions(sums, 128 * count)
    assert directions.dtype == sums.dtype == (np.float64 if count > 256 else np.int16)
    assert np.array_equal(directions, np.rint(directions))
    largest = np.abs(directions.astype(np.float64)).sum(axis=1).max() * 128 * count
    assert largest < (2**31 if directions.dtype == np.int16 else 2**53)
    longest = np.linalg.svd(directions.astype(np.float64), compute_uv=False)[0]
    assert longest**2 <= np.abs(directions.astype(np.float64) @ directions.astype(np.float64).T).sum(axis=1).max()


@pytest.mark.parametrize("shape", [(48, 1600, 3), (16, 2500, 3), (2, 2, 1500), (3, 4, 5, 6)])
def test_long_rows_and_many_channels_and_axes_are_added_up(shape: tuple[int, ...]) -> None:
    """Bright ones: sums of squares that pass 32 bits, and cells of numbers where there are no pixels."""
    random = np.random.default_rng(0)
    images = np.repeat(random.integers(232, 241, (9, *shape)), 2, axis=0).astype(np.uint8)
    images[::2] += random.integers(0, 3, images[::2].shape).astype(np.uint8)
    images[-1] = 255
    side, count = cells.cells_of(shape)
    assert count == (side**2 if len(shape) == 3 and shape[2] < 1000 else side)
    squared = np.concatenate([squared for _, _, squared in cells.of_cells(images, side)])
    np.testing.assert_array_equal(squared, (flat(images).astype(np.int64) ** 2).sum(axis=1))
    for metric, bound in (("l2", projections(images)), ("l1", differences_of_averages(shape))):
        found = [search(images[:6], images, 5, metric, each) for each in (bound, no_bound())]
        for one, other in zip(*found, strict=True):
            np.testing.assert_array_equal(one, other)


def test_trying_a_bound_takes_little_memory() -> None:
    images = np.zeros((4096, 160, 160, 3), np.uint8)  # of which hardly a page is ever touched
    images[::64] = 7
    tracemalloc.start()
    try:
        bound_for(images[:64], images, 2, "l2")
        assert tracemalloc.get_traced_memory()[1] < 30 * 2**20
    finally:
        tracemalloc.stop()


def test_photographs_are_projected_and_noise_is_not() -> None:
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (4200, 16, 16, 3), np.uint8)
    smooth = random.integers(0, 200, (4200, 4, 4, 3)).repeat(4, axis=1).repeat(4, axis=2).astype(np.uint8) + noise // 8
    for images, projected in [(noise, False), (smooth, True), (smooth.reshape(4200, -1), True)]:
        bound = bound_for(images[:100], images[100:], 3, "l2")
        assert isinstance(bound.of_candidates(images[:1]), Projected) == projected
    few = bound_for(smooth[:10], smooth[10:], 3, "l2")  # so few that it does not pay
    assert not isinstance(few.of_candidates(smooth[:1]), Projected)
    queries, candidates = smooth[:70], np.concatenate([smooth[70:], smooth[:5]])
    distances, positions = nearest(queries, candidates, 3)
    exact = np.array([np.square(flat(candidates).astype(np.int64) - query).sum(axis=1) for query in flat(queries)])
    order = np.argsort(exact, axis=1, kind="stable")[:, :3]
    assert np.array_equal(positions, order)
    assert np.array_equal(distances, np.sqrt(np.take_along_axis(exact, order, axis=1)))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_one_thread_and_two_give_the_same_bits(metric: str, dtype) -> None:
    random = np.random.default_rng(0)
    images = (random.integers(0, 3, (900, 6, 6, 2)) * 0.7 * (1 if dtype == np.float32 else 100)).astype(dtype)
    answers = []
    try:
        for number in (1, 2):
            threads.set_num_threads(number)
            answers.append([part.tobytes() for part in nearest(images[:500], images, 4, metric)])
    finally:
        threads.set_num_threads(None)
    assert answers[0] == answers[1]


@pytest.mark.parametrize("metric", METRICS)
def test_memory_does_not_grow_with_the_number_of_queries_or_candidates(metric: str) -> None:
    """Random bytes: the worst case, in which no bound spares anything."""
    images = np.random.default_rng(0).integers(0, 256, (1200, 8, 8, 3), np.uint8)
    nearest(images[:1], images, 1, metric)  # imports what it needs
    try:
        threads.set_num_threads(1)  # of several it depends on the moment how much they hold together
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "MAX_BYTES", 2**17)
            patch.setattr(module, "MAX_TILE", 200)
            patch.setattr(module, "MAX_BLOCK", 200)
            peaks = [
                peak(images[:queries], images[:candidates], metric) - queries * 2 * 32  # but for the answer
                for queries, candidates in ((200, 400), (1200, 400), (200, 1200))
            ]
    finally:
        threads.set_num_threads(None)
    assert max(peaks) < 1.3 * peaks[0]
    assert max(peaks) < 1200 * 1200 * 8 / 2


def test_the_stated_amount_of_memory_is_enough() -> None:
    images = np.random.default_rng(0).integers(0, 256, (4096, 2048), np.uint8)
    for dtype in (np.uint8, np.float32):
        given = images.astype(dtype)
        for metric in METRICS:
            assert peak(given[:16], given, metric) < 130 * 2**20


@pytest.mark.parametrize("shape", [(32, 32, 3), (3072,)])
def test_the_stated_amount_of_memory_is_enough_for_pictures(shape: tuple[int, ...]) -> None:
    """Smooth ones, which are projected."""
    random = np.random.default_rng(0)
    images = random.integers(0, 60, (9000, 4, 4, 3), np.uint8).repeat(8, axis=1).repeat(8, axis=2)
    images[...] += random.integers(0, 190, (9000, 1, 1, 1), np.uint8)
    images = images.reshape(9000, *shape)
    assert isinstance(bound_for(images[:600], images, 5, "l2").of_candidates(images[:1]), Projected)
    threads.set_num_threads(1)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "MAX_TILE", 4500)  # so that there are two
            assert peak(images[:600], images, "l2") < 30 * 2**20
    finally:
        threads.set_num_threads(None)


@pytest.mark.parametrize("metric", METRICS)
def test_the_stated_amount_of_memory_is_enough_where_nothing_is_spared(metric: str) -> None:
    """All distances are the same, so that every pair must be measured."""
    images = np.zeros((10_000, 600), np.uint8)
    try:
        threads.set_num_threads(1)
        assert peak(images[:300], images, metric) < (130 + 60) * 2**20
    finally:
        threads.set_num_threads(None)


def peak(queries, candidates, metric: str) -> int:
    """How many bytes a search for two neighbours holds at most."""
    tracemalloc.start()
    try:
        nearest(queries, candidates, 2, metric)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_no_queries_no_neighbours() -> None:
    distances, positions = nearest(np.zeros((0, 3), np.uint8), np.zeros((5, 3), np.uint8), 2)
    assert distances.shape == positions.shape == (0, 2)


def test_a_memory_map_and_a_view_with_gaps_are_read_as_they_are(tmp_path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (60, 6, 6, 3), np.uint8)
    np.save(tmp_path / "images.npy", images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    for metric in METRICS:
        expected = nearest(images[::2, ::-1], images[:, ::-1], 3, metric)
        copied = nearest(images[::2, ::-1].copy(), images[:, ::-1].copy(), 3, metric)
        from_disk = nearest(mapped[::2, ::-1], mapped[:, ::-1], 3, metric)
        for one, other, third in zip(expected, copied, from_disk, strict=True):
            assert one.tobytes() == other.tobytes() == third.tobytes()


def test_refuses_what_makes_no_sense() -> None:
    rows = np.zeros((3, 2), np.uint8)
    with pytest.raises(SettingError, match="k is 4: there are 3 candidates"):
        nearest(rows, rows, 4)
    with pytest.raises(SettingError, match="k is 0"):
        nearest(rows, rows, 0)
    with pytest.raises(SettingError, match="metric 'cosine' is not one of l2, l1"):
        nearest(rows, rows, 1, "cosine")
    with pytest.raises(ShapeError, match=r"queries of \(2,\), but candidates of \(1, 2\)"):
        nearest(rows, rows[:, np.newaxis], 1)
    with pytest.raises(DTypeError, match="queries of uint8, candidates of float32"):
        nearest(rows, rows.astype(np.float32), 1)
    with pytest.raises(DTypeError, match="both must be uint8 or float32"):
        nearest(rows.astype(np.float64), rows.astype(np.float64), 1)


@settings(max_examples=examples(100), deadline=None)
@given(count=st.integers(1, 6), k=st.integers(1, 5), new=st.integers(0, 40), far=st.integers(0, 3), data=st.data())
def test_whole_distances_are_merged_as_any_others(count: int, k: int, new: int, far: int, data: st.DataObject) -> None:
    """With draws everywhere, and rows that fewer than k are known of."""
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    places = rng.permutation(count * k + new)
    found = rng.integers(0, far + 1, count * k + new).astype(np.float64)
    distances, positions = found[new:].reshape(count, k), places[new:].reshape(count, k)
    none = np.arange(k) >= rng.integers(0, k + 1, count)[:, np.newaxis]
    distances, positions = np.where(none, np.inf, distances), np.where(none, -1, positions)
    order = np.lexsort((positions, distances), axis=1)
    distances, positions = np.take_along_axis(distances, order, 1), np.take_along_axis(positions, order, 1)
    rows = np.sort(rng.integers(0, count, new))
    given = distances, positions, rows, found[:new], places[:new]
    bits = [n.bit_length() for n in (count, far + 1, len(places))]
    for got, wanted in zip(_merge_whole(*given, bits=bits), _merge(*given), strict=True):
        assert got.dtype == wanted.dtype
        np.testing.assert_array_equal(got, wanted)


# --- sums of pixels by kernels ---


@settings(max_examples=examples(15), deadline=None)
@given(
    count=st.integers(0, 5),
    high=st.integers(1, 5),
    wide=st.integers(1, 24),
    channels=st.integers(1, 5),
    side=st.sampled_from([2, 3, 4, 8, 16]),
    narrow=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_cells_are_sums_of_pixels(
    count: int, high: int, wide: int, channels: int, side: int, narrow: bool, seed: int
) -> None:
    shape = high * side, wide * side, channels
    images = np.random.default_rng(seed).integers(0, 256, (count, *shape)).astype(np.uint8)
    images[:1] = 255
    if not cells.adds_cells(shape, side):
        assert side * channels > cells.ADDED
        return
    number = high * wide * channels
    sums, facts = np.empty((count, number), np.int16), np.empty((count, 4))
    rounded = np.zeros((count, number + 5), np.uint8)
    processor = machine.processor()
    with machine.pretending(machine.narrower(processor) if narrow else processor):
        cells.add_cells(images, side, sums, rounded, facts)
    whole = images.astype(np.int64).reshape(count, high, side, wide, side, channels)
    wanted = whole.sum(axis=(2, 4)).reshape(count, number)
    np.testing.assert_array_equal(sums, wanted - 128 * side**2)
    averaged = (wanted + side**2 // 2) // side**2
    np.testing.assert_array_equal(rounded[:, :number], averaged)
    assert not rounded[:, number:].any()
    squares = [flat(images).astype(np.int64), wanted, wanted - side**2 * averaged]
    totals = [*((each**2).sum(axis=1) for each in squares), np.abs(squares[-1]).sum(axis=1)]
    np.testing.assert_array_equal(facts, np.stack(totals, axis=1))


@pytest.mark.parametrize(
    ("shape", "side"), [((9, 8, 3), 2), ((8, 9, 3), 2), ((34, 34, 1), 17), ((64,), 2), ((8, 8, 65), 2)]
)
def test_cells_that_the_kernel_does_not_know(shape: tuple[int, ...], side: int) -> None:
    assert not cells.adds_cells(shape, side)


def test_sums_over_very_large_cells_are_exact() -> None:
    images = np.full((1, 601, 601, 1), 255, np.uint8)
    images[0, 0, 0, 0] = 254
    assert cells.added(images, 1024).tolist() == [[255 * 601**2 - 1]]


@pytest.mark.parametrize("shape", [(4, 4, 0), (0,), (0, 4, 3)])
def test_pictures_without_pixels_are_all_at_no_distance(shape: tuple[int, ...]) -> None:
    images = np.zeros((5, *shape), np.uint8)
    for metric in METRICS:
        distances, positions = nearest(images[:2], images, 3, metric)
        assert distances.tolist() == [[0, 0, 0]] * 2
        assert positions.tolist() == [[0, 1, 2]] * 2


def test_squared_norms_are_exact() -> None:
    rows = np.random.default_rng(0).integers(0, 256, (300, 3_000)).astype(np.uint8)
    rows[0] = 255
    for some in (rows, rows[::2, 1:], rows[:0], rows[:, :0]):
        np.testing.assert_array_equal(squared_norms(some), (some.astype(np.int64) ** 2).sum(axis=1))


# --- products of whole numbers by kernels ---


@settings(max_examples=examples(60), deadline=None)
@given(
    rows=st.integers(0, 20),
    columns=st.integers(1, 100),
    length=st.sampled_from([1, 2, 3, 16, 47]),
    most=st.sampled_from([3, 300, 2**12]),
    which=st.integers(0, 3),
    seed=st.integers(0, 1000),
)
def test_products_of_whole_numbers(rows: int, columns: int, length: int, most: int, which: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    one, other = (random.integers(-most, most + 1, (n, length)).astype(np.int16) for n in (rows, columns))
    wanted = one.astype(np.int64) @ other.astype(np.int64).T
    of_rows = random.integers(-most, most + 1, rows).astype(np.int32)
    of_columns = np.quantile(wanted, random.random(columns)).astype(np.int32) if rows else np.zeros(columns, np.int32)
    with machine.pretending(PROCESSORS[which % len(PROCESSORS)]):
        panels = laid_out(other)
        np.testing.assert_array_equal(combined(one, panels), wanted)
        found = within(one, panels, of_rows, of_columns)
    for got, right in zip(found, np.nonzero(wanted >= of_rows[:, np.newaxis] + of_columns), strict=True):
        np.testing.assert_array_equal(got, right)


@settings(max_examples=examples(60), deadline=None)
@given(
    rows=st.integers(0, 20),
    columns=st.integers(1, 100),
    length=st.sampled_from([1, 7, 8, 64, 100]),
    colours=st.sampled_from([2, 256]),
    which=st.integers(0, 3),
    seed=st.integers(0, 1000),
)
def test_differences_of_bytes(rows: int, columns: int, length: int, colours: int, which: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    one, other = (random.integers(0, colours, (n, length)).astype(np.uint8) for n in (rows, columns))
    wanted = np.abs(one.astype(np.int64)[:, np.newaxis] - other).sum(axis=2)
    of_rows = random.integers(-9, 10, rows)
    of_columns = np.quantile(wanted, random.random(columns)).astype(np.int64) if rows else np.zeros(columns, np.int64)
    with machine.pretending(PROCESSORS[which % len(PROCESSORS)]):
        panels = laid_out(other)
        np.testing.assert_array_equal(combined(one, panels), wanted)
        found = within(one, panels, of_rows, of_columns)
    for got, right in zip(found, np.nonzero(wanted <= of_rows[:, np.newaxis] + of_columns), strict=True):
        np.testing.assert_array_equal(got, right)


@settings(max_examples=examples(30), deadline=None)
@given(count=st.integers(0, 9), which=st.integers(0, 3), seed=st.integers(0, 1000))
def test_projections_are_rounded_as_numpy_rounds_them(count: int, which: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    found = random.integers(-(2**27), 2**27, (count, 48)).astype(np.int32)
    squared = random.integers(0, 2**28, count).astype(np.float64)
    share, part, scale, black = constants = [2.0**-16, 2.0**-38, 3.5, 2.0**20]
    shares = found.astype(np.float64)
    total, shares[:, 0] = shares[:, 0].copy(), 0
    rest = np.sqrt(np.maximum(squared - 256 * total - black - (shares**2).sum(axis=1) * part, 0)) * scale
    shares *= share
    shares[:, 0] = np.minimum(rest, 2**14)
    found[:, 0] = np.where(rest < 2**14, found[:, 0], 2**27)  # so that nothing remains
    shares[:, 0] = np.where(rest < 2**14, rest, 0)
    numbers, norms = np.empty((count, 48), np.int16), np.empty(count, np.int32)
    with machine.pretending(PROCESSORS[which % len(PROCESSORS)]):
        round_projected(found, squared, numbers, norms, constants)
    assert np.abs(numbers - shares).max(initial=0) < 0.5 + 1e-6
    np.testing.assert_array_equal(norms, (numbers.astype(np.int64) ** 2).sum(axis=1))
