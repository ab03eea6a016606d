"""Where the time of runs goes: by segment, with what it computes and moves."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from nabi import threads
from nabi.engines.cpu.convolve import POINTS, tiles_each
from nabi.engines.cpu.segments import LEAVES, Root, Segment, multiply_adds
from nabi.engines.cpu.values import Value


class About(NamedTuple):
    """What a segment does in a run.

    Attributes
    ----------
    what : str
        Its kernels, in their order.
    operations : float
        Additions and multiplications of its products of matrices, as they are carried out.
    moved : float
        Bytes that it reads from memory and writes there, were each read once.
    updates : bool
        Whether its run gives state its next value, as a step of training does.
    """

    what: str
    operations: float
    moved: float
    updates: bool


@dataclass(eq=False)
class Profile:
    """Seconds of all threads together, by segment.

    Attributes
    ----------
    seconds : dict of About to float
    strands : dict of About to float
        How often each segment was gone through: each strand counts for its share of the rows.
    threads : int
        How many worked at once.
    begun : float
        When that was, by `time.perf_counter`.
    """

    seconds: dict[About, float] = field(default_factory=dict)
    strands: dict[About, float] = field(default_factory=dict)
    threads: int = field(default_factory=threads.get_num_threads)
    begun: float = field(default_factory=time.perf_counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, about: About, seconds: float, share: float, alone: bool = False) -> None:
        """Take note of a strand, which is a share of its segment; where it is ``alone``, all threads wait for it."""
        seconds *= self.threads if alone else 1
        with self.lock:
            self.seconds[about] = self.seconds.get(about, 0.0) + seconds
            self.strands[about] = self.strands.get(about, 0.0) + share


TRIES = 16
"""On a busy machine most are slower than the quickest."""

current: Profile | None = None
"""Where runs are being noted down, if they are."""


@contextmanager
def profiling() -> Iterator[Profile]:
    """Note down all runs of compiled functions in this process inside a ``with`` block."""
    global current
    before, current = current, Profile()
    try:
        yield current
    finally:
        current = before


def about(
    segment: Segment, local: set[int], stored: dict[int, Value], inputs: list[Value], updates: bool = False
) -> About:
    """What a segment does."""
    names: list[str] = []
    operations, moved = 0.0, 0
    known = {**stored, **{v.serial: v for v in inputs}}
    read: set[int] = set()
    for root in segment.roots:
        name = _name(root)
        if not names or names[-1] != name:
            names.append(name)
        operations += _carried_out(root)
        read |= {serial for serial in root.reads if serial not in local and serial in known}
        if root.how != "fold" and root.value.serial not in local:
            moved += root.value.size * root.value.dtype.itemsize
        moved += sum(panels.size * panels.dtype.itemsize for panels in root.carried)
    made = {root.value.serial for root in segment.roots}
    moved += sum(known[s].size * known[s].dtype.itemsize for s in read - made if known[s].kind not in LEAVES[1:])
    rows = f"{segment.rows} rows: " if segment.rows else ""
    return About(rows + ", ".join(names), operations, float(moved), updates)


def _name(root: Root) -> str:
    value = root.made
    if value.kind in ("elementwise", "external"):
        assert value.formula is not None
        return value.formula.__name__.rstrip("_") + (" in NumPy" if value.kind == "external" else "")
    kind = ("rounded " if value.settings.get("rounded") else "") + value.kind.replace("_", " ")
    return f"{kind} {'×'.join(map(str, value.shape[1:]))}".strip() if root.how == "write" else kind


def _carried_out(root: Root) -> float:
    """Additions and multiplications of products as they are carried out: Winograd's way needs fewer."""
    value = root.made
    if root.how == "combine":
        return 0.0
    if value.kind in ("winograd", "winograd_gradient"):
        pictures, *_, inputs = value.inputs[0].shape
        return float(2 * POINTS * pictures * tiles_each(value) * inputs * value.shape[3])
    return float(2 * multiply_adds(value))


def quickest(work: Callable[[], Any]) -> float:
    """Seconds that it takes, at the least."""
    best = float("inf")
    for _ in range(TRIES):
        begun = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - begun)
    return best


def limits() -> tuple[float, float]:
    """What this machine can do with all threads: operations of float32 products a second, and bytes a second."""
    x = np.ones((1024, 1024), np.float32)
    blocks = [np.empty((1024, 1024), np.float32) for _ in range(threads.get_num_threads())]
    sources = [np.ones(1 << 23, np.float32) for _ in blocks]
    targets = [np.empty_like(source) for source in sources]

    def by_all(work: Callable[[int], Any]) -> float:
        return quickest(lambda: threads.together(work, len(blocks) - 1))

    with threads.one_blas_thread():
        products = by_all(lambda number: np.matmul(x, x, out=blocks[number]))
    copies = by_all(lambda number: np.copyto(targets[number], sources[number]))
    return 2 * 1024**3 * len(blocks) / products, 2 * sources[0].nbytes * len(blocks) / copies
