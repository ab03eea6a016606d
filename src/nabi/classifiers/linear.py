"""The linear classifier: one template a class."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from nabi.classifiers.network import NetworkClassifier
from nabi.classifiers.registry import register
from nabi.classifiers.templates import TemplateClassifier


@register("linear")
@dataclass(eq=False, repr=False)
class LinearClassifier(TemplateClassifier, NetworkClassifier):
    """s = W·x + b: each column of W is the template of a class, of which an input has more or less in it.

    With ``loss="hinge"`` a support vector machine, with ``loss="softmax"`` logistic regression; on standardised inputs,
    by gradient descent. Source: the lecture, chapter 2.8.

    Parameters
    ----------
    loss : str
        "hinge", "softmax" or "perceptron".
    OTHERS

    Attributes
    ----------
    templates_ : ndarray of float32, (K, H, W, C) or (K, features)
        What each class looks for.

    Examples
    --------
    >>> from nabi import data
    >>> digits = data.load("digits")
    >>> classifier = LinearClassifier(random_state=0).fit(digits.train.images, digits.train.labels)
    >>> classifier.score(digits.test.images, digits.test.labels) > 0.9
    True
    """

    rates: ClassVar[Mapping[str, float]] = {"sgd": 1.0, "rmsprop": 0.0003, "adam": 0.001, "adamw": 0.001, "muon": 1.0}

    loss: str = field(default="hinge", kw_only=False)

    def _rate(self, batch_size: int) -> float:
        rate = super()._rate(batch_size)
        if self.learning_rate in ("auto", "find") and self._optimizer() in ("sgd", "muon"):
            # How far a step may go falls with the length of an input, squared: on standardised ones, their features.
            # A softmax's gradient is at most 1 for each class; a hinge's adds up over all that are in the way.
            rate *= (3.0 if self.loss == "softmax" else 0.3) / math.prod(self.input_shape_)
        return rate
