"""Dividing pictures into training, validation and test by their content.

The side a picture lands on follows from a hash of its pixels and from its class, never from a seed, from its file name
or from the order of the files. So two runs with different seeds are tested on the same pictures, and a picture that is
there twice (even under two names, or in two classes) is never trained on and tested on at once.
"""

import dataclasses
import hashlib
import itertools
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nabi import threads
from nabi.data.dataset import Dataset, Split
from nabi.data.ondemand import OnDemand
from nabi.errors import SettingError

MOST = {"test": 10_000, "validation": 5_000}
"""Pictures that a split needs at most: from 5,000, an accuracy is known to 1.4 percent or better, 95 times in 100."""
TOGETHER = 1 << 20  # bytes of pictures that a thread hashes at a time


def content_keys(images: NDArray[np.uint8] | OnDemand) -> NDArray[np.uint64]:
    """A hash of each picture: uint64 of shape (N,) for uint8 images of shape (N, H, W, C).

    A grey picture has the key of the same picture in three equal channels: one picture, however it was stored.

    Examples
    --------
    >>> grey = np.arange(8, dtype=np.uint8).reshape(2, 2, 2, 1)
    >>> bool((content_keys(grey) == content_keys(grey.repeat(3, axis=3))).all())
    True
    """
    if isinstance(images, OnDemand):
        return np.array([content_key(image) for image in images], np.uint64)
    some = max(1, TOGETHER // max(1, images[:1].nbytes))
    blocks = (images[start : start + some] for start in range(0, len(images), some))
    found = threads.map_in_order(lambda block: [content_key(image) for image in block], blocks)
    return np.array(list(itertools.chain.from_iterable(found)), np.uint64)


def content_key(image: NDArray[np.uint8]) -> int:
    """The hash of one picture of shape (H, W, C); see :func:`content_keys`."""
    if image.shape[2] == 1:
        image = np.broadcast_to(image, (*image.shape[:2], 3))
    digest = hashlib.blake2b(f"{image.shape[0]}x{image.shape[1]}".encode(), digest_size=8)
    digest.update(np.ascontiguousarray(image).data)
    return int.from_bytes(digest.digest(), "little")


def keys_of(split: Split) -> NDArray[np.uint64]:
    """The keys of a split's pictures: see `content_keys`."""
    return content_keys(split.images) if split.keys is None else split.keys


def split_by_content(
    keys: NDArray[np.uint64], labels: NDArray[np.int64], fractions: Sequence[float] = (0.15, 0.15)
) -> list[NDArray[np.intp]]:
    """Divide pictures, class by class, into parts of these fractions and the rest.

    In each class the different pictures stand in the order of their keys; the first part takes from the front until
    its share is full, then the next. Copies of a picture follow the first class that has it. A class of at least
    ``len(fractions) + 1`` different pictures has one in every part. Where pictures are added later, a picture changes
    its part only if it stood at the border of two.

    Parameters
    ----------
    keys : array of uint64, shape (N,)
        From :func:`content_keys`.
    labels : array of int64, shape (N,)
    fractions : sequence of float
        Each between 0 and 1, together less than 1; a part of fraction 0 is empty.

    Returns
    -------
    list of arrays of positions
        One for each fraction, then the rest; each in rising order, together all of ``range(N)``.

    Raises
    ------
    SettingError
        If the fractions leave nothing for the rest.

    Examples
    --------
    >>> keys, labels = np.arange(40, dtype=np.uint64), np.arange(40) % 2
    >>> [len(part) for part in split_by_content(keys, labels)]
    [6, 6, 28]
    """
    if not all(0 <= fraction < 1 for fraction in fractions) or sum(fractions) >= 1:
        raise SettingError(f"fractions {tuple(fractions)} must be at least 0 each and less than 1 together")
    copies = Counter(keys.tolist())
    rest = len(fractions)
    part_of_key: dict[int, int] = {}
    for label in np.unique(labels):
        here = [key for key in np.unique(keys[labels == label]).tolist() if key not in part_of_key]
        pictures = left = sum(copies[key] for key in here)
        to_serve = sum(fraction > 0 for fraction in fractions)
        enough = len(here) > to_serve
        queue = iter(here)
        for part, fraction in enumerate(fractions):
            if not fraction:
                continue
            to_serve -= 1
            share = min(max(round(fraction * pictures), enough), left - to_serve - 1)
            for key in queue if share > 0 else ():
                # A picture with more copies than there is room for goes to the rest: it would fill a test set alone.
                part_of_key[key] = part if copies[key] <= share else rest
                share -= copies[key] if copies[key] <= share else 0
                left -= copies[key]
                if share == 0:
                    break
        part_of_key |= dict.fromkeys(queue, rest)
    parts = np.array([part_of_key[key] for key in keys.tolist()], np.intp)
    return [np.flatnonzero(parts == part) for part in range(rest + 1)]


def usual_fraction(split: str, count: int) -> float:
    """How much of ``count`` pictures goes into a split, "test" or "validation", that is made of them.

    Examples
    --------
    >>> usual_fraction("validation", 2_000), usual_fraction("validation", 50_000)
    (0.15, 0.1)
    """
    return min(0.15, MOST[split] / max(count, 1))


def complete_splits(dataset: Dataset, *, validation: float | None = None, test: float | None = None) -> Dataset:
    """The data set with a validation and a test split: those it has as they are, those it lacks taken from training.

    The fractions are of the pictures that training had before; by default 15%, but no more than 10,000 pictures for the
    test and 5,000 for validation. A fraction of 0 leaves a missing split ``None``, and so do too few pictures.

    Raises
    ------
    SettingError
        If the fractions leave nothing to train on.
    """
    train = dataset.train
    if test is None:
        test = usual_fraction("test", len(train.images))
    if validation is None:
        validation = usual_fraction("validation", len(train.images))
    wanted_test = test if dataset.test is None else 0.0
    wanted_validation = validation if dataset.validation is None else 0.0
    if not wanted_test and not wanted_validation:
        return dataset
    test_part, validation_part, rest = split_by_content(keys_of(train), train.labels, (wanted_test, wanted_validation))
    return dataclasses.replace(
        dataset,
        train=train.take(rest),
        test=train.take(test_part) if len(test_part) else dataset.test,
        validation=train.take(validation_part) if len(validation_part) else dataset.validation,
    )
