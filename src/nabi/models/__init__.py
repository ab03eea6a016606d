"""Models: each a `nabi.nn.Sequential` from raw pictures (N, H, W, C) to scores (N, n_classes)."""

from collections.abc import Callable

from nabi.models.alexnet import alexnet
from nabi.models.convolutional import convnet
from nabi.models.dense import linear, mlp, three_layer
from nabi.nn import Sequential

MODELS: dict[str, Callable[..., Sequential]] = {
    "linear": linear,
    "mlp": mlp,
    "three-layer": three_layer,
    "convnet": convnet,
}
"""The models for pictures of any size, by the names that people choose them by: each takes (input_shape, n_classes)."""

__all__ = ["MODELS", "alexnet", "convnet", "linear", "mlp", "three_layer"]
