"""``nabi compare``: every classifier of the lecture on the same pictures, in a given time."""

import csv
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from sklearn.base import clone

from nabi import figures, nn
from nabi.classifiers import Classifier, TrainedClassifier
from nabi.cli.characters import json_text, printable
from nabi.cli.choices import MODELS, SIZES, chosen
from nabi.cli.pictures import labelled, loaded
from nabi.cli.results import measure, versions
from nabi.cli.run_folder import RunFolder, new_folder
from nabi.cli.terminal import Show, bar, console, interruptible, note
from nabi.data import Dataset, Split
from nabi.errors import DataError, NabiError, SettingError
from nabi.training import Finished, Started, Stepped

TRIAL_SECONDS = 2.0  # to see how long a step takes
TRIAL_PICTURES = 100  # to see how long an answer takes
ANSWERING = 0.25  # of a model's time, at most, goes into answers
INTERRUPTED = 130


@dataclass(frozen=True)
class Row:
    """What a model did."""

    model: str
    accuracy: float
    interval: tuple[float, float]
    correct: int
    total: int
    fit_seconds: float
    epochs: int | None
    all_epochs: int | None
    pictures_per_second: float
    parameters: int
    bytes: int


def compare(
    data: Annotated[
        str, typer.Argument(metavar="[DATA]", help="A name, folder or archive, as for nabi train.")
    ] = "digits",
    models: Annotated[
        str | None, typer.Option(show_default="all that take the pictures", help=f"Some of {','.join(MODELS)}.")
    ] = None,
    minutes: Annotated[float, typer.Option(help="For all of them together, beside reading the pictures.")] = 10.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same splits and weights.")] = 0,
    size: Annotated[int | None, typer.Option(help="Height and width that pictures of folders are brought to.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(show_default="runs/NAME-N", help="The folder for table, figure and models."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop where a file is skipped; do not go on.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
) -> None:
    """Train every classifier of the lecture on the same pictures, and compare them in one table.

    Each has an equal share of the time that is left when its turn comes; where that is not enough for as many epochs
    as the model would take, it takes fewer, and where answers take long, they are asked for some of the test pictures,
    drawn at random. So what comes out depends on the machine, too. Ctrl-C ends it with those that are finished.
    """
    if not minutes > 0:
        raise SettingError(f"--minutes {minutes}: it must be more than 0")
    where = console(stderr=as_json)
    names = _names(models)
    made = {name: chosen({"model": name, "seed": seed}) for name in names}
    dataset = loaded({"data": _resolved(data), "size": size}, where, strict)
    if dataset.test is None or not len(dataset.test):
        raise DataError(f"{data}: no test pictures")
    if models is None:
        names = [name for name in names if SIZES.get(name) in (None, dataset.train.images.shape[1])]
    folder = _folder(out, f"{dataset.name}-compared")
    where.print(
        f"{printable(dataset.name)}: {len(dataset.train):,} pictures of {len(dataset.classes)} classes to train on, "
        f"{len(dataset.test):,} for the test; {minutes:g} minutes for {', '.join(names)}; writing to {folder.path}"
    )
    end = time.monotonic() + 60 * minutes
    rows: list[Row] = []
    with interruptible() as pressed:
        for number, name in enumerate(names):
            share = max(1.0, (end - time.monotonic()) / (len(names) - number))
            try:
                row = _tried(name, made[name], dataset, share, folder, where, pressed)
            except NabiError as error:
                note(f"{name}: {error}")
                continue
            if pressed():
                break
            rows.append(row)
            where.print(_line(row))
            _write(rows, dataset, folder, {"data": data, "minutes": minutes, "seed": seed, "size": size})
    if not rows:
        raise DataError(f"{data}: no model could be trained and tested")
    if as_json:
        print(json_text([asdict(row) for row in rows], indent=2))
    else:
        _say(rows)
        where.print(f"all in {folder.path}")
    if pressed():
        note("stopped")
        raise typer.Exit(INTERRUPTED)


def _names(models: str | None) -> list[str]:
    if models is None:
        return list(MODELS)
    names = [name.strip() for name in models.split(",")]
    for name in names:
        if name not in MODELS:
            raise SettingError(f"--models {name!r} is not one of {', '.join(MODELS)}")
    return list(dict.fromkeys(names))


def _resolved(data: str) -> str:
    path = Path(data).expanduser()
    return str(path.resolve()) if path.exists() else data


def _folder(out: Path | None, name: str) -> RunFolder:
    if out is None:
        return new_folder(name)
    folder = RunFolder(out)
    if folder.used():
        raise SettingError(f"{out}: not empty: choose another folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    return folder


def _tried(
    name: str,
    classifier: Classifier,
    dataset: Dataset,
    seconds: float,
    folder: RunFolder,
    where: Any,
    pressed: Callable[[], bool],
) -> Row:
    """Train a model for so long, and measure it."""
    if hasattr(classifier, "augment") and dataset.train.images.shape[3] == 3:
        classifier.augment = "flip"
    with bar(where) as show:
        begun = time.monotonic()
        all_epochs = _fitted(name, classifier, dataset, (1 - ANSWERING) * seconds, show, pressed)
        fit_seconds = time.monotonic() - begun
        asked = _askable(classifier, dataset, ANSWERING * seconds)
        begun = time.monotonic()
        measured, _ = measure(classifier, dataset, asked, show)
        answer_seconds = time.monotonic() - begun
    path = folder.path / f"{name}.safetensors"
    classifier.save(path, {"data": dataset.name})
    return Row(
        model=name,
        accuracy=measured["accuracy"],
        interval=tuple(measured["interval"]),
        correct=measured["correct"],
        total=measured["total"],
        fit_seconds=fit_seconds,
        epochs=getattr(classifier, "n_iter_", None),
        all_epochs=all_epochs,
        pictures_per_second=len(asked) / max(answer_seconds, 1e-9),
        parameters=sum(weight.size for weight in nn.parameters(getattr(classifier, "model_", [])).values()),
        bytes=path.stat().st_size,
    )


def _fitted(
    name: str, classifier: Classifier, dataset: Dataset, seconds: float, show: Show, pressed: Callable[[], bool]
) -> int | None:
    """Fit within so many seconds, and give how many epochs the model would have taken if there was no end to time."""
    images, labels = labelled(dataset, dataset.train)
    held_out = dataset.validation if dataset.validation is not None and len(dataset.validation) else None
    validation = None if held_out is None else labelled(dataset, held_out)
    end = time.monotonic() + seconds
    all_epochs = None
    if isinstance(classifier, TrainedClassifier):
        all_epochs, epoch_seconds = _pace(classifier, images, labels)
        classifier.max_iter = max(1, min(all_epochs, int(0.9 * (end - time.monotonic()) / epoch_seconds)))
    late = lambda: pressed() or time.monotonic() > end
    for event in classifier.fit_events(images, labels, validation=validation, stop=late):
        match event:
            case Started():
                epochs = event.epochs
            case Stepped():
                show(f"{name}, epoch {event.epoch}/{epochs}", event.step, event.steps_per_epoch)
            case Finished():
                pass
    return all_epochs


def _pace(classifier: TrainedClassifier, images: Any, labels: Any) -> tuple[int, float]:
    """How many epochs a model takes by itself, and how many seconds one takes; by trying a few steps."""
    begun, steps = 0.0, -1  # the first step, which has more to do, is not counted
    events = clone(classifier).fit_events(images, labels)
    for event in events:
        match event:
            case Started():
                started = event
            case Stepped():
                steps += 1
                begun = begun or time.monotonic()
                if steps > 0 and time.monotonic() - begun > TRIAL_SECONDS:
                    break
    events.close()
    return started.epochs, started.steps_per_epoch * (time.monotonic() - begun) / max(steps, 1)


def _askable(classifier: Classifier, dataset: Dataset, seconds: float) -> Split:
    """All test pictures, or as many of them, drawn at random, as can be answered in so many seconds."""
    assert dataset.test is not None
    trial = dataset.test.images[:TRIAL_PICTURES]
    classifier.predict(trial)  # the first answer, which has more to do, is not counted
    begun = time.monotonic()
    classifier.predict(trial)
    each = (time.monotonic() - begun) / len(trial)
    most = max(TRIAL_PICTURES, int(seconds / max(each, 1e-9)))
    if most >= len(dataset.test):
        return dataset.test
    return dataset.test.take(np.sort(np.random.default_rng(0).permutation(len(dataset.test))[:most]))


# --- the table ---


def _write(rows: Sequence[Row], dataset: Dataset, folder: RunFolder, asked: dict[str, Any]) -> None:
    """Write the table and the figure, as far as there is anything yet."""
    table = [asdict(row) for row in rows]
    folder.write_json("compare.json", {"data": dataset.name, "asked": asked, "models": table, "versions": versions()})
    text = io.StringIO()
    flat = [{**row, "low": row["interval"][0], "high": row["interval"][1]} for row in table]
    writer = csv.DictWriter(
        text, [name for name in flat[0] if name != "interval"], extrasaction="ignore", lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(flat)
    folder.write_text("compare.csv", text.getvalue())
    figures.comparison(
        [row.model for row in rows],
        [row.accuracy for row in rows],
        [row.interval for row in rows],
        [f"{_seconds(row.fit_seconds)} of training" for row in rows],
        folder.path / "compare.svg",
        dataset.name,
    )


HEADER = ("model", "accuracy (95% interval)", "training", "epochs", "pictures/s", "parameters", "file")


def _cells(row: Row) -> tuple[str, ...]:
    epochs = "" if row.epochs is None else f"{row.epochs}"
    epochs += f" of {row.all_epochs}" if row.all_epochs not in (None, row.epochs) else ""
    return (
        row.model,
        f"{row.accuracy:.3f} ({row.interval[0]:.3f} to {row.interval[1]:.3f})",
        _seconds(row.fit_seconds),
        epochs,
        f"{row.pictures_per_second:,.0f}",
        f"{row.parameters:,}",
        _size(row.bytes),
    )


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


def _size(length: int) -> str:
    return f"{length / 1e6:.1f} MB" if length >= 1e6 else f"{length / 1e3:.0f} kB"


def _line(row: Row) -> str:
    return f"{row.model}: accuracy {row.accuracy:.3f} on {row.total:,} pictures, {_seconds(row.fit_seconds)} to train"


def _say(rows: Sequence[Row]) -> None:
    table = [HEADER, *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    print()
    for cells in table:
        left, right = cells[:2], cells[2:]
        print(
            "  ".join(
                [f"{cell:<{width}}" for cell, width in zip(left, widths, strict=False)]
                + [f"{cell:>{width}}" for cell, width in zip(right, widths[2:], strict=True)]
            ).rstrip()
        )
