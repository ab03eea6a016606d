"""Training the last part of a backbone, too, once a head has learnt from its features."""

from collections.abc import Generator
from copy import deepcopy
from functools import partial
from typing import Any

from nabi import nn
from nabi._tensor import Tensor
from nabi.losses import LOSSES
from nabi.optim import AdamW, cosine
from nabi.training import Event, Examples, GradientDescent, batch_bounds, run

SHARE = 0.6
"""Of a backbone's parameters, counted from its end: how many are trained with the head."""

BATCH, LEARNING_RATE, WEIGHT_DECAY, LABEL_SMOOTHING = 32, 2e-4, 0.01, 0.1


class Whole(nn.Layer):
    """A backbone and a head as one network, of which the last part learns.

    Batch normalisation keeps the statistics that it came with: those of a million pictures are better than what a batch
    of few can tell.

    Parameters
    ----------
    backbone, head : Sequential
        Copied: what others know of them stays as it is.
    """

    label = "whole"

    def __init__(self, backbone: nn.Sequential, head: nn.Sequential) -> None:
        self.backbone = deepcopy(backbone)
        self.head = deepcopy(head)

    def forward(self, x: Any, training: bool) -> Tensor:
        return self.head.forward(self.backbone.forward(x, training=False), training)


def finetune(
    backbone: nn.Sequential,
    head: nn.Sequential,
    examples: Examples,
    validation: tuple[Any, Any] | None,
    *,
    epochs: int,
    seed: int,
    engine: str,
    **options: Any,
) -> Generator[Event, None, tuple[nn.Sequential, nn.Sequential]]:
    """Train a head and the last part of a backbone together, from where they are.

    Source: Yosinski and others, "How transferable are features in deep neural networks?" (2014).

    Parameters
    ----------
    backbone : Sequential
        From pictures to features.
    head : Sequential
        From features to scores.
    examples : Examples
    validation : (images, labels), optional
    epochs, seed, engine, **options
        As for `nabi.training.run`.

    Returns
    -------
    backbone, head : Sequential
        New ones.
    """
    whole = Whole(backbone, head)
    learnt = nn.parameters(whole.backbone)
    left = (1 - SHARE) * sum(parameter.size for parameter in learnt.values())
    for parameter in learnt.values():
        if left < parameter.size:
            break
        left -= parameter.size
        parameter.requires_grad = False
    optimizer = AdamW(nn.parameters(whole), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    steps = epochs * (len(batch_bounds(len(examples.images), BATCH)) - 1)
    loss = partial(LOSSES["softmax"], label_smoothing=LABEL_SMOOTHING)
    yield from run(
        GradientDescent(whole, optimizer, loss, engine=engine),
        loss,
        examples,
        validation,
        epochs=epochs,
        batch_size=BATCH,
        schedule=cosine(LEARNING_RATE, steps),
        seed=seed,
        engine=engine,
        **options,
    )
    for parameter in learnt.values():
        parameter.requires_grad = True
    return whole.backbone, whole.head
