"""The folder of a run: what is asked for, how far it is, and what came out.

::

    run.json              what was asked for: written first
    checkpoint            the whole state, to go on from; gone when the run is finished
    model.safetensors     the best model: `nabi.load` reads it
    history.csv           a row for each epoch
    metrics.json          how good it is, and how it was made: written last
    curves.svg  confusion.svg  weights.png
"""

import csv
import io
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nabi.container import replace_file
from nabi.errors import DataError, SettingError

ASKED, CHECKPOINT, MODEL = "run.json", "checkpoint", "model.safetensors"
HISTORY, METRICS = "history.csv", "metrics.json"


class RunFolder:
    """A folder that belongs to one run.

    Parameters
    ----------
    path : Path
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.made = False

    def used(self) -> bool:
        """Whether anything is in it."""
        if self.path.exists() and not self.path.is_dir():
            raise SettingError(f"{self.path}: a file, not a folder for a run")
        return self.path.is_dir() and any(self.path.iterdir())

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

    def start(self, asked: Mapping[str, Any]) -> None:
        """Make the folder, and write down what was asked for, where that is not done yet."""
        if not (self.path / ASKED).exists():
            self.made = not self.path.exists()
            self.path.mkdir(parents=True, exist_ok=True)
            self.write_json(ASKED, asked)

    def give_up(self) -> None:
        """Remove what a run without any result leaves behind."""
        for name in (ASKED, CHECKPOINT):
            (self.path / name).unlink(missing_ok=True)
        if self.made and not any(self.path.iterdir()):
            self.path.rmdir()

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file, whole or not at all."""
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        with replace_file(self.path / name) as file:
            file.write(text.encode() + b"\n")

    def write_history(self, history: Mapping[str, Sequence[Any]]) -> None:
        """Write the history, a column for each name."""
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(history)
        writer.writerows(zip(*history.values(), strict=True))
        with replace_file(self.path / HISTORY) as file:
            file.write(table.getvalue().encode())


def free_folder(name: str) -> Path:
    """The first of runs/NAME-1, runs/NAME-2 and so on that is not there yet."""
    safe = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name).strip(".") or "run"
    return next(path for n in itertools.count(1) if not (path := Path("runs") / f"{safe}-{n}").exists())
