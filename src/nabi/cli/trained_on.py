"""Which pictures a run has learnt from, or chosen by: known by their content, wherever they lie later.

Whoever moves a photo into its right class, or adds some, has other splits made of the same folder the next time; what
was trained on then must not count as a test.
"""

import dataclasses
from pathlib import Path

import numpy as np
from rich.console import Console

from nabi.cli.characters import printable
from nabi.cli.run_folder import MODEL, TRAINED_ON, RunFolder
from nabi.container import replace_file
from nabi.data import Dataset
from nabi.data.named import NAMED
from nabi.data.splits import keys_of
from nabi.errors import DataError


def write_trained_on(dataset: Dataset, source: str, folder: RunFolder) -> None:
    """Write down the keys of the pictures of training and validation; those of published sets stay where they are."""
    if source in NAMED:
        return
    parts = [part for part in (dataset.train, dataset.validation) if part is not None]
    with replace_file(folder.path / TRAINED_ON) as file:
        np.save(file, np.unique(np.concatenate([keys_of(part) for part in parts])))


def set_seen_aside(dataset: Dataset, run: Path, where: Console) -> Dataset:
    """The data without those test pictures that a run has seen; and one line, where there are any.

    ``run`` is its folder, or the model in there.
    """
    path = (run.parent if run.name == MODEL and run.is_file() else run) / TRAINED_ON
    if dataset.test is None or not path.is_file():
        return dataset
    try:
        with path.open("rb") as file:
            seen = np.lib.format.read_array(file, allow_pickle=False)
        if seen.dtype != np.uint64 or seen.ndim != 1:
            raise ValueError
    except (OSError, ValueError, EOFError):
        raise DataError(f"{path}: it is damaged") from None
    known = np.isin(keys_of(dataset.test), seen)
    if not known.any():
        return dataset
    where.print(
        f"{known.sum():,} of {len(dataset.test):,} test pictures were seen in training by {printable(str(run))}, and "
        "are not counted"
    )
    return dataclasses.replace(dataset, test=dataset.test.take(np.flatnonzero(~known)))
