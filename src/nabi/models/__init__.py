"""Models: each a `nabi.nn.Sequential` from raw pictures (N, H, W, C) to scores (N, n_classes)."""

from nabi.models.alexnet import alexnet
from nabi.models.backbones import BACKBONES, Backbone, features, imagenet_classes
from nabi.models.convolutional import convnet
from nabi.models.dense import linear, mlp, three_layer
from nabi.models.mobile import efficientnet_lite0, mobilenet_v2
from nabi.models.residual import resnet18, resnet50

__all__ = [
    "BACKBONES",
    "Backbone",
    "alexnet",
    "convnet",
    "efficientnet_lite0",
    "features",
    "imagenet_classes",
    "linear",
    "mlp",
    "mobilenet_v2",
    "resnet18",
    "resnet50",
    "three_layer",
]
