"""Measuring: contenders in turn, A B C A B C, so that a change of the machine's speed meets all of them."""

import math
import sys
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import numpy as np

from benchmarks.suite import Built, Case, Contender, LeftOut, Row, Settings

SHORTEST = 0.03
"""Seconds that a sample lasts at least: what is shorter is repeated, and the first repetition warms the caches."""

PAUSE = 0.005
"""Seconds between two contenders: threads that wait for work spin for a while, and would take the next one's core."""

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
    ready: list[tuple[Contender, Built]] = []
    answers: dict[str, Any] = {}
    for contender in case.contenders:
        begun = time.perf_counter()
        try:
            if reason := excluded(contender, settings):
                raise LeftOut(reason)
            built = contender.build()
            answers[contender.name] = answer(built) if case.timed else []
            ready.append((contender, built))
        except ImportError as error:
            left_out[contender.name] = f"{error.name} is not installed" if error.name else str(error)
        except LeftOut as error:
            left_out[contender.name] = str(error)
        except Exception as error:
            if contender.ours:
                raise
            left_out[contender.name] = f"failed: {type(error).__name__}: {first_line(error)}"
        if contender.name in left_out:
            say(f"    {contender.name}: left out: {left_out[contender.name]}")
        elif (taken := time.perf_counter() - begun) > 5:
            say(f"    {contender.name}: ready after {taken:.0f} s")
    differences = compared(case, {c.name: c.ours for c, _ in ready}, answers)
    works = {contender.name: built.work for contender, built in ready}
    samples, calls = in_turn(works, case, settings)
    return row(case, [c for c, _ in ready], samples, calls, differences, left_out, settings)


def excluded(contender: Contender, settings: Settings) -> str:
    """Why a contender is not asked, or nothing."""
    if not contender.ours and settings.only and not contender.name.startswith(settings.only):
        return "not among --peers"
    return "--quick leaves out what takes long to prepare" if contender.slow and settings.quick else ""


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]


def answer(built: Built) -> list[Any]:
    """What contenders are compared by; the work has been done three times afterwards, or once."""
    if built.answer is None:
        return [as_array(built.work()) for _ in range(3)]
    found = [as_array(built.answer())]
    built.work()
    return found


def as_array(value: Any) -> Any:
    """The value as a NumPy array, whoever computed it."""
    if type(value).__module__ == "torch":
        value = value.detach().float()  # NumPy has no bfloat16
    return np.asarray(value.numpy() if hasattr(value, "numpy") else value, np.float64)


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


def in_turn(
    works: dict[str, Callable[[], Any]], case: Case, settings: Settings
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Samples of each work, one a round, and how many times the work was done in a sample."""
    calls = dict.fromkeys(works, 1)
    rounds = case.rounds or FEWEST
    if case.timed:
        lasted = {name: lasts(work, 1) for name, work in works.items()}
        for name, work in works.items():
            while lasted[name] < SHORTEST and not settings.quick:  # the first calls are slower: look again
                calls[name] = max(calls[name] + 1, math.ceil(1.2 * calls[name] * SHORTEST / max(lasted[name], 1e-7)))
                lasted[name] = lasts(work, calls[name])
        whole = sum(lasted.values())
        rounds = case.rounds or max(FEWEST, min(MOST, int(settings.seconds / max(whole, 1e-9))))
        if whole * rounds > 60:
            say(f"    {rounds} rounds of {whole:.0f} s")
    samples: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(min(rounds, 2) if settings.quick else rounds):
        for name, work in works.items():
            time.sleep(PAUSE)
            samples[name].append(lasts(work, calls[name]) / calls[name] if case.timed else float(work()))
    return samples, calls


def lasts(work: Callable[[], Any], calls: int) -> float:
    begun = time.perf_counter()
    for _ in range(calls):
        work()
    return time.perf_counter() - begun


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
