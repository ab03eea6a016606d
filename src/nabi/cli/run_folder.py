"""The folder of a run: what is asked for, how far it is, and what came out.

::

    run.json              what was asked for: written first
    checkpoint            the whole state, to go on from; gone when the run is finished
    model.safetensors     the best model: `nabi.load` reads it
    history.csv           a row for each epoch
    trained-on.npy        which pictures the model has seen: see `nabi.cli.trained_on`
    metrics.json          how good it is, and how it was made: written last
    curves.svg  confusion.svg  weights.png
    report.html  label-errors.csv  README.md     of photos: see `nabi.report`
"""

import contextlib
import csv
import io
import itertools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Self

from nabi.container import replace_file
from nabi.errors import DataError, SettingError
from nabi.models import BACKBONES

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

ASKED, CHECKPOINT, MODEL, TRAINED_ON = "run.json", "checkpoint", "model.safetensors", "trained-on.npy"
HISTORY, METRICS = "history.csv", "metrics.json"
HALF_WRITTEN = ".nabi-*.tmp"  # as `replace_file` names it
RUNS = Path("runs")

HAS_A_RUN = "{}: has a run in it: choose another folder with --out, or go on with nabi train --resume"


class RunFolder:
    """A folder that belongs to one run, and to one process at a time: ``with`` lets go of it at the end.

    Parameters
    ----------
    path : Path
    made : bool
        Whether the folder was made for this run, and goes with it.
    """

    def __init__(self, path: Path, made: bool = False) -> None:
        self.path = path
        self.made = made
        self._begun = False
        self._held: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def used(self) -> bool:
        """Whether anything is in it but what a killed process left half written."""
        if self.path.exists() and not self.path.is_dir():
            raise SettingError(f"{self.path}: a file, not a folder for a run")
        return self.path.is_dir() and any(not entry.match(HALF_WRITTEN) for entry in self.path.iterdir())

    def asked(self) -> dict[str, Any]:
        """What the run in it was asked for."""
        try:
            said = json.loads((self.path / ASKED).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise DataError(f"{self.path}: not the folder of a run, and not empty: choose another with --out") from None
        except ValueError:
            said = None
        if not isinstance(said, dict):
            raise DataError(f"{self.path / ASKED}: damaged: choose another folder with --out")
        return said

    def hold(self) -> None:
        """Go on with the run in it, and keep other processes from doing so, where the system has locks for folders."""
        self._begun = True
        if fcntl is None:
            return
        self._held = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingError(f"{self.path}: another nabi is at work in it") from None
        except OSError:
            pass  # some network file systems have no locks

    def release(self) -> None:
        """Let go of it."""
        if self._held is not None:
            os.close(self._held)  # and with it the lock goes
            self._held = None

    def start(self, asked: Mapping[str, Any]) -> None:
        """Make the folder, and write down what was asked for, where that is not done yet.

        Raises
        ------
        SettingError
            If another run has begun in it since `used` looked.
        """
        if not self._begun:
            self._begin(asked)
        for half in self.path.glob(HALF_WRITTEN):
            half.unlink(missing_ok=True)

    def _begin(self, asked: Mapping[str, Any]) -> None:
        if not self.path.exists():
            self.path.mkdir(parents=True)
            self.made = True
        self._refuse_another()
        self.hold()
        self._refuse_another()  # one that ended before it could be held
        try:
            self.write_json(ASKED, asked)
        except BaseException:
            self.give_up()
            raise

    def _refuse_another(self) -> None:
        if (self.path / ASKED).exists():
            raise SettingError(HAS_A_RUN.format(self.path))

    def give_up(self) -> None:
        """Remove what a run without any result leaves behind."""
        self.release()
        nothing = (ASKED, CHECKPOINT, HISTORY, TRAINED_ON)
        with contextlib.suppress(OSError):  # the news is what made it give up
            if any(entry.name not in nothing for entry in self.path.iterdir()):
                return  # an earlier attempt's model, say, which goes with what was asked for
            for name in nothing:
                (self.path / name).unlink(missing_ok=True)
            if self.made:
                self.path.rmdir()

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file, whole or not at all."""
        with replace_file(self.path / name) as file:
            file.write(_as_json(content))

    def write_history(self, history: Mapping[str, Sequence[Any]]) -> None:
        """Write the history, a column for each name."""
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(history)
        writer.writerows(zip(*history.values(), strict=True))
        self.write_text(HISTORY, table.getvalue())

    def write_text(self, name: str, text: str) -> None:
        """Write a text file, whole or not at all."""
        with replace_file(self.path / name) as file:
            file.write(text.encode())


def is_backbone(path: Path) -> bool:
    """Whether one of `nabi.models.BACKBONES` is meant, as it came, and not a file."""
    return str(path) in BACKBONES and not path.exists()


def model_file(path: Path) -> Path:
    """The model file that is meant: of the folder of a run the one in it."""
    return path / MODEL if path.is_dir() else path


def new_folder(name: str) -> RunFolder:
    """The first of runs/NAME-1, runs/NAME-2 and so on that is not there yet: made, so that it is nobody else's."""
    safe = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name).strip(".") or "run"
    for number in itertools.count(1):
        path = RUNS / f"{safe}-{number}"
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            if RUNS.is_dir():
                continue
            raise
        return RunFolder(path, made=True)
    raise AssertionError("there is always a next number")


def _as_json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n"
