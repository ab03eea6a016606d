"""Training the last part of a backbone, too, once a head has learnt from its features."""

import itertools
import math
import tempfile
from collections.abc import Generator
from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nabi import cache, nn, random
from nabi._compile import compile
from nabi._tensor import Tensor
from nabi.data.augment import Pipeline
from nabi.data.augment import batch as varied
from nabi.errors import DataError
from nabi.graph import namespace
from nabi.losses import LOSSES
from nabi.optim import AdamW, cosine
from nabi.training import (
    Event,
    Examples,
    Finished,
    GradientDescent,
    Looked,
    answer_bounds,
    batch_bounds,
    evaluation_batch,
    filled,
    run,
)

SHARE = 0.45
"""Of a backbone's parameters, how many its last layers have at most that are trained with the head."""

LOOKS = 2
"""How often the layers before these look at each photo: once as it is, else varied."""

IN_MEMORY = 2**28
"""Bytes of what they saw that are kept in memory; more goes to the disk."""

_PIECE = 2**24

BATCH, LEARNING_RATE, WEIGHT_DECAY, LABEL_SMOOTHING = 32, 1e-3, 0.01, 0.1


class Whole(nn.Layer):
    """The last part of a backbone and a head as one network: what `finetune` trains.

    Batch normalisation keeps the statistics that it came with: those of a million pictures are better than what a batch
    of few can tell.

    Parameters
    ----------
    backbone : Sequential
        Of which these are the last layers of `parted`.
    head : Sequential
        Both are copied: what others know of them stays as it is.
    """

    label = "whole"

    def __init__(self, backbone: nn.Sequential, head: nn.Sequential) -> None:
        self.backbone = deepcopy(parted(backbone)[1])
        self.head = deepcopy(head)

    def forward(self, x: Any, training: bool) -> Tensor:
        return self.head.forward(self.backbone.forward(x, training=False), training)


def finetune(
    whole: Whole,
    backbone: nn.Sequential,
    examples: Examples,
    validation: tuple[Any, Any] | None,
    *,
    epochs: int,
    seed: int,
    engine: str,
    **options: Any,
) -> Generator[Event, None, Finished]:
    """Train a head and the last layers of a backbone together, from where they are.

    The layers before them stay as they are. So they look at each photo `LOOKS` times, not in every epoch, and the last
    ones learn from what those saw. Source: Yosinski and others, "How transferable are features in deep neural
    networks?" (2014).

    Parameters
    ----------
    whole : Whole
        Of the backbone and a head; it is what is trained.
    backbone : Sequential
        From pictures to features.
    examples : Examples
        Varied by what they are augmented with in each look but the first; without, there is but that one. Pictures are
        not mixed.
    validation : (images, labels), optional
    epochs, seed, engine, **options
        As for `nabi.training.run`.

    Returns
    -------
    Finished
        The last event, which is not among the others: whoever hears of it may not ask for more.

    Raises
    ------
    DataError
        There is neither memory nor disk enough for what they saw.
    NonFiniteError
        Training diverged; ``whole`` has the weights of the best epoch before, where there was one.
    """
    images, labels, weights, augment = examples
    trunk, _ = parted(backbone)
    looks = 1 if augment is None else LOOKS
    seen = yield from _looked(trunk, engine, images, augment, looks, seed)
    held = None
    if validation is not None:
        held = (yield from _looked(trunk, engine, validation[0], None, 1, seed)), validation[1]
    optimizer = AdamW(nn.parameters(whole), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    steps = epochs * (len(batch_bounds(len(seen), BATCH)) - 1)
    loss = partial(LOSSES["softmax"], label_smoothing=LABEL_SMOOTHING)
    events = run(
        GradientDescent(whole, optimizer, loss, engine=engine),
        loss,
        Examples(seen, np.tile(labels, looks), None if weights is None else np.tile(weights, looks)),
        held,
        epochs=epochs,
        batch_size=BATCH,
        schedule=cosine(LEARNING_RATE, steps),
        seed=seed,
        engine=engine,
        **options,
    )
    for event in events:
        if isinstance(event, Finished):
            return event
        yield event
    raise AssertionError("a run ends with Finished")


def parted(backbone: nn.Sequential) -> tuple[nn.Sequential, nn.Sequential]:
    """The layers that stay as they are, and those that are trained: up to `SHARE`, at least one that multiplies.

    Examples
    --------
    >>> from nabi import models
    >>> backbone = models.features(models.efficientnet_lite0())
    >>> [name for name, _ in parted(backbone)[1].items()]
    ['stage7', 'last', 'global_avg_pool']
    """
    layers = [nn.parameters(layer).values() for layer in backbone]
    sizes = [sum(parameter.size for parameter in layer) for layer in layers]
    few = next(place for place in range(len(sizes) + 1) if sum(sizes[place:]) <= SHARE * sum(sizes))
    one = max((place for place, layer in enumerate(layers) if any(p.ndim > 1 for p in layer)), default=0)
    return backbone[: min(few, one)], backbone[min(few, one) :]


def _looked(
    trunk: nn.Sequential, engine: str, images: Any, augment: Pipeline | None, looks: int, seed: int
) -> Generator[Looked, None, NDArray[np.float32]]:
    """What is seen of all pictures at the first look, then at the second, and so on: one after another."""
    see = compile(lambda images: trunk(images, training=False), state=trunk, engine=engine)
    most = evaluation_batch(images.shape[1:])
    count = len(images)
    kept: NDArray[np.float32] | None = None
    for look in range(looks):
        key = random.fold_in(namespace.numpy, random.key(seed), np.uint32(look))
        for start, end in itertools.pairwise(answer_bounds(count, most)):
            yield Looked(look * count + start, looks * count)
            shown, _, _ = varied(augment if look else None, images, np.arange(start, end), key)
            rows = see(filled(shown, most)).numpy()[: end - start]
            if kept is None:
                kept = _room((looks * count, *rows.shape[1:]))
            kept[look * count + start : look * count + end] = rows
            cache.release(images)
    yield Looked(looks * count, looks * count)
    assert kept is not None
    return kept


def _room(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """An array in memory; of a large one, in a file that is gone when nobody holds it any more."""
    size = 4 * math.prod(shape)
    if size <= IN_MEMORY:
        return np.empty(shape, np.float32)
    if not cache.has_room(size):
        raise DataError(f"fine-tuning on so many photos takes {size / 2**30:.1f} GiB of disk in {cache.folder()}")
    try:
        with tempfile.TemporaryFile(dir=cache.private_folder("training")) as file:
            for start in range(0, size, _PIECE):  # a disk that is full is to be an error, not a signal that kills
                file.write(bytes(min(_PIECE, size - start)))
            file.flush()
            return np.memmap(file, np.float32, "r+", shape=shape)
    except OSError as error:
        raise DataError(f"fine-tuning on so many photos takes a file in {cache.folder()}: {error.strerror}") from None
