"""``nabi report``: how good a finished run is, what it gets wrong, and how far to trust it, with the pictures."""

import csv
import io
import json
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from nabi.classifiers import Classifier, PhotoClassifier
from nabi.cli.characters import printable
from nabi.cli.check import set_leaks_aside
from nabi.cli.choices import as_typed
from nabi.cli.evaluate import loaded_for
from nabi.cli.picture_model import picture_model
from nabi.cli.pictures import held_out, whole_path
from nabi.cli.results import versions, write_measures
from nabi.cli.run_folder import CHECKPOINT, METRICS, MODEL, RunFolder
from nabi.cli.terminal import bar, console, note
from nabi.cli.trained_on import set_seen_aside
from nabi.container import replace_file
from nabi.data import Dataset, complete_splits
from nabi.errors import DataError, NabiError, SettingError
from nabi.report import CostError, Findings, Measuring, card, examine, page
from nabi.report.tracking import log_run, tracker
from nabi.waiting import Show

REPORT, CARD, SUSPECTS = "report.html", "README.md", "label-errors.csv"


def report(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    source: Annotated[
        str | None,
        typer.Argument(metavar="[DATA]", show_default="what it was trained on", help="As for nabi train."),
    ] = None,
    mlflow: Annotated[bool, typer.Option("--mlflow", help="Log the run in MLflow, too.")] = False,
) -> None:
    """Report on a finished run: a page with what it gets wrong, and with the labels that may be wrong.

    Writes report.html, label-errors.csv and a model card, README.md, into the folder of the run, and into its
    metrics.json what is in them. nabi train does this by itself for photos.
    """
    if mlflow:
        tracker()
    if not (run / MODEL).is_file():
        raise DataError(f"{run}: no folder of a run with a model in it")
    where = console()
    with RunFolder(run) as folder, Measuring() as process:
        asked = folder.asked()
        folder.hold()
        if (run / CHECKPOINT).exists():
            raise SettingError(f"{run}: this run is not finished: nabi train --resume --out {shlex.quote(str(run))}")
        data = whole_path(source) if source is not None else str(asked.get("data"))
        classifier = picture_model(run)
        dataset = set_leaks_aside(complete_splits(loaded_for(data, classifier)), data, where)
        dataset = set_seen_aside(dataset, run, where)
        if getattr(classifier, "threshold_", 0) is None and calibrate(classifier, dataset):
            classifier.save(run / MODEL, {"data": dataset.name, "asked": asked})
        with bar(where) as show:
            if not (run / METRICS).exists():
                write_measures(classifier, dataset, folder, {"model": "", "seed": None} | asked, show)
            lines = write_report(classifier, dataset, folder, asked, data, show, process)
        where.print("\n".join(lines))
        if mlflow:
            log_in_mlflow(folder, classifier, asked, where)


def calibrate(classifier: Classifier, dataset: Dataset) -> bool:
    """Calibrate a classifier of photos on the validation pictures, where there are any."""
    held = held_out(dataset)
    if held is None or not isinstance(classifier, PhotoClassifier):
        return False
    classifier.calibrate(*held)
    return True


def write_report(
    classifier: Classifier,
    dataset: Dataset,
    folder: RunFolder,
    asked: Mapping[str, Any],
    source: str,
    show: Show,
    process: Measuring,
) -> list[str]:
    """Write the report into the folder of a run, and say in lines where it is and what to look at first.

    ``source`` is where the data are from: not always what the run was ``asked`` to train on. Of what cannot be found
    out or written, one line on standard error says so; the rest is written all the same.
    """
    asking = dataset.train if dataset.test is None or not len(dataset.test) else dataset.test
    process.prepare(folder.path / MODEL, asking.images[:16])
    found = examine(classifier, dataset, show)
    show("measuring what it costs to run", 0, 1)
    try:
        found.cost = process.measured()
    except CostError as error:
        found.missing["cost"] = f"{error}."
    show("writing the report", 0, 1)
    name = folder.path.resolve().name
    _try(
        REPORT,
        lambda: _write(folder, REPORT, page(found, name, _said(found, asked, source), _command(asked), versions())),
    )
    if found.suspects is not None:
        _try(SUSPECTS, lambda: _write(folder, SUSPECTS, _table(found)))
    if not (folder.path / CARD).exists():  # one that is there may have been written in by hand
        _try(CARD, lambda: _write(folder, CARD, card(found, name, MODEL)))
    _try(METRICS, lambda: _extend(folder, found))
    return _lines(found, folder)


def log_in_mlflow(folder: RunFolder, classifier: Classifier, asked: Mapping[str, Any], where: Console) -> None:
    """Log a finished run, and say so; where that fails, in one line why."""
    about = _measured(folder)
    measures = {name: about.get(name) for name in ("validation_accuracy", "test_accuracy", "seconds")}
    calibration = (about.get("report") or {}).get("calibration") or {}
    measures["test_calibration_error"] = calibration.get("ece_after")
    files = sorted(file for file in folder.path.iterdir() if file.is_file() and file.name != CHECKPOINT)
    try:
        run = log_run(folder.path.resolve().name, asked, measures, getattr(classifier, "history_", {}), files)
    except NabiError as error:
        note(f"not logged: {error}")
    else:
        where.print(f"logged in MLflow as run {printable(run)}")


def _try(name: str, write: Callable[[], None]) -> None:
    try:
        write()
    except (NabiError, OSError) as error:
        note(f"{name} could not be written: {error}")


def _write(folder: RunFolder, name: str, text: str) -> None:
    with replace_file(folder.path / name) as file:
        file.write(text.encode("utf-8", "backslashreplace"))  # names of files may be no text


def _extend(folder: RunFolder, found: Findings) -> None:
    """Have metrics.json say what was found, too."""
    folder.write_json(METRICS, _measured(folder) | {"report": json.loads(_text(found.as_dict()))})


def _measured(folder: RunFolder) -> dict[str, Any]:
    """What metrics.json says."""
    try:
        content = json.loads((folder.path / METRICS).read_text(encoding="utf-8"))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise DataError(f"{folder.path / METRICS}: it is damaged")
    return content


def _text(content: Mapping[str, Any]) -> str:
    """JSON without halves of letters, which names of files may have in them."""
    return json.dumps(content, ensure_ascii=False).encode("utf-8", "replace").decode()


def _table(found: Findings) -> str:
    """All labels that were judged, the likeliest to be wrong first."""
    assert found.suspects is not None
    suspicion = found.suspects.found
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["rank", "split", "file", "label", "rather", "probability", "margin", "suspected"])
    for rank, (picture, place) in enumerate(zip(found.suspects.pictures, suspicion.order.tolist(), strict=True), 1):
        numbers = f"{suspicion.self_confidence[place]:.6f}", f"{suspicion.margin[place]:.6f}"
        mark = "yes" if suspicion.suspected[place] else "no"
        writer.writerow([rank, picture.split, picture.file, picture.label, picture.answer, *numbers, mark])
    return table.getvalue()


def _said(found: Findings, asked: Mapping[str, Any], source: str) -> str:
    train, validation, test = (
        f"{sum(row[split] for row in found.counts.values()):,}" for split in ("train", "validation", "test")
    )
    what = f"{type(found.classifier).__name__} of {len(found.classifier.classes_)} classes, trained on"
    if asked.get("data") == source:
        return f"{what} {train} pictures of {found.dataset.name}; {validation} for validation, {test} for the test."
    return (
        f"{what} {asked.get('data')}; this is about {found.dataset.name}: {train} training pictures, {validation} for "
        f"validation, {test} for the test."
    )


def _command(asked: Mapping[str, Any]) -> str:
    """As one types it to have the same again."""
    words = ["nabi", "train", str(asked.get("data", ""))]
    for name, value in asked.items():
        if name != "data":
            words += [as_typed(name, value)] if isinstance(value, bool) else [as_typed(name), str(value)]
    return shlex.join(words)


def _lines(found: Findings, folder: RunFolder) -> list[str]:
    said = [f"report: {printable(str(folder.path / REPORT))}"]
    if found.suspects is not None and found.suspects.suspected:
        many = found.suspects.suspected
        said.append(f"{many:,} {'label' if many == 1 else 'labels'} may be wrong: the report shows the likeliest")
    return said
