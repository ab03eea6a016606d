"""Going through a program: memory for one run, work for all threads, results that nobody else holds."""

import itertools
import sys
import time
from array import array
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nabi import threads
from nabi.engines import UNHELD, Run
from nabi.engines.cpu import blas, profile
from nabi.engines.cpu.memory import ALIGNED, aligned
from nabi.engines.cpu.program import External, Prepared, Program, Step, Task
from nabi.graph import namespace

ELSEWHERE = ("input", "constant", "array", "external", "external_part")
"""Kinds of values that no kernel writes."""


class Room(NamedTuple):
    """What one run needs for itself: two that run at once have two."""

    memory: NDArray[np.uint8]
    base: int
    table: "array[int]"
    address: int
    prepared: dict[int, list[Any]]  # for each piece of work done beforehand, the inputs that it was done for


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
    steps = [step for stage in program.stages for step in stage]
    has_external = any(isinstance(step, External) for step in steps)
    in_line = [step for step in steps if isinstance(step, Task)]
    # Nothing is for two threads, and no product is for BLAS, which would take them.
    alone = len(in_line) == len(steps) == len(program.stages) and not program.calls_blas

    def room() -> Room:
        memory, base = _empty(program.size)
        table = array("q", bytes(8 * program.count))
        table[:2] = array("q", blas.addresses())
        for slot, offset in program.offsets.items():
            table[slot] = base + offset
        for slot, constant in program.arrays:
            table[slot] = constant.ctypes.data
        return Room(memory, base, table, table.buffer_info()[0], {})

    def scratch() -> tuple[NDArray[np.uint8], int]:
        try:
            return scratches.pop()
        except IndexError:
            return _empty(program.scratch)

    def run(inputs: Sequence[Any]) -> list[Any]:
        try:
            here = rooms.pop()
        except IndexError:
            here = room()
        table = here.table
        held = []  # so that they live as long as the run
        for (slot, dtype), value in zip(given, inputs, strict=True):
            where = known.get(id(value))
            if where is None or where[0] is not value:
                where = _located(value, dtype)
            held.append(where[0])
            table[slot] = where[1]
        results = []
        for one in made:
            result = one.take()
            table[one.slot] = known[id(result)][1]
            results.append(result)
        external: dict[int, Any] = {}
        if alone:
            memory, place = scratch()
            for task in in_line:
                _do(task, here.address, place)
            scratches.append((memory, place))
        else:
            with threads.one_blas_thread():
                for stage in program.stages:
                    _go(stage, here, held, scratch, scratches)
                    if has_external:
                        stored = {one.slot: result for one, result in zip(made, results, strict=True)}
                        for step in stage:
                            if isinstance(step, External):
                                _compute(step, program, here, held, stored, external)
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


def _go(stage: Sequence[Step], here: Room, held: list[Any], scratch: Any, scratches: list[Any]) -> None:
    """All tasks of a stage, each by whichever thread is free."""
    tasks = []
    for step in stage:
        if isinstance(step, Task):
            tasks.append(step)
        elif isinstance(step, Prepared):
            read = [held[number] for number in step.inputs]
            before = here.prepared.get(id(step), [None])
            if len(read) != len(before) or any(a is not b for a, b in zip(read, before, strict=True)):
                here.prepared[id(step)] = read
                tasks.append(step.task)
    if not tasks:
        return
    numbers = itertools.count()

    def work(_: int = 0) -> None:
        memory, place = scratch()
        while (number := next(numbers)) < len(tasks):
            _do(tasks[number], here.address, place)
        scratches.append((memory, place))

    threads.together(work, min(threads.count(), len(tasks)) - 1, all_needed=False)


def _do(task: Task, table: int, scratch: int) -> None:
    noting = profile.current
    if noting is None:
        task.call(table, task.start, task.stop, task.strand, scratch)
        return
    begun = time.perf_counter()
    task.call(table, task.start, task.stop, task.strand, scratch)
    noting.add(task.about, time.perf_counter() - begun, task.share)


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
