"""Products of matrices in panels, and narrow ones: shapes and ways of lying, formulas as operands, cut sums."""

import ctypes
import itertools
import mmap
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import nabi
from fuzzing import examples
from nabi import engines, machine, ops, threads
from nabi.engines.cpu import narrow, panels, programs, segments, values
from nabi.engines.cpu.program import Prepared, Program
from nabi.graph.plan import Plan
from test_cpu_engine import KINDS, guarded, plan_of

UNIT = float(np.finfo(np.float32).eps) / 2
TURNS = list(itertools.product((False, True), repeat=2))


def run(plan: Plan, *arrays: Any) -> list[Any]:
    """By the engine, in memory that is no number where nothing was written, and with room around it."""
    with guarded() as overrun:
        got = engines.prepare("cpu", plan, 0, "float32")(list(arrays))
        assert overrun() == 0
    return got


def kinds(plan: Plan) -> set[str]:
    found, pending = set(), values.spell(plan, winograd=True)[2]
    while pending:
        value = pending.pop()
        found.add(value.kind)
        pending += value.inputs
    return found


def is_narrow(plan: Plan) -> bool:
    (value,) = values.spell(plan, winograd=True)[2]
    return narrow.suits(value, value.shape[0])


def product(turned: tuple[bool, bool]) -> Callable[[Any, Any], Any]:
    def multiply(x: Any, y: Any) -> Any:
        x, y = (ops.permute_dims(a, (1, 0)) if turn else a for a, turn in zip((x, y), turned, strict=True))
        return x @ y

    return multiply


def operands(rng: Any, shape: tuple[int, int, int], turned: tuple[bool, bool]) -> list[Any]:
    rows, depth, columns = shape
    shapes = [s[::-1] if turn else s for s, turn in zip(((rows, depth), (depth, columns)), turned, strict=True)]
    return [rng.standard_normal(s).astype(np.float32) for s in shapes]


def check(got: Any, x: Any, y: Any) -> None:
    """Against float64. Source of the bound: Higham and Mary (2019), theorem 2.4; twice that, with their λ = 2."""
    exact, size = x.astype(np.float64) @ y, np.abs(x).astype(np.float64) @ np.abs(y)
    assert (np.abs(got - exact) <= 4 * np.sqrt(x.shape[1]) * UNIT * size).all()


@pytest.mark.parametrize("vector", KINDS)
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("columns", [*range(1, 14)])
def test_narrow_products(columns: int, turned: bool, vector: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng([columns, turned, vector])
    if rng.integers(2):
        monkeypatch.setattr(segments, "FEW_OPERATIONS", 0)
        monkeypatch.setattr(segments, "BLOCK", 1 << 14)
    rows, depth = int(rng.integers(128, 300)), int(rng.integers(128, 300))
    x, y = operands(rng, (rows, depth, columns), (turned, False))
    with machine.pretending(KINDS[vector](machine.processor())):
        plan = plan_of(product((turned, False)), x, y)
        assert is_narrow(plan) == (columns <= narrow.COLUMNS)
        (got,) = run(plan, x, y)
    check(got, x.T if turned else x, y)


def test_which_products_are_narrow() -> None:
    """By shapes alone: lanes stand for what there is enough of, and what is laid out anew is used often enough."""
    rng = np.random.default_rng(0)
    narrow_ones = {(32, 128, 10): True, (31, 128, 10): False, (32, 127, 10): False, (32, 128, 13): False}
    for shape, wanted in narrow_ones.items():
        plan = plan_of(product((False, False)), *operands(rng, shape, (False, False)))
        assert is_narrow(plan) == wanted, shape
    for shape, wanted in {(128, 5, 10): True, (127, 500, 10): False}.items():
        plan = plan_of(product((True, False)), *operands(rng, shape, (True, False)))
        assert is_narrow(plan) == wanted, shape


@pytest.mark.parametrize("vector", KINDS)
@pytest.mark.parametrize("turned", TURNS, ids=str)
@pytest.mark.parametrize("seed", range(examples(4)))
def test_products(seed: int, turned: tuple[bool, bool], vector: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng([seed, *turned])
    if rng.integers(2):
        monkeypatch.setattr(segments, "FEW_OPERATIONS", 0)
        monkeypatch.setattr(segments, "BLOCK", 1 << 14)
    monkeypatch.setattr(panels, "LONGEST", int(rng.choice([50, 256, panels.LONGEST])))
    sizes = [int(rng.integers(64, 300)), int(rng.choice([257, 512, 700, 1024])), int(rng.integers(64, 200))]
    rows, depth, columns = sizes[0], *rng.permutation(sizes[1:])
    if depth * columns < values.FAR_WEIGHTS:
        depth = -(-values.FAR_WEIGHTS // columns)
    x, y = operands(rng, (rows, int(depth), int(columns)), turned)
    with machine.pretending(KINDS[vector](machine.processor())):
        plan = plan_of(product(turned), x, y)
        assert "panels" in kinds(plan)
        (got,) = run(plan, x, y)
    check(got, *(a.T if turn else a for a, turn in zip((x, y), turned, strict=True)))


@pytest.mark.parametrize("turned", TURNS, ids=str)
def test_products_of_formulas(turned: tuple[bool, bool]) -> None:
    """What is laid out is computed there: lanes that are not there hold numbers, too."""
    x, y = operands(np.random.default_rng(0), (70, 1030, 75), turned)
    plan = plan_of(lambda x, y: product(turned)(x * 2.0 + 1.0, ops.abs(y) + 1.0), x, y)
    (got,) = run(plan, x, y)
    x, y = x * np.float32(2) + np.float32(1), np.abs(y) + np.float32(1)
    check(got, *(a.T if turn else a for a, turn in zip((x, y), turned, strict=True)))


@pytest.mark.parametrize("vector", KINDS)
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("rows", [1, 13, 65, 183])
@pytest.mark.parametrize("columns", [5, 100])
def test_how_blocks_are_cut_changes_no_bit(
    rows: int, columns: int, turned: bool, vector: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether all have as many rows or the last has fewer, and whatever tiles they are cut into for it."""
    monkeypatch.setattr(values, "_suits_panels", lambda *shape: True)
    monkeypatch.setattr(segments, "FEW_OPERATIONS", 0)
    monkeypatch.setattr(segments, "TINY", 0)
    monkeypatch.setattr(programs, "kept", lambda key, make: make())
    x, y = operands(np.random.default_rng(0), (rows, 130, columns), (turned, False))
    plan = plan_of(product((turned, False)), x, y)
    found = []
    with machine.pretending(KINDS[vector](machine.processor())):
        for block in (1, 9, 28, rows):
            monkeypatch.setattr(segments, "_block", lambda segment, longest, block=block: block)
            found += run(plan, x, y)
        monkeypatch.setattr(segments.Segment, "even", False)
        found += run(plan, x, y)
    check(found[0], x.T if turned else x, y)
    assert len({one.tobytes() for one in found}) == 1


@pytest.mark.parametrize("rows", [256, 320, 512, 1000, 3072])
def test_blocks_have_as_many_rows_where_they_can(rows: int) -> None:
    plan = plan_of(lambda x, y: x @ y, np.zeros((rows, 256), np.float32), np.zeros((256, 2048), np.float32))
    layout = segments.lay_out(values.spell(plan, winograd=True)[2], set())
    (found,) = (s for stage in layout.stages for s in stage if any(r.value.kind == "matmul" for r in s.roots))
    lengths = {stop - start for start, stop in segments.bounds(found)}
    assert found.even == (len(lengths) == 1)
    assert max(lengths) - found.block < segments.STRAND_ROWS
    assert max(lengths) % found.block == 0


def test_which_products_are_in_panels() -> None:
    """By shapes alone: narrow ones are not, nor where a matrix is near, nor where rows are few."""
    rng = np.random.default_rng(0)
    expected = {(64, 256, 64): True, (64, 256, 63): False, (63, 256, 64): False, (64, 128, 64): False}
    expected |= {(127, 1024, 1024): False, (128, 1024, 1024): True}
    for shape, wanted in expected.items():
        plan = plan_of(lambda x, y: x @ y, *operands(rng, shape, (False, False)))
        assert ("panels" in kinds(plan)) == wanted, shape


@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_same_bits_for_any_number_of_threads(number: int) -> None:
    x, y = operands(np.random.default_rng(0), (300, 900, 200), (True, True))
    plan = plan_of(product((True, True)), x, y)
    (wanted,) = run(plan, x, y)
    threads.set_num_threads(number)
    try:
        (got,) = run(plan, x, y)
    finally:
        threads.set_num_threads(None)
    assert got.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("shape", [(200, 300, 10), (8192, 1024, 64), (1024, 4096, 80)], ids=str)
def test_a_transpose_that_is_stored_itself(shape: tuple[int, int, int]) -> None:
    """It is a first matrix as any other; what was meant for one that is not stored must not be taken for it."""
    x, y = operands(np.random.default_rng(0), shape, (True, False))

    def both(x: Any, y: Any) -> list[Any]:
        turned = ops.permute_dims(x, (1, 0))
        return [turned, turned @ y]

    turned, got = run(plan_of(both, x, y), x, y)
    np.testing.assert_array_equal(turned, x.T)
    check(got, x.T, y)


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for memory that nobody may read")
@pytest.mark.parametrize("turned", TURNS, ids=str)
@pytest.mark.parametrize("columns", [5, 10, 75, 95])
def test_nothing_is_read_behind_a_matrix(columns: int, turned: tuple[bool, bool]) -> None:
    """Whoever reads there dies."""
    x, y = operands(np.random.default_rng(0), (301, 515, columns), turned)
    held = [before_nothing(a) for a in (x, y)]
    plan = plan_of(product(turned), x, y)
    for vector in KINDS:
        with machine.pretending(KINDS[vector](machine.processor())):
            (got,) = engines.prepare("cpu", plan, 0, "float32")([array for array, _ in held])
        check(got, *(a.T if turn else a for a, turn in zip((x, y), turned, strict=True)))


def before_nothing(array: Any) -> tuple[Any, mmap.mmap]:
    """A copy that ends where a page begins that may not be read; and the memory."""
    page = mmap.PAGESIZE
    whole = -(-array.nbytes // page) * page
    memory = mmap.mmap(-1, whole + page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(start + whole), page, 0) == 0
    copy = np.frombuffer(memory, array.dtype, array.size, whole - array.nbytes).reshape(array.shape)
    copy[...] = array
    return copy, memory


def test_panels_are_kept_while_the_matrix_is_the_same() -> None:
    weight = np.zeros((512, 128), np.float32)
    plan = plan_of(lambda x, w: x @ w, np.zeros((96, 512), np.float32), weight)
    for kept in (0, 1):
        stages = Program(plan, kept).stages
        assert any(isinstance(step, Prepared) for steps in stages for step in steps) == (kept == 1)
    layer = nabi.nn.Linear(512, 128, key=nabi.random.key(0))
    forward = nabi.compile(lambda x: layer(x), state=layer, engine="cpu")
    x = np.random.default_rng(0).standard_normal((96, 512)).astype(np.float32)
    for factor in (1.0, 1.0, 2.0):
        layer.weight.assign(layer.weight.numpy() * np.float32(factor))
        for _ in range(2):
            check(forward(nabi.tensor(x)).numpy(), x, layer.weight.numpy())
