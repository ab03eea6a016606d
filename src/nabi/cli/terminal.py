"""What commands show while they work: a live line on a terminal, now and then a plain one on a pipe."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import IO, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from nabi.cli.characters import printable
from nabi.waiting import Show, while_compiling

SECONDS_BETWEEN_LINES = 10.0


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Go on in silence: whoever reads has read enough, but wants the result (Rich ends the process)."""
        self.quiet = True
        silence(self.file)


def console(**options: Any) -> Console:
    """Standard output (``stderr=True``: standard error): words as they are, never cut or coloured by what they say."""
    return _Console(highlight=False, markup=False, emoji=False, soft_wrap=True, **options)


def note(message: str) -> None:
    """One line on standard error."""
    console(stderr=True).print(f"nabi: {printable(message)}")


def silence(stream: IO[str]) -> None:
    """Lead a stream that nobody reads any more to nowhere, and with it what its buffer still holds."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


@contextmanager
def bar(where: Console) -> Iterator[Show]:
    """A function to be called as ``show(what, done, total)``: it moves a bar, or writes a line every ten seconds."""
    if not where.is_terminal:
        last = time.monotonic()

        def write(what: str, done: int, total: int) -> None:
            nonlocal last
            if 0 < done < total and time.monotonic() - last >= SECONDS_BETWEEN_LINES:
                last = time.monotonic()
                where.print(f"{printable(what)} {100 * done // max(total, 1)}%")

        yield write
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=where, transient=True) as progress:
        task = progress.add_task("")
        yield lambda what, done, total: progress.update(task, description=printable(what), completed=done, total=total)


@contextmanager
def compiling_alone(where: Console) -> Iterator[None]:
    """Show that machine code is being made, where that takes longer than a second and nothing else is shown."""
    with ExitStack() as held:
        shown: list[Show] = []

        def show(what: str, done: int, total: int) -> None:
            if not shown:
                shown.append(held.enter_context(bar(where)))
            shown[0](what, done, total)

        with while_compiling(show):
            yield


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed; pressed again, it interrupts at once."""
    pressed = False

    def press(number: int, frame: Any) -> None:
        nonlocal pressed
        pressed = True
        signal.signal(signal.SIGINT, before)

    before = signal.getsignal(signal.SIGINT)
    try:
        signal.signal(signal.SIGINT, press)
    except ValueError:  # not in the main thread, where Ctrl-C does not arrive
        yield lambda: False
        return
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)
