"""Explanations: what a picture is to the computer, what a model makes of it, and why.

Functions of plain arrays, of a ``scores`` callable, or of a `nabi.nn` model; nothing here knows a classifier.

::

    grid         a picture as rows of numbers           page         the same as a page of its own
    scores       softmax, and the hinge loss by terms   distances    three pictures at one distance from a fourth
    exactly      a picture moved to an exact distance   layers       a model as a list of layers
    activations  what each layer makes of a picture     saliency     the gradient of a score on the pixels
    occlusion    a score while a patch hides a part     grad_cam     where the last convolution saw it
"""

from nabi.look.activations import Activation, activations
from nabi.look.distances import Version, same_distance
from nabi.look.grad_cam import GradCAM, grad_cam
from nabi.look.grid import View, view
from nabi.look.occlusion import Occlusion, occlusion
from nabi.look.page import page
from nabi.look.saliency import saliency
from nabi.look.scores import HingeTerm, hinge_terms
from nabi.metrics import softmax

__all__ = [
    "Activation",
    "GradCAM",
    "HingeTerm",
    "Occlusion",
    "Version",
    "View",
    "activations",
    "grad_cam",
    "hinge_terms",
    "occlusion",
    "page",
    "saliency",
    "same_distance",
    "softmax",
    "view",
]
