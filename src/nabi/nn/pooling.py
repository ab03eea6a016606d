"""Layers that make pictures smaller."""

import math
from typing import Any

from nabi import ops
from nabi._tensor import Tensor
from nabi.nn.layer import Layer
from nabi.ops.convolve import Padding, Pair, pair


class MaxPool2d(Layer):
    """y = the largest x in each window, channel by channel

    Parameters
    ----------
    kernel_size : int or (int, int)
    stride : int or (int, int), optional
        The size of the window where it is not given.
    padding : int, (int, int), ((int, int), (int, int)), "same" or "valid"
        The border is minus infinity, so that it never wins.

    Examples
    --------
    >>> import nabi
    >>> MaxPool2d(2)(nabi.tensor([[1.0, 2.0], [3.0, 4.0]]).reshape(1, 2, 2, 1)).item()
    4.0
    """

    label = "max_pool"

    def __init__(self, kernel_size: Pair, stride: Pair | None = None, padding: Padding = 0) -> None:
        self.kernel_size = pair(kernel_size, f"{type(self).__name__}: kernel_size")
        self.stride = self.kernel_size if stride is None else pair(stride, f"{type(self).__name__}: stride")
        self.padding = padding

    def forward(self, x: Any, training: bool) -> Tensor:
        y: Tensor = ops.max_pool2d(x, kernel_size=self.kernel_size, stride=self.stride, padding=self.padding)
        return y


class AvgPool2d(MaxPool2d):
    """y = the mean of x in each window, channel by channel; the zeros of the border are counted

    Parameters are those of `MaxPool2d`.
    """

    label = "avg_pool"

    def forward(self, x: Any, training: bool) -> Tensor:
        y: Tensor = ops.avg_pool2d(x, kernel_size=self.kernel_size, stride=self.stride, padding=self.padding)
        return y


class GlobalAvgPool(Layer):
    """y[n, c] = the mean of x[n, :, :, c]: from (N, H, W, C) to (N, C), whatever height and width are

    Source: Lin, Chen and Yan, "Network in network" (2014), section 3.2.
    """

    label = "global_avg_pool"

    def forward(self, x: Any, training: bool) -> Tensor:
        y: Tensor = ops.mean(x, axis=(1, 2))
        return y


class Flatten(Layer):
    """y = x with all axes but the first laid out in a row: (N, H, W, C) becomes (N, H·W·C)"""

    label = "flatten"

    def forward(self, x: Any, training: bool) -> Tensor:
        y: Tensor = ops.reshape(
            x, shape=(x.shape[0], math.prod(x.shape[1:]))
        )  # not -1, which an empty batch leaves open
        return y
