"""What each layer of a model makes of a picture."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nabi import nn
from nabi.graph.interpreter import no_grad
from nabi.look.layers import layers, run


class Activation(NamedTuple):
    """What came out of one layer.

    Attributes
    ----------
    name : str
        The layer's path in the model.
    layer : str
        Its class.
    value : ndarray of float32, (H, W, C) or (features,)
    """

    name: str
    layer: str
    value: NDArray[Any]

    @property
    def mean(self) -> float:
        """The mean over all units."""
        return float(self.value.mean(dtype=np.float64))

    @property
    def zeros(self) -> float:
        """The share of units that are exactly 0: after a rectifier, those that stay silent."""
        return float((self.value == 0).mean())


def activations(model: nn.Layer, picture: NDArray[Any]) -> list[Activation]:
    """What comes out of every layer for one picture, looked at once.

    Parameters
    ----------
    model : Layer
    picture : ndarray, (H, W, C)
        As the model takes it.

    Examples
    --------
    >>> from nabi import models
    >>> net = models.mlp((8, 8, 1), 10, hidden=(16,))
    >>> [(a.name, a.value.shape) for a in activations(net, np.zeros((8, 8, 1), np.uint8))]
    [('standardize', (8, 8, 1)), ('flatten', (64,)), ('linear1', (16,)), ('relu', (16,)), ('linear2', (10,))]
    """
    found = []
    y: Any = picture[None]
    with no_grad():
        for name, layer in layers(model):
            y = run([(name, layer)], y)
            found.append(Activation(name, type(layer).__name__, y.numpy()[0]))
    return found
