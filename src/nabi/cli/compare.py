"""``nabi compare``: every classifier of the lecture on the same pictures, in a given time."""

import csv
import io
import itertools
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from sklearn.base import clone

from nabi import figures, machine, nn
from nabi.classifiers import Classifier, TrainedClassifier
from nabi.cli import INTERRUPTED
from nabi.cli.characters import json_text, printable
from nabi.cli.check import set_leaks_aside
from nabi.cli.choices import MODELS, SIZES, chosen, flip_colours
from nabi.cli.look_table import aligned
from nabi.cli.pictures import held_out, labelled, loaded, refuse_inside, whole_path
from nabi.cli.results import BATCH, measure, versions
from nabi.cli.run_folder import RUNS, RunFolder, new_folder
from nabi.cli.terminal import bar, console, interruptible, note
from nabi.data import Dataset, Split
from nabi.errors import DataError, NabiError, SettingError
from nabi.training import Started, Stepped, answer_bounds, evaluation_batch
from nabi.waiting import Show, while_compiling

TRIAL = 0.1  # of a model's time, at most, to see how long a step takes
TRIAL_SECONDS = 2.0
TRIAL_PICTURES = 100  # to see how long an answer takes
ANSWERING = 0.25  # of a model's time, at most, goes into answers


@dataclass(frozen=True)
class Row:
    """What a model did: it answered for ``total`` of the ``test_pictures``, and was trained for ``fit_seconds``."""

    model: str
    accuracy: float
    interval: tuple[float, float]
    correct: int
    total: int
    test_pictures: int
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
    minutes: Annotated[
        float,
        typer.Option(help="For all of them together, beside reading the pictures and making machine code, once."),
    ] = 10.0,
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
    data = whole_path(data)
    refuse_inside(data, out or RUNS)
    with ExitStack() as held:
        folder = None if out is None else held.enter_context(RunFolder(out))
        if folder is not None and folder.used():
            raise SettingError(f"{out}: not empty: choose another folder with --out")
        dataset = set_leaks_aside(loaded({"data": data, "size": size}, where, strict), data, where)
        if dataset.test is None or not len(dataset.test):
            raise DataError(f"{data}: no test pictures")
        if models is None:
            names = [name for name in names if SIZES.get(name) in (None, dataset.train.images.shape[1])]
        if folder is None:
            folder = held.enter_context(new_folder(f"{dataset.name}-compared"))
        asked = {"data": data, "models": names, "minutes": minutes, "seed": seed, "size": size}
        folder.start(asked)
        where.print(
            f"{printable(dataset.name)}: {len(dataset.train):,} pictures of {len(np.unique(dataset.train.labels))} "
            f"classes to train on, {len(dataset.test):,} for the test; {minutes:g} minutes for {', '.join(names)}; "
            f"writing to {printable(str(folder.path))}"
        )
        try:
            rows, stopped = _rows({name: made[name] for name in names}, dataset, folder, asked, where)
        except BaseException:
            folder.give_up()
            raise
        if not rows:
            folder.give_up()
            if not stopped:
                raise DataError(f"{data}: no model could be trained and tested")
        elif as_json:
            print(json_text([asdict(row) for row in rows], indent=2))
        else:
            _say(rows)
            where.print(f"all in {printable(str(folder.path))}")
    if stopped:
        note("stopped")
        raise typer.Exit(INTERRUPTED)


def clock() -> float:
    """Seconds, without those in which machine code was made."""
    return time.monotonic() - machine.spent


def _names(models: str | None) -> list[str]:
    if models is None:
        return list(MODELS)
    names = [name.strip() for name in models.split(",")]
    for name in names:
        if name not in MODELS:
            raise SettingError(f"--models {name!r} is not one of {', '.join(MODELS)}")
    return list(dict.fromkeys(names))


def _rows(
    classifiers: dict[str, Classifier], dataset: Dataset, folder: RunFolder, asked: dict[str, Any], where: Console
) -> tuple[list[Row], bool]:
    """Try one after another, and write down what there is after each; and whether Ctrl-C ended it."""
    rows: list[Row] = []
    with interruptible() as pressed:
        end = clock() + 60 * asked["minutes"]
        for number, (name, classifier) in enumerate(classifiers.items()):
            share = max(1.0, (end - clock()) / (len(classifiers) - number))
            try:
                row = _tried(name, classifier, dataset, share, folder, where, pressed)
            except NabiError as error:
                note(f"{name}: {error}")
                continue
            if row is not None:
                rows.append(row)
                where.print(_line(row))
                _write(rows, dataset, folder, asked)
            if pressed():
                break
        return rows, pressed()


def _tried(
    name: str,
    classifier: Classifier,
    dataset: Dataset,
    seconds: float,
    folder: RunFolder,
    where: Console,
    pressed: Callable[[], bool],
) -> Row | None:
    """Train a model for so long, measure it, and write it to a file; None where Ctrl-C came before it was trained."""
    assert dataset.test is not None
    flip_colours(classifier, dataset.train.images)
    with bar(where) as show, while_compiling(show):
        end = clock() + (1 - ANSWERING) * seconds
        all_epochs = None
        if isinstance(classifier, TrainedClassifier):
            all_epochs = _cut(classifier, dataset, min(TRIAL * seconds, TRIAL_SECONDS), end, pressed)
        begun = clock()
        _fit(name, classifier, dataset, end, show, pressed)
        fit_seconds = clock() - begun
        if pressed():
            return None
        asked = _askable(classifier, dataset.test, ANSWERING * seconds)
        if isinstance(classifier, TrainedClassifier):
            _warm_up(classifier, asked.images)
        begun = clock()
        measured, _ = measure(classifier, dataset, asked, show)
        answer_seconds = clock() - begun
    path = folder.path / f"{name}.safetensors"
    classifier.save(path, {"data": dataset.name})
    return Row(
        model=name,
        accuracy=measured["accuracy"],
        interval=tuple(measured["interval"]),
        correct=measured["correct"],
        total=measured["total"],
        test_pictures=len(dataset.test),
        fit_seconds=fit_seconds,
        epochs=getattr(classifier, "n_iter_", None),
        all_epochs=all_epochs,
        pictures_per_second=len(asked) / max(answer_seconds, 1e-9),
        parameters=sum(weight.size for weight in nn.parameters(getattr(classifier, "model_", [])).values()),
        bytes=path.stat().st_size,
    )


def _cut(classifier: TrainedClassifier, dataset: Dataset, trial: float, end: float, pressed: Callable[[], bool]) -> int:
    """Have a model take only as many epochs as there is time for until ``end``, and give how many it would have taken.

    A copy of it tries a few steps, for so many seconds, to see how long one takes.
    """
    begun, steps = 0.0, -1  # the first step, which has more to do, is not counted
    events = clone(classifier).fit_events(*labelled(dataset, dataset.train), stop=pressed)
    for event in events:
        match event:
            case Started():
                started = event
            case Stepped():
                steps += 1
                begun = begun or clock()
                if steps > 0 and clock() - begun > trial:
                    break
    now = clock()
    events.close()
    an_epoch = started.steps_per_epoch * (now - begun) / max(steps, 1)
    classifier.max_iter = max(1, min(started.epochs, int(0.9 * (end - now) / max(an_epoch, 1e-9))))
    return started.epochs


def _fit(
    name: str, classifier: Classifier, dataset: Dataset, end: float, show: Show, pressed: Callable[[], bool]
) -> None:
    late = lambda: pressed() or clock() > end
    images, labels = labelled(dataset, dataset.train)
    for event in classifier.fit_events(images, labels, validation=held_out(dataset), stop=late):
        match event:
            case Started():
                epochs = event.epochs
            case Stepped():
                show(f"{name}, epoch {event.epoch}/{epochs}", event.step, event.steps_per_epoch)


def _askable(classifier: Classifier, test: Split, seconds: float) -> Split:
    """All test pictures, or as many of them, drawn at random, as can be answered in so many seconds."""
    trial = test.images[:TRIAL_PICTURES]
    classifier.predict(trial)  # the first answer, which has more to do, is not counted
    begun = clock()
    classifier.predict(trial)
    each = (clock() - begun) / len(trial)
    most = max(TRIAL_PICTURES, int(seconds / max(each, 1e-9)))
    if most >= len(test):
        return test
    return test.take(np.sort(np.random.default_rng(0).permutation(len(test))[:most]))


def _warm_up(classifier: TrainedClassifier, images: NDArray[Any]) -> None:
    """Answer a batch of each size that `measure` will ask for: what answers is recorded once for each."""
    lengths = {min(BATCH, len(images) - start) for start in range(0, len(images), BATCH)}
    cuts = [answer_bounds(length, evaluation_batch(images.shape[1:])) for length in lengths]
    for size in sorted({end - start for bounds in cuts for start, end in itertools.pairwise(bounds)}):
        classifier.predict(images[:size])


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


HEADER = ("model", "accuracy (95% interval)", "training", "epochs", "test", "pictures/s", "parameters", "file")


def _cells(row: Row) -> tuple[str, ...]:
    epochs = "" if row.epochs is None else f"{row.epochs}"
    epochs += f" of {row.all_epochs}" if row.all_epochs not in (None, row.epochs) else ""
    return (
        row.model,
        f"{row.accuracy:.3f} ({row.interval[0]:.3f} to {row.interval[1]:.3f})",
        _seconds(row.fit_seconds),
        epochs,
        _tested(row),
        f"{row.pictures_per_second:,.0f}",
        f"{row.parameters:,}",
        _size(row.bytes),
    )


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


def _size(length: int) -> str:
    return f"{length / 1e6:.1f} MB" if length >= 1e6 else f"{length / 1e3:.0f} kB"


def _tested(row: Row) -> str:
    return f"{row.total:,}" + (f" of {row.test_pictures:,}" if row.total < row.test_pictures else "")


def _line(row: Row) -> str:
    return f"{row.model}: accuracy {row.accuracy:.3f} on {_tested(row)} pictures, {_seconds(row.fit_seconds)} to train"


def _say(rows: Sequence[Row]) -> None:
    print()
    for line in aligned([HEADER, *map(_cells, rows)], right=len(HEADER) - 2):
        print(line)
