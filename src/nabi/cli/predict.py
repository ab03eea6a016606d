"""``nabi predict``: what is on pictures, one after another, however many there are."""

import csv
import itertools
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer
from numpy.typing import NDArray

from nabi import data
from nabi.classifiers import Classifier
from nabi.cli.characters import json_text, printable
from nabi.cli.picture_model import picture_model
from nabi.cli.terminal import compiling_alone, console, note
from nabi.errors import DataError, PictureError, SettingError
from nabi.training import evaluation_batch

NONE = "none of these"


class Answer(NamedTuple):
    """What is said of one picture."""

    path: str
    best: list[tuple[str, float]]
    none: bool | None
    """Whether it is of none of the classes; None where that was not asked."""


def predict(
    model: Annotated[Path, typer.Argument(help="A model file, or the folder of a run.")],
    paths: Annotated[list[Path], typer.Argument(metavar="IMAGE-OR-FOLDER...", help="Pictures, or folders of them.")],
    top: Annotated[int, typer.Option(help="How many classes to name for each picture.")] = 3,
    none: Annotated[
        bool, typer.Option("--none", help="Say “none of these” of pictures too little like those of any class.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON array, one picture a line.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Columns path, rank, class, score; with --none: none.")] = False,
) -> None:
    """Say what is on pictures: the most likely classes, each with its score.

    With a model trained with the softmax loss the numbers are probabilities, which add up to 1 over all classes; with
    others they are scores, of which only the order means something. --json says which, as "kind". Files that are no
    pictures are skipped, and named on standard error. With --none, pictures that are too little like those of any class
    are said to be of none of these: see docs/photos.md.
    """
    if as_json and as_csv:
        raise SettingError("--json and --csv: choose one")
    if top < 1:
        raise SettingError(f"--top {top}: it must be 1 or more")
    classifier = picture_model(model)
    if none and getattr(classifier, "threshold_", None) is None:
        raise SettingError(
            f"--none: {model} has not learnt what is of none of its classes, as models of photos do that nabi train "
            "had validation photos for"
        )
    for path in paths:
        if not path.exists():
            raise DataError(f"{path}: no such file or folder")
    kind = "probability" if hasattr(classifier, "predict_proba") else "score"
    write = partial(_write_json, kind) if as_json else partial(_write_csv, none) if as_csv else _write_text
    answers = _answers(classifier, paths, top, none)
    with compiling_alone(console(stderr=True)):
        first = next(answers, None)
    if first is None:
        raise DataError(f"{', '.join(map(str, paths))}: no picture that can be read")
    write(itertools.chain([first], answers))


def _answers(classifier: Classifier, paths: list[Path], top: int, none: bool) -> Iterator[Answer]:
    """Each picture's path and top classes, a batch at a time."""
    height, width, channels = classifier.input_shape_
    pictures = data.pictures(paths, size=(height, width), channels=channels)  # type: ignore[arg-type]
    readable = _readable(pictures)
    while batch := list(itertools.islice(readable, evaluation_batch(classifier.input_shape_))):
        images = np.stack([picture for _, picture in batch])
        found = classifier.answers(images)
        best = np.argsort(-found.numbers, axis=1, kind="stable")[:, :top]
        strange = [None] * len(batch) if not none or found.none is None else found.none.tolist()
        for (path, _), places, row, fits_none in zip(batch, best, found.numbers, strange, strict=True):
            named = [(str(classifier.classes_[place]), round(float(row[place]), 6)) for place in places]
            yield Answer(path, named, fits_none)


def _readable(pictures: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    for path, picture in pictures:
        if isinstance(picture, PictureError):
            note(f"skipped {picture}")
        else:
            yield path, picture


def _write_text(answers: Iterator[Answer]) -> None:
    for path, best, none in answers:
        named = [f"{printable(name)} {score:.3f}" for name, score in best]
        print(printable(path), *([NONE, *named] if none else named), sep="  ")


def _write_csv(asked: bool, answers: Iterator[Answer]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["path", "rank", "class", "score"] + (["none"] if asked else []))
    for path, best, none in answers:
        mark = ["yes" if none else "no"] if asked else []
        writer.writerows([path, rank, name, score, *mark] for rank, (name, score) in enumerate(best, 1))


def _write_json(kind: str, answers: Iterator[Answer]) -> None:
    before = "["
    for path, best, none in answers:
        said = {"path": path, "kind": kind} | ({} if none is None else {"none": none})
        predictions = [{"class": name, "score": score} for name, score in best]
        print(before, json_text({**said, "predictions": predictions}), sep="\n", end="")
        before = ","
    print("\n]")
