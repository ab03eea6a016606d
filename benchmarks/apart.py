"""A contender in a process of its own, which builds its work once and then does what it is told over a pipe.

Nobody has two of these libraries in one process: threads of PyTorch and XLA spin for a while after their work is done,
and whoever is next would have that on its cores and in its memory. The process is a fork of one that has imported
nothing but NumPy. Between two turns it sleeps in a read.
"""

import io
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from benchmarks.suite import Built, LeftOut


class Failed(Exception):
    """What a contender ended with; the message says what, and begins with the error's type."""


@contextmanager
def excuses() -> Iterator[None]:
    """Errors of a contender: what is not installed is `LeftOut`, and all others `Failed`."""
    try:
        yield
    except LeftOut:
        raise
    except ImportError as error:
        raise LeftOut(f"{error.name} is not installed" if error.name else str(error)) from None
    except Exception as error:
        raise Failed(f"{type(error).__name__}: {error}") from error


class Apart(AbstractContextManager["Apart"]):
    """A process that has built its work, and waits.

    Parameters
    ----------
    build : callable
        Runs there.
    others : sequence of Apart
        Those that are there already.

    Attributes
    ----------
    answers : list of array
        What contenders are compared by.

    Raises
    ------
    LeftOut, Failed
        What building it, or the first units of work, ended with.
    """

    def __init__(self, build: Callable[[], Built], others: Sequence["Apart"] = ()) -> None:
        context = multiprocessing.get_context("fork")
        self.pipe, its_end = context.Pipe()
        inherited = [self.pipe, *(other.pipe for other in others)]
        self.process = context.Process(target=serve, args=(its_end, build, inherited))
        self.process.start()
        its_end.close()
        self.answers = self._told()

    def lasts(self, calls: int) -> float:
        """Seconds that so many units of work take; before several, one is done for the caches alone."""
        return float(self._told(str(calls))[0])

    def _told(self, order: str = "") -> list[Any]:
        """What it replies to an order, or when it is ready."""
        try:
            if order:
                self.pipe.send_bytes(order.encode())
            found = dict(np.load(io.BytesIO(self.pipe.recv_bytes()), allow_pickle=False))
        except (EOFError, OSError):
            self.process.join()
            raise Failed(f"its process ended with {self.process.exitcode}") from None
        for kind in (LeftOut, Failed):
            if kind.__name__ in found:
                self.process.join()
                raise kind(str(found[kind.__name__]))
        return list(found.values())

    def __exit__(self, *_: object) -> None:
        self.pipe.close()
        self.process.join()


def serve(pipe: Connection, build: Callable[[], Built], inherited: Sequence[Connection]) -> None:
    """The process itself: until the other end of the pipe is closed, or something fails."""
    for end in inherited:  # with a copy here, the other end would not be closed when its owner closes it, or dies
        end.close()
    with suppress(EOFError, BrokenPipeError):
        try:
            with excuses():
                built = build()
                found = answer(built)
            while True:
                reply(pipe, dict(zip(map(str, range(len(found))), found, strict=True)))
                calls = int(pipe.recv_bytes())
                with excuses():
                    found = [np.float64(lasts(built.work, calls))]
        except (LeftOut, Failed) as error:
            reply(pipe, {type(error).__name__: str(error)})


def reply(pipe: Connection, found: dict[str, Any]) -> None:
    """Send arrays by name; a text is an array, too."""
    np.savez(file := io.BytesIO(), **found)
    pipe.send_bytes(file.getvalue())


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


def lasts(work: Callable[[], Any], calls: int) -> float:
    """Seconds that so many units of work take, one after another.

    Others have had the caches since the last turn. Measured after 20 ms of others' work, the first call of a turn takes
    0.2 ms longer (nabi, 64-32-10) to 0.7 ms (PyTorch), which is up to 2% of a sample of 30 ms: it is done before the
    clock starts. Where a sample is one long call that is lost in it, and another call would double the time.
    """
    if calls > 1:
        work()
    begun = time.perf_counter()
    for _ in range(calls):
        work()
    return time.perf_counter() - begun
