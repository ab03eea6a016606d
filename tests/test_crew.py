"""Threads that go through stages together: every task once, and no stage before the one before it is done."""

import ctypes
import os
import threading
import time
from array import array
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nabi
from nabi import machine, threads
from nabi.engines.cpu import crew
from nabi.engines.cpu.crew import ALONE, AWAY, HELP, LEAD, OPEN, Board, Work


class Told:
    """Tasks that tell when they begin and end; each is known by its stage and its number in there."""

    def __init__(self, counts: list[int], busy: Callable[[int, int], None] = lambda stage, number: None) -> None:
        self.events: list[tuple[str, int, int]] = []

        def tell(table: int, stage: int, number: int, strand: int, scratch: int) -> None:
            self.events.append(("begins", stage, number))
            busy(stage, number)
            self.events.append(("ends", stage, number))

        self.function = machine.KERNEL(tell)
        self.address = ctypes.cast(self.function, ctypes.c_void_p).value or 0
        self.counts = counts
        self.table = array("q", [0, 1])
        stages = [[self.work(stage, number) for number in range(count)] for stage, count in enumerate(counts)]
        self.board = Board(stages, self.table.buffer_info()[0])

    def work(self, stage: int, number: int, asks: int = -1) -> Work:
        return Work(self.address, stage, number, 0, asks)

    def check(self) -> None:
        """Every task was done once, and all of a stage before any of the next one began."""
        ended = [(stage, number) for what, stage, number in self.events if what == "ends"]
        wanted = [(stage, number) for stage, count in enumerate(self.counts) for number in range(count)]
        assert sorted(ended) == wanted
        assert [stage for stage, _ in ended] == sorted(stage for stage, _ in ended)
        done = [0] * len(self.counts)
        for what, stage, _ in self.events:
            if what == "begins":
                assert done[:stage] == self.counts[:stage]
            else:
                done[stage] += 1
        self.events.clear()


def lead(board: Board, stages: int) -> int:
    """Lead a run; gives how many sat on the bench at its beginning."""
    go = crew.code()
    waiting = go(board.address, 0, 0, OPEN)
    at = go(board.address, 0, 0, LEAD)
    while at <= stages:
        time.sleep(1e-4)
        at = go(board.address, at, 0, LEAD)
    return waiting


def help(board: Board) -> int:
    """Help until nobody leads any more; gives how often it was told to go on later."""
    go, at, naps = crew.code(), AWAY, 0
    while (at := go(board.address, at, 0, HELP)) != AWAY:
        time.sleep(1e-4)
        naps += 1
    return naps


@pytest.fixture
def together() -> Iterator[Callable[[Callable[[], object]], threading.Thread]]:
    """Starts threads, and waits for them."""
    begun: list[threading.Thread] = []

    def start(work: Callable[[], object]) -> threading.Thread:
        begun.append(threading.Thread(target=work, daemon=True))
        begun[-1].start()
        return begun[-1]

    yield start
    for one in begun:
        one.join(20)
        assert not one.is_alive()


@settings(max_examples=40, deadline=None)
@given(counts=st.lists(st.integers(0, 6), max_size=6), helpers=st.integers(0, 3), runs=st.integers(1, 4))
def test_every_task_once_and_stage_by_stage(counts: list[int], helpers: int, runs: int) -> None:
    told = Told(counts, lambda stage, number: time.sleep(1e-4 * ((7 * stage + 3 * number) % 3)))
    those = [threading.Thread(target=help, args=(told.board,), daemon=True) for _ in range(helpers)]
    for one in those:
        one.start()
    for _ in range(runs):
        lead(told.board, len(counts))
        told.check()
    for one in those:
        one.join(20)
        assert not one.is_alive()
    assert crew.code()(told.board.address, 0, 0, ALONE) == len(counts)
    told.check()


def test_many_short_runs(together: Callable[[Callable[[], object]], threading.Thread]) -> None:
    """Stages of nothing but a number to be added: where a helper could slip into a run that it does not belong to."""
    text = """
define void @kernel(ptr %table, i64 %start, i64 %stop, i64 %strand, ptr %scratch) {
  %place = getelementptr i64, ptr %table, i64 %strand
  %before = load i64, ptr %place
  %after = add i64 %before, %start
  store i64 %after, ptr %place
  ret void
}
"""
    function = ctypes.cast(machine.compile(text), ctypes.c_void_p).value or 0
    table = array("q", [0] * 8)
    # A number is read by the next stage's task, so that one left out, done twice or done too early shows.
    doubling = machine.compile(
        """
define void @kernel(ptr %table, i64 %start, i64 %stop, i64 %strand, ptr %scratch) {
  %from = getelementptr i64, ptr %table, i64 %start
  %value = load i64, ptr %from
  %to = getelementptr i64, ptr %table, i64 %strand
  store i64 %value, ptr %to
  ret void
}
"""
    )
    copy = ctypes.cast(doubling, ctypes.c_void_p).value or 0
    adding = [Work(function, 1, 0, strand, -1) for strand in range(4)]
    copying = [Work(copy, strand, 0, 4 + (strand + 1) % 4, -1) for strand in range(4)]
    board = Board([adding, copying, adding], table.buffer_info()[0])
    for _ in range(2):
        together(lambda: help(board))
    for run in range(5000):
        lead(board, 3)
        assert list(table) == [2 * run + 2] * 4 + [2 * run + 1] * 4


def test_what_need_not_be_done() -> None:
    told = Told([0])
    board = Board([[told.work(0, 0, 0), told.work(0, 1, 1)]], told.table.buffer_info()[0])
    for role in (LEAD, ALONE):
        told.events.clear()
        lead(board, 1) if role == LEAD else crew.code()(board.address, 0, 0, ALONE)
        assert told.events == [("begins", 0, 1), ("ends", 0, 1)]


def test_one_on_the_bench_helps_next_time(together: Callable[[Callable[[], object]], threading.Thread]) -> None:
    seen: set[int] = set()
    both = threading.Barrier(2, timeout=20)

    def meet(stage: int, number: int) -> None:
        seen.add(threading.get_ident())
        both.wait()

    def always() -> None:
        while not over.is_set():
            help(told.board)

    over, until, waiting = threading.Event(), time.monotonic() + 20, 0
    told = Told([2], meet)  # which no thread can do alone
    together(always)
    while not waiting and time.monotonic() < until:
        waiting = lead(told.board, 1)
        told.check()
    over.set()
    assert waiting == 1
    assert len(seen) == 2


def test_nobody_waits_for_long_without_a_pause(
    together: Callable[[Callable[[], object]], threading.Thread],
) -> None:
    go, held, leader = crew.code(), threading.Event(), threading.get_ident()
    told = Told([2, 1], lambda stage, number: held.wait(20) if threading.get_ident() != leader else None)
    go(told.board.address, 0, 0, OPEN)
    together(lambda: help(told.board))
    until = time.monotonic() + 20
    while ("begins", 0, 0) not in told.events:
        assert time.monotonic() < until
        time.sleep(1e-4)
    assert go(told.board.address, 0, 0, LEAD) == 0  # the first stage is not done
    held.set()
    at = 0
    while at <= 2:
        at = go(told.board.address, at, 0, LEAD)
    told.check()


def test_a_helper_that_comes_late_finds_the_door_shut() -> None:
    told = Told([2, 3])
    lead(told.board, 2)
    told.check()
    assert help(told.board) == 0
    assert not told.events
    assert lead(told.board, 2) == 0  # and it does not sit on the bench any more
    told.check()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
def test_a_fork_does_not_count_on_those_left_behind() -> None:
    threads.set_num_threads(2)
    try:
        x = np.arange(600_000, dtype=np.float32).reshape(1000, 600)
        run = nabi.compile(lambda x: nabi.ops.exp(-x / 1e6) @ nabi.ops.exp(-x.T / 1e6), engine="cpu")
        wanted = run(x).numpy().tobytes()
        child = os.fork()
        if not child:
            os._exit(run(x).numpy().tobytes() != wanted)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        threads.set_num_threads(None)
