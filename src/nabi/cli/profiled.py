"""Where the time of compiled steps went, as a table."""

import time

import numpy as np

from nabi._compile import compile
from nabi.cli.look_table import aligned
from nabi.engines.cpu.profile import About, Profile, limits, quickest

SHOWN = 12
"""Segments of a run that are worth a line; the rest are summed up."""
LONGEST = 76
"""Characters of what a segment does."""
RANK = 2048
"""Rows of the matrices whose product says what the machine can do in bfloat16."""


def where_time_went(profile: Profile) -> list[str]:
    """Lines that say which kernels of steps took how long, how near to what the machine can do they came, and how much
    of the time the steps were."""
    elapsed = time.perf_counter() - profile.begun
    seconds = {about: seconds for about, seconds in profile.seconds.items() if about.updates}
    total, evaluated = sum(seconds.values()), sum(profile.seconds.values())
    evaluated -= total
    if not total:
        return ["no step ran as machine code: the network is so small that NumPy alone takes its steps"]
    order = sorted(seconds, key=lambda about: -seconds[about])
    heads = ("share", "ms", "runs", "GFLOP/s", "GB/s", "what, as all threads together do it")
    rows = [heads, *(_row(about, profile, total) for about in order[:SHOWN])]
    rest = sum(seconds[about] for about in order[SHOWN:])
    if rest:
        rows.append((f"{100 * rest / total:.1f}%", "", "", "", "", f"{len(order) - SHOWN} others"))
    steps, others = total / profile.threads, evaluated / profile.threads
    return [
        *aligned(rows),
        f"of {elapsed:.1f} s kernels of steps took {steps:.2f}, of evaluation {others:.2f}; the rest went into "
        "making machine code, reading and varying pictures, and waiting",
        f"this machine: at most {_limits(any('rounded' in about.what for about in order))}; GFLOP/s count what is "
        "carried out: Winograd's way needs a quarter of the multiplications",
    ]


def _limits(rounded: bool) -> str:
    operations, moved = limits()
    narrow = f" ({_rounded_limit() / 1e9:.0f} of bfloat16, by our own kernel)" if rounded else ""
    return f"{operations / 1e9:.0f} GFLOP/s in products of float32{narrow} and {moved / 1e9:.0f} GB/s in copying"


def _rounded_limit() -> float:
    """Operations of products in bfloat16 a second, rounding included."""
    product = compile(lambda x, w: x @ w, engine="cpu", precision="bf16")
    x = np.ones((RANK, RANK), np.float32)
    return 2 * RANK**3 / quickest(lambda: product(x, x))


def _row(about: About, profile: Profile, total: float) -> tuple[str, str, str, str, str, str]:
    seconds, runs = profile.seconds[about], profile.strands[about]
    what = about.what if len(about.what) <= LONGEST else about.what[: LONGEST - 1] + "…"
    wall = seconds / profile.threads
    return (
        f"{100 * seconds / total:.1f}%",
        f"{1e3 * wall / runs:.2f}",
        f"{runs:.0f}",
        f"{about.operations * runs / wall / 1e9:.0f}" if about.operations else "",
        f"{about.moved * runs / wall / 1e9:.1f}",
        what,
    )
