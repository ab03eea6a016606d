"""The linear classifier: one template a class."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from nabi import models
from nabi.classifiers.network import NetworkClassifier, dense_weights
from nabi.classifiers.registry import register


@register("linear")
class LinearClassifier(NetworkClassifier):
    """s = W·x + b: each column of W is the template of a class, of which an input has more or less in it.

    With ``loss="hinge"`` a support vector machine, with ``loss="softmax"`` logistic regression; on standardised inputs,
    by gradient descent. Source: the lecture, chapter 3.

    Parameters
    ----------
    loss : str
        "hinge", "softmax" or "perceptron".
    alpha : float
        Weight decay.
    max_iter : int or "auto"
        How many epochs; by default what makes 1,000 steps, but between 30 and 50, and no fewer than 500 steps.
    batch_size : int
        At most so many inputs a step.
    learning_rate : float or "auto"
        The highest of the run; by default what suits the optimiser, and with "sgd" the number of features.
    optimizer : str
        "sgd" (with Nesterov's momentum 0.9), "rmsprop", "adam" or "adamw".
    schedule : str
        "cosine", "one-cycle" or "constant".
    flip : bool
        Train on pictures and their mirror images.
    random_state : int, RandomState or None
        An integer gives the same bits every time.
    engine : str
        See `nabi.compile`.

    Examples
    --------
    >>> from nabi import data
    >>> digits = data.load("digits")
    >>> classifier = LinearClassifier(random_state=0).fit(digits.train.images, digits.train.labels)
    >>> classifier.score(digits.test.images, digits.test.labels) > 0.9
    True
    """

    rates: ClassVar[Mapping[str, float]] = {"sgd": 1.0, "rmsprop": 0.0003, "adam": 0.001, "adamw": 0.001}

    def __init__(
        self,
        loss: str = "hinge",
        *,
        alpha: float = 1e-4,
        max_iter: int | str = "auto",
        batch_size: int = 128,
        learning_rate: float | str = "auto",
        optimizer: str = "sgd",
        schedule: str = "cosine",
        flip: bool = False,
        random_state: Any = None,
        engine: str = "auto",
    ) -> None:
        self.loss = loss
        self.alpha = alpha
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.optimizer = optimizer
        self.schedule = schedule
        self.flip = flip
        self.random_state = random_state
        self.engine = engine

    def _rate(self, batch_size: int) -> float:
        rate = super()._rate(batch_size)
        if self.learning_rate == "auto" and self.optimizer == "sgd":
            # How far a step may go falls with the length of an input, squared: on standardised ones, their features.
            # A softmax's gradient is at most 1 for each class; a hinge's adds up over all that are in the way.
            rate *= (3.0 if self.loss == "softmax" else 0.3) / math.prod(self.input_shape_)
        return rate

    def _network(self, seed: int) -> Any:
        model = models.linear(self.input_shape_, len(self.classes_), seed=seed)
        # Nothing has to break a symmetry here, and random weights would stay in the templates as noise.
        model.linear.weight.assign(np.zeros(model.linear.weight.shape, np.float32))
        return model

    def _weight_count(self) -> int:
        return dense_weights(math.prod(self.input_shape_), len(self.classes_))
