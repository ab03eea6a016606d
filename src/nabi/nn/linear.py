"""Fully connected layers."""

from typing import Any

import numpy as np

from nabi._tensor import Tensor, tensor
from nabi.errors import ShapeError
from nabi.nn.initializers import Initializer, glorot_uniform
from nabi.nn.layer import Layer, size


class Linear(Layer):
    """y = x·W + b

    A column of W is the template of one output: on pictures it can be looked at as a picture. Source: the lecture,
    chapters 2.8 and 5.2.

    Parameters
    ----------
    n_inputs, n_outputs : int
    key : uint32 array, shape (2,)
        What the initial weights are drawn from.
    bias : bool
        Whether b is added; it starts at 0.
    initializer : callable
        One of `nabi.nn.initializers`.

    Attributes
    ----------
    weight : Tensor, float32, shape (n_inputs, n_outputs)
    bias : Tensor, float32, shape (n_outputs,), or None

    Examples
    --------
    >>> import nabi
    >>> layer = Linear(3, 2, key=nabi.random.key(0))
    >>> layer(nabi.tensor([[0.0, 0.0, 0.0]]))
    tensor([[0., 0.]])
    """

    label = "linear"

    def __init__(
        self,
        n_inputs: int,
        n_outputs: int,
        *,
        key: Any,
        bias: bool = True,
        initializer: Initializer = glorot_uniform,
    ) -> None:
        size("Linear", n_inputs=n_inputs, n_outputs=n_outputs)
        self.weight = tensor(initializer(key, (n_inputs, n_outputs)), "weight", requires_grad=True)
        self.bias = tensor(np.zeros(n_outputs, np.float32), "bias", requires_grad=True) if bias else None

    def forward(self, x: Any, training: bool) -> Tensor:
        if not x.shape or x.shape[-1] != self.weight.shape[0]:
            raise ShapeError(f"Linear: x {x.shape} must end in the {self.weight.shape[0]} inputs of the weight")
        y: Tensor = x @ self.weight
        return y if self.bias is None else y + self.bias
