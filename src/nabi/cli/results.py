"""What comes out of a run: the model, its history, how good it is, and figures."""

import importlib.metadata
import platform
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nabi import __version__, figures, metrics
from nabi.classifiers import Classifier
from nabi.classifiers.base import plain
from nabi.cli.characters import printable
from nabi.cli.run_folder import METRICS, MODEL, RunFolder
from nabi.cli.trained_on import write_trained_on
from nabi.data import Dataset, Split
from nabi.listeners import Listener
from nabi.report.findings import matched, why_no_test
from nabi.training import EpochEnded, RangeTest, Started
from nabi.waiting import Show

BATCH = 1000  # pictures between two signs of progress


def write_history(folder: RunFolder) -> Listener:
    """Write the history of a run after every epoch, a row for each: one that is killed leaves the others behind."""
    rows: list[EpochEnded] = []

    def listen(event: Any) -> None:
        match event:
            case Started():
                rows.extend(event.history)
            case EpochEnded():
                rows.append(event)
            case _:
                return
        names = EpochEnded.__dataclass_fields__
        folder.write_history({name: [getattr(row, name) for row in rows] for name in names})

    return listen


def write_model(classifier: Classifier, dataset: Dataset, folder: RunFolder, asked: Mapping[str, Any]) -> None:
    """Write the model, its curves and what it looks for; and what it has seen."""
    write_trained_on(dataset, asked.get("data", ""), folder)
    about: dict[str, Any] = {"data": dataset.name, "asked": dict(asked)}
    history = getattr(classifier, "history_", {})
    if history:
        about["best_epoch"] = classifier.best_epoch_  # type: ignore[attr-defined]
    classifier.save(folder.path / MODEL, about)
    if history:
        columns = {
            name: np.array([np.nan if value is None else value for value in values]) for name, values in history.items()
        }
        figures.curves(columns, folder.path / "curves.svg")
    if asked.get("learning_rate") == "find":  # otherwise a range test is of another run
        found = range_test(classifier)
        figures.range_test(found.learning_rates, found.losses, found.suggestion, folder.path / "learning-rate.svg")
    pictures = classifier.weight_pictures()
    if pictures is not None:
        names = [str(name) for name in classifier.classes_] if len(pictures) == len(classifier.classes_) else None
        figures.weights(pictures, folder.path / "weights.png", names)


def range_test(classifier: Classifier) -> RangeTest:
    """How a learning rate was found: for the classifier, or for the head that learns from features."""
    found: RangeTest = getattr(classifier, "head_", classifier).range_test_  # type: ignore[union-attr]
    return found


def write_measures(
    classifier: Classifier,
    dataset: Dataset,
    folder: RunFolder,
    asked: Mapping[str, Any],
    show: Show = lambda what, done, total: None,
) -> str:
    """Measure on the test pictures, write metrics and confusion, and say it in one line."""
    history = getattr(classifier, "history_", {"validation_accuracy": [], "seconds": []})
    best = getattr(classifier, "best_epoch_", 0)
    validation = history["validation_accuracy"][best - 1] if best else None
    content: dict[str, Any] = {
        "data": dataset.name,
        "model": asked["model"],
        "asked": dict(asked),
        "arguments": {name: plain(value) for name, value in classifier.get_params().items()},
        "seed": asked["seed"],
        "epochs": getattr(classifier, "n_iter_", 0),
        "best_epoch": best,
        "seconds": round(sum(history["seconds"]), 3),
        "validation_accuracy": validation,
        "test_accuracy": None,
        "versions": versions(),
    }
    line = why_no_test(dataset)
    line += "" if validation is None else f": validation accuracy {validation:.4f}"
    if dataset.test is not None and len(dataset.test):
        measured, matrix = measure(classifier, dataset, dataset.test, show)
        content |= {f"test_{name}": value for name, value in measured.items()}
        if matrix is not None:
            content["test_confusion"] = matrix.tolist()  # a row for each true class, in the order of test_classes
            figures.confusion(matrix, measured["classes"], folder.path / "confusion.svg")
        line = f"test {said(measured)}"
    folder.write_json(METRICS, content)
    return f"{line}; {content['seconds']:.1f} s of training; all in {printable(str(folder.path))}"


def measure(
    classifier: Classifier, dataset: Dataset, split: Split, show: Show = lambda what, done, total: None
) -> tuple[dict[str, Any], NDArray[np.int64] | None]:
    """Accuracy with its interval, and per class; and the confusion matrix. Classes are matched by name, composed.

    Returns
    -------
    measured : dict
        ``accuracy``, ``interval`` (95%, Wilson), ``correct``, ``total``, ``classes`` (names: the model's, then those
        that only the pictures have), ``per_class``.
    matrix : ndarray of int64, (K, K)
        In the order of ``classes``.
    """
    classes, places = matched(classifier, dataset, [split])
    labels = places[split.labels]
    answers = np.array([classes.index(name) for name in classes[: len(classifier.classes_)]])
    predicted = np.concatenate(
        [
            answers[np.searchsorted(classifier.classes_, classifier.predict(split.images[start : start + BATCH]))]
            for start in shown(range(0, len(split), BATCH), show)
        ]
    )
    correct = int((labels == predicted).sum())
    found = metrics.per_class(labels, predicted, len(classes))
    measured = {
        "accuracy": metrics.accuracy(labels, predicted),
        "interval": list(metrics.wilson_interval(correct, len(labels))),
        "correct": correct,
        "total": len(labels),
        "classes": classes,
        "per_class": {
            name: {measure: found[measure][number].item() for measure in found}  # type: ignore[literal-required]
            for number, name in enumerate(classes)
        },
    }
    if len(classes) > metrics.MAX_CONFUSION_CLASSES:
        return measured, None
    return measured, metrics.confusion_matrix(labels, predicted, len(classes))


def shown(starts: range, show: Show) -> Iterator[int]:
    """Where batches start, one after another, with progress."""
    for start in starts:
        show("predicting", start, starts.stop)
        yield start


def said(measured: Mapping[str, Any]) -> str:
    """What was measured, for people."""
    low, high = measured["interval"]
    return (
        f"accuracy {measured['accuracy']:.4f} (95% interval {low:.4f} to {high:.4f}): "
        f"{measured['correct']:,} of {measured['total']:,} right"
    )


def versions() -> dict[str, str]:
    """What a run's bits depend on."""
    packages = {name: importlib.metadata.version(name) for name in ("numpy", "scikit-learn", "pillow")}
    return {"nabi": __version__, "python": platform.python_version(), **packages, "machine": platform.machine()}
