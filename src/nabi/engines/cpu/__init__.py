"""The fast engine: a plan becomes machine code for the processor at hand, run by all threads.

`values` says what a plan asks for in a few kinds of values; `segments` decides what is stored and what runs together;
`kernels`, `contract` and `convolve` write the loops with what `code`, `lanes` and `reading` offer; `machine` makes
machine code of them; `program` puts it together, and `running` runs it.
"""

from nabi.engines import Run
from nabi.engines.cpu.program import Program
from nabi.engines.cpu.running import make_run
from nabi.graph.plan import Plan


def prepare(plan: Plan, kept: int, winograd: bool = True) -> Run:
    """A function that runs the plan; see `nabi.engines`.

    Parameters
    ----------
    plan : Plan
    kept : int
    winograd : bool
        Whether 3×3 convolutions may be computed by Winograd's way: with a quarter of the multiplications, and a
        relative error near 1e-5 where the direct way has 1e-6.
    """
    return make_run(Program(plan, kept, winograd))
