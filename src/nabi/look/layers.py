"""A model as a list of layers, one after another."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nabi import nn
from nabi._tensor import Tensor, tensor
from nabi.errors import SettingError, ShapeError

Named = tuple[str, nn.Layer]


def layers(model: nn.Layer) -> list[Named]:
    """The layers that a batch passes through, in order, by their paths; a `Sequential` inside another is opened.

    Examples
    --------
    >>> from nabi import models
    >>> [name for name, _ in layers(models.linear((8, 8, 1), 10))]
    ['standardize', 'flatten', 'linear']
    """
    return list(_opened(model, ""))


def _opened(layer: nn.Layer, name: str) -> Iterator[Named]:
    if not isinstance(layer, nn.Sequential):
        yield name or layer.label, layer
        return
    for part, child in layer.items():
        yield from _opened(child, f"{name}.{part}" if name else part)


def run(part: Sequence[Named], x: Any) -> Tensor:
    """Pass a batch through some layers, as when predicting."""
    y: Tensor = x if isinstance(x, Tensor) else tensor(x)
    for _, layer in part:
        y = layer(y, training=False)
    return y


def as_batch(picture: NDArray[Any]) -> NDArray[np.float32]:
    """One example as a batch of floats on which a gradient can be taken, white being 1.

    The first layer of a model divides uint8 by 255 itself; floats it takes as they are.
    """
    if picture.dtype == np.uint8:
        return picture[None].astype(np.float32) / np.float32(255)
    return picture[None].astype(np.float32)


def score_of(scores: Tensor, place: int) -> Tensor:
    """The score of one class, of a batch of one."""
    if scores.ndim != 2 or scores.shape[0] != 1:
        raise ShapeError(f"look: the model gives {scores.shape}; scores are (N, K)")
    if not 0 <= place < scores.shape[1]:
        raise SettingError(f"look: class {place} is not one of {scores.shape[1]} classes")
    score: Tensor = scores[0, place]
    return score
