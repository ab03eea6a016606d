"""Pictures set aside for testing that are trained on as well: found quickly, whenever something is trained."""

import dataclasses
import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nabi import cache
from nabi.check.fingerprints import SIDE, all_thumbnails, fingerprints
from nabi.check.pairs import near_pairs
from nabi.data.dataset import Dataset, Split
from nabi.data.files import Progress
from nabi.data.splits import content_keys, keys_of

FORMAT = 1  # of the thumbnails that are kept
LOOKED_AT = 16  # pictures, to know whether all are as the files have them


@dataclass(frozen=True, eq=False)
class Leaks:
    """Positions of pictures in ``validation`` that training has too, and in ``test`` that either has.

    ``near`` says whether near copies were looked for, too, and not only exact ones.
    """

    validation: NDArray[np.intp]
    test: NDArray[np.intp]
    near: bool

    def __len__(self) -> int:
        return len(self.validation) + len(self.test)


def leaks(dataset: Dataset, *, report: Progress = lambda done, total: None) -> Leaks:
    """Pictures of validation and test that are copies of pictures seen in training: the quick part of ``nabi check``.

    Exact copies are told by the hash of their pixels; near and mirrored ones by fingerprints of the pictures as the
    data set has them, at any size, if the files had 64 pixels or more. What fingerprints are made from is kept in the
    cache. Parts of pictures are not looked for: ``nabi check`` does that.

    Parameters
    ----------
    dataset : Dataset
    report : callable, optional
        Called as ``report(done, total)`` while pictures are made smaller and compared.

    Examples
    --------
    >>> images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1), np.uint8)
    >>> train = Split(images[:4], np.array([0, 0, 1, 1]))
    >>> test = Split(images[3:], np.array([1, 0, 1]))
    >>> leaks(Dataset("six", ("cat", "dog"), train, test)).test
    array([0])
    """
    seen, found = [dataset.train], {}
    keys = {id(part): keys_of(part) for part in (dataset.train, dataset.validation, dataset.test) if part is not None}
    near = _were_larger(dataset.train, keys[id(dataset.train)])
    prints = _fingerprints(dataset, keys, report) if near and (dataset.validation or dataset.test) else {}
    for name in ("validation", "test"):
        part: Split | None = getattr(dataset, name)
        if part is None:
            found[name] = np.empty(0, np.intp)
            continue
        copied = np.isin(keys[id(part)], np.concatenate([keys[id(other)] for other in seen]))
        for other in seen if near else ():
            copied[[pair.first for pair in near_pairs(prints[id(part)], prints[id(other)])]] = True
        found[name] = np.flatnonzero(copied)
        seen.append(part)
    return Leaks(found["validation"], found["test"], near)


def without_leaks(dataset: Dataset, *, report: Progress = lambda done, total: None) -> tuple[Dataset, Leaks]:
    """The data set without those pictures of validation and test that :func:`leaks` finds; and what it found."""
    found = leaks(dataset, report=report)
    kept = {
        name: part.take(np.setdiff1d(np.arange(len(part)), leaked))
        for name, leaked in (("validation", found.validation), ("test", found.test))
        if len(leaked) and (part := getattr(dataset, name)) is not None
    }
    return dataclasses.replace(dataset, **kept), found


def _were_larger(part: Split, keys: NDArray[np.uint64]) -> bool:
    """Whether the files had pictures of 64 pixels or more: so these have them, or are not what the keys are of."""
    if min(part.images.shape[1:3]) >= SIDE:
        return True
    return bool((content_keys(part.images[:LOOKED_AT]) != keys[:LOOKED_AT]).any())


def _fingerprints(
    dataset: Dataset, keys: dict[int, NDArray[np.uint64]], report: Progress
) -> dict[int, NDArray[np.float32]]:
    """Of each split, by its identity."""
    parts = [part for part in (dataset.train, dataset.validation, dataset.test) if part is not None]
    digest = hashlib.sha256(np.concatenate([keys[id(part)] for part in parts]).tobytes()).hexdigest()
    name = cache.key("thumbnails", FORMAT, digest, [list(part.images.shape) for part in parts])
    stored = cache.load(name)
    if stored is None:
        thumbnails = all_thumbnails([part.images for part in parts], report)
        cache.store(name, {"source": f"{dataset.name} (thumbnails)"}, (*thumbnails.shape, 1), [thumbnails[..., None]])
    else:
        thumbnails = stored[1][..., 0]
    borders = np.cumsum([len(part) for part in parts])[:-1]
    return {id(part): fingerprints(some) for part, some in zip(parts, np.split(thumbnails, borders), strict=True)}
