"""What somebody is shown who waits; above all for machine code, which takes seconds once for each processor."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

MAKING_CODE = "making machine code, once for this processor"

Show = Callable[[str, int, int], Any]
"""Called as ``show(what, done, total)``."""

_shown: list[Show] = []


def tell(done: int, total: int) -> None:
    """Tell those who show it how many functions of so many are machine code."""
    for show in [*_shown]:
        show(MAKING_CODE, done, total)


@contextmanager
def while_compiling(show: Show) -> Iterator[None]:
    """Call ``show(what, done, total)`` inside a ``with`` block while machine code is made that takes over a second."""
    _shown.append(show)
    try:
        yield
    finally:
        _shown.remove(show)


@contextmanager
def saying_that_code_is_made(verbose: bool = False) -> Iterator[None]:
    """Write a line, once, inside a ``with`` block in which making machine code takes over a second.

    To standard output if ``verbose``; else, where nobody around it shows that already, to standard error, if it is a
    terminal or Python is used interactively, as in a notebook: somebody waits there.
    """
    said = False

    def show(what: str, done: int, total: int) -> None:
        nonlocal said
        if not said:
            print(f"{what}: {total} functions", file=sys.stdout if verbose else sys.stderr)
        said = True

    if not verbose and (_shown or not _is_watched()):
        yield
        return
    with while_compiling(show):
        yield


def _is_watched() -> bool:
    return sys.stderr is not None and (hasattr(sys, "ps1") or getattr(sys.stderr, "isatty", bool)())
