"""Going through a program: memory for one run, work for all threads, results that nobody else holds."""

import ctypes
import itertools
import math
import sys
import time
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from operator import is_
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nabi import machine, threads
from nabi.engines import Run, owned
from nabi.engines.cpu import blas, crew, profile
from nabi.engines.cpu.program import ELSEWHERE, LARGE, External, Prepared, Program, Task
from nabi.graph import namespace

NAP = 5e-5
"""Seconds that a thread sleeps where it has looked long enough whether the others are ready."""
SEATS = 3
"""Sets of arrays that a run may choose from: two for a step of training, and one where a result is still held."""
LISTED: int = next(map(sys.getrefcount, [object()]))
"""What `sys.getrefcount` says, asked by `map`, of an array that only a list holds: Python's versions differ."""

STAGGER = 20 * machine.CACHE_LINE
"""Bytes that a large result begins farther into a page than the one before. A step goes through several side by side,
weights and moments say: these would all share places of the cache if each began where its pages do."""
_large = itertools.count()


class Leg(NamedTuple):
    """Stages that threads go through without stopping; then comes what NumPy computes."""

    stages: list[list[Task | Prepared]]
    helpers: int  # that find something to do, at most
    external: list[External]


class _Memory(np.ndarray[Any, np.dtype[np.uint8]]):
    """Memory that a result lies in.

    Of another type than the result, so that NumPy has views of the result hold that, and not this.
    """


def _result(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """An array for what is handed out: it begins at a cache line, and large ones begin apart from each other."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    stagger = next(_large) * STAGGER % machine.ALIKE if size >= LARGE else 0
    memory = _Memory(size + stagger + machine.CACHE_LINE, np.uint8)
    return np.ndarray(shape, dtype, memory, offset=-memory.ctypes.data % machine.CACHE_LINE + stagger)


class Seat:
    """Arrays that a run reads and writes, and where they lie: a step of training alternates between two of these.

    What was handed out is never written to as long as anybody holds it, or a view of it: that shows in its reference
    count.
    """

    __slots__ = ("counts", "held", "read", "results", "state", "written")

    def __init__(self, shapes: Sequence[tuple[tuple[int, ...], Any]]) -> None:
        self.state: list[Any] = []  # inputs that are never changed in place, as they were given
        self.held: list[NDArray[Any]] = []  # as kernels read them
        self.read = array("q")
        self.results = [_result(*shape) for shape in shapes]
        self.written = array("q", [result.ctypes.data for result in self.results])
        self.counts: list[int] = []  # of references to the results, where nobody else holds them

    def is_free(self) -> bool:
        """Whether nobody holds any of the results."""
        return [*map(sys.getrefcount, self.results)] == self.counts

    def renew(self) -> None:
        """Other arrays for those results that somebody holds."""
        for place, (held, free) in enumerate(zip(map(sys.getrefcount, self.results), self.counts, strict=True)):
            if held != free:
                before = self.results[place]
                self.results[place] = made = _result(before.shape, before.dtype)
                self.written[place] = made.ctypes.data


def _count(seats: Sequence[Seat]) -> None:
    """Note how many references there are to each result when only these seats hold it."""
    among = Counter(id(one) for seat in seats for one in itertools.chain(seat.state, seat.held))
    for seat in seats:
        seat.counts = [LISTED + among[id(result)] for result in seat.results]


class Room(NamedTuple):
    """What one run needs for itself: two that run at once have two."""

    memory: NDArray[np.uint8]
    base: int
    table: "array[int]"
    address: int
    prepared: dict[int, list[Any]]  # for each piece of work done beforehand, the inputs that it was done for
    seats: list[Seat]
    cells: dict[int, NDArray[Any]]  # for inputs that are single numbers, by their places among the inputs
    boards: list[crew.Board]  # one for each leg
    arrays: list[Any]  # of the run: whoever still works in here when it is interrupted writes to nobody else's memory
    offered: list[Any]  # to other threads, which have not come yet
    forks: int  # in which process it was made


def _empty(size: int) -> tuple[NDArray[np.uint8], int]:
    """Memory that begins at a multiple of a cache line, and where."""
    memory = machine.empty((size,), np.uint8)
    return memory, memory.ctypes.data


def _located(value: Any, dtype: Any) -> tuple[NDArray[Any], int]:
    """A value as its numbers lie together in memory, and where."""
    if type(value) is not np.ndarray or not value.flags.c_contiguous:
        value = np.ascontiguousarray(value, dtype) if np.ndim(value) else np.array(value, dtype)
    return value, value.__array_interface__["data"][0]


def make_run(program: Program) -> Run:
    """A function from the values of a plan's inputs to those of its outputs."""
    rooms: list[Room] = []
    scratches: list[tuple[NDArray[np.uint8], int]] = []
    slots = program.slots
    places = {v.serial: number for number, v in enumerate(program.inputs)}
    first = len(program.inputs) - program.kept
    singles = [(number, v.dtype) for number, v in enumerate(program.inputs) if not v.shape]
    given = [(number, slots[v.serial], v.dtype) for number, v in enumerate(program.inputs[:first]) if v.shape]
    state = [(first + number, v.dtype) for number, v in enumerate(program.inputs[first:]) if v.shape]
    state_places = [number for number, _ in state]
    read_at = slice(slots[program.inputs[first].serial], slots[program.inputs[-1].serial] + 1) if state else slice(0)
    computed = {v.serial: v for v in program.outputs if v.kind not in ELSEWHERE}
    shapes = [(v.shape, v.dtype) for v in computed.values()]
    written = [slots[serial] for serial in computed]
    written_at = slice(written[0], written[-1] + 1) if written else slice(0)
    assert [*range(written_at.start or 0, written_at.stop)] == written
    numbers = {serial: number for number, serial in enumerate(computed)}
    wanted = [(v, numbers.get(v.serial, -1)) for v in program.outputs]
    simple = [number for _, number in wanted] == [*range(len(shapes))]
    single_results = [number for number, (shape, _) in enumerate(shapes) if not shape]
    legs = _legs(program)
    go = crew.code()
    # What need not be done again while its inputs are the same, by the place in the table that says whether it must.
    prepared = [step for stage in program.stages for step in stage if isinstance(step, Prepared)]
    again = {step.asks: step.inputs for step in prepared}
    carried = {step.asks: numbers[step.carried] for step in prepared if step.carried is not None}

    def room() -> Room:
        memory, base = _empty(program.size)
        table = array("q", bytes(8 * program.count))
        table[:2] = array("q", blas.addresses())
        for slot, offset in program.offsets.items():
            table[slot] = base + offset
        for slot, constant in program.arrays:
            table[slot] = constant.ctypes.data
        cells = {number: np.empty((), dtype) for number, dtype in singles}
        for number, cell in cells.items():
            table[slots[program.inputs[number].serial]] = cell.ctypes.data
        address = table.buffer_info()[0]
        boards = [crew.Board([[_work(step) for step in stage] for stage in leg.stages], address) for leg in legs]
        return Room(memory, base, table, address, {}, [], cells, boards, [], [], threads.forks)

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
        helpers = leg.helpers and min(leg.helpers, threads.get_num_threads() - 1)
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

            threads.together(work, min(threads.get_num_threads(), len(tasks)) - 1, all_needed=False)

    def seat(here: Room, arrays: list[Any]) -> Seat:
        """One to run with: one of the last whose inputs are the same, or any whose results nobody holds."""
        for one in here.seats:
            if all(map(is_, arrays, one.state)) and one.is_free():
                return one
        found = next((one for one in here.seats if one.is_free()), None)
        if found is None:
            if len(here.seats) < SEATS:
                found = Seat(shapes)
            else:
                found = here.seats.pop(0)
                found.renew()
            here.seats.append(found)
        found.state = arrays
        located = [_located(value, dtype) for value, (_, dtype) in zip(arrays, state, strict=True)]
        found.held = [value for value, _ in located]
        found.read = here.table[read_at]
        for number, (_, place) in zip(state_places, located, strict=True):
            found.read[number - first] = place
        _count(here.seats)
        return found

    def run(inputs: Sequence[Any]) -> list[Any]:
        try:
            here = rooms.pop()
        except IndexError:
            here = room()
        if here.forks != threads.forks:  # those who sat on its benches are in another process
            here = room()
        table = here.table
        for asks, needed in again.items():
            read, before = [inputs[number] for number in needed], here.prepared.get(asks)
            table[asks] = before is None or not all(map(is_, read, before))
            here.prepared[asks] = read
        held = [*inputs]  # so that they live as long as the run
        for number, cell in here.cells.items():
            cell[()] = inputs[number]
            held[number] = cell
        for number, slot, dtype in given:
            held[number], table[slot] = _located(inputs[number], dtype)
        chosen = seat(here, [inputs[number] for number in state_places])
        table[read_at] = chosen.read
        table[written_at] = chosen.written
        results = chosen.results
        external: dict[int, Any] = {}
        here.arrays.extend((held, external))
        with threads.one_blas_thread() if program.calls_blas else nullcontext():
            for leg, board in zip(legs, here.boards, strict=True):
                if profile.current is not None:
                    noted(leg, here)
                else:
                    walk(leg, board, here)
                if leg.external:
                    for number, value in zip(state_places, chosen.held, strict=True):
                        held[number] = value
                    stored = dict(zip(written, results, strict=True))
                    for step in leg.external:
                        begun = time.perf_counter()
                        _compute(step, program, here, held, stored, external)
                        if profile.current is not None:
                            profile.current.add(step.about, time.perf_counter() - begun, 1, alone=True)
        here.arrays.clear()
        for asks, number in carried.items():
            here.prepared[asks] = [results[number]]
        # Results are taken before the room is given back: what nobody holds, the next run writes over.
        if simple:
            values = [*results]
            for number in single_results:
                values[number] = values[number][()]
            rooms.append(here)
            return values
        elsewhere = [
            inputs[places[v.serial]] if v.kind == "input" else external.get(v.serial, v.held)
            for v, number in wanted
            if number < 0
        ]
        others = iter(owned(elsewhere, inputs))
        values = [
            (results[number] if v.shape else results[number][()]) if number >= 0 else next(others)
            for v, number in wanted
        ]
        rooms.append(here)
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
