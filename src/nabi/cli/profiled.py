"""Where the time of compiled steps went, as a table."""

from nabi.cli.look_table import aligned
from nabi.engines.cpu.profile import About, Profile, limits

SHOWN = 12
"""Segments of a run that are worth a line; the rest are summed up."""
LONGEST = 76
"""Characters of what a segment does."""


def where_time_went(profile: Profile) -> list[str]:
    """Lines that say which kernels took how long, and how near to what the machine can do they came."""
    total = sum(profile.seconds.values())
    if not total:
        return ["no step ran as machine code: the network is so small that NumPy alone takes its steps"]
    operations, moved = limits()
    order = sorted(profile.seconds, key=lambda about: -profile.seconds[about])
    heads = ("share", "ms", "runs", "GFLOP/s", "GB/s", "what, as all threads together do it")
    rows = [heads, *(_row(about, profile, total) for about in order[:SHOWN])]
    rest = sum(profile.seconds[about] for about in order[SHOWN:])
    if rest:
        rows.append((f"{100 * rest / total:.1f}%", "", "", "", "", f"{len(order) - SHOWN} others"))
    return [
        *aligned(rows),
        f"this machine: at most {operations / 1e9:.0f} GFLOP/s in products of float32 and {moved / 1e9:.0f} GB/s in "
        "copying; GFLOP/s count what is carried out: Winograd's way needs a quarter of the multiplications",
    ]


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
