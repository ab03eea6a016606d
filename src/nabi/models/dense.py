"""Models of fully connected layers: they see an example as a row of numbers."""

import math
from collections.abc import Sequence

from nabi import nn, ops
from nabi.nn.initializers import glorot_uniform, he_uniform
from nabi.random import key

_SATURATING = ("sigmoid", "tanh")  # their scale is kept by Glorot's weights, a rectifier's by He's


def linear(
    input_shape: tuple[int, ...], n_classes: int, *, standardize: nn.Standardize | None = None, seed: int = 0
) -> nn.Sequential:
    """A linear classifier: s = W·x + b, one template a class. Source: the lecture, chapter 2.8.

    Parameters
    ----------
    input_shape : tuple of int
        Of one example: (H, W, C) for pictures, or (features,).
    n_classes : int
    standardize : Standardize, optional
        The first layer; where it is not given, one with mean 0 and standard deviation 1 along the last axis.
    seed : int
        What the initial weights are drawn from.

    Returns
    -------
    Sequential
        From a batch (N, *input_shape) to scores (N, n_classes).

    Examples
    --------
    >>> import nabi
    >>> model = linear((8, 8, 1), 10)
    >>> nabi.nn.parameters(model)["linear.weight"].shape
    (64, 10)
    """
    return _dense(input_shape, n_classes, (), "relu", 0.0, standardize, seed)


def mlp(
    input_shape: tuple[int, ...],
    n_classes: int,
    *,
    hidden: Sequence[int] = (256, 128),
    activation: str = "relu",
    dropout: float = 0.0,
    standardize: nn.Standardize | None = None,
    seed: int = 0,
) -> nn.Sequential:
    """A multilayer perceptron: hₖ = f(Wₖ·hₖ₋₁ + bₖ), and scores from the last. Source: the lecture, chapter 5.2.

    Parameters
    ----------
    input_shape, n_classes, standardize, seed
        As for `linear`.
    hidden : sequence of int
        How many units each hidden layer has.
    activation : str
        One of `nabi.nn.ACTIVATIONS`.
    dropout : float
        With which probability a hidden unit is left out of a step of training.

    Examples
    --------
    >>> [name for name, _ in mlp((8, 8, 1), 10, hidden=(32,)).items()]
    ['standardize', 'flatten', 'linear1', 'relu', 'linear2']
    """
    return _dense(input_shape, n_classes, hidden, activation, dropout, standardize, seed)


def three_layer(
    input_shape: tuple[int, ...],
    n_classes: int,
    *,
    hidden: tuple[int, int] = (256, 256),
    standardize: nn.Standardize | None = None,
    seed: int = 0,
) -> nn.Sequential:
    """The lecture's three-layer network: s = W₃·σ(W₂·σ(W₁·x + b₁) + b₂) + b₃. Source: the lecture, chapter 5.3.

    Parameters are those of `mlp`, with two hidden layers.

    Examples
    --------
    >>> model = three_layer((3,), 1, hidden=(4, 4))
    >>> [model.linear1.weight.shape, model.linear2.weight.shape, model.linear3.weight.shape]
    [(3, 4), (4, 4), (4, 1)]
    """
    first, second = hidden
    return _dense(input_shape, n_classes, (first, second), "sigmoid", 0.0, standardize, seed)


def _dense(
    input_shape: tuple[int, ...],
    n_classes: int,
    hidden: Sequence[int],
    activation: str,
    dropout: float,
    standardize: nn.Standardize | None,
    seed: int,
) -> nn.Sequential:
    layers: list[nn.Layer] = [standardize or nn.Standardize.identity(input_shape), nn.Flatten()]
    initializer = glorot_uniform if activation in _SATURATING else he_uniform
    width = math.prod(input_shape)
    for number, units in enumerate(hidden):
        weights, mask = ops.fold_in(key(seed), 2 * number), ops.fold_in(key(seed), 2 * number + 1)
        layers += [nn.Linear(width, units, key=weights, initializer=initializer), nn.activation(activation)]
        if dropout:
            layers.append(nn.Dropout(dropout, key=mask))
        width = units
    layers.append(nn.Linear(width, n_classes, key=ops.fold_in(key(seed), 2 * len(hidden))))
    return nn.Sequential(*layers)
