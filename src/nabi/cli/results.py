"""What comes out of a run: the model, its history, how good it is, and figures."""

import importlib.metadata
import platform
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nabi import __version__, figures, metrics
from nabi.classifiers import NetworkClassifier
from nabi.cli.run_folder import METRICS, MODEL, RunFolder
from nabi.data import Dataset, Split
from nabi.data.files import composed


def write_model(classifier: NetworkClassifier, dataset: Dataset, folder: RunFolder, asked: Mapping[str, Any]) -> None:
    """Write the model, its history and its curves."""
    about = {"data": dataset.name, "asked": dict(asked), "best_epoch": classifier.best_epoch_}
    classifier.save(folder.path / MODEL, about)
    folder.write_history(classifier.history_)
    history = {
        name: np.array([np.nan if value is None else value for value in values])
        for name, values in classifier.history_.items()
    }
    figures.curves(history, folder.path / "curves.svg")
    pictures = classifier.weight_pictures()
    if pictures is not None:
        names = [str(name) for name in classifier.classes_] if len(pictures) == len(classifier.classes_) else None
        figures.weights(pictures, folder.path / "weights.png", names)


def write_measures(classifier: NetworkClassifier, dataset: Dataset, folder: RunFolder, asked: Mapping[str, Any]) -> str:
    """Measure on the test pictures, write metrics and confusion, and say it in one line."""
    history = classifier.history_
    best = classifier.best_epoch_
    validation = history["validation_accuracy"][best - 1] if best else None
    content: dict[str, Any] = {
        "data": dataset.name,
        "model": classifier.registered_name,
        "asked": dict(asked),
        "arguments": classifier.get_params(),
        "seed": asked["seed"],
        "epochs": classifier.n_iter_,
        "best_epoch": best,
        "seconds": round(sum(history["seconds"]), 3),
        "validation_accuracy": validation,
        "test_accuracy": None,
        "versions": versions(),
    }
    line = f"no test pictures, validation accuracy {validation}"
    if dataset.test is not None and len(dataset.test):
        measured, matrix = measure(classifier, dataset, dataset.test)
        content |= {f"test_{name}": value for name, value in measured.items()}
        if matrix is not None:
            figures.confusion(matrix, measured["classes"], folder.path / "confusion.svg")
        line = f"test {said(measured)}"
    folder.write_json(METRICS, content)
    return f"{line}; {content['seconds']:.1f} s of training; all in {folder.path}"


def measure(classifier: Any, dataset: Dataset, split: Split) -> tuple[dict[str, Any], NDArray[np.int64] | None]:
    """Accuracy with its interval, and per class; and the confusion matrix. Classes are matched by name, composed.

    Returns
    -------
    measured : dict
        ``accuracy``, ``interval`` (95%, Wilson), ``correct``, ``total``, ``classes`` (names: the model's, then those
        that only the pictures have), ``per_class``.
    matrix : ndarray of int64, (K, K)
        In the order of ``classes``.
    """
    known = [composed(str(name)) for name in classifier.classes_]
    given = [composed(name) for name in dataset.classes]
    present = {given[label] for label in np.unique(split.labels)}
    classes = known + sorted(present - set(known))
    place = {name: number for number, name in enumerate(classes)}
    labels = np.array([place.get(name, -1) for name in given])[split.labels]
    predicted = np.array([place[composed(str(name))] for name in classifier.predict(split.images)])
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
            for name, number in place.items()
        },
    }
    if len(classes) > metrics.MAX_CONFUSION_CLASSES:
        return measured, None
    return measured, metrics.confusion_matrix(labels, predicted, len(classes))


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
