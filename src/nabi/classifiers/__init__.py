"""Classifiers as scikit-learn estimators, and the one reader of model files."""

from nabi.classifiers.base import Classifier
from nabi.classifiers.convnet import ConvNetClassifier
from nabi.classifiers.features import FeatureExtractor
from nabi.classifiers.knn import KNNClassifier
from nabi.classifiers.linear import LinearClassifier
from nabi.classifiers.loading import load
from nabi.classifiers.mlp import MLPClassifier
from nabi.classifiers.network import NetworkClassifier
from nabi.classifiers.perceptron import Perceptron
from nabi.classifiers.photo import PhotoClassifier
from nabi.classifiers.pretrained import pretrained
from nabi.classifiers.registry import register, registered, registry
from nabi.classifiers.settings import NetworkSettings, TrainingSettings
from nabi.classifiers.three_layer import ThreeLayerClassifier
from nabi.classifiers.trained import TrainedClassifier

__all__ = [
    "Classifier",
    "ConvNetClassifier",
    "FeatureExtractor",
    "KNNClassifier",
    "LinearClassifier",
    "MLPClassifier",
    "NetworkClassifier",
    "NetworkSettings",
    "Perceptron",
    "PhotoClassifier",
    "ThreeLayerClassifier",
    "TrainedClassifier",
    "TrainingSettings",
    "load",
    "pretrained",
    "register",
    "registered",
    "registry",
]
