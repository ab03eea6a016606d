"""Convolutional layers."""

from typing import Any

import numpy as np

from nabi import ops
from nabi._tensor import Tensor, tensor
from nabi.errors import SettingError
from nabi.nn.initializers import Initializer, he_uniform
from nabi.nn.layer import Layer, size
from nabi.ops.convolve import Padding, Pair, pair


class Conv2d(Layer):
    """y[n, p, q, o] = Σ x[n, s·p + d·i, s·q + d·j, c]·w[i, j, c, o] + b[o], over i, j and c

    Stride s, dilation d. Pictures are (N, H, W, C). With groups, the channels are split evenly: each part of the
    outputs sees its own part of the inputs only. A filter ``weight[:, :, :, o]`` of a first layer is a picture.

    Parameters
    ----------
    n_inputs, n_outputs : int
        Channels.
    kernel_size : int or (int, int)
        Height and width of the window.
    key : uint32 array, shape (2,)
        What the initial weights are drawn from.
    stride, dilation : int or (int, int)
    padding : int, (int, int), ((int, int), (int, int)), "same" or "valid"
    groups : int
    bias : bool
        Whether b is added; it starts at 0.
    initializer : callable
        One of `nabi.nn.initializers`.

    Attributes
    ----------
    weight : Tensor, float32, shape (kh, kw, n_inputs / groups, n_outputs)
    bias : Tensor, float32, shape (n_outputs,), or None

    Examples
    --------
    >>> import nabi, numpy as np
    >>> layer = Conv2d(3, 8, 3, key=nabi.random.key(0), padding="same", stride=2)
    >>> layer(np.zeros((1, 32, 32, 3), np.float32)).shape
    (1, 16, 16, 8)
    """

    label = "conv"

    def __init__(
        self,
        n_inputs: int,
        n_outputs: int,
        kernel_size: Pair,
        *,
        key: Any,
        stride: Pair = 1,
        padding: Padding = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = True,
        initializer: Initializer = he_uniform,
    ) -> None:
        size("Conv2d", n_inputs=n_inputs, n_outputs=n_outputs, groups=groups)
        if n_inputs % groups or n_outputs % groups:
            raise SettingError(f"Conv2d: {groups} groups do not divide {n_inputs} inputs and {n_outputs} outputs")
        shape = (*pair(kernel_size, "Conv2d: kernel_size"), n_inputs // groups, n_outputs)
        self.weight = tensor(initializer(key, shape), "weight", requires_grad=True)
        self.bias = tensor(np.zeros(n_outputs, np.float32), "bias", requires_grad=True) if bias else None
        self.stride = stride
        self.padding = padding
        self.dilation = dilation
        self.groups = groups

    def forward(self, x: Any, training: bool) -> Tensor:
        how = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation, "groups": self.groups}
        y: Tensor = ops.conv2d(x, self.weight, **how)
        return y if self.bias is None else y + self.bias
