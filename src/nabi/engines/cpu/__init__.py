"""The fast engine: a plan becomes machine code for the processor at hand, run by all threads.

`values` says what a plan asks for in a few kinds of values; `strips` cuts single pictures; `segments` decides what is
stored and what runs together; `kernels`, `carried`, `folds`, `contract`, `panels`, `narrow`, `bfloat16`, `tiles`,
`convolve` and `depthwise` write the loops with what `code`, `lanes` and `reading` offer; `nabi.machine` makes machine
code of them; `program` puts it together, with `memory` laid out beforehand; `programs` keeps it, and `recall` notes
down for other processes what it is made of; `running` runs it, with a `crew` of threads.
"""

from collections.abc import Sequence

import numpy as np

from nabi import machine
from nabi.engines import Run
from nabi.engines.cpu import programs
from nabi.engines.cpu.program import Program
from nabi.engines.cpu.recall import name_of
from nabi.engines.cpu.running import make_run
from nabi.graph.plan import Plan, likeness

MOST_CONSTANTS = 1 << 16
"""Numbers in the constants of a plan whose program is kept."""


def prepare(
    plan: Plan, kept: int, precision: str = "float32", updates: Sequence[int] = (), winograd: bool = True
) -> Run:
    """A function that runs the plan; see `nabi.engines`.

    Parameters
    ----------
    plan : Plan
    kept : int
    precision : str
        With "bf16", and where the processor can also with "auto", products are in bfloat16 where that is faster.
    updates : sequence of int
    winograd : bool
        Whether 3×3 convolutions may be computed by Winograd's way: with a quarter of the multiplications, and a
        relative error near 1e-5 where the direct way has 1e-6.
    """
    rounded = precision != "float32" and lacking() is None
    how = kept, winograd, rounded, tuple(updates)

    def make() -> Program:  # where none is kept, as in tests of how they are made, none is noted down
        return Program(plan, *how, name_of(plan, *how) if programs.KEPT else None)

    if sum(np.size(node.held) for node in plan.constants) > MOST_CONSTANTS:
        return make_run(make())
    return make_run(programs.kept((likeness(plan), *how, machine.processor()), make))


def lacking() -> str | None:
    """What the processor would need for products in bfloat16, where it lacks it."""
    return None if machine.processor().bfloat16 else "instructions for bfloat16 (AVX512-BF16)"
