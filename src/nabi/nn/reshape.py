"""The same numbers in another shape."""

from typing import Any

from nabi import ops
from nabi._tensor import Tensor
from nabi.nn.layer import Layer


class Reshape(Layer):
    """y = x, each example in the shape ``shape``

    Parameters
    ----------
    shape : tuple of int
        Of one example, without the batch's axis.

    Examples
    --------
    >>> import numpy as np
    >>> Reshape((2, 3, 1))(np.zeros((5, 6), np.float32)).shape
    (5, 2, 3, 1)
    """

    label = "reshape"

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = tuple(shape)

    def forward(self, x: Any, training: bool) -> Tensor:
        y: Tensor = ops.reshape(x, shape=(x.shape[0], *self.shape))
        return y
