"""Measuring: contenders in turn, A B C A B C, so that a change of the machine's speed meets all of them."""

import math
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from statistics import median
from typing import Any

import numpy as np

from benchmarks.apart import Apart, Failed, excuses
from benchmarks.suite import Case, Contender, LeftOut, Row, Settings

Turn = Callable[[int], float]
"""How many units of work to the seconds that they take; of what is not timed, to the number that one gives."""

SHORTEST = 0.03
"""Seconds that a sample lasts at least: what is shorter is repeated."""

PAUSE = 0.05
"""Seconds before each turn: threads that wait for work spin, and would take the next one's cores. Measured is how much
of the cores' time a process has after its turn has ended: PyTorch's 4 to 9 ms, JAX's up to 19 ms, ours none."""

FEWEST, MOST = 5, 200
"""Rounds, whatever the time."""

TOLERANCE = {"float32": 1e-4, "bfloat16": 0.05}
"""How far answers may differ, in units of the largest: sums of thousands of products in another order, and Winograd's
transform, are some 1e-5 apart; bfloat16 has 8 bits, and its roundings add up over layers."""


def say(text: str) -> None:
    """Progress, for who waits."""
    print(text, file=sys.stderr, flush=True)


def measure(case: Case, settings: Settings) -> Row:
    """A row: medians of all contenders, and how many times as fast ours is as each peer.

    The ratio of a peer is the median over rounds of its time divided by ours in the same round: above 1, ours is
    faster. The best peer is the one with the least median time.
    """
    left_out: dict[str, str] = {}
    ready: list[Contender] = []
    turns: dict[str, Turn] = {}
    apart: list[Apart] = []
    with ExitStack() as held:
        for contender in case.contenders:
            begun = time.perf_counter()
            try:
                if reason := excluded(contender, settings):
                    raise LeftOut(reason)
                if case.timed:
                    apart.append(held.enter_context(Apart(contender.build, apart)))
                    turns[contender.name] = apart[-1].lasts
                else:
                    turns[contender.name] = number(contender)
                ready.append(contender)
            except (LeftOut, Failed) as error:
                if contender.ours and isinstance(error, Failed):
                    raise
                failed = "failed: " if isinstance(error, Failed) else ""
                left_out[contender.name] = failed + str(error).partition("\n")[0][:200]
                say(f"    {contender.name}: left out: {left_out[contender.name]}")
            if (taken := time.perf_counter() - begun) > 5:
                say(f"    {contender.name}: ready after {taken:.0f} s")
        answers = {contender.name: one.answers for contender, one in zip(ready, apart, strict=False)}
        differences = compared(case, {c.name: c.ours for c in ready}, answers)
        samples, calls = in_turn(turns, case, settings)
    return row(case, ready, samples, calls, differences, left_out, settings)


def number(contender: Contender) -> Turn:
    """The turns of what is not timed here: what it measures, it measures in processes that it starts."""
    with excuses():
        work = contender.build().work
    return lambda calls: float(work())


def excluded(contender: Contender, settings: Settings) -> str:
    """Why a contender is not asked, or nothing."""
    if not contender.ours and settings.only and not contender.name.startswith(settings.only):
        return "not among --peers"
    return "--quick leaves out what takes long to prepare" if contender.slow and settings.quick else ""


def compared(case: Case, ready: dict[str, bool], answers: dict[str, Any]) -> dict[str, float]:
    """How far each peer's answers lie from ours, in units of the largest; from the first peer's without ours.

    Raises
    ------
    ArithmeticError
        Where that is more than rounding: then the times are those of different work.
    """
    if case.alike == "not" or not case.timed or not ready:
        return {}
    standard = next((name for name, ours in ready.items() if ours), next(iter(ready)))
    allowed = TOLERANCE[case.precision] if case.alike == "values" else 0.0
    found = {}
    for name in ready:
        if name == standard:
            continue
        worst = max(distance(a, b) for a, b in zip(answers[standard], answers[name], strict=True))
        if not worst <= allowed:
            raise ArithmeticError(
                f"{case.what}: {standard} and {name} differ by {worst:.2g}; {allowed:.2g} is rounding"
            )
        found[name] = worst
    return found


def distance(a: Any, b: Any) -> float:
    """The largest difference, in units of the largest number."""
    if a.shape != b.shape:
        return math.inf
    return float(np.abs(a - b).max() / max(np.abs(a).max(), np.finfo(np.float32).tiny))


def in_turn(turns: dict[str, Turn], case: Case, settings: Settings) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Samples of each contender, one a round, and how many units of work a sample is."""
    calls = dict.fromkeys(turns, 1)
    rounds = case.rounds or FEWEST
    if case.timed:
        lasted = {name: turn(1) for name, turn in turns.items()}
        for name, turn in turns.items():
            while lasted[name] < SHORTEST and not settings.quick:  # the first calls are slower: look again
                calls[name] = max(calls[name] + 1, math.ceil(1.2 * calls[name] * SHORTEST / max(lasted[name], 1e-7)))
                lasted[name] = turn(calls[name])
        whole = sum(PAUSE + seconds for seconds in lasted.values())
        rounds = case.rounds or max(FEWEST, min(MOST, int(settings.seconds / max(whole, PAUSE))))
        if whole * rounds > 60:
            say(f"    {rounds} rounds of {whole:.0f} s")
    samples: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(min(rounds, 2) if settings.quick else rounds):
        for name, turn in turns.items():
            time.sleep(PAUSE)
            samples[name].append(turn(calls[name]) / (calls[name] if case.timed else 1))
    return samples, calls


def row(
    case: Case,
    ready: Sequence[Contender],
    samples: dict[str, list[float]],
    calls: dict[str, int],
    differences: dict[str, float],
    left_out: dict[str, str],
    settings: Settings,
) -> Row:
    """What was measured, as plain data."""
    summary = lambda c: {"name": c.name, "median": median(samples[c.name]), "least": min(samples[c.name])}
    ours = next((c for c in ready if c.ours), None)
    peers = []
    for contender in ready:
        if contender.ours:
            continue
        entry = summary(contender) | {"beside": contender.beside}
        if contender.name in differences:
            entry["difference"] = differences[contender.name]
        if ours is not None:
            pairs = zip(samples[contender.name], samples[ours.name], strict=True)
            entry["ratio"] = median(theirs / own for theirs, own in pairs)
        peers.append(entry)
    best = min((p for p in peers if not p["beside"]), key=lambda p: p["median"], default=None)
    return {
        "what": case.what,
        "size": case.size,
        "precision": case.precision,
        "unit": case.unit,
        "engine": settings.engine,
        "threads": settings.threads,
        "rounds": len(next(iter(samples.values()), [])),
        "calls": calls,
        "ours": summary(ours) if ours is not None else None,
        "peers": peers,
        "best": best["name"] if best else None,
        "ratio": best.get("ratio") if best else None,
        "left_out": left_out,
    }
