"""Classifiers as scikit-learn estimators, and the one reader of model files."""

from nabi.classifiers.base import Classifier
from nabi.classifiers.convnet import ConvNetClassifier
from nabi.classifiers.linear import LinearClassifier
from nabi.classifiers.loading import load
from nabi.classifiers.mlp import MLPClassifier
from nabi.classifiers.network import NetworkClassifier
from nabi.classifiers.registry import register, registered, registry
from nabi.classifiers.three_layer import ThreeLayerClassifier

__all__ = [
    "Classifier",
    "ConvNetClassifier",
    "LinearClassifier",
    "MLPClassifier",
    "NetworkClassifier",
    "ThreeLayerClassifier",
    "load",
    "register",
    "registered",
    "registry",
]
