"""How far a run is, and the file that it goes on from: everything that its next step depends on."""

import itertools
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nabi import container
from nabi.errors import ModelFileError, SettingError
from nabi.graph import nest
from nabi.training.events import EpochEnded

Arrays = dict[str, NDArray[Any]]


@dataclass
class Progress:
    """How far a run is, but for the tensors."""

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    seconds: float = 0.0
    history: list[EpochEnded] = field(default_factory=list)
    best_epoch: int = 0


def save(
    path: str | os.PathLike[str], state: Any, best: Arrays, progress: Progress, settings: Mapping[str, Any]
) -> None:
    """Write all tensors of a nest, the best weights so far, and what the run is about."""
    arrays = {f"now.{name}": t.numpy() for name, t in nest.tensors(state).items()}
    arrays |= {f"best.{name}": value for name, value in best.items()}
    # As arrays: a header has room for some thousands of epochs only.
    arrays |= {f"history.{name}": column for name, column in _columns(progress.history).items()}
    record = {name: value for name, value in vars(progress).items() if name != "history"}
    container.write(path, arrays, {"checkpoint": record, "settings": dict(settings)})


_NOT_FLOATS = {"epoch": np.int64, "best": np.bool_}


def _columns(history: list[EpochEnded]) -> Arrays:
    """A history as arrays, one for each field; None is NaN there, which no value of a history is."""
    return {
        name: np.array([getattr(row, name) for row in history], _NOT_FLOATS.get(name, np.float64))
        for name in EpochEnded.__dataclass_fields__
    }


def _rows(columns: Arrays) -> list[EpochEnded]:
    """The history of `_columns`."""
    values = [
        [None if math.isnan(value) else value for value in columns[name].tolist()]
        for name in EpochEnded.__dataclass_fields__
    ]
    return list(itertools.starmap(EpochEnded, zip(*values, strict=True)))


def restore(path: str | os.PathLike[str], state: Any, settings: Mapping[str, Any]) -> tuple[Progress, Arrays]:
    """Put back what `save` wrote; gives how far the run was, and its best weights.

    Raises
    ------
    SettingError, ModelFileError
        It is of another run, or no checkpoint.
    """
    arrays, header = container.read(path)
    if "checkpoint" not in header or "settings" not in header:
        raise ModelFileError(f"{path}: a model file, not the checkpoint of a run")
    for name in sorted({*settings, *header["settings"]}):
        then, now = header["settings"].get(name), settings.get(name)
        if then != now and not (isinstance(now, tuple) and then == list(now)):
            # A digest says nothing to people.
            what = f"other {name}" if len(str(then)) > 60 else f"{name}={then!r}, not {now!r}"
            raise SettingError(f"{path}: of a run with {what}: go on with the same, or start anew")

    def named(prefix: str) -> Arrays:
        return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}

    try:
        progress = Progress(**header["checkpoint"], history=_rows(named("history.")))
    except (KeyError, TypeError, ValueError):
        raise ModelFileError(f"{path}: the checkpoint of another version of nabi") from None
    tensors, now = nest.tensors(state), named("now.")
    if _specs(now) != _specs(tensors):
        raise ModelFileError(f"{path}: the checkpoint of another model")
    for name, tensor in tensors.items():
        tensor.assign(now[name])
    return progress, named("best.")


def _specs(arrays: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    return {name: (array.shape, array.dtype) for name, array in arrays.items()}
