"""The command line: each command is a function of its own file, which is imported only when it runs.

Here is the one place where errors become lines. A `NabiError` says what is wrong and where, and so does an error of the
operating system that names its file: each ends in one line on stderr and exit code 2. Anything else is a fault of nabi,
and shows its traceback.
"""

import atexit
import contextlib
import errno
import functools
import gc
import importlib
import keyword
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any

import typer

from nabi import __version__
from nabi.cli.characters import printable, take_any_name
from nabi.errors import NabiError

COMMANDS = {
    "train": "Train a classifier on pictures.",
    "check": "Find unreadable and odd pictures, and copies across splits and classes.",
    "compare": "Train every classifier of the lecture on the same pictures, and compare them.",
    "predict": "Say what is on pictures.",
    "evaluate": "Measure a model's accuracy on labelled pictures.",
    "export": "Write a model as an ONNX file, and check that it answers the same.",
    "import": "Open an ONNX file of a classifier, and keep it as a model.",
    "report": "Report on a finished run: what it gets wrong, and how far to trust it.",
    "look": "Look into a picture, a model, its answers, or a formula.",
    "cache": "List what is kept of decoded pictures and downloads, or clear it.",
}

atexit.register(gc.freeze)  # Python would look for cycles among all objects once more, which takes 0.3 seconds

INTERRUPTED = 130  # as shells have it: 128 + SIGINT
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and give its exit code: 0, 2 for bad input, 130 where Ctrl-C ended it.

    Parameters
    ----------
    arguments : sequence of str, optional
        By default those that the process was given.
    """
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    take_any_name()
    try:
        with _collecting_nothing():
            application = _application(given)
        code: int = application(given, prog_name="nabi", standalone_mode=False) or 0
        sys.stdout.flush()  # here, and not at exit, where an error could not be caught
        return code
    except KeyboardInterrupt:
        return _say("stopped", INTERRUPTED)
    except NabiError as error:
        return _say(str(error))
    except MemoryError as error:  # NumPy says for what
        return _say(f"not enough memory: {error}" if str(error) else "not enough memory")
    except BrokenPipeError:  # whoever reads has read enough, as in `nabi predict … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.filename is None and error.errno in FULL:  # files of nabi's name themselves: it is what was printed
            with contextlib.suppress(OSError):  # what its buffer holds must not fail again at exit
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return _say(f"standard output: {error.strerror}")
        if error.filename is None:
            raise
        return _say(f"{error.filename}: {error.strerror}")
    except typer.Abort:
        return _say("stopped", INTERRUPTED)
    except Exception as error:
        wrong_use = getattr(error, "format_message", None)  # an option that is unknown, or has a value it cannot have
        if wrong_use is None:
            raise
        wanted = _wanted(given)
        helpful = f"nabi {wanted} --help" if wanted in COMMANDS else "nabi --help"
        return _say(f"{wrong_use()} ({helpful} says more)")


@contextlib.contextmanager
def _collecting_nothing() -> Iterator[None]:
    """While modules are imported hardly anything becomes garbage: looking for it takes a sixth of a short command."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # what is there is there to stay
        if collects:
            gc.enable()


def _application(given: list[str]) -> typer.Typer:
    """All commands by name and summary, but only the one that was asked for in earnest."""
    application = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    application.callback()(_options)
    wanted = _wanted(given)
    for name, summary in COMMANDS.items():
        function: Callable[..., Any] = _not_asked_for
        if name == wanted:
            called = f"{name}_" if keyword.iskeyword(name) else name
            function = getattr(importlib.import_module(f"nabi.cli.{called}"), called)
        application.command(name, short_help=summary)(_interruptible(function))
    return application


def _wanted(given: list[str]) -> str | None:
    """The name of the command that was asked for, whether there is one or not."""
    return next((argument for argument in given if not argument.startswith("-")), None)


def _interruptible(function: Callable[..., Any]) -> Callable[..., Any]:
    """Of what Ctrl-C ended, `main` is to hear: some releases of typer keep it to themselves."""

    @functools.wraps(function)
    def called(*arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except KeyboardInterrupt:
            raise typer.Abort from None

    return called


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"nabi {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """nabi: image classifiers that you can see through."""


def _not_asked_for() -> None:
    """Stands for a command of which only the name is shown."""


def _say(message: str, code: int = 2) -> int:
    with contextlib.suppress(OSError):  # the code says it, too
        print(f"nabi: {printable(' '.join(message.split()))}", file=sys.stderr)
    return code
