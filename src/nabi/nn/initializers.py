"""Initial weights: random, and of such a size that signals neither die out nor explode on their way through a net.

Each initializer is a function of a key and a shape. For a weight of shape (..., in, out), the fan-in is the number of
inputs that one output adds up, everything but the last axis; the fan-out is out times the size of the window.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from nabi import ops
from nabi.graph.operation import Operation

Weights = npt.NDArray[np.float32]
Initializer = Callable[[Any, tuple[int, ...]], Weights]

BLOCK = 1 << 15
"""How many numbers are drawn at once, so that they stay in the processor's cache."""


def he_uniform(key: Any, shape: tuple[int, ...]) -> Weights:
    """w ~ uniform in ±√(6 / fan-in): variance 2 / fan-in, for layers followed by a rectifier.

    Source: He and others, "Delving deep into rectifiers" (2015), equation 10.

    Examples
    --------
    >>> import nabi
    >>> weights = he_uniform(nabi.random.key(0), (6, 100))
    >>> bool(abs(weights).max() <= 1)
    True
    """
    return _uniform(key, shape, math.sqrt(6 / fans(shape)[0]))


def he_normal(key: Any, shape: tuple[int, ...]) -> Weights:
    """w ~ normal with variance 2 / fan-in; see `he_uniform`."""
    return _normal(key, shape, math.sqrt(2 / fans(shape)[0]))


def glorot_uniform(key: Any, shape: tuple[int, ...]) -> Weights:
    """w ~ uniform in ±√(6 / (fan-in + fan-out)): for layers followed by sigmoid, tanh or nothing.

    Source: Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks" (2010),
    equation 16.
    """
    return _uniform(key, shape, math.sqrt(6 / sum(fans(shape))))


def glorot_normal(key: Any, shape: tuple[int, ...]) -> Weights:
    """w ~ normal with variance 2 / (fan-in + fan-out); see `glorot_uniform`."""
    return _normal(key, shape, math.sqrt(2 / sum(fans(shape))))


def dirac_first(key: Any, shape: tuple[int, ...]) -> Weights:
    """The first outputs pass the inputs on, the others are as `he_uniform` has them.

    Whatever a layer learns later, the layer above sees its inputs from the first step on. Source: Jordan, "94% on
    CIFAR-10 in 3.29 seconds on a single GPU" (2024), section 3.2.

    Examples
    --------
    >>> import nabi
    >>> weights = dirac_first(nabi.random.key(0), (3, 3, 4, 8))
    >>> weights[1, 1, :, :4]  # doctest: +NORMALIZE_WHITESPACE
    array([[1., 0., 0., 0.], [0., 1., 0., 0.], [0., 0., 1., 0.], [0., 0., 0., 1.]], dtype=float32)
    """
    weights = he_uniform(key, shape)
    height, width, inputs, outputs = shape
    passed = min(inputs, outputs)
    weights[..., :passed] = 0
    weights[height // 2, width // 2, range(passed), range(passed)] = 1
    return weights


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """The fan-in and fan-out of a weight.

    Examples
    --------
    >>> fans((784, 10)), fans((3, 3, 16, 32))
    ((784, 10), (144, 288))
    """
    return math.prod(shape[:-1]), math.prod(shape[:-2]) * shape[-1]


def _uniform(key: Any, shape: tuple[int, ...], bound: float) -> Weights:
    return _draw(ops.random_uniform, key, shape) * np.float32(2 * bound) - np.float32(bound)


def _normal(key: Any, shape: tuple[int, ...], deviation: float) -> Weights:
    return _draw(ops.random_normal, key, shape) * np.float32(deviation)


def _draw(distribution: Operation, key: Any, shape: tuple[int, ...]) -> Weights:
    """Numbers from a distribution, block after block, each with a key of its own."""
    result = np.empty(math.prod(shape), dtype=np.float32)
    for number, start in enumerate(range(0, result.size, BLOCK)):
        block = result[start : start + BLOCK]
        block[:] = distribution(ops.fold_in(key, number), shape=block.shape).value
    return result.reshape(shape)
