"""The lecture's three-layer network."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from nabi import models
from nabi.classifiers.network import NetworkClassifier, check_sizes, dense_weights
from nabi.classifiers.registry import register


@register("three-layer")
class ThreeLayerClassifier(NetworkClassifier):
    """s = W₃·σ(W₂·σ(W₁·x + b₁) + b₂) + b₃: the sigmoid network that the lecture writes down in three lines.

    Source: the lecture, chapter 5.

    Parameters
    ----------
    hidden_layer_sizes : (int, int)
        Units of the two hidden layers.
    loss : str
        "softmax", "hinge" or "perceptron".
    alpha, max_iter, batch_size, learning_rate, optimizer, schedule, flip, random_state, engine
        As for `LinearClassifier`.

    Examples
    --------
    >>> from nabi import data
    >>> digits = data.load("digits")
    >>> classifier = ThreeLayerClassifier((64, 64), random_state=0)
    >>> classifier.fit(digits.train.images, digits.train.labels).score(digits.test.images, digits.test.labels) > 0.9
    True
    """

    rates: ClassVar[Mapping[str, float]] = {"sgd": 0.1, "rmsprop": 0.0003, "adam": 0.003, "adamw": 0.003}

    def __init__(
        self,
        hidden_layer_sizes: tuple[int, int] = (512, 256),
        *,
        loss: str = "softmax",
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
        self.hidden_layer_sizes = hidden_layer_sizes
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

    def _network(self, seed: int) -> Any:
        first, second = map(int, self.hidden_layer_sizes)
        return models.three_layer(self.input_shape_, len(self.classes_), hidden=(first, second), seed=seed)

    def _weight_count(self) -> int:
        return dense_weights(math.prod(self.input_shape_), *self.hidden_layer_sizes, len(self.classes_))

    def check_settings(self) -> None:
        super().check_settings()
        check_sizes("hidden_layer_sizes", self.hidden_layer_sizes, count=2)
