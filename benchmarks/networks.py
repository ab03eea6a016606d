"""The networks that are measured, as plain data: every side builds the same layers and begins with the same weights.

Nothing here imports nabi or a peer, so that a process that measures one of them holds nothing of the others.
Pictures are (N, H, W, C), weights of convolutions (kh, kw, in, out), those of linear layers (in, out).
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

Arrays = dict[str, Any]


class Conv(NamedTuple):
    """A convolution; ``padding`` on all four sides."""

    inputs: int
    outputs: int
    kernel: int
    stride: int = 1
    padding: int = 0
    groups: int = 1
    bias: bool = True


class Linear(NamedTuple):
    """y = x·W + b"""

    inputs: int
    outputs: int


class Norm(NamedTuple):
    """Batch normalisation, momentum 0.1, epsilon 1e-5."""

    channels: int


class Activation(NamedTuple):
    """relu or relu6."""

    name: str


class Pool(NamedTuple):
    """The largest of each window."""

    kernel: int
    stride: int


class Dropout(NamedTuple):
    """Each element zero with this probability, in training."""

    rate: float


class Mean(NamedTuple):
    """The mean over the picture: (N, H, W, C) becomes (N, C)."""


class Flatten(NamedTuple):
    """(N, H, W, C) becomes a row; the shape is told, since a peer that keeps channels first has another order."""

    height: int
    width: int
    channels: int


Layer = Conv | Linear | Norm | Activation | Pool | Dropout | Mean | Flatten
Network = Sequence[Layer]
RELU, RELU6 = Activation("relu"), Activation("relu6")


def mlp(*widths: int) -> Network:
    """Linear layers with rectifiers between them."""
    layers: list[Layer] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [Linear(inputs, outputs), RELU]
    return layers[:-1]


def convnet(channels: Sequence[int] = (64, 128, 256), depth: int = 3, n_classes: int = 10) -> Network:
    """`nabi.models.convnet` without its first step: blocks of convolution, batch norm, rectifier and pooling."""
    layers: list[Layer] = []
    for outputs in channels:
        layers += [Conv(depth, outputs, 3, padding=1, bias=False), Norm(outputs), RELU, Pool(2, 2)]
        depth = outputs
    return [*layers, Mean(), Linear(depth, n_classes)]


def alexnet(n_classes: int = 10) -> Network:
    """AlexNet in one tower, for pictures of 64×64: its last pool leaves one pixel of the six by six of 224×224."""
    return [
        Conv(3, 64, 11, stride=4, padding=2), RELU, Pool(3, 2),
        Conv(64, 192, 5, padding=2), RELU, Pool(3, 2),
        Conv(192, 384, 3, padding=1), RELU,
        Conv(384, 256, 3, padding=1), RELU,
        Conv(256, 256, 3, padding=1), RELU, Pool(3, 2),
        Flatten(1, 1, 256), Dropout(0.5),
        Linear(256, 4096), RELU, Dropout(0.5),
        Linear(4096, 4096), RELU,
        Linear(4096, n_classes),
    ]  # fmt: skip


def mobilenet(n_classes: int = 1000) -> Network:
    """MobileNet v1: Howard and others, "MobileNets" (2017), table 1; 569 million multiply-adds at 224×224."""
    layers: list[Layer] = [Conv(3, 32, 3, stride=2, padding=1, bias=False), Norm(32), RELU6]
    depth = 32
    for outputs, stride in (
        *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)),
        *((512, 1),) * 5,
        *((1024, 2), (1024, 1)),
    ):
        layers += [Conv(depth, depth, 3, stride=stride, padding=1, groups=depth, bias=False), Norm(depth), RELU6]
        layers += [Conv(depth, outputs, 1, bias=False), Norm(outputs), RELU6]
        depth = outputs
    return [*layers, Mean(), Linear(depth, n_classes)]


def weights(network: Network, seed: int = 0) -> list[Arrays]:
    """Arrays for each layer, float32. Those of batch norm are mixed, so that leaving one out would show."""
    rng = np.random.default_rng(seed)
    normal = lambda scale, *shape: (rng.standard_normal(shape, np.float32) * np.float32(scale)).astype(np.float32)
    found: list[Arrays] = []
    for layer in network:
        match layer:
            case Conv(inputs, outputs, kernel, groups=groups, bias=bias):
                fan = kernel * kernel * inputs // groups
                arrays = {"weight": normal(math.sqrt(2 / fan), kernel, kernel, inputs // groups, outputs)}
                found.append(arrays | ({"bias": normal(0.1, outputs)} if bias else {}))
            case Linear(inputs, outputs):
                found.append({"weight": normal(math.sqrt(2 / inputs), inputs, outputs), "bias": normal(0.1, outputs)})
            case Norm(channels):
                scale, variance = (rng.uniform(0.5, 1.5, channels).astype(np.float32) for _ in range(2))
                found.append(
                    {"weight": scale, "bias": normal(0.1, channels)}
                    | {"running_mean": normal(0.1, channels), "running_variance": variance}
                )
            case _:
                found.append({})
    return found


def batch(shape: tuple[int, ...], n_classes: int, seed: int = 1) -> tuple[Any, Any]:
    """Inputs, float32, standard normal, and labels, int64."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal(shape, np.float32), rng.integers(0, n_classes, shape[0])
