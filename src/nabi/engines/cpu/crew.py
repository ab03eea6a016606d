"""All threads going through the stages of a program together, in machine code.

A stage may last a few microseconds, which is less than Python takes to hand it to another thread. So the thread that
runs a program, the *leader*, and its helpers walk through all stages in one call each. Whoever is free takes the next
task of the stage; who finds none waits, looking again and again, until the others have finished theirs. A helper that
comes late finds stages without tasks and hurries through them; one that never comes is not missed.

What they share lies in one array, the *board*: what there is to do, a *door* (how many helpers are inside; negative
while it is shut), and for each stage how many tasks are taken and done. The leader opens the door when the board is
wiped, and shuts it at the end: whoever is inside by then has left before the board is wiped again. For a while after
a run helpers stay on the *bench* before the door: the next step of a training comes soon, and waking a thread takes
longer than many a run.
"""

import ctypes
from array import array
from collections.abc import Callable, Sequence
from typing import NamedTuple

from nabi import machine

GIVEN = ("ptr tasks", "ptr ends", "i64 stages", "ptr table")
"""At the board's beginning: where the tasks lie, where the ends of the stages, how many there are, the program's table.
"""
DOOR, BENCH, RUN = 8, 9, 10
"""In a cache line of their own: helpers inside, helpers waiting, the number of the run."""
COUNTERS = 16
"""From here on, for each stage: tasks taken, tasks done."""
WORDS = 5
"""Of a task: its function, its first row and the one past the last, its strand, and the slot of `Work.asks`, or -1."""

OPEN, LEAD, HELP, ALONE = 0, 1, 2, 3
"""What a thread calls the code for. `LEAD` and `HELP` return early where others take long: then one goes on later."""
AWAY = -1
"""What `HELP` is called with at first, and returns at last."""
GLANCES = 3000
"""How often a thread looks whether the others are ready before it lets the core do something else: 50 to 150 µs."""

PATIENCE = 12000
"""How often a helper looks whether the next run begins before it leaves the bench: 0.2 to 0.6 ms, since so long it may
take to fetch the next batch of pictures; it costs others little, and a thread that was woken comes too late to help."""

SHUT = 1 << 32

Function = Callable[[int, int, int, int], int]
"""Machine code: called with the board's address, the stage that it had come to, scratch memory and what it is called
for; returns the stage that it came to."""


class Work(NamedTuple):
    """A task as the code reads it: a function with its rows and strand; ``asks``: a slot of the table that is 0 where
    it need not be done this time, or -1."""

    function: int
    start: int
    stop: int
    strand: int
    asks: int


class Board:
    """What the threads of a run share; of two runs at once, each has its own.

    Parameters
    ----------
    stages : sequence of sequence of Work
    table : int
        Address of the program's table.
    """

    def __init__(self, stages: Sequence[Sequence[Work]], table: int) -> None:
        self.tasks = array("q", (word for stage in stages for work in stage for word in work))
        self.ends = array("q", [0])
        for stage in stages:
            self.ends.append(self.ends[-1] + len(stage))
        # Doors of two boards never share a cache line.
        self.words = array("q", bytes(8 * (COUNTERS + 2 * len(stages) + 8)))
        address = self.words.buffer_info()[0]
        first = -address % 64 // 8
        self.address = address + 8 * first
        given = self.tasks.buffer_info()[0], self.ends.buffer_info()[0], len(stages), table
        self.words[first : first + len(given)] = array("q", given)
        self.words[first + DOOR] = -SHUT


def code() -> Function:
    """The code, for the processor at hand."""
    kind = ctypes.CFUNCTYPE(ctypes.c_longlong, ctypes.c_void_p, ctypes.c_longlong, ctypes.c_void_p, ctypes.c_longlong)
    return machine.compile(_text(machine.processor()), kind)


def _text(processor: machine.Processor) -> str:
    # A short rest, for what else the core has to do.
    rest = ("call void @llvm.x86.sse2.pause()", "declare void @llvm.x86.sse2.pause()")
    if not processor.passes_by:
        rest = ("fence seq_cst", "")
    return TEXT.replace("REST", rest[0]) + rest[1] + "\n"


BOARD = machine.words("%board", GIVEN)
TEXT = f"""
define internal void @do(ptr %board, i64 %number, ptr %scratch) nounwind {{
{BOARD}
  %first = mul i64 %number, {WORDS}
  %task = getelementptr i64, ptr %tasks, i64 %first
{machine.words("%task", ["ptr function", "i64 start", "i64 stop", "i64 strand", "i64 asks"])}
  %always = icmp slt i64 %asks, 0
  br i1 %always, label %call, label %ask
ask:
  %answer_at = getelementptr i64, ptr %table, i64 %asks
  %answer = load i64, ptr %answer_at
  %needed = icmp ne i64 %answer, 0
  br i1 %needed, label %call, label %end
call:
  call void %function(ptr %table, i64 %start, i64 %stop, i64 %strand, ptr %scratch)
  br label %end
end:
  ret void
}}

define internal i64 @walk(ptr %board, i64 %from, ptr %scratch) nounwind {{
entry:
{BOARD}
  br label %stage
stage:
  %at = phi i64 [%from, %entry], [%after, %next]
  %left = icmp slt i64 %at, %stages
  br i1 %left, label %enter, label %end
enter:
  %first_at = getelementptr i64, ptr %ends, i64 %at
  %first = load i64, ptr %first_at
  %last_at = getelementptr i64, ptr %first_at, i64 1
  %last = load i64, ptr %last_at
  %count = sub i64 %last, %first
  %twice = shl i64 %at, 1
  %counter = add i64 %twice, {COUNTERS}
  %taken = getelementptr i64, ptr %board, i64 %counter
  %done = getelementptr i64, ptr %taken, i64 1
  br label %take
take:
  %which = atomicrmw add ptr %taken, i64 1 monotonic
  %found = icmp slt i64 %which, %count
  br i1 %found, label %work, label %look
work:
  %number = add i64 %first, %which
  call void @do(ptr %board, i64 %number, ptr %scratch)
  %before = atomicrmw add ptr %done, i64 1 release
  br label %take
look:
  %glances = phi i64 [0, %take], [%more, %wait]
  %finished = load atomic i64, ptr %done acquire, align 8
  %all = icmp sge i64 %finished, %count
  br i1 %all, label %next, label %wait
wait:
  REST
  %more = add i64 %glances, 1
  %long = icmp sge i64 %more, {GLANCES}
  br i1 %long, label %end, label %look
next:
  %after = add i64 %at, 1
  br label %stage
end:
  ret i64 %at
}}

define i64 @kernel(ptr %board, i64 %at, ptr %scratch, i64 %role) nounwind {{
entry:
{BOARD}
  %door = getelementptr i64, ptr %board, i64 {DOOR}
  %bench = getelementptr i64, ptr %board, i64 {BENCH}
  %run = getelementptr i64, ptr %board, i64 {RUN}
  switch i64 %role, label %alone [i64 {OPEN}, label %open i64 {LEAD}, label %lead i64 {HELP}, label %help]

alone:
  %total_at = getelementptr i64, ptr %ends, i64 %stages
  %total = load i64, ptr %total_at
  br label %each
each:
  %number = phi i64 [0, %alone], [%following, %one]
  %some = icmp slt i64 %number, %total
  br i1 %some, label %one, label %through
one:
  call void @do(ptr %board, i64 %number, ptr %scratch)
  %following = add i64 %number, 1
  br label %each
through:
  ret i64 %stages

open:
  %counters = getelementptr i64, ptr %board, i64 {COUNTERS}
  %size = shl i64 %stages, 4
  call void @llvm.memset.p0.i64(ptr %counters, i8 0, i64 %size, i1 false)
  %one_more = atomicrmw add ptr %run, i64 1 monotonic
  store atomic i64 0, ptr %door seq_cst, align 8
  %waiting = load atomic i64, ptr %bench seq_cst, align 8
  ret i64 %waiting

lead:
  %led = call i64 @walk(ptr %board, i64 %at, ptr %scratch)
  %finished = icmp sge i64 %led, %stages
  br i1 %finished, label %shut, label %later
later:
  ret i64 %led
shut:
  %inside = load atomic i64, ptr %door monotonic, align 8
  %is_open = icmp sge i64 %inside, 0
  br i1 %is_open, label %shutting, label %wait_inside
shutting:
  %were_inside = atomicrmw sub ptr %door, i64 {SHUT} acq_rel
  br label %wait_inside
wait_inside:
  %looks = phi i64 [0, %shut], [0, %shutting], [%more_looks, %rest_inside]
  %still = load atomic i64, ptr %door acquire, align 8
  %empty = icmp eq i64 %still, {-SHUT}
  br i1 %empty, label %home, label %rest_inside
rest_inside:
  REST
  %more_looks = add i64 %looks, 1
  %too_long = icmp sge i64 %more_looks, {GLANCES}
  br i1 %too_long, label %later_home, label %wait_inside
later_home:
  ret i64 %stages
home:
  %past = add i64 %stages, 1
  ret i64 %past

help:
  %goes_on = icmp sge i64 %at, 0
  br i1 %goes_on, label %helping, label %sit
sit:
  %served = phi i64 [0, %help], [%this_run, %leave], [%served, %again]
  %sitting = atomicrmw add ptr %bench, i64 1 seq_cst
  br label %watch
watch:
  %glances = phi i64 [0, %sit], [%more, %rest]
  %people = load atomic i64, ptr %door seq_cst, align 8
  %number_now = load atomic i64, ptr %run acquire, align 8
  %ajar = icmp sge i64 %people, 0
  %new = icmp ne i64 %number_now, %served
  %may = and i1 %ajar, %new
  br i1 %may, label %try, label %rest
try:
  %with_me = add i64 %people, 1
  %pair = cmpxchg ptr %door, i64 %people, i64 %with_me acq_rel monotonic
  %entered = extractvalue {{ i64, i1 }} %pair, 1
  br i1 %entered, label %stand, label %rest
rest:
  REST
  %more = add i64 %glances, 1
  %enough = icmp sge i64 %more, {PATIENCE}
  br i1 %enough, label %rise, label %watch
rise:
  %risen = atomicrmw sub ptr %bench, i64 1 seq_cst
  %people_then = load atomic i64, ptr %door seq_cst, align 8
  %number_then = load atomic i64, ptr %run acquire, align 8
  %ajar_then = icmp sge i64 %people_then, 0
  %new_then = icmp ne i64 %number_then, %served
  %called = and i1 %ajar_then, %new_then
  br i1 %called, label %again, label %gone
again:
  br label %sit
gone:
  ret i64 {AWAY}
stand:
  %stood = atomicrmw sub ptr %bench, i64 1 seq_cst
  br label %helping
helping:
  %begin = phi i64 [%at, %help], [0, %stand]
  %helped = call i64 @walk(ptr %board, i64 %begin, ptr %scratch)
  %ended = icmp sge i64 %helped, %stages
  br i1 %ended, label %leave, label %pausing
pausing:
  ret i64 %helped
leave:
  %this_run = load atomic i64, ptr %run monotonic, align 8
  %those_left = atomicrmw sub ptr %door, i64 1 release
  br label %sit
}}

declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
"""
