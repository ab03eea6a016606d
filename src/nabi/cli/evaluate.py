"""``nabi evaluate``: how good a model is on labelled pictures."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from nabi import data
from nabi.classifiers import Classifier
from nabi.cli.characters import json_text, printable
from nabi.cli.check import set_leaks_aside
from nabi.cli.picture_model import picture_model
from nabi.cli.pictures import side_of, with_channels
from nabi.cli.results import measure, said
from nabi.cli.terminal import bar, console, note
from nabi.cli.trained_on import set_seen_aside
from nabi.data import Dataset, Split
from nabi.data.files import composed
from nabi.data.ondemand import joined
from nabi.errors import DataError, SettingError
from nabi.waiting import while_compiling

SPLITS = ("test", "validation", "train", "all")


def evaluate(
    model: Annotated[Path, typer.Argument(help="A model file, or the folder of a run.")],
    source: Annotated[str, typer.Argument(metavar="DATA", help="A name, folder or archive, as for nabi train.")],
    split: Annotated[str, typer.Option(help="Which pictures: test, validation, train or all.")] = "test",
    as_json: Annotated[bool, typer.Option("--json", help="Everything that was measured, as JSON.")] = False,
) -> None:
    """Measure a model's accuracy on labelled pictures.

    Classes are matched by name. A split that the data lack is made from the pictures' content, as nabi train makes it.
    Neither copies of training pictures are counted in a test, nor what the run itself has seen.
    """
    if split not in SPLITS:
        raise SettingError(f"--split {split!r} is not one of {', '.join(SPLITS)}")
    classifier = picture_model(model)
    dataset = loaded_for(source, classifier)
    for name, reason in dataset.skipped:
        note(f"skipped {name}: {reason}")
    if strangers := _unknown(dataset, classifier):
        many = "1 class that is" if len(strangers) == 1 else f"{len(strangers)} classes that are"
        note(f"{many} none of the model's, so that every answer is wrong: {_few(strangers)}")
    with bar(console(stderr=True)) as show, while_compiling(show):
        measured, _ = measure(classifier, dataset, _chosen(dataset, split, source, model), show)
    if as_json:
        print(json_text({"data": dataset.name, "split": split, **measured}, indent=2))
        return
    print(f"{printable(dataset.name)}, {split}: {said(measured)}")
    width = max(len(printable(name)) for name in measured["classes"])
    for name, numbers in measured["per_class"].items():
        precision, recall = (
            f"{numbers[share]:.3f}" if numbers["support"] else "    –" for share in ("precision", "recall")
        )
        print(f"  {printable(name):{width}}  precision {precision}  recall {recall}  {numbers['support']:,} pictures")


def loaded_for(source: str, classifier: Classifier) -> Dataset:
    """The data, in the shape that the model takes; DataError where the model knows none of their classes."""
    height, width, channels = classifier.input_shape_
    # As they are, where they seem to be of this size: so they were trained on, and are in the cache.
    side = side_of(source)
    dataset: Dataset | None = None
    with bar(console(stderr=True)) as show:
        progress = lambda done, total: show(f"reading {source}", done, total)
        if side in (None, min(height, width)):
            dataset = data.load(source, progress=progress)
        if dataset is None or dataset.train.images.shape[1:3] != (height, width):
            try:
                dataset = data.load(source, size=(height, width), progress=progress)
            except SettingError:  # of a data set whose pictures have one size
                if dataset is None:
                    raise
                there = "x".join(map(str, dataset.train.images.shape[1:3]))
                raise DataError(f"{source}: pictures of {there}, and the model takes {height}x{width}") from None
    if len(_unknown(dataset, classifier)) == len(dataset.classes):
        theirs, ours = _few(dataset.classes), _few(classifier.classes_)
        raise DataError(f"{source}: none of its classes ({theirs}) is among the model's ({ours})")
    return with_channels(dataset, channels)


def _unknown(dataset: Dataset, classifier: Classifier) -> list[str]:
    """The classes that are none of the model's."""
    known = {composed(str(name)) for name in classifier.classes_}
    return [name for name in dataset.classes if composed(name) not in known]


def _chosen(dataset: Dataset, split: str, source: str, model: Path) -> Split:
    """The pictures to measure on."""
    if split == "all":
        parts = [part for part in (dataset.train, dataset.validation, dataset.test) if part is not None]
        images: Any = joined([part.images for part in parts])
        return Split(images, np.concatenate([part.labels for part in parts]))
    whole = data.complete_splits(dataset)
    if split != "train":  # which loses none
        whole = set_seen_aside(set_leaks_aside(whole, source, console(stderr=True)), model, console(stderr=True))
    chosen: Split | None = getattr(whole, split)
    if chosen is None or not len(chosen):
        raise DataError(f"{source}: no pictures in its {split} split: choose another with --split")
    return chosen


def _few(names: Any) -> str:
    return ", ".join(map(str, names[:5])) + (", …" if len(names) > 5 else "")
