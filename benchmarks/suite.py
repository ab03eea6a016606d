"""What a benchmark is: a workload gives cases, a case has contenders, a contender builds one unit of work.

A workload is declared once, in a file of `benchmarks.workloads`, and found through `WORKLOADS`.
"""

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

Row = dict[str, Any]


class LeftOut(Exception):
    """A contender cannot take part here; the message says why."""


class Built(NamedTuple):
    """One unit of work, ready to be repeated.

    Attributes
    ----------
    work : callable
        Does it, to the end (nothing is left running), and gives what it computed.
    answer : callable, optional
        What all contenders must agree on, computed once, before anything is timed. Without it, they must agree on what
        the first three units give: for a step of training the losses, the second and third of which follow from the
        updates before them.
    """

    work: Callable[[], Any]
    answer: Callable[[], Any] | None = None


@dataclass(frozen=True)
class Contender:
    """Somebody who does the work.

    Parameters
    ----------
    name : str
    build : callable
        Prepares everything, and gives one unit of work; raises `LeftOut` or ImportError where it cannot.
    ours : bool
    beside : bool
        Shown for comparison, but nobody's choice for this work: never the best peer.
    slow : bool
        Takes long to prepare: left out by ``--quick``.
    """

    name: str
    build: Callable[[], Built]
    ours: bool = False
    beside: bool = False
    slow: bool = False


@dataclass(frozen=True)
class Case:
    """The same work for all contenders.

    Parameters
    ----------
    what : str
        In words, without the size.
    contenders : list of Contender
        Ours first.
    size : int
        What doubles under ``--sizes``; 0 where nothing does.
    precision : str
    unit : str
    timed : bool
        Whether the work's time is what is measured; otherwise the number that it gives.
    rounds : int
        How many; 0 for as many as there is time for.
    alike : str
        How contenders are compared: "values" to the tolerance of the precision, "exactly", or "not" where they have
        nothing in common but the task.
    """

    what: str
    contenders: list[Contender]
    size: int = 0
    precision: str = "float32"
    unit: str = "s"
    timed: bool = True
    rounds: int = 0
    alike: str = "values"


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Parameters
    ----------
    engine : str
        What ours is compiled with.
    threads : int
        For all contenders alike.
    seconds : float
        How long the rounds of one case should take together.
    quick : bool
        The smallest size and two rounds: whether everything runs, not how fast.
    only : tuple of str
        Peers by the beginning of their names; all where it is empty.
    """

    engine: str = "auto"
    threads: int = 1
    seconds: float = 20.0
    quick: bool = False
    only: tuple[str, ...] = ()


@dataclass(frozen=True)
class Workload:
    """A name under which cases, or rows that were measured elsewhere, are found.

    Parameters
    ----------
    name, about : str
    run : callable
        From a size and settings to cases.
    sizes : tuple of int
        What is measured; 0 where there is but one size.
    doubling : tuple of int
        What ``--sizes`` measures instead.
    quick : int
        The size of ``--quick``.
    size_is : str
        What a size counts.
    long : str
        How long it takes, where that is more than a minute or two.
    parallel : bool
        Whether the number of threads matters.
    """

    name: str
    about: str
    run: Callable[[int, Settings], Iterable[Case | Row]]
    sizes: tuple[int, ...] = (0,)
    doubling: tuple[int, ...] = ()
    quick: int = 0
    size_is: str = ""
    long: str = ""
    parallel: bool = True


WORKLOADS: dict[str, Workload] = {}


def workload(name: str, **declared: Any) -> Callable[[Any], Any]:
    """Declare a workload; its docstring's first line is what ``--list`` shows."""

    def declare(run: Any) -> Any:
        if name in WORKLOADS:
            raise ValueError(f"workload {name!r} is declared twice")
        WORKLOADS[name] = Workload(name, run.__doc__.splitlines()[0], run, **declared)
        return run

    return declare


def load() -> dict[str, Workload]:
    """All workloads, by name, in the order in which they are run."""
    importlib.import_module("benchmarks.workloads")
    return WORKLOADS
