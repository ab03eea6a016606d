"""Which pictures a step is given, and in which order."""

import itertools
import math
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nabi import random, threads
from nabi.data import OnDemand
from nabi.data.augment import Pipeline
from nabi.data.augment import batch as varied
from nabi.errors import DataError
from nabi.graph import namespace

PIECE = 2**21
"""About how many bytes of pictures one thread fetches and varies at a time: few enough that all threads have some."""

AT_HAND = 2**30
"""Bytes of pictures that are in memory, or soon are: of a larger memory map, some may have to be read from the disk."""


class Examples(NamedTuple):
    """What is learnt from.

    Attributes
    ----------
    images : array, (N, ...)
        In memory, memory-mapped, or a `nabi.data.OnDemand` in an array's place.
    labels : array of int64, (N,)
    weights : array of float32, (N,), or None
        How much each counts; None where all count alike.
    augment : callable or None
        How pictures are varied each time they are shown: see `nabi.data.augment`.
    """

    images: NDArray[Any] | OnDemand
    labels: NDArray[np.int64]
    weights: NDArray[np.float32] | None = None
    augment: Pipeline | None = None

    def take(self, chosen: NDArray[np.int64], key: Any) -> list[NDArray[Any]]:
        """Pictures and labels of a step; where they count differently, or are mixed, weights beside labels.

        Returns
        -------
        list of array
            ``[images, labels]``, ``[images, labels, weights]``, or of pictures that each are two in one
            ``[images, labels, weights, other_labels, other_weights]``.
        """
        if self.augment is None:
            shown, others, share = np.asarray(self.images[chosen]), None, None
        else:
            shown, others, share = varied(self.augment, self.images, chosen, key)
        pictures = [shown, self.labels[chosen]]
        if others is None or share is None:
            return pictures if self.weights is None else [*pictures, self.weights[chosen]]
        first, second = (1, 1) if self.weights is None else (self.weights[chosen], self.weights[others])
        first, second = (share * first).astype(np.float32), ((1 - share) * second).astype(np.float32)
        return [*pictures, first, self.labels[others], second]

    def epoch(self, seed: int, epoch: int, batch_size: int, start: int = 0) -> Iterator[list[NDArray[Any]]]:
        """The batches of an epoch from number ``start`` on: each picture once, in an order of the epoch's own."""
        if not len(self.images):
            raise DataError("there are no pictures to train on")
        key = random.fold_in(namespace.numpy, random.key(seed), np.uint32(epoch))
        order = random.permutation(namespace.numpy, key, len(self.images))
        each = self.images.dtype.itemsize * math.prod(self.images.shape[1:])
        bounds = itertools.pairwise(batch_bounds(len(order), batch_size)[start:])
        batches = [_cut(order[first:end], max(1, PIECE // max(1, each))) for first, end in bounds]
        most = max(map(len, batches), default=0)  # pieces of a batch
        pieces, take = itertools.chain(*batches), partial(self.take, key=key)
        at_hand = self.images.nbytes <= AT_HAND and not isinstance(self.images, OnDemand)
        if self.augment is None and most <= 1 and at_hand:
            taken: Iterator[list[NDArray[Any]]] = map(take, pieces)  # which takes no longer than handing it to a thread
        else:  # while a step is taken, the pictures of the next are fetched and varied
            taken = threads.map_in_order(take, pieces, ahead=max(most, threads.get_num_threads()) + 1)
        for batch in batches:
            yield _joined([next(taken) for _ in batch])  # nothing else holds the parts on


def _cut(chosen: NDArray[np.int64], some: int) -> list[NDArray[np.int64]]:
    """Positions in pieces of ``some`` at most, as even as can be."""
    return [chosen] if len(chosen) <= some else np.array_split(chosen, -(-len(chosen) // some))


def _joined(parts: list[list[NDArray[Any]]]) -> list[NDArray[Any]]:
    return parts[0] if len(parts) == 1 else [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]


def batch_bounds(length: int, batch_size: int) -> list[int]:
    """Where to cut ``length`` things into as few batches as fit: sizes differ by at most one.

    Examples
    --------
    >>> batch_bounds(10, 4)
    [0, 3, 6, 10]
    """
    batches = max(1, -(-length // batch_size))
    return [number * length // batches for number in range(batches + 1)]


def answer_bounds(length: int, most: int) -> list[int]:
    """Where to cut ``length`` things of which each is answered by itself, so that few sizes of batches ever occur.

    What answers is recorded and compiled for each size. So all batches are of ``most`` as long as there are enough;
    what is left is cut into powers of two, up to a last one that `filled` fills where a quarter of it lacks at most.

    Examples
    --------
    >>> answer_bounds(2600, 1000)
    [0, 1000, 2000, 2512, 2576, 2600]
    """
    bounds = list(range(0, length + 1, most))
    while (left := length - bounds[-1]) > 0:
        nearly = 4 * left >= 3 * _filled_size(left, most)
        bounds.append(length if nearly else bounds[-1] + (1 << (left.bit_length() - 1)))
    return bounds


def filled(array: NDArray[Any], most: int) -> NDArray[Any]:
    """The array with its last row repeated, up to the next power of two or to ``most``.

    Examples
    --------
    >>> filled(np.array([1, 2, 3, 4, 5]), 1000)
    array([1, 2, 3, 4, 5, 5, 5, 5])
    """
    missing = _filled_size(len(array), most) - len(array)
    return array if missing <= 0 else np.concatenate([array, np.repeat(array[-1:], missing, axis=0)])


def _filled_size(length: int, most: int) -> int:
    return min(most, 1 << (length - 1).bit_length())


def evaluation_batch(shape: tuple[int, ...]) -> int:
    """How many pictures of a shape (H, W, C) to look at together, so that any number of them takes bounded memory.

    Examples
    --------
    >>> evaluation_batch((32, 32, 3)), evaluation_batch((224, 224, 3))
    (1000, 27)
    """
    return max(1, min(1000, 2**22 // max(1, math.prod(shape))))
