"""Layers: objects with tensors in their fields, called on a batch.

``layer(x, training=False)`` takes and gives tensors with the examples along the first axis; pictures are (N, H, W, C).
What has initial weights draws them from ``key=``, so that the same key gives the same weights.
"""

from nabi.nn import initializers
from nabi.nn.activation import (
    ACTIVATIONS,
    ELU,
    GELU,
    Activation,
    HardSwish,
    LeakyReLU,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Softplus,
    Tanh,
    activation,
)
from nabi.nn.containers import Mirrored, MultiCrop, Residual, Sequential
from nabi.nn.convolution import Conv2d
from nabi.nn.description import build, describe
from nabi.nn.dropout import Dropout
from nabi.nn.layer import Layer
from nabi.nn.linear import Linear
from nabi.nn.normalization import BatchNorm, LocalResponseNorm
from nabi.nn.pooling import AvgPool2d, Flatten, GlobalAvgPool, MaxPool2d
from nabi.nn.reshape import Reshape
from nabi.nn.standardize import Standardize
from nabi.nn.state import load_tensors, parameters, tensors
from nabi.nn.summary import Summary, summary
from nabi.nn.whitening import Whitening

__all__ = [
    "ACTIVATIONS",
    "ELU",
    "GELU",
    "Activation",
    "AvgPool2d",
    "BatchNorm",
    "Conv2d",
    "Dropout",
    "Flatten",
    "GlobalAvgPool",
    "HardSwish",
    "Layer",
    "LeakyReLU",
    "Linear",
    "LocalResponseNorm",
    "MaxPool2d",
    "Mirrored",
    "MultiCrop",
    "ReLU",
    "ReLU6",
    "Reshape",
    "Residual",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softplus",
    "Standardize",
    "Summary",
    "Tanh",
    "Whitening",
    "activation",
    "build",
    "describe",
    "initializers",
    "load_tensors",
    "parameters",
    "summary",
    "tensors",
]
