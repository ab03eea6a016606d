"""Going through a program: memory for one run, work for all threads, results that nobody else holds."""

import ctypes
import itertools
import sys
import time
from array import array
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nabi import threads
from nabi.engines import UNHELD, Run
from nabi.engines.cpu import blas, crew, profile
from nabi.engines.cpu.memory import ALIGNED, aligned
from nabi.engines.cpu.program import External, Prepared, Program, Task
from nabi.graph import namespace

ELSEWHERE = ("input", "constant", "array", "external", "external_part")
"""Kinds of values that no kernel writes."""


NAP = 5e-5
"""Seconds that a thread sleeps where it has looked long enough whether the others are ready."""


class Leg(NamedTuple):
    """Stages that threads go through without stopping; then comes what NumPy computes."""

    stages: list[list[Task | Prepared]]
    helpers: int  # that find something to do, at most
    external: list[External]


class Room(NamedTuple):
    """What one run needs for itself: two that run at once have two."""

    memory: NDArray[np.uint8]
    base: int
    table: "array[int]"
    address: int
    prepared: dict[int, list[Any]]  # for each piece of work done beforehand, the inputs that it was done for
    found: list[Any]  # the last inputs of those that are never changed in place, which the table tells the places of
    boards: list[crew.Board]  # one for each leg
    arrays: list[Any]  # of the run: whoever still works in here when it is interrupted writes to nobody else's memory
    offered: list[Any]  # to other threads, which have not come yet
    forks: int  # in which process it was made


def _empty(size: int) -> tuple[NDArray[np.uint8], int]:
    """Memory that begins at a multiple of a cache line, and where."""
    memory = np.empty(size + ALIGNED, np.uint8)
    return memory, aligned(memory.ctypes.data)


class Results:
    """Arrays for one of the outputs: a new one, or one that nobody holds any more.

    What was handed out is never written to: whoever still has it, or a view of it, shows in its reference count. One
    that was taken out of the list cannot be taken by another thread.
    """

    def __init__(self, slot: int, shape: tuple[int, ...], dtype: Any, known: dict[int, tuple[Any, int]]) -> None:
        self.slot = slot
        self.shape = shape
        self.dtype = dtype
        self.spare: list[NDArray[Any]] = []
        self.known = known

    def take(self) -> NDArray[Any]:
        spare = self.spare
        for _ in range(len(spare)):
            try:
                found = spare.pop(0)
            except IndexError:  # another thread took the last
                break
            if sys.getrefcount(found) == UNHELD + 1:  # those who know where it lies hold it, too
                return found
            if len(spare) < 3:
                spare.append(found)
            else:
                del self.known[id(found)]
        made = np.empty(self.shape, self.dtype)
        self.known[id(made)] = made, made.ctypes.data
        return made


def _located(value: Any, dtype: Any) -> tuple[NDArray[Any], int]:
    """A value as its numbers lie together in memory, and where."""
    if type(value) is not np.ndarray or not value.flags.c_contiguous:
        value = np.ascontiguousarray(value, dtype) if np.ndim(value) else np.array(value, dtype)
    return value, value.__array_interface__["data"][0]


def make_run(program: Program) -> Run:
    """A function from the values of a plan's inputs to those of its outputs."""
    rooms: list[Room] = []
    scratches: list[tuple[NDArray[np.uint8], int]] = []
    known: dict[int, tuple[Any, int]] = {}  # arrays that were handed out, and where they lie
    slots = program.slots
    given = [(slots[v.serial], v.dtype) for v in program.inputs]
    places = {v.serial: number for number, v in enumerate(program.inputs)}
    computed = {v.serial: v for v in program.outputs if v.kind not in ELSEWHERE}
    made = [Results(slots[v.serial], v.shape, v.dtype, known) for v in computed.values()]
    numbers = {serial: number for number, serial in enumerate(computed)}
    wanted = [(v, numbers.get(v.serial, -1)) for v in program.outputs]
    legs = _legs(program)
    go = crew.code()
    # What need not be done again while its inputs are the same, by the place in the table that says whether it must.
    again = {step.asks: step.inputs for stage in program.stages for step in stage if isinstance(step, Prepared)}

    def room() -> Room:
        memory, base = _empty(program.size)
        table = array("q", bytes(8 * program.count))
        table[:2] = array("q", blas.addresses())
        for slot, offset in program.offsets.items():
            table[slot] = base + offset
        for slot, constant in program.arrays:
            table[slot] = constant.ctypes.data
        address = table.buffer_info()[0]
        boards = [crew.Board([[_work(step) for step in stage] for stage in leg.stages], address) for leg in legs]
        return Room(memory, base, table, address, {}, [None] * program.kept, boards, [], [], threads.forks)

    def scratch() -> tuple[NDArray[np.uint8], int]:
        try:
            return scratches.pop()
        except IndexError:
            return _empty(program.scratch)

    def follow(board: crew.Board, here: Room) -> None:
        """Go through what another thread leads, and its next runs if they come soon; ``here`` lives as long as that."""
        memory, place = scratch()
        at = crew.AWAY
        while (at := go(board.address, at, place, crew.HELP)) != crew.AWAY:
            time.sleep(NAP)
        scratches.append((memory, place))

    def walk(leg: Leg, board: crew.Board, here: Room) -> None:
        """Go through a leg in machine code."""
        memory, place = scratch()
        helpers = leg.helpers and min(leg.helpers, threads.count() - 1)
        if helpers < 1:
            go(board.address, 0, place, crew.ALONE)
        else:
            waiting = go(board.address, 0, place, crew.OPEN)
            if waiting < helpers:
                threads.offer(partial(follow, board, here), helpers - waiting, here.offered)
            at = 0
            while (at := go(board.address, at, place, crew.LEAD)) <= len(leg.stages):
                time.sleep(NAP)
        scratches.append((memory, place))

    def noted(leg: Leg, here: Room) -> None:
        """Go through a leg task by task, and note down how long each takes."""
        for stage in leg.stages:
            tasks = [step if isinstance(step, Task) else step.task for step in stage if _needed(step, here)]
            numbers = itertools.count()

            def work(_: int, tasks: list[Task] = tasks, numbers: Iterator[int] = numbers) -> None:
                memory, place = scratch()
                while (number := next(numbers)) < len(tasks):
                    _note(tasks[number], here.address, place)
                scratches.append((memory, place))

            threads.together(work, min(threads.count(), len(tasks)) - 1, all_needed=False)

    def run(inputs: Sequence[Any]) -> list[Any]:
        try:
            here = rooms.pop()
        except IndexError:
            here = room()
        if here.forks != threads.forks:  # those who sat on its benches are in another process
            here = room()
        table = here.table
        held = [*inputs]  # so that they live as long as the run
        first = len(held) - program.kept
        for place, value in enumerate(inputs):
            if place >= first and value is here.found[place - first]:
                continue  # most of what a network is made of, at every run
            slot, dtype = given[place]
            where = known.get(id(value))
            if where is None or where[0] is not value:
                where = _located(value, dtype)
            held[place] = where[0]
            table[slot] = where[1]
            if place >= first:
                here.found[place - first] = where[0]
        results = []
        for one in made:
            result = one.take()
            table[one.slot] = known[id(result)][1]
            results.append(result)
        for asks, numbers in again.items():
            read = [held[number] for number in numbers]
            before = here.prepared.get(asks, [])
            table[asks] = len(read) != len(before) or any(a is not b for a, b in zip(read, before, strict=True))
            here.prepared[asks] = read
        external: dict[int, Any] = {}
        here.arrays[:] = held, results
        with threads.one_blas_thread() if program.calls_blas else nullcontext():
            for leg, board in zip(legs, here.boards, strict=True):
                if profile.current is not None:
                    noted(leg, here)
                else:
                    walk(leg, board, here)
                if leg.external:
                    stored = {one.slot: result for one, result in zip(made, results, strict=True)}
                    for step in leg.external:
                        _compute(step, program, here, held, stored, external)
        here.arrays.clear()
        rooms.append(here)
        values: list[Any] = []
        for v, number in wanted:
            if number >= 0:
                values.append(results[number] if v.shape else results[number][()])
            elif v.kind == "input":
                values.append(inputs[places[v.serial]])
            else:
                values.append(external.get(v.serial, v.held))
        for one, result in zip(made, results, strict=True):
            one.spare.append(result)
        return values

    return run


def _legs(program: Program) -> list[Leg]:
    """The stages of a program, cut where NumPy has something to compute."""
    legs = [Leg([], 0, [])]
    for stage in program.stages:
        if legs[-1].external:
            legs.append(Leg([], 0, []))
        leg = legs[-1]
        tasks = [step for step in stage if not isinstance(step, External)]
        if tasks:
            leg.stages.append(tasks)
        leg.external.extend(step for step in stage if isinstance(step, External))
        legs[-1] = leg._replace(helpers=max(leg.helpers, len(tasks) - 1))
    return legs


def _work(step: Task | Prepared) -> crew.Work:
    """A task as machine code reads it."""
    task, asks = (step, -1) if isinstance(step, Task) else (step.task, step.asks)
    function = ctypes.cast(task.call, ctypes.c_void_p).value  # type: ignore[arg-type]
    return crew.Work(function or 0, task.start, task.stop, task.strand, asks)


def _needed(step: Task | Prepared, here: Room) -> bool:
    return isinstance(step, Task) or bool(here.table[step.asks])


def _note(task: Task, table: int, scratch: int) -> None:
    begun = time.perf_counter()
    task.call(table, task.start, task.stop, task.strand, scratch)
    if profile.current is not None:
        profile.current.add(task.about, time.perf_counter() - begun, task.share)


def _compute(
    task: External, program: Program, here: Room, held: list[Any], results: dict[int, Any], external: dict[int, Any]
) -> None:
    """What NumPy computes: the operation's formula over arrays that lie where the kernels left them."""
    value = task.value

    def stored(v: Any) -> Any:
        if v.kind == "constant":
            return v.held
        if v.serial in external:
            return external[v.serial]
        slot = program.slots[v.serial]
        for number, given in enumerate(program.inputs):
            if given.serial == v.serial:
                return held[number][()] if not v.shape else held[number]
        if slot in results:
            found = results[slot]
        elif v.kind == "array":
            found = v.held
        else:
            offset = int(here.table[slot]) - here.memory.ctypes.data
            size = v.size * v.dtype.itemsize
            found = here.memory[offset : offset + size].view(v.dtype).reshape(v.shape)
        return found[()] if not v.shape else found

    if value.kind == "external_part":
        found = external[value.inputs[0].serial][value.settings["index"]]
    else:
        settings = {name: setting for name, setting in value.settings.items() if name != "specs"}
        assert value.formula is not None
        with np.errstate(all="ignore"):
            found = value.formula(namespace.numpy, *(stored(v) for v in value.inputs), **settings)
    if not isinstance(found, tuple):
        whole = np.ndim(found) and found.base is None and found.flags.c_contiguous
        found = found if whole else np.array(found, value.dtype, order="C")  # not a view of what is used again
        here.table[program.slots[value.serial]] = found.ctypes.data
    external[value.serial] = found
