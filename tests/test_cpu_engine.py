"""The engine that makes machine code: random programs, the same bits, its cache, numbers at the edge, its profile."""

import contextlib
import os
import pickle
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nabi
from forks import ends_well
from fuzzing import examples
from nabi import cache, engines, machine, ops, random, threads
from nabi.cli import main
from nabi.cli.profiled import where_time_went
from nabi.engines import cpu
from nabi.engines.cpu import convolve, profile, program, programs, running, segments, strips, values
from nabi.engines.cpu.memory import aligned
from nabi.engines.cpu.program import Program as Compiled
from nabi.errors import SettingError
from nabi.graph.plan import Plan
from operation_inputs import OPERATIONS
from random_graphs import LARGE, SMALL, Program, Size, compare


def plan_of(function: Callable[..., Any], *arrays: Any) -> Plan:
    """What a function does with arrays of these shapes and dtypes."""
    found: Plan = nabi.compile(function, engine="reference").plan(*map(nabi.tensor, arrays))
    return found


def check(function: Callable[..., Any], *arrays: Any) -> list[Any]:
    """The engine's results, none farther from the reference's than rounding carries."""
    plan = plan_of(function, *arrays)
    given = [np.asarray(a) for a in arrays]
    got = engines.prepare("cpu", plan)(given)
    compare(plan, given, got, engines.prepare("reference", plan)(given))
    return got


def same_bits(some: list[Any], others: list[Any]) -> bool:
    return all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in zip(some, others, strict=True))


states: list[dict[str, Any]] = []
"""Machine code stays where it is to the end of the process: what was made of it may still run."""


@pytest.fixture
def new_process(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Call it, and the engine knows as little as in a process that has just begun; so it does after the test."""

    def begin() -> None:
        states.append(machine._state)
        monkeypatch.setattr(machine, "_state", {})

    begin()
    return begin


@pytest.fixture
def _nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """No kernel is looked for on the disk, or written there."""
    monkeypatch.setattr(machine, "recalled", lambda name: None)
    monkeypatch.setattr(machine, "remember", lambda name, content: None)


@pytest.fixture
def _forced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are cut into strands and blocks where there are hardly any."""
    monkeypatch.setattr(segments, "FEW_OPERATIONS", 0)
    monkeypatch.setattr(segments, "TINY", 0)
    monkeypatch.setattr(segments, "BLOCK", 1 << 10)
    monkeypatch.setattr(strips, "ENOUGH_WORK", 0)
    monkeypatch.setattr(strips, "FITS", 0)
    monkeypatch.setattr(convolve, "MANY_WEIGHTS", 0)


# --- programs that are kept ---


class TestKept:
    @pytest.fixture
    def made(self, monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
        """The plans that programs were made of, where three are kept."""
        plans: list[Plan] = []

        def make(plan: Plan, *how: Any) -> Compiled:
            plans.append(plan)
            return Compiled(plan, *how)

        monkeypatch.setattr(cpu, "Program", make)
        monkeypatch.setattr(programs, "KEPT", 3)
        return plans

    def test_plans_that_compute_the_same_have_one(self, made: list[Plan]) -> None:
        x = np.arange(6, dtype=np.float32).reshape(2, 3)
        first, second = (plan_of(lambda a: ops.exp(a * 2.5) + 1, x) for _ in range(2))
        assert first.nodes[0].serial != second.nodes[0].serial
        runs = [engines.prepare("cpu", plan) for plan in (first, second)]
        assert len(made) == 1
        assert same_bits(runs[0]([x]), runs[1]([x]))
        assert not same_bits(runs[0]([x]), runs[1]([x + 1]))  # each has its own memory

    @pytest.mark.parametrize(
        "other",
        [
            lambda a: ops.exp(a * 2.25) + 1,
            lambda a: ops.exp(a * -2.5) + 1,
            lambda a: ops.tanh(a * 2.5) + 1,
            lambda a: 1 - ops.exp(a * 2.5),
            lambda a: (ops.exp(a * 2.5) + 1, a),
            lambda a: ops.exp(ops.sum(a, axis=1) * 2.5) + 1,
            lambda a: ops.exp(ops.sum(a, axis=0) * 2.5) + 1,
            lambda a: ops.exp(a * np.float32([1, 2, 3])) + 1,
            lambda a: ops.exp(a * np.float32([1, 2, 4])) + 1,
        ],
    )
    def test_others_have_their_own(self, made: list[Plan], other: Callable[..., Any]) -> None:
        x = np.arange(6, dtype=np.float32).reshape(2, 3)
        for function in (
            lambda a: ops.exp(a * 2.5) + 1,
            lambda a: ops.exp(ops.sum(a, axis=-1) * 2.5) + 1,
            lambda a: ops.exp(a * np.float32([3, 2, 1])) + 1,
            other,
        ):
            check(function, x)
        check(lambda a: ops.exp(a * 2.5) + 1, x.astype(np.float64))
        check(lambda a: ops.exp(a * 2.5) + 1, x[:1])
        engines.prepare("cpu-direct", plan_of(lambda a: ops.exp(a * 2.5) + 1, x[:1]))
        engines.prepare("cpu", plan_of(lambda a: ops.exp(a * 2.5) + 1, x[:1]), kept=1)
        with machine.pretending(machine.narrower(machine.processor())):
            check(lambda a: ops.exp(a * 2.5) + 1, x[:1])
        assert len(made) == 9

    def test_rounded_ones_are_others(self, made: list[Plan]) -> None:
        if cpu.lacking():
            pytest.skip(f"the processor lacks {cpu.lacking()}")
        x = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
        plan = plan_of(lambda a: a @ a, x)
        exact, rounded = (engines.prepare("cpu", plan, precision=name)([x]) for name in ("float32", "bf16"))
        assert len(made) == 2
        assert not same_bits(exact, rounded)

    def test_the_latest_are_kept(self, made: list[Plan]) -> None:
        x = np.ones(3, np.float32)
        functions = [lambda a, by=by: a * by for by in range(2, 6)]
        for function in functions:
            check(function, x)
        check(functions[1], x)  # which is the latest now
        assert len(made) == 4
        check(functions[0], x)  # which was the oldest
        check(functions[1], x)
        assert len(made) == 5
        check(functions[2], x)
        assert len(made) == 6

    def test_one_with_many_constants_is_not_kept(self, made: list[Plan]) -> None:
        many = np.ones(cpu.MOST_CONSTANTS + 1, np.float32)
        for _ in range(2):
            check(lambda a: a + many, many)
        assert len(made) == 2

    def test_threads_that_ask_at_once_have_one_and_run_it_side_by_side(self, made: list[Plan]) -> None:
        rows = np.random.default_rng(0).normal(size=(4, 50, 40)).astype(np.float32)
        weight = np.random.default_rng(1).normal(size=(40, 30)).astype(np.float32)
        wanted = [check(lambda a: ops.softmax(a @ weight), x) for x in rows]
        made.clear()
        programs._places.clear()
        begin = threading.Barrier(4)
        found: dict[int, list[Any]] = {}

        def ask(number: int) -> None:
            plan = plan_of(lambda a: ops.softmax(a @ weight), rows[number])
            begin.wait()
            run = engines.prepare("cpu", plan)
            found[number] = [run([rows[number]]) for _ in range(50)]

        asking = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
        for one in asking:
            one.start()
        for one in asking:
            one.join()
        assert len(made) == 1
        for number in range(4):
            assert all(same_bits(one, wanted[number]) for one in found[number])

    def test_random_programs_are_themselves(self, made: list[Plan]) -> None:
        for seed in range(50_000, 50_006):
            for _ in range(2):
                check_program(seed, SMALL, runs=2)


# --- random programs ---


def check_program(seed: int, size: Size, runs: int = 8) -> None:
    """Near enough to the reference, nothing else written, and the same bits from one thread and from two."""
    program = Program(seed, size)
    plan = program.plan()
    wanted = engines.prepare("reference", plan)(program.inputs)
    run = engines.prepare("cpu", plan)
    try:
        threads.set_num_threads(2)
        with guarded() as overrun:  # the first run: later ones take the memory that it took
            got = run([surrounded(x) for x in program.inputs])
        threads.set_num_threads(1)
        assert same_bits(got, run(program.inputs)), "one thread computes something else than two"
    finally:
        threads.set_num_threads(None)
    assert overrun() == 0, "memory was written that belongs to others"
    compare(plan, program.inputs, got, wanted, runs)


def seeds(first: int, count: int) -> Any:
    """So many seeds; with ``--long`` 100 times as many. A test that fails is called by its seed."""
    return pytest.mark.parametrize("seed", range(first, first + examples(count)))


@pytest.mark.usefixtures("_nothing_kept")
class TestRandomPrograms:
    @seeds(0, 20)
    def test_small(self, seed: int) -> None:
        check_program(seed, SMALL)

    @pytest.mark.usefixtures("_forced")
    @seeds(10_000, 16)
    def test_in_strands_and_blocks(self, seed: int) -> None:
        check_program(seed, SMALL)

    @seeds(20_000, 6)
    def test_large(self, seed: int) -> None:
        check_program(seed, LARGE, runs=4)

    @seeds(30_000, 6)
    def test_on_a_narrower_processor(self, seed: int) -> None:
        with machine.pretending(machine.narrower(machine.processor())):
            check_program(seed, SMALL)

    @pytest.mark.usefixtures("_forced")
    @seeds(40_000, 6)
    def test_in_strands_and_blocks_on_a_narrower_processor(self, seed: int) -> None:
        with machine.pretending(machine.narrower(machine.processor())):
            check_program(seed, SMALL)

    @pytest.mark.usefixtures("_forced")
    @seeds(50_000, 6)
    def test_with_vectors_of_16_bytes(self, seed: int) -> None:
        with machine.pretending(narrowest(machine.processor())):
            check_program(seed, SMALL)


def narrowest(processor: machine.Processor) -> machine.Processor:
    """The same with vectors of 16 bytes: on x86, without all that came with AVX."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return processor._replace(vector=16)
    late = ("avx", "fma", "f16c", "vaes", "vpclmul", "xop")
    words = processor.features.split(",")
    kept = ["-" + word[1:] if any(name in word for name in late) else word for word in words]
    return machine.Processor("x86-64-v2", ",".join(kept), 16)


KINDS = {64: lambda one: one, 32: machine.narrower, 16: narrowest}
"""Processors by the bytes of their vectors, made of the one at hand."""


def test_the_engine_itself_is_tested_on_all_widths() -> None:
    """What pretends to be narrower is: the code differs, and the processor is itself again afterwards."""
    before = machine.processor()
    plan = plan_of(lambda x: ops.exp(x) * 2.0, np.ones(64, np.float32))
    widths = []
    for other in (before, machine.narrower(before), narrowest(before)):
        with machine.pretending(other):
            assert machine.processor() == other
            program = Compiled(plan)
            segment = segments.lay_out(program.outputs, set()).stages[0][0]
            text, *_ = program._write(segment, set())
            widths.append(max(n for n in (4, 8, 16) if f"<{n} x float>" in text) * 4)
    assert machine.processor() == before
    assert widths == [before.vector, 32, 16]


# --- the same bits, whoever runs it ---


def network_step(x: Any, w: Any, v: Any) -> list[Any]:
    """Something of everything: a convolution, normalised, rectified and pooled, folds, products, and its gradients."""

    def forward() -> list[Any]:
        y = ops.relu(ops.batch_norm(ops.conv2d(x, w, padding=1), v, v)[0])
        y = ops.max_pool2d(y, kernel_size=2)
        flat = ops.mean(y, axis=(1, 2))
        return [flat, ops.sum(ops.tanh(flat @ ops.permute_dims(flat, (1, 0)))), ops.softmax(flat)]

    return [*forward(), *nabi.gradients(forward()[1], [x, w, v])]


@pytest.fixture(scope="module")
def step() -> tuple[Plan, engines.Run, list[Any]]:
    rng = np.random.default_rng(0)
    shapes = ((37, 18, 18, 16), (3, 3, 16, 24), (24,))
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    tensors = [nabi.tensor(a, requires_grad=True) for a in arrays]
    plan = nabi.compile(network_step, engine="reference").plan(*tensors)
    return plan, engines.prepare("cpu", plan), arrays


@pytest.fixture
def _default_threads() -> Iterator[None]:
    yield
    threads.set_num_threads(None)


@pytest.mark.usefixtures("_default_threads")
def test_same_bits_from_run_to_run_and_for_any_number_of_threads(step: Any) -> None:
    plan, run, arrays = step
    assert len(Compiled(plan).stages) > 1, "nothing would be shared out"
    assert any(len(stage) > 3 for stage in Compiled(plan).stages)
    threads.set_num_threads(1)
    one = run(arrays)
    assert same_bits(one, run(arrays))
    for count in (2, 3, 2):
        threads.set_num_threads(count)
        for _ in range(3):
            assert same_bits(one, run(arrays)), count
    assert same_bits(one, engines.prepare("cpu", plan)(arrays))
    compare(plan, arrays, one, engines.prepare("reference", plan)(arrays), runs=4)


@pytest.mark.usefixtures("_default_threads")
def test_same_bits_from_several_threads_at_once(step: Any) -> None:
    _, run, arrays = step
    others = [a * np.float32(1.5) for a in arrays]
    wanted = [[np.copy(a) for a in run(given)] for given in (arrays, others)]
    threads.set_num_threads(2)
    wrong: list[int] = []
    gate = threading.Barrier(4)

    def go(number: int) -> None:
        gate.wait(10)
        for _ in range(8):
            got = run((arrays, others)[number % 2])
            time.sleep(0.001 * number)  # meanwhile the others run, and must leave it alone
            if not same_bits(got, wanted[number % 2]):
                wrong.append(number)

    workers = [threading.Thread(target=go, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert wrong == []
    assert not any(worker.is_alive() for worker in workers)


def test_threads_that_prepare_at_once(new_process: Callable[[], None]) -> None:
    program = Program(3, SMALL)
    plan = program.plan()
    found: list[Any] = []
    workers = [
        threading.Thread(target=lambda: found.append(engines.prepare("cpu", plan)(program.inputs))) for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert len(found) == 3
    assert same_bits(found[0], found[1])
    assert same_bits(found[0], found[2])


def test_what_was_handed_out_is_never_written_to(step: Any) -> None:
    _, run, arrays = step
    held = [run(arrays) for _ in range(5)]
    copies = [[np.copy(a) for a in results] for results in held]
    assert all(a.ctypes.data % machine.CACHE_LINE == 0 for results in held for a in results if np.ndim(a))
    part = run(arrays)[0][3:5]  # of which only a view is held
    as_it_was = part.copy()
    for factor in (2.0, 3.0, 4.0, 5.0, 6.0):
        run([a * np.float32(factor) for a in arrays])
    for results, copy in zip(held, copies, strict=True):
        assert same_bits(results, copy)
    np.testing.assert_array_equal(part, as_it_was)


def test_large_results_begin_apart_and_are_arrays_as_any(tmp_path: Path) -> None:
    """At cache lines, but not all of them alike, where places of the cache would be shared."""
    x = np.random.default_rng(0).standard_normal((600, 1024), np.float32)
    run = engines.prepare("cpu", plan_of(lambda x: [x + 1.0, x * 2.0, x - 3.0], x))
    wanted = [x + np.float32(1), x * np.float32(2), x - np.float32(3)]
    held = run([x])
    assert all(a.ctypes.data % machine.CACHE_LINE == 0 for a in held)
    made = [running._result((40 << 20,), np.uint8) for _ in range(4)]  # which begin where pages do, else
    assert len({a.ctypes.data % machine.ALIKE for a in made}) == 4
    parts = [a[5:7, ::3] for a in run([x])]  # views, of what nobody holds by itself
    turned = run([x])[0].T
    np.savez(tmp_path / "results.npz", *held)
    with np.load(tmp_path / "results.npz") as kept:
        copies = [pickle.loads(pickle.dumps(held)), deepcopy(held), [a.copy() for a in held], [*kept.values()]]
    for _ in range(6):
        run([-x])
    assert same_bits(held, wanted)
    assert same_bits(parts, [a[5:7, ::3] for a in wanted])
    assert same_bits([turned], [wanted[0].T])
    for a in held:
        a[...] = 0.0  # they may be written to
    assert all(same_bits(made, wanted) for made in copies)


def test_memory_is_used_again_where_nobody_holds_it(step: Any) -> None:
    _, run, arrays = step
    places = {run(arrays)[0].ctypes.data for _ in range(20)}
    assert len(places) <= 4  # a few are kept for whoever holds on to some


@pytest.mark.usefixtures("_default_threads")
def test_after_a_fork(step: Any) -> None:
    """What was prepared goes on working, and so does making more."""
    plan, run, arrays = step
    threads.set_num_threads(2)
    wanted = [np.copy(a) for a in run(arrays)]  # so that there are threads to lose
    child = os.fork()
    if not child:
        code = 1
        try:
            code = 0 if same_bits(run(arrays), wanted) else 3
            if not same_bits(engines.prepare("cpu", plan)(arrays), wanted):
                code = 4
            got = engines.prepare("cpu", plan_of(lambda x: x * 1.2345, np.ones(7)))([np.ones(7)])
            if not (got[0] == 1.2345).all():
                code = 5
        finally:
            os._exit(code)
    ends_well(child)
    assert same_bits(run(arrays), wanted)


@pytest.mark.usefixtures("_nothing_kept")
def test_a_fork_while_another_thread_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """LLVM has locks of its own, which nobody would open in the child."""
    inside, emit = threading.Event(), machine._emit

    def slow(*given: Any) -> bytes:
        inside.set()
        time.sleep(0.3)
        return emit(*given)

    monkeypatch.setattr(machine, "_emit", slow)
    compiling = threading.Thread(target=lambda: engines.prepare("cpu", plan_of(lambda x: x * 2.3456, np.ones(7))))
    compiling.start()
    assert inside.wait(60)
    child = os.fork()
    if not child:
        code = 1
        try:
            got = engines.prepare("cpu", plan_of(lambda x: x * 3.4567, np.ones(7)))([np.ones(7)])
            code = 0 if (got[0] == 3.4567).all() else 2
        finally:
            os._exit(code)
    compiling.join()
    ends_well(child)


# --- what once was wrong ---


CUTS: dict[str, Callable[[Any], Any]] = {
    "rows left out, columns in steps": lambda t: t[1:, ::2],
    "the first rows, columns in steps": lambda t: t[:1000, ::2],
    "rows backwards, columns in steps": lambda t: t[::-1, ::2],
    "rows backwards in steps": lambda t: t[::-2],
    "columns in steps": lambda t: t[:, ::3],
}


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
def test_gradient_of_a_part_of_many_rows(cut: Callable[[Any], Any]) -> None:
    x = np.random.default_rng(0).standard_normal((1500, 1000)).astype(np.float32)
    plan = nabi.compile(lambda t: nabi.gradients(ops.sum(t * cut(t)[:1, :1]) + ops.sum(ops.sin(cut(t))), [t])).plan(
        nabi.tensor(x, requires_grad=True)
    )
    got, wanted = engines.prepare("cpu", plan)([x]), engines.prepare("reference", plan)([x])
    compare(plan, [x], got, wanted, runs=3)


@pytest.mark.parametrize("vector", [64, 32, 16])
@pytest.mark.parametrize("rows", [1, 2, 5, 11, 13, 56, 58])
def test_products_write_no_row_too_many(rows: int, vector: int) -> None:
    """Of rows that no tile divides: the array goes on behind them, and must stay as it is."""
    rng = np.random.default_rng(rows)
    picture = rng.standard_normal((3, rows, 1, 3)).astype(np.float32)
    weight = rng.standard_normal((3, 3, 3, 5)).astype(np.float32)
    plan = plan_of(lambda x, w: ops.conv2d(x, w, padding=1), picture, weight)
    with machine.pretending(KINDS[vector](machine.processor())):
        run = engines.prepare("cpu-direct", plan)
    with guarded() as overrun:
        compare(plan, [picture, weight], run([picture, weight]), engines.prepare("reference", plan)([picture, weight]))
    assert overrun() == 0


@pytest.mark.parametrize("vector", [64, 32, 16])
@pytest.mark.parametrize("columns", [1, 15, 16, 100, 1000])
@pytest.mark.parametrize("rows", [1, 2, 3, 5, 6, 7])
def test_few_rows_are_multiplied_with_a_far_matrix(rows: int, columns: int, vector: int) -> None:
    """As it lies in memory, by one thread or by several: nothing is written beyond the result."""
    rng = np.random.default_rng(rows)
    depth = 1051 if columns == 1000 else 521
    x, w = rng.standard_normal((rows, depth), np.float32), rng.standard_normal((depth, columns), np.float32)
    plan = plan_of(lambda x, w: x @ w, x, w)
    with machine.pretending(KINDS[vector](machine.processor())):
        run = engines.prepare("cpu", plan)
    with guarded() as overrun:
        compare(plan, [x, w], run([x, w]), engines.prepare("reference", plan)([x, w]))
    assert overrun() == 0


def surrounded(array: Any) -> Any:
    """The same array, in the midst of what is no number, so that whoever reads beyond its ends has that."""
    room = 1 << 12
    memory = np.full(array.nbytes + 2 * room + machine.CACHE_LINE, 0xFF, np.uint8)
    start = aligned(memory.ctypes.data + room) - memory.ctypes.data + array.itemsize  # as arrays of others may lie
    found = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    found[...] = array
    return found


@pytest.mark.parametrize("padding", [0, 1, 2, "same", (1, 2), (2, 1)])
@pytest.mark.parametrize("side", [4, 5, 6, 7, 8, 11, 12])
def test_gradients_read_nothing_beyond_their_arrays(side: int, padding: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values, "WINOGRAD_SIDE", 1)
    rng = np.random.default_rng(side)
    x, w = rng.standard_normal((3, side, side, 16)), rng.standard_normal((3, 3, 16, 16))
    g = rng.standard_normal(ops.conv2d(x, w, padding=padding).shape)
    arrays = [a.astype(np.float32) for a in (x, w, g)]

    def on_weights(x: Any, w: Any, g: Any) -> Any:
        return nabi.gradients(ops.sum(ops.conv2d(x, w, padding=padding) * g), [w])

    def on_both(x: Any, w: Any, g: Any) -> Any:
        return nabi.gradients(ops.sum(ops.conv2d(x, w, padding=padding) * g), [x, w])

    for gradients in (on_weights, on_both):
        plan = nabi.compile(gradients).plan(*[nabi.tensor(a, requires_grad=True) for a in arrays])
        with guarded() as overrun:
            got = engines.prepare("cpu", plan)([surrounded(a) for a in arrays])
        assert overrun() == 0
        compare(plan, arrays, got, engines.prepare("reference", plan)(arrays))


@contextlib.contextmanager
def guarded() -> Iterator[Callable[[], int]]:
    """Memory that runs take has room around it, what they hand out has room behind it: how much was written there."""
    held: list[Any] = []
    room = 1 << 16

    def behind(array: Any, end: int) -> None:
        array[end:] = 0xAB
        held.append(array[end:])

    def empty(size: int) -> tuple[Any, int]:
        memory = np.empty(size + machine.CACHE_LINE + 2 * room, np.uint8)
        base = aligned(memory.ctypes.data + room)
        memory[...] = 0xFF  # what is read before it is written is no number
        behind(memory, base - memory.ctypes.data + size)
        memory[:room] = 0xAB
        held.append(memory[:room])
        return memory, base

    def result(shape: tuple[int, ...], dtype: Any) -> Any:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        memory = np.empty(size + machine.CACHE_LINE + room, np.uint8)
        memory = memory[-memory.ctypes.data % machine.CACHE_LINE :]
        behind(memory, size)
        return memory[:size].view(dtype).reshape(shape)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "_empty", empty)
        patch.setattr(running, "_result", result)
        yield lambda: sum(int((end != 0xAB).sum()) for end in held)


@pytest.mark.parametrize("vector", [64, 32, 16])
def test_large_results_are_written_by_the_cache(vector: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same bits, in rows of all lengths; what is read again, or does not lie at multiples, is not."""
    rng = np.random.default_rng(0)
    x, y, z = (rng.standard_normal(shape).astype(np.float32) for shape in ((60, 70, 20), (900, 64), (90, 33)))

    def function(x: Any, y: Any, z: Any) -> list[Any]:
        doubled = x * 2.0
        part = y[:, 4:24] - ops.mean(y, axis=0)[4:24]
        return [doubled, ops.sum(doubled), ops.exp(y), part, z + 1.0, y[:, :40] * 2.0, ops.astype(y, dtype="float64")]

    plan = plan_of(function, x, y, z)
    with machine.pretending(KINDS[vector](machine.processor())):
        wanted = engines.prepare("cpu", plan)([x, y, z])
        monkeypatch.setattr(program, "OUT_OF_CACHE", 0)
        monkeypatch.setattr(program, "LARGE", 0)
        made = Compiled(plan)
        names = {v.serial: place for place, v in enumerate(made.outputs)}
        if machine.processor().passes_by:
            assert {names[serial]: step for serial, step in made.passing.items()} == {2: 64, 3: 16, 5: 32, 6: 64}
        with guarded() as overrun:
            got = engines.prepare("cpu", plan)([x, y, z])
    assert same_bits(got, wanted)
    assert overrun() == 0


@pytest.mark.parametrize("vector", [64, 32, 16])
@pytest.mark.parametrize("columns", [64, 37, 3])
def test_what_is_made_of_each_other_is_written_in_one_loop(
    vector: int, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an optimiser's moments and weights are, where each element is made of those at its own place."""
    monkeypatch.setattr(program, "OUT_OF_CACHE", 0)
    monkeypatch.setattr(program, "LARGE", 0)
    rng = np.random.default_rng(0)
    x, y = (rng.integers(-9, 9, (130, columns)).astype(np.float32) for _ in range(2))

    def step(x: Any, y: Any) -> list[Any]:
        moment = x * 2.0 + y
        weight = y - moment * 3.0
        return [moment, weight, weight - moment]

    def and_elsewhere(x: Any, y: Any) -> list[Any]:
        moment, weight, _ = step(x, y)
        return [moment, weight, ops.flip(moment, axis=1) - weight, ops.sum(weight, axis=1) + x[:, 0]]

    with machine.pretending(KINDS[vector](machine.processor())):
        passes_by = machine.processor().passes_by and columns % 4 == 0
        assert len(Compiled(plan_of(step, x, y)).passing) == 3 * passes_by
        for function in (step, and_elsewhere):
            plan = plan_of(function, x, y)
            got, wanted = (engines.prepare(engine, plan)([x, y]) for engine in ("cpu", "reference"))
            assert same_bits(got, wanted)  # of whole numbers, nothing is rounded


@pytest.mark.parametrize(
    "function", [lambda x: x[0] * 2.0, lambda x: ops.pad(x, widths=((0, 0), (1, 3)))], ids=["one axis", "padded"]
)
def test_what_does_not_lie_at_multiples_is_not_written_past_the_cache(
    function: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A single axis is cut anywhere, and the inside of a padded row begins anywhere: a processor refuses both."""
    monkeypatch.setattr(program, "OUT_OF_CACHE", 0)
    monkeypatch.setattr(program, "LARGE", 0)
    x = np.random.default_rng(0).standard_normal((8, 250_004), np.float32)
    plan = plan_of(function, x)
    (got,), (wanted,) = (engines.prepare(engine, plan)([x]) for engine in ("cpu", "reference"))
    assert not Compiled(plan).passing
    assert got.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("dtype", [">i4", ">f4", ">f8"])
def test_numbers_in_another_order_of_bytes(dtype: str) -> None:
    x = np.arange(9).astype(dtype)
    found = nabi.compile(lambda x: ops.astype(x, dtype="float32"), engine="cpu")(x)
    np.testing.assert_array_equal(found.numpy(), np.arange(9, dtype=np.float32))


def test_arrays_that_anybody_holds_stay_as_they_are() -> None:
    """Results, former state, views of either: whatever is kept, and whatever state comes next."""
    rng = np.random.default_rng(0)
    state = [nabi.tensor(rng.standard_normal(shape, np.float32)) for shape in ((40, 30), (30,), ())]

    def function(x: Any) -> Any:
        weight, bias, count = state
        y = ops.relu(x @ weight + bias)
        weight.assign(weight - 0.01 * ops.matrix_transpose(x) @ y)
        bias.assign(bias * 0.9 + ops.mean(y, axis=0))
        count.assign(count + 1)
        return y, count * 2.0

    fast = nabi.compile(function, state=state, engine="cpu")
    slow = nabi.compile(function, state=state, engine="reference")
    kept: list[tuple[Any, Any]] = []
    for _ in range(150):
        x = rng.standard_normal((20, 40), np.float32)
        before = [t.held for t in state]
        wanted = [t.numpy() for t in slow(x)] + [t.numpy() for t in state]
        for tensor, value in zip(state, before, strict=True):
            tensor.assign(value)
        found = [*fast(x), *state]
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(one.numpy(), other, rtol=1e-4, atol=1e-4)
        if rng.random() < 0.4:
            one = found[rng.choice([0, 2, 3])].held
            kept.append((one[1:] if rng.random() < 0.5 else one, np.array(one)))
        if rng.random() < 0.3 and kept:
            del kept[rng.integers(len(kept))]
        if rng.random() < 0.2:  # an earlier state, or one from outside
            state[1].assign(rng.standard_normal(30, np.float32))
        del before, found
    for now, then in kept:
        np.testing.assert_array_equal(now, then[-len(now) :])


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("rows", [96, 100, 128, 192, 256, 1000])
def test_rows_of_a_product_are_shared_out(rows: int, rounded: bool) -> None:
    """However few rows should be multiplied with a far matrix together, no thread is left without work."""
    plan = plan_of(lambda x, w: ops.relu(x @ w), np.zeros((rows, 900), np.float32), np.zeros((900, 1000), np.float32))
    _, _, outputs = values.spell(plan, winograd=True, rounded=rounded)
    layout = segments.lay_out(outputs, set())
    (product,) = (s for stage in layout.stages for s in stage if any("matmul" in r.value.kind for r in s.roots))
    assert product.rows == rows
    lengths = {stop - start for start, stop in program.bounds(product)}
    assert len(program.bounds(product)) > 1
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize("rounded", [False, True])
def test_a_small_product_at_the_end_leaves_no_thread_without_work(rounded: bool) -> None:
    """Pictures that are convolved, and then multiplied with a far matrix, are shared out as pictures."""
    rng = np.random.default_rng(0)
    shapes = (8, 20, 20, 32), (3, 3, 32, 256), (256, 500)
    arrays = [rng.standard_normal(shape, np.float32) for shape in shapes]
    plan = plan_of(lambda x, w, v: ops.mean(ops.relu(ops.conv2d(x, w, padding=1)), axis=(1, 2)) @ v, *arrays)
    layout = segments.lay_out(values.spell(plan, winograd=True, rounded=rounded)[2], set())
    convolved = [
        segment
        for stage in layout.stages
        for segment in stage
        if any(root.made.kind in ("winograd", "convolution") for root in segment.roots)
    ]
    assert [segment.strands for segment in convolved] == [8]
    assert any("matmul" in root.made.kind for root in convolved[0].roots)


def test_columns_are_not_taken_for_rows() -> None:
    """A product whose columns are shared out, as many as it has rows: what follows waits for all of them."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((100, 10_500), np.float32), rng.standard_normal((10_500, 100), np.float32)
    layout = segments.lay_out(values.spell(plan_of(lambda x, w: ops.relu(x @ w) + 1.0, x, w), winograd=True)[2], set())
    (product,) = (s for stage in layout.stages for s in stage if any(r.value.kind == "matmul" for r in s.roots))
    assert [root.how for root in product.roots] == ["columns"]
    check(lambda x, w: ops.relu(x @ w) + 1.0, x, w)


def test_what_is_read_before_it_is_made_is_found() -> None:
    x = values.Value(None, "input", (), (512, 64), np.dtype(np.float32))
    first, second = (segments.Root(x, "write", made=x) for _ in range(2))
    second.reads = {x.serial: False}
    early, late = segments.Segment(512, 0), segments.Segment(512, 1)
    segments._verify([first, second], [early, late])
    for placed in ([late, early], [early, early], [late, segments.Segment(512, 1)]):
        with pytest.raises(AssertionError, match=r"input \(512, 64\) is in a stage before what it reads is made"):
            segments._verify([first, second], placed)
    with pytest.raises(AssertionError, match="before what it reads"):
        segments._verify([second, first], [late, early])
    second.reads = {x.serial: True}
    segments._verify([first, second], [early, early])
    fold, combine = (segments.Root(x, how, made=x) for how in ("fold", "combine"))
    segments._verify([fold, combine], [early, late])
    with pytest.raises(AssertionError, match="before what it reads"):
        segments._verify([fold, combine], [early, early])


@pytest.mark.parametrize("rows", [512, 511])
def test_dropout_goes_along_with_what_it_drops(rows: int) -> None:
    """Of an odd number of rows, the first words end within a row."""
    x, w, key = np.ones((rows, 128), np.float32), np.ones((128, 65), np.float32), random.key(1)
    function = lambda x, w, key: ops.dropout(ops.relu(x @ w), key, rate=0.5)
    layout = segments.lay_out(values.spell(plan_of(function, x, w, key), winograd=True)[2], set())
    (product,) = (s for stage in layout.stages for s in stage if any(r.value.kind == "matmul" for r in s.roots))
    assert [root.value.kind for root in product.roots] == ["matmul", "elementwise"]
    assert any(root.value.kind == "getitem" for root in layout.roots) == (rows % 2 == 1)
    check(function, x, w, key)


@pytest.mark.parametrize("shape", [(4, -1), (-1, 4), (2, -1, 3), (2, 2, -1), (3, 8), (5, -1), (1, 24)])
def test_two_behind_each_other_in_another_shape(shape: tuple[int, ...]) -> None:
    """Rows of one, then of the other; or rows that have something of both."""
    parts = np.arange(12, dtype=np.float32), np.arange(13 if shape[0] == 5 else 12, dtype=np.float32)
    check(lambda a, b: ops.reshape(ops.concat([a, b], axis=0), shape) * 2, *parts)


@pytest.mark.parametrize("dtype", [np.float16, np.int8, np.uint16])
def test_a_dtype_that_kernels_do_not_know(dtype: Any) -> None:
    """It can be made another of, eagerly as here."""
    x = np.arange(12).reshape(3, 4).astype(dtype)
    got = nabi.compile(lambda x: ops.astype(x, dtype="float32") * 2.0 + 1.0, engine="cpu")(x)
    np.testing.assert_array_equal(got.numpy(), x.astype(np.float32) * 2 + 1)


# --- which engine ---


def test_the_engine_is_chosen_by_shapes_alone() -> None:
    dense = lambda x, w: x @ w
    numbers = np.zeros((512, 32), np.float32), np.zeros((32, 8), np.float32)
    assert engines.suited(plan_of(dense, *numbers)) == "cpu"  # 512·32·8 is just enough
    assert engines.suited(plan_of(dense, numbers[0] * np.nan, numbers[1] + 7)) == "cpu"
    assert engines.suited(plan_of(dense, numbers[0][1:], numbers[1])) == "reference"
    picture = np.zeros((1, 32, 32, 3), np.float32), np.zeros((3, 3, 3, 64), np.float32)
    assert engines.suited(plan_of(lambda x, w: ops.conv2d(x, w, padding=1), *picture)) == "cpu"
    assert engines.suited(plan_of(lambda x: ops.exp(x), np.zeros((8, 8), np.float32))) == "reference"


def test_a_step_of_training_is_worth_machine_code_sooner() -> None:
    """It is taken again and again."""
    for rows, suited in ((16, "cpu"), (15, "reference")):  # 16·32·8 is just enough
        plan = plan_of(lambda x, w: x @ w, np.zeros((rows, 32), np.float32), np.zeros((32, 8), np.float32))
        assert engines.suited(plan, updates=[0]) == suited
        assert engines.suited(plan) == "reference"


def test_auto_takes_the_suited_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Plan] = []
    from nabi.engines import cpu

    prepare = cpu.prepare
    monkeypatch.setattr(cpu, "prepare", lambda plan, *rest, **how: taken.append(plan) or prepare(plan, *rest, **how))
    double = nabi.compile(lambda x, y: x @ y)
    double(np.ones((4, 4), np.float32), np.ones((4, 4), np.float32))
    assert not taken
    double(np.ones((128, 64), np.float32), np.ones((64, 64), np.float32))
    assert len(taken) == 1
    total = nabi.tensor(np.zeros((16, 16), np.float32))
    nabi.compile(lambda x: total.assign(total + x @ x), state=total)(np.ones((16, 16), np.float32))
    assert len(taken) == 2


@pytest.mark.parametrize("name", ["gpu", "CPU", "", "cpu-winograd"])
def test_an_unknown_engine_is_refused(name: str) -> None:
    with pytest.raises(SettingError) as caught:
        engines.prepare(name, plan_of(lambda x: x, np.ones(2)))
    assert str(caught.value) == f"engine {name!r} is not one of auto, reference, cpu, cpu-direct"
    with pytest.raises(SettingError):
        nabi.compile(lambda x: x, engine=name)(np.ones(2))


# --- kernels on the disk ---


class Made:
    """How often machine code was made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        emit = machine._emit

        def counting(text: str, target: machine.Processor) -> bytes:
            self.count += 1
            return emit(text, target)

        monkeypatch.setattr(machine, "_emit", counting)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, new_process: Callable[[], None], tmp_path: Path) -> Made:
    monkeypatch.setenv("NABI_CACHE", str(tmp_path / "cache"))
    return Made(monkeypatch)


WRITER = """
define void @kernel(ptr %table, i64 %start, i64 %stop, i64 %strand, ptr %scratch) {{
  store i64 {}, ptr %table
  ret void
}}
"""


def answer(number: int = 2) -> None:
    """Make a kernel, and have it write a number."""
    place = np.zeros(1, np.int64)
    machine.compile(WRITER.format(number))(place.ctypes.data, 0, 0, 0, 0)
    assert place == [number]


def kept() -> list[Path]:
    return sorted((cache.folder() / machine.FOLDER).glob("*.o"))


def test_a_second_process_makes_nothing(made: Made, new_process: Callable[[], None]) -> None:
    answer()
    answer()
    assert made.count == 1
    new_process()
    answer()
    assert made.count == 1
    answer(3)
    assert made.count == 2
    assert len(kept()) == 2


def test_another_processor_has_its_own(made: Made, new_process: Callable[[], None]) -> None:
    answer()
    with machine.pretending(narrowest(machine.processor())):
        answer()
    assert made.count == 2
    assert len(kept()) == 2


def test_kernels_are_the_users_alone(made: Made) -> None:
    answer()
    folder = cache.folder() / machine.FOLDER
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [path.suffix for path in folder.iterdir() if path.name != cache.TAG] == [".o"]
    assert any(entry.kind == machine.FOLDER for entry in cache.entries())
    assert cache.clear(machine.FOLDER) > 0
    assert kept() == []


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give folders away")
def test_kernels_of_somebody_else_are_not_run(made: Made, new_process: Callable[[], None]) -> None:
    """Machine code is run as it is: whoever may write it may do everything that the user may."""
    answer()
    os.chown(cache.folder() / machine.FOLDER, 12345, 12345)
    new_process()
    answer()
    assert made.count == 2


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "a bit": lambda data: data[:-20] + bytes([data[-20] ^ 4]) + data[-19:],
    "its digest": lambda data: bytes([data[0] ^ 1]) + data[1:],
    "cut off": lambda data: data[: len(data) // 2],
    "nothing but a digest": lambda data: data[:32],
    "empty": lambda data: b"",
    "longer": lambda data: data + b"\0",
    "something else": lambda data: b"\x7fELF, but not really" * 50,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_kernel_is_made_again(
    made: Made, new_process: Callable[[], None], damage: Callable[[bytes], bytes]
) -> None:
    answer()
    (path,) = kept()
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    new_process()
    answer()
    assert made.count == 2
    assert path.read_bytes() == whole
    new_process()
    answer()
    assert made.count == 2


def test_a_kernel_that_is_another_is_made_again(made: Made, new_process: Callable[[], None]) -> None:
    answer(2)
    (first,) = kept()
    answer(3)
    (second,) = {*kept()} - {first}
    first.write_bytes(second.read_bytes())
    new_process()
    answer(2)
    assert made.count == 3


@pytest.mark.parametrize("obstacle", ["a file", "a file for a folder", "a folder for the kernel", "not to be made"])
def test_a_cache_that_cannot_be_written(
    made: Made, new_process: Callable[[], None], obstacle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then each process makes its own."""
    home = cache.folder()
    if obstacle == "a file":
        home.write_text("not a folder")
    elif obstacle == "a file for a folder":
        home.mkdir()
        (home / machine.FOLDER).write_text("not a folder")
    elif obstacle == "a folder for the kernel":
        answer()
        (path,) = kept()
        path.unlink()
        (path / "in the way").mkdir(parents=True)
        made.count = 0
    else:
        monkeypatch.setenv("NABI_CACHE", "/proc/nabi")
    for count in (1, 2):
        new_process()
        answer()
        assert made.count == count


def test_the_oldest_kernels_go_where_there_are_too_many(
    made: Made, new_process: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, written in enumerate((2, 3, 4)):
        before = {*kept()}
        answer(written)
        (path,) = {*kept()} - before
        os.utime(path, (time.time() - 100 + 10 * number,) * 2)
    sizes = [path.stat().st_size for path in kept()]
    by_age = sorted(kept(), key=lambda path: path.stat().st_mtime)
    monkeypatch.setattr(machine, "MOST_BYTES", max(sizes))
    new_process()
    answer(5)
    left = {*kept()}
    assert (cache.folder() / machine.FOLDER / cache.TAG).exists()
    assert by_age[2] in left
    assert not {*by_age[:2]} & left
    assert len(left) == 2  # and the new one
    made.count = 0
    for _ in range(2):
        new_process()
        answer(6)
    assert made.count == 1, "nothing is kept any more"


ANOTHER_PROCESS = """
import sys
import numpy as np, nabi
from nabi import engines
from nabi import machine
count, emit = 0, machine._emit
def counting(*given):
    global count
    count += 1
    return emit(*given)
machine._emit = counting
x = np.arange(64, dtype=np.float32)
f = nabi.compile(lambda x: [x * k + nabi.ops.exp(-x) for k in range(2, 10)] + [nabi.ops.sum(x), x @ x], engine="cpu")
got = f(x)
np.testing.assert_allclose(got[1].numpy(), x * 3 + np.exp(-x), rtol=1e-6)
print(count)
"""


def test_processes_at_once_and_one_after_them(tmp_path: Path) -> None:
    def start() -> "subprocess.Popen[str]":
        environment = os.environ | {"NABI_CACHE": str(tmp_path / "cache"), "PYTHONPATH": os.pathsep.join(sys.path)}
        return subprocess.Popen([sys.executable, "-c", ANOTHER_PROCESS], stdout=subprocess.PIPE, text=True,
                                env=environment)  # fmt: skip

    both = [start(), start()]
    counts = [int(process.communicate(timeout=60)[0]) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert max(counts) > 0
    after = start()
    assert int(after.communicate(timeout=60)[0]) == 0
    folder = tmp_path / "cache" / machine.FOLDER
    assert not [path for path in folder.iterdir() if path.suffix != ".o" and path.name != cache.TAG]


def test_who_is_to_use_one_thread_asks_for_no_help(monkeypatch: pytest.MonkeyPatch) -> None:
    """And who has two asks, or the bits of one and of two threads would be those of one."""
    asked, offer = [], threads.offer
    monkeypatch.setattr(threads, "offer", lambda *given: asked.append(given) or offer(*given))
    images = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3)).astype(np.uint8)
    net = nabi.models.convnet((32, 32, 3), 10, channels=(16, 16))
    run = nabi.compile(lambda x: net(x, training=False), state=net, engine="cpu")
    for number in (1, 2):
        threads.set_num_threads(number)
        try:
            run(images)
        finally:
            threads.set_num_threads(None)
        assert bool(asked) == (number > 1)


BESIDE_LARGE_ARRAYS = """
import mmap
import numpy as np, nabi
images = np.random.default_rng(0).integers(0, 256, (128, 16, 16, 3)).astype(np.uint8)
labels = np.arange(128) % 10
large = [mmap.mmap(-1, 3 << 30, prot=mmap.PROT_READ) for _ in range(8)]  # which nobody looks at
for n in range(12):
    large.append(mmap.mmap(-1, 3 << 30, prot=mmap.PROT_READ))
    model = nabi.MLPClassifier((64 + n,), max_iter=1, random_state=0, batch_size=64 + n, engine="cpu")
    model.fit(images, labels).predict(images[: 100 + n])
"""


@pytest.mark.skipif(sys.maxsize < 2**62 or os.name != "posix", reason="needs addresses for arrays that are not there")
@pytest.mark.parametrize("number", range(2))  # where things lie differs from run to run
def test_kernels_are_loaded_beside_large_arrays(tmp_path: Path, number: int) -> None:
    """Code may be far from what was loaded before, but not from its own constants: that ended the process."""
    environment = os.environ | {"NABI_CACHE": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", BESIDE_LARGE_ARRAYS], env=environment, check=False, timeout=120)
    assert done.returncode == 0


# --- numbers at the edge ---

EDGES = [
    0.0, -0.0, 1.0, -1.0, 2.5, -2.5, 0.5, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 1e-40, -1e-40, 1e-38, 3e38, -3e38,
    88.7, 88.73, 89.0, -87.3, -88.0, -103.0, -104.0, -110.0,
]  # fmt: skip
EDGE_CASES = [o for o in OPERATIONS if o.kind == "elementwise" and o.name != "astype"]


def test_no_operation_is_left_out_at_the_edges() -> None:
    assert {len(o.arrays) for o in EDGE_CASES} == {1, 2, 3}


@pytest.mark.usefixtures("_nothing_kept")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("arrays", [1, 2, 3])
def test_elementwise_at_the_edges(dtype: Any, arrays: int) -> None:
    """Every declared operation, of every pair where there are two: NaN, infinities, what is hardly above 0."""
    chosen = [o for o in EDGE_CASES if len(o.arrays) == arrays]
    assert chosen
    edges = np.array(EDGES, dtype)
    tables = [np.ascontiguousarray(t) for t in np.meshgrid(edges, edges[:-8], indexing="ij")]
    given = [edges] if arrays == 1 else [*tables, tables[0][::-1].copy()][:arrays]

    def all_of_them(*x: Any) -> list[Any]:
        results = []
        for operation in chosen:
            example = operation.examples[0]
            values = [v > 0 if d.domain == "boolean" else v for v, d in zip(x, example.arrays, strict=True)]
            results.append(operation(*values, **example.settings))
        return results

    check(all_of_them, *given)


@pytest.mark.parametrize("axis", [0, 1, None])
def test_folds_at_the_edges(axis: int | None) -> None:
    """Over rows, along rows, over all: what is not a number passes as in the reference."""
    x = np.ones((13, 17), np.float32)
    x[0] = np.nan
    x[1, 3] = np.nan
    x[2, 5] = np.inf
    x[3, 7] = -np.inf
    x[4], x[5] = np.inf, -np.inf
    x[6, 0], x[7, 16] = np.nan, np.nan
    x[8] = -3
    x[8, 2], x[8, 16] = 0.0, -0.0
    x[9, 1], x[9, 2] = np.nan, np.inf
    x[10] = 1e-45
    x[11] = 3e38
    folds = (
        "sum",
        "max",
        "min",
        "argmax",
        "argmin",
        "mean",
        "var",
        "logsumexp",
        "softmax",
        "log_softmax",
        "any",
        "all",
    )
    present = [name for name in folds if not (axis is None and name.startswith("arg"))]
    check(lambda t: [getattr(ops, name)(t, axis=axis) for name in present], x)
    for rows in (slice(1, 4), slice(8, 13), slice(10, 11)):  # among themselves, without the rest
        check(lambda t: [getattr(ops, name)(t, axis=axis) for name in present], x[rows])


@pytest.mark.parametrize("how", [{"kernel_size": 2}, {"kernel_size": 3, "stride": 2}, {"kernel_size": 3, "padding": 1}])
def test_max_pool_at_the_edges(how: dict[str, Any]) -> None:
    x = np.random.default_rng(0).standard_normal((3, 7, 7, 3)).astype(np.float32)
    x[0, 1, 1, 0] = np.nan
    x[1, 2, 3, 1] = np.inf
    x[1, :, :, 2] = -np.inf
    x[2, 3] = np.nan
    pooled = ops.max_pool2d(nabi.tensor(x), **how)
    g = np.ones(pooled.shape, np.float32)
    settings = {"stride": None, "padding": 0, **how}
    check(lambda t: ops.max_pool2d(t, **how), x)
    check(lambda g, t: ops.max_pool2d_gradient(g, t, **settings), g, x)


@pytest.mark.parametrize("edge", [np.nan, np.inf, -np.inf, 1e-40])
def test_products_at_the_edges(edge: float) -> None:
    rng = np.random.default_rng(1)
    for n in (5, 40):
        x, y = rng.standard_normal((2, n, n)).astype(np.float32)
        y[2, 2] = edge
        check(lambda a, b: a @ b, x, y)
        check(lambda a, b: ops.permute_dims(a, (1, 0)) @ b, y, x)


# --- exp and log ---


def every_exponent(low: int, high: int, each: int = 1024) -> Any:
    """Numbers of every exponent, the first and last of each among them."""
    rng = np.random.default_rng(0)
    mantissas = np.concatenate([[0, 1, (1 << 23) - 1, (1 << 23) - 2], rng.integers(0, 1 << 23, each)])
    bits = (np.arange(low, high, dtype=np.uint32)[:, None] << np.uint32(23)) | mantissas.astype(np.uint32)
    return bits.ravel().view(np.float32)


def units(got: Any, exact: Any) -> Any:
    """How many units in the last place ``got`` lies from the exact result, which is given in float64."""
    return np.abs(got.astype(np.float64) - exact) / np.spacing(np.abs(exact.astype(np.float32))).astype(np.float64)


@pytest.mark.parametrize(
    ("name", "x"),
    [
        ("exp", every_exponent(0, 255)),
        ("exp", -every_exponent(0, 255)),
        ("exp", np.linspace(-104, 89, 400_001, dtype=np.float32)),
        ("log", every_exponent(0, 255)),
        ("log", np.linspace(0.5, 2, 400_001, dtype=np.float32)),
    ],
    ids=["exp", "exp of what is below 0", "exp where it is finite", "log", "log near 1"],
)
def test_exp_and_log_lie_within_two_units_in_the_last_place(name: str, x: Any) -> None:
    """As their docstrings say; where the result is subnormal, within one of its steps."""
    (got,) = engines.prepare("cpu", plan_of(getattr(ops, name), x))([x])
    with np.errstate(all="ignore"):
        exact = getattr(np, name)(x.astype(np.float64))
        rounded = exact.astype(np.float32)
    finite = np.isfinite(rounded)
    np.testing.assert_array_equal(got[~finite], rounded[~finite])
    normal = finite & (np.abs(rounded) >= np.finfo(np.float32).smallest_normal)
    assert units(got[normal], exact[normal]).max() <= 2
    tiny = finite & ~normal
    assert units(got[tiny], exact[tiny]).max(initial=0) <= 1
    assert (got[exact == 0] == 0).all()


# --- where the time goes ---


def test_time_is_noted_inside_the_block_alone(step: Any) -> None:
    _, run, arrays = step
    run(arrays)
    with profile.profiling() as noted:
        run(arrays)
        once = dict(noted.strands)
        run(arrays)
    after = dict(noted.seconds)
    run(arrays)
    assert noted.seconds == after
    assert profile.current is None
    assert all(seconds > 0 for seconds in noted.seconds.values())
    assert all(share == pytest.approx(1) for share in once.values()), "once through all strands is once"
    assert all(share == pytest.approx(2) for what, share in noted.strands.items() if "weight" not in what.what)
    words = " ".join(about.what for about in noted.seconds)
    for kernel in ("winograd", "matmul", "moments", "37 rows"):
        assert kernel in words
    pictures, tiles, inputs, outputs = 37, 25, 16, 24  # of 18×18, in 5×5 tiles
    assert max(about.operations for about in noted.seconds) >= 2 * 36 * pictures * tiles * inputs * outputs


def test_what_numpy_computes_is_noted_too() -> None:
    """All threads wait for it."""
    numbers = np.ones(1000, np.float32)
    mixed = nabi.compile(lambda x, key: ops.take(x, ops.random_permutation(key, length=1000)) * 2, engine="cpu")
    with profile.profiling() as noted:
        begun = time.perf_counter()
        mixed(numbers, random.key(0))
        elapsed = time.perf_counter() - begun
    (sorting,) = (about for about in noted.seconds if about.what == "random_permutation in NumPy")
    assert 0 < noted.seconds[sorting] <= noted.threads * elapsed
    assert noted.strands[sorting] == 1


def test_blocks_inside_blocks(step: Any) -> None:
    _, run, arrays = step
    with profile.profiling() as outer:
        with profile.profiling() as inner:
            run(arrays)
        assert inner.seconds
        assert not outer.seconds
        run(arrays)
    assert outer.seconds


def test_lines_of_a_profile() -> None:
    noted = profile.Profile(threads=2)
    for number in range(15):
        about = profile.About(f"kernel {number} " + "x" * 90 * (number == 14), 2e9 * (number > 0), 1e9, True)
        noted.add(about, float(number + 1), 0.5)
        noted.add(about, 0.0, 0.5)
    noted.add(profile.About("matmul", 1.0, 1.0, False), 30.0, 1.0)
    noted.begun = time.perf_counter() - 100
    lines = where_time_went(noted)
    assert lines[0].split() == "share ms runs GFLOP/s GB/s what, as all threads together do it".split()
    first = lines[1].split()
    assert first[:6] == ["12.5%", "7500.00", "1", "0", "0.1", "kernel"]  # 15 of 120 s, by two threads
    assert lines[1].endswith("x…")
    assert len(lines[1]) < 120
    assert lines[13].split() == ["5.0%", "3", "others"]  # 1, 2 and 3 s
    assert lines[14].startswith("of 100.0 s kernels of steps took 60.00, of evaluation 15.00; the rest went into")
    assert "this machine: at most" in lines[15]
    assert "bfloat16" not in lines[15]
    assert len(lines) == 16
    assert where_time_went(profile.Profile()) == [
        "no step ran as machine code: the network is so small that NumPy alone takes its steps"
    ]


@pytest.mark.parametrize(
    ("hidden", "batch", "said"),
    [("64", "64", "this machine: at most"), ("2", "2", "no step ran as machine code")],
)
def test_train_with_a_profile(
    hidden: str,
    batch: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NABI_DATA", raising=False)
    arguments = ["train", "--hidden", hidden, "--batch-size", batch, "--epochs", "1", "--profile", "--out", "run"]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    printed = " ".join((out + err).split())
    assert said in printed
    assert ("matmul" in printed) == (hidden == "64")
    assert profile.current is None
