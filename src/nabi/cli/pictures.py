"""The pictures that a command works on."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from nabi.cli.characters import is_text
from nabi.cli.terminal import bar, note
from nabi.data import Dataset, OnDemand, Split, complete_splits, load, usual_side
from nabi.data.decode import grey
from nabi.data.files import expanded
from nabi.data.named import NAMED
from nabi.errors import DataError, SettingError


def whole_path(source: str) -> str:
    """Where pictures are, wherever one is; the name of a data set, which comes before a folder of that name, stays."""
    path = expanded(source)
    return str(path.resolve()) if source not in NAMED and path.exists() else source


def side_of(source: str) -> int | None:
    """The usual short side of the pictures in a folder or archive; None of all else, also of what cannot be loaded."""
    if source in NAMED:
        return None
    try:
        return usual_side(expanded(source))
    except DataError:  # which whoever loads the data says better; or files that are no pictures
        return None


def refuse_inside(source: str, target: Path) -> None:
    """Raise where results would go into the folder of their data: they would be a class of the next run."""
    real = Path(os.path.realpath(target))  # Path.resolve fails where links lead in a circle
    if source not in NAMED and Path(source).is_dir() and real.is_relative_to(source):
        raise SettingError(f"{target}: inside of the data in {source}: choose a folder elsewhere with --out")


def loaded(asked: Mapping[str, Any], where: Console, strict: bool) -> Dataset:
    """The data, with all three splits; on standard error, what is amiss with them."""
    if not is_text(asked["data"]):
        raise DataError(f"{asked['data']}: a name that is not UTF-8: rename it, or train from elsewhere")
    with bar(where) as show:
        dataset = load(
            asked["data"],
            size=asked.get("size"),
            progress=lambda done, total: show(f"reading {asked['data']}", done, total),
        )
    if strict and dataset.skipped:
        name, reason = dataset.skipped[0]
        raise DataError(f"{asked['data']}: of {len(dataset.skipped):,} files to skip the first is {name}: {reason}")
    for name, reason in dataset.skipped:
        note(f"skipped {name}: {reason}")
    for name in dataset.classes:
        if not is_text(name):
            raise DataError(f"{asked['data']}: the class {name} has a name that is not UTF-8: rename its folder")
    parts = [part.labels for part in (dataset.train, dataset.validation, dataset.test) if part is not None]
    counts = np.bincount(np.concatenate(parts), minlength=len(dataset.classes))
    if not counts.all():
        note(f"classes without pictures: {', '.join(dataset.classes[label] for label in np.flatnonzero(counts == 0))}")
    dataset = complete_splits(dataset)
    if len(np.unique(dataset.train.labels)) < 2:
        raise DataError(f"{asked['data']}: pictures of one class only: there is nothing to tell apart")
    return dataset


def labelled(dataset: Dataset, split: Split) -> tuple[Any, Any]:
    """Pictures, and their classes by name."""
    return split.images, np.array(dataset.classes)[split.labels]


def held_out(dataset: Dataset) -> tuple[Any, Any] | None:
    """Validation pictures, and their classes by name; None where there are none."""
    split = dataset.validation
    return labelled(dataset, split) if split is not None and len(split) else None


def with_channels(dataset: Dataset, channels: int) -> Dataset:
    """Grey pictures in three equal channels for a model of colours, and colours made grey for one of greys."""
    train, validation, test = (
        None if part is None else replace(part, images=_channels(part.images, channels))
        for part in (dataset.train, dataset.validation, dataset.test)
    )
    assert train is not None
    return replace(dataset, train=train, validation=validation, test=test)


def _channels(images: Any, channels: int) -> Any:
    if images.shape[3] == channels or not len(images):
        return images
    if isinstance(images, OnDemand):
        return OnDemand(lambda positions: _channels(images[positions], channels), (*images.shape[:3], channels))
    if images.shape[3] == 1:
        return np.broadcast_to(images, (*images.shape[:3], channels))
    return np.stack([grey(image) for image in images])
