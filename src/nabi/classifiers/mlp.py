"""The multilayer perceptron."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from nabi import models, nn
from nabi.classifiers.network import NetworkClassifier, check_sizes, dense_weights, one_of
from nabi.classifiers.registry import register
from nabi.errors import SettingError


@register("mlp")
class MLPClassifier(NetworkClassifier):
    """Fully connected layers, one after another: each learns features of the features before it.

    Source: the lecture, chapter 5.

    Parameters
    ----------
    hidden_layer_sizes : sequence of int
        Units of each hidden layer.
    activation : str
        One of `nabi.nn.ACTIVATIONS`.
    dropout : float
        With which probability a hidden unit is left out of a step of training.
    loss : str
        "softmax", "hinge" or "perceptron".
    alpha, max_iter, batch_size, learning_rate, optimizer, schedule, flip, random_state, engine
        As for `LinearClassifier`.

    Examples
    --------
    >>> from nabi import data
    >>> digits = data.load("digits")
    >>> classifier = MLPClassifier((64,), random_state=0)
    >>> classifier.fit(digits.train.images, digits.train.labels).score(digits.test.images, digits.test.labels) > 0.9
    True
    """

    rates: ClassVar[Mapping[str, float]] = {"sgd": 0.03, "rmsprop": 0.0003, "adam": 0.001, "adamw": 0.001}

    def __init__(
        self,
        hidden_layer_sizes: Sequence[int] = (512, 256),
        *,
        activation: str = "relu",
        dropout: float = 0.2,
        loss: str = "softmax",
        alpha: float = 5e-4,
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
        self.activation = activation
        self.dropout = dropout
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
        return models.mlp(
            self.input_shape_,
            len(self.classes_),
            hidden=tuple(map(int, self.hidden_layer_sizes)),
            activation=self.activation,
            dropout=self.dropout,
            seed=seed,
        )

    def _weight_count(self) -> int:
        return dense_weights(math.prod(self.input_shape_), *self.hidden_layer_sizes, len(self.classes_))

    def check_settings(self) -> None:
        super().check_settings()
        check_sizes("hidden_layer_sizes", self.hidden_layer_sizes)
        if isinstance(self.dropout, bool) or not isinstance(self.dropout, int | float) or not 0 <= self.dropout < 1:
            raise SettingError(f"dropout is {self.dropout!r}: it must be 0 or more, and less than 1")
        one_of("activation", self.activation, nn.ACTIVATIONS)
