"""The one thread pool of the process, and the one setting that governs it.

Everything in nabi that works in parallel (decoding pictures, running kernels) hands its blocks to this pool, so that
two layers never fight over the cores. The number of threads is, in this order: what :func:`set_num_threads` was given,
the environment variable ``NABI_NUM_THREADS``, ``OMP_NUM_THREADS``, the number of cores that this process may use, or
whose time its container may have. In a worker of joblib's, which sets ``OMP_NUM_THREADS`` so that together they use
each core once, it is no more than that. NumPy's BLAS works on one thread in each of ours (`one_blas_thread`).

How work is cut into blocks must never depend on their number: results are the same bits for 1 and for 64 threads.
"""

import math
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from functools import cache
from multiprocessing.process import parent_process
from pathlib import Path
from typing import TypeVar

from threadpoolctl import ThreadpoolController

from nabi.errors import SettingError

Item = TypeVar("Item")
Result = TypeVar("Result")

_lock = threading.Lock()
_chosen: int | None = None
_pool: ThreadPoolExecutor | None = None
_pool_size = 0
_here = threading.local()
_blas: ThreadpoolController | None = None
_blas_before: list[int] = []
_alone = 0  # how many are inside `one_blas_thread`

QUOTAS = (
    ("/sys/fs/cgroup/cpu.max",),
    ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
)
"""Files that say how much of each period's time a container may have, in either version of Linux's control groups."""

forks = 0
"""How many processes lie between the first one and this: of those, no thread is here."""


def get_num_threads() -> int:
    """How many threads work at once; see :func:`set_num_threads`.

    Raises
    ------
    SettingError
        If ``NABI_NUM_THREADS`` is set to something that is not a positive whole number.
    """
    if _chosen is not None:
        return _chosen
    given = os.environ.get("NABI_NUM_THREADS", "").strip()
    shared = os.environ.get("OMP_NUM_THREADS", "").strip()
    if given:
        if not _is_count(given):
            raise SettingError(f"NABI_NUM_THREADS is {given!r}: it must be a whole number, 1 or more")
        return min(int(given), int(shared)) if parent_process() and _is_count(shared) else int(given)
    if _is_count(shared):
        return int(shared)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _quota())


@cache
def _quota() -> int:
    """How many cores' time a container may have, where one says so."""
    for names in QUOTAS:
        with suppress(OSError, ValueError, ZeroDivisionError):
            quota, period = " ".join(Path(name).read_text(encoding="ascii") for name in names).split()
            if int(quota) > 0:  # v1 says -1, v2 says "max", where there is no limit
                return max(1, math.ceil(int(quota) / int(period)))
    return sys.maxsize


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text) >= 1


def set_num_threads(number: int | None) -> None:
    """Choose how many threads work at once; ``None`` goes back to the default.

    That is the environment variable ``NABI_NUM_THREADS`` or else as many as there are cores. Results are the same bits
    for any number.

    Raises
    ------
    SettingError
        If ``number`` is not a positive whole number.

    Examples
    --------
    >>> set_num_threads(2)
    >>> get_num_threads()
    2
    >>> set_num_threads(None)
    """
    global _chosen
    if number is not None and (not isinstance(number, int) or isinstance(number, bool) or number < 1):
        raise SettingError(f"threads is {number!r}: it must be a whole number, 1 or more")
    _chosen = number


def _fitting_pool() -> ThreadPoolExecutor:
    """The pool, with :func:`get_num_threads` threads; made when it is first needed and when the count has changed."""
    global _pool, _pool_size
    wanted = get_num_threads()
    if _pool is None or _pool_size != wanted:
        if _pool is not None:
            _pool.shutdown(wait=False)  # what it has begun, it finishes
        _pool = ThreadPoolExecutor(wanted, thread_name_prefix="nabi", initializer=_mark_worker)
        _pool_size = wanted
    return _pool


def _submit(function: Callable[[Item], Result], item: Item) -> "Future[Result]":
    """Hand work to the pool, which nobody may replace in between."""
    with _lock:
        return _fitting_pool().submit(function, item)


def map_in_order(
    function: Callable[[Item], Result], items: Iterable[Item], *, ahead: int | None = None
) -> Iterator[Result]:
    """Apply ``function`` to every item on the pool and yield the results in the items' order.

    Items are taken lazily, at most ``ahead`` (default: four for each thread) before the result that is awaited, so
    that any number of them passes through a bounded amount of memory. Called from a thread of the pool itself it
    works in that thread: a worker that waited for other workers could wait for ever.

    Raises
    ------
    Exception
        What ``function`` raises, at the item where it was raised; what has not begun by then is dropped.

    Examples
    --------
    >>> list(map_in_order(abs, [-3, 2, -1]))
    [3, 2, 1]
    """
    if getattr(_here, "is_worker", False) or get_num_threads() == 1:
        yield from map(function, items)
        return
    window = max(1, 4 * get_num_threads() if ahead is None else ahead)
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(_submit(function, item))
            if len(waiting) >= window:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def together(work: Callable[[int], None], helpers: int, *, all_needed: bool = True) -> None:
    """Run ``work`` on this thread and on ``helpers`` of the pool's at once, and wait for all of them.

    Each is given its number, this thread 0. Called from a thread of the pool itself, all of it runs on that thread.
    Where they share pieces of work out among themselves, those that have not begun when this thread finds no more of it
    are not waited for: ``all_needed`` is False then.

    Raises
    ------
    Exception
        What ``work`` raises, once every thread has ended.

    Examples
    --------
    >>> seen = []
    >>> together(seen.append, 2)
    >>> sorted(seen)
    [0, 1, 2]
    """
    if getattr(_here, "is_worker", False) or helpers < 1:
        for number in range(helpers + 1 if all_needed else 1):
            work(number)
        return
    waiting: list[Future[None]] = []
    try:
        waiting += (_submit(work, number) for number in range(1, helpers + 1))
        work(0)
    finally:
        begun = [one for one in waiting if all_needed or not one.cancel()]
        wait(begun)
    for one in begun:
        one.result()


def offer(work: Callable[[], None], helpers: int, offered: "list[Future[None]]") -> None:
    """Let ``helpers`` of the pool's threads do some work that is done without them, if less quickly; do not wait.

    Called from a thread of the pool itself, or when the interpreter is about to end, it offers nothing.

    Parameters
    ----------
    work : callable
    helpers : int
    offered : list of Future
        What was offered before; what nobody has begun yet is not offered again. Changed in place.
    """
    if getattr(_here, "is_worker", False):
        return
    offered[:] = [one for one in offered if not (one.running() or one.done())]
    with suppress(RuntimeError):  # no thread begins any more
        offered += (_submit(lambda _: work(), None) for _ in range(helpers - len(offered)))


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Let NumPy's BLAS work on one thread inside a ``with`` block.

    Handing a small product to several threads takes longer than computing it, by far where somebody else uses the
    cores. The setting belongs to the process: while one thread is inside such a block, it holds for all of them.
    """
    global _blas, _alone, _blas_before
    with _lock:
        if _blas is None:
            _blas = ThreadpoolController().select(user_api="blas")  # type: ignore[no-untyped-call]
        if not _alone:
            _blas_before = [library.num_threads for library in _blas.lib_controllers]
            for library in _blas.lib_controllers:
                library.set_num_threads(1)
        _alone += 1
    try:
        yield
    finally:
        with _lock:
            _alone = max(0, _alone - 1)  # in a child that was forked inside the block it is 0 already
            if not _alone:
                for library, before in zip(_blas.lib_controllers, _blas_before, strict=True):
                    library.set_num_threads(before)


def _mark_worker() -> None:
    _here.is_worker = True


def _forget_pool() -> None:
    """A forked child has the pool's object but none of its threads."""
    global _pool, _lock, _alone, forks
    forks += 1
    _pool = None
    _lock = threading.Lock()
    if _alone and _blas is not None:  # nor has it those who asked for one BLAS thread
        for library, before in zip(_blas.lib_controllers, _blas_before, strict=True):
            library.set_num_threads(before)
    _alone = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)
