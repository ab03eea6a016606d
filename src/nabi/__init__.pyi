# What the lazy public face shows, for type checkers; tests/test_house.py holds it against __init__.py.
from nabi import cache as cache
from nabi import classifiers as classifiers
from nabi import data as data
from nabi import errors as errors
from nabi import figures as figures
from nabi import look as look
from nabi import losses as losses
from nabi import metrics as metrics
from nabi import models as models
from nabi import nn as nn
from nabi import ops as ops
from nabi import optim as optim
from nabi import random as random
from nabi import training as training
from nabi._compile import compile as compile
from nabi._tensor import Tensor as Tensor
from nabi._tensor import from_dlpack as from_dlpack
from nabi._tensor import tensor as tensor
from nabi.autodiff import grad as grad
from nabi.autodiff import gradients as gradients
from nabi.autodiff import value_and_grad as value_and_grad
from nabi.classifiers import ConvNetClassifier as ConvNetClassifier
from nabi.classifiers import FeatureExtractor as FeatureExtractor
from nabi.classifiers import KNNClassifier as KNNClassifier
from nabi.classifiers import LinearClassifier as LinearClassifier
from nabi.classifiers import MLPClassifier as MLPClassifier
from nabi.classifiers import Perceptron as Perceptron
from nabi.classifiers import PhotoClassifier as PhotoClassifier
from nabi.classifiers import ThreeLayerClassifier as ThreeLayerClassifier
from nabi.classifiers import load as load
from nabi.gradient_check import check_gradients as check_gradients
from nabi.graph.interpreter import no_grad as no_grad
from nabi.graph.interpreter import scope as scope
from nabi.threads import set_num_threads as set_num_threads

__version__: str
