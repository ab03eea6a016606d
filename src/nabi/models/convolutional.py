"""A small convolutional network."""

from collections.abc import Callable, Sequence
from functools import partial

from nabi import nn, ops
from nabi.errors import ShapeError
from nabi.nn.initializers import dirac_first, he_uniform
from nabi.random import key

BIAS_GAIN = 4.0
"""Of the normalisation after whitening: see `nabi.nn.BatchNorm`. With 8 small networks on small pictures diverge."""


def convnet(
    input_shape: tuple[int, ...],
    n_classes: int,
    *,
    channels: Sequence[int] = (64, 128, 256),
    convolutions: int = 1,
    whitening: bool = False,
    container: type[nn.Sequential] = nn.Sequential,
    standardize: nn.Standardize | None = None,
    seed: int = 0,
) -> nn.Sequential:
    """Blocks of 3×3 convolution, batch normalisation, rectifier and 2×2 max-pooling; then the mean over the picture.

    A pool is left out where less than 2×2 would be left. Further convolutions of a block come after its pool, where
    they cost a quarter. Source: Simonyan and Zisserman, "Very deep convolutional networks" (2015), for the 3×3 windows.

    Parameters
    ----------
    input_shape : tuple of int
        (H, W, C) of one picture.
    n_classes : int
    channels : sequence of int
        One block for each: how many channels it gives.
    convolutions : int
        How many convolutions a block has, each with its normalisation and rectifier.
    whitening : bool
        Whether the first layer is a `nabi.nn.Whitening`, whose filters are to be computed from pictures; the other
        convolutions then begin with passing their inputs on, and of what their normalisation learns the biases come
        first: see `nabi.nn.BatchNorm`.
    container : type
        What the layers stand in: `nabi.nn.Mirrored` and `nabi.nn.MultiCrop` look at a picture more than once.
    standardize : Standardize, optional
        The first layer; where it is not given, one with mean 0 and standard deviation 1 per channel.
    seed : int
        What the initial weights are drawn from.

    Returns
    -------
    Sequential
        From a batch (N, H, W, C) to scores (N, n_classes).

    Examples
    --------
    >>> [name for name, _ in convnet((8, 8, 1), 10, channels=(16,)).items()]
    ['standardize', 'conv', 'batch_norm', 'relu', 'max_pool', 'global_avg_pool', 'linear']
    """
    if len(input_shape) != 3:
        raise ShapeError(f"convnet: pictures are (H, W, C), not {tuple(input_shape)}")
    height, width, depth = input_shape
    layers: list[nn.Layer] = [standardize or nn.Standardize.identity(input_shape)]
    initializer = he_uniform
    norm: Callable[[int], nn.Layer] = nn.BatchNorm
    if whitening:
        first = nn.Whitening(depth)
        layers += [first, nn.ReLU()]
        depth, height, width = first.weight.shape[3], height - 1, width - 1
        initializer, norm = dirac_first, partial(nn.BatchNorm, scale=False, bias_gain=BIAS_GAIN)
    for number, outputs in enumerate(channels):
        for repeat in range(convolutions):
            weights = ops.fold_in(key(seed), number + repeat * (len(channels) + 1))
            conv = nn.Conv2d(depth, outputs, 3, key=weights, padding="same", bias=False, initializer=initializer)
            layers.append(conv)  # without a bias: the norm has one
            layers += [norm(outputs), nn.ReLU()]
            if not repeat and min(height, width) >= 4:
                layers.append(nn.MaxPool2d(2))
                height, width = height // 2, width // 2
            depth = outputs
    layers += [nn.GlobalAvgPool(), nn.Linear(depth, n_classes, key=ops.fold_in(key(seed), len(channels)))]
    return container(*layers)
