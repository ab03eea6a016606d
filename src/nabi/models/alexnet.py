"""The network that won the ImageNet challenge of 2012, in both its forms."""

from collections.abc import Iterator
from itertools import count
from typing import Any

from nabi import nn, ops
from nabi.errors import SettingError
from nabi.nn.initializers import he_uniform
from nabi.random import key

FORMS = ("2012", "single-tower")


def alexnet(
    n_classes: int = 1000, *, form: str = "2012", standardize: nn.Standardize | None = None, seed: int = 0
) -> nn.Sequential:
    """Five convolutions and three fully connected layers.

    Parameters
    ----------
    n_classes : int
    form : str
        "2012": pictures of 227×227×3; convolutions 2, 4 and 5 in two groups, as they lay on two GPUs, and response
        normalisation; 60,965,224 parameters for 1,000 classes. Source: Krizhevsky, Sutskever and Hinton, "ImageNet
        classification with deep convolutional neural networks" (2012).
        "single-tower": pictures of 224×224×3; one group, no normalisation; 61,100,840 parameters. Source: Krizhevsky,
        "One weird trick for parallelizing convolutional neural networks" (2014), as torchvision has it.
    standardize : Standardize, optional
        The first layer; where it is not given, one with mean 0 and standard deviation 1 per channel.
    seed : int
        What the initial weights are drawn from: He's, which train without the paper's care for biases and rates.

    Returns
    -------
    Sequential
        From a batch (N, 227, 227, 3) or (N, 224, 224, 3) to scores (N, n_classes).
    """
    keys = (ops.fold_in(key(seed), number) for number in count())
    if form == "2012":
        layers = _net_of_2012(n_classes, keys)
    elif form == "single-tower":
        layers = _single_tower(n_classes, keys)
    else:
        raise SettingError(f"alexnet: form {form!r} is not one of {', '.join(FORMS)}")
    return nn.Sequential(standardize or nn.Standardize.identity((3,)), *layers)


def _net_of_2012(n_classes: int, keys: Iterator[Any]) -> list[nn.Layer]:
    return [
        nn.Conv2d(3, 96, 11, stride=4, key=next(keys)),
        nn.ReLU(),
        nn.LocalResponseNorm(),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(96, 256, 5, padding=2, groups=2, key=next(keys)),
        nn.ReLU(),
        nn.LocalResponseNorm(),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(256, 384, 3, padding=1, key=next(keys)),
        nn.ReLU(),
        nn.Conv2d(384, 384, 3, padding=1, groups=2, key=next(keys)),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1, groups=2, key=next(keys)),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Flatten(),
        nn.Linear(6 * 6 * 256, 4096, key=next(keys), initializer=he_uniform),
        nn.ReLU(),
        nn.Dropout(0.5, key=next(keys)),
        nn.Linear(4096, 4096, key=next(keys), initializer=he_uniform),
        nn.ReLU(),
        nn.Dropout(0.5, key=next(keys)),
        nn.Linear(4096, n_classes, key=next(keys)),
    ]


def _single_tower(n_classes: int, keys: Iterator[Any]) -> list[nn.Layer]:
    return [
        nn.Conv2d(3, 64, 11, stride=4, padding=2, key=next(keys)),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(64, 192, 5, padding=2, key=next(keys)),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(192, 384, 3, padding=1, key=next(keys)),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1, key=next(keys)),
        nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1, key=next(keys)),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Flatten(),
        nn.Dropout(0.5, key=next(keys)),
        nn.Linear(6 * 6 * 256, 4096, key=next(keys), initializer=he_uniform),
        nn.ReLU(),
        nn.Dropout(0.5, key=next(keys)),
        nn.Linear(4096, 4096, key=next(keys), initializer=he_uniform),
        nn.ReLU(),
        nn.Linear(4096, n_classes, key=next(keys)),
    ]
