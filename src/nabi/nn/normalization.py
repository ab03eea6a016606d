"""Layers that keep signals at one scale."""

from typing import Any

import numpy as np

from nabi import ops
from nabi._tensor import Tensor, tensor
from nabi.errors import SettingError, ShapeError
from nabi.nn.layer import Layer, size


class BatchNorm(Layer):
    """y = (x - m) / √(v + ε)·w + r·b, for each channel (the last axis)

    In training, m and v are the batch's own mean and variance, and the running ones move towards them:
    running ← (1 - momentum)·running + momentum·batch, the variance taken with n - 1. Otherwise m and v are the running
    ones, so that an answer does not depend on what else is in the batch. Source: Ioffe and Szegedy, "Batch
    normalization" (2015), algorithms 1 and 2.

    Parameters
    ----------
    n_channels : int
    momentum : float
        How much of the running statistics one batch replaces.
    epsilon : float
        ε.
    scale : bool
        Whether w is trained; otherwise it stays 1.
    bias_gain : float
        r: how many times as large as b its effect is. Under gradient descent, what b does is then learnt r² times as
        fast, which shortens the training of small networks (Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU",
        2024, section 3.4).

    Attributes
    ----------
    weight, bias : Tensor, float32, shape (n_channels,)
        w and b, trained.
    running_mean, running_variance : Tensor, float32, shape (n_channels,)
        State: kept with the weights but not trained.
    """

    label = "batch_norm"

    def __init__(
        self,
        n_channels: int,
        *,
        momentum: float = 0.1,
        epsilon: float = 1e-5,
        scale: bool = True,
        bias_gain: float = 1.0,
    ) -> None:
        size("BatchNorm", n_channels=n_channels)
        if not 0 <= momentum <= 1:
            raise SettingError(f"BatchNorm: momentum={momentum} must lie in [0, 1]")
        if not 0 < bias_gain < np.inf:
            raise SettingError(f"BatchNorm: bias_gain={bias_gain} must be above 0")
        self.weight = tensor(np.ones(n_channels, np.float32), "weight", requires_grad=scale)
        self.bias = tensor(np.zeros(n_channels, np.float32), "bias", requires_grad=True)
        self.running_mean = tensor(np.zeros(n_channels, np.float32), "running_mean")
        self.running_variance = tensor(np.ones(n_channels, np.float32), "running_variance")
        self.momentum = momentum
        self.epsilon = epsilon
        self.bias_gain = bias_gain

    def forward(self, x: Any, training: bool) -> Tensor:
        y: Tensor
        bias = self.bias if self.bias_gain == 1 else self.bias * self.bias_gain
        if x.ndim < 2 or x.shape[-1:] != self.weight.shape:
            raise ShapeError(f"BatchNorm: x {x.shape} must end in {self.weight.shape[0]} channels")
        if not training:
            scale = self.weight / ops.sqrt(self.running_variance + self.epsilon)
            y = (x - self.running_mean) * scale + bias
            return y
        y, mean, variance = ops.batch_norm(x, self.weight, bias, epsilon=self.epsilon)
        count = x.size // x.shape[-1]
        self._follow(self.running_mean, mean)
        self._follow(self.running_variance, variance * (count / max(count - 1, 1)))
        return y

    def _follow(self, running: Tensor, batch: Tensor) -> None:
        moved = (1 - self.momentum) * running + self.momentum * ops.stop_gradient(batch)
        running.assign(moved.astype(running.dtype))


class LocalResponseNorm(Layer):
    """y = x / (k + α·Σ x²)ᵝ, summed over the ``size`` nearest channels

    With the constants of the 2012 net, where α is not divided by the size. Source: Krizhevsky, Sutskever and Hinton,
    "ImageNet classification with deep convolutional neural networks" (2012), section 3.3.
    """

    label = "response_norm"

    def __init__(self, size: int = 5, *, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0) -> None:
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise SettingError(f"LocalResponseNorm: size must be an integer of at least 1, not {size!r}")
        self.size = size
        self.alpha = alpha
        self.beta = beta
        self.k = k

    def forward(self, x: Any, training: bool) -> Tensor:
        y: Tensor = ops.local_response_norm(x, size=self.size, alpha=self.alpha, beta=self.beta, k=self.k)
        return y
