"""A small convolutional network."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from nabi import models
from nabi.classifiers.network import NetworkClassifier, check_sizes, dense_weights
from nabi.classifiers.registry import register


@register("convnet")
class ConvNetClassifier(NetworkClassifier):
    """Filters that look for the same thing everywhere in a picture, and for patterns of what was found.

    Takes pictures (N, H, W, C) only. Source: the lecture, chapter 6.

    Parameters
    ----------
    channels : sequence of int
        For each block (3×3 convolution, batch normalisation, rectifier, 2×2 max-pooling) how many filters it has.
    loss : str
        "softmax", "hinge" or "perceptron".
    alpha, max_iter, batch_size, learning_rate, optimizer, schedule, flip, random_state, engine
        As for `LinearClassifier`.

    Examples
    --------
    >>> from nabi import data
    >>> digits = data.load("digits")
    >>> classifier = ConvNetClassifier((8, 16), max_iter=8, random_state=0)
    >>> classifier.fit(digits.train.images, digits.train.labels).score(digits.test.images, digits.test.labels) > 0.8
    True
    """

    rates: ClassVar[Mapping[str, float]] = {"sgd": 0.1, "rmsprop": 0.001, "adam": 0.002, "adamw": 0.003}

    def __init__(
        self,
        channels: Sequence[int] = (32, 64, 128),
        *,
        loss: str = "softmax",
        alpha: float = 5e-4,
        max_iter: int | str = "auto",
        batch_size: int = 128,
        learning_rate: float | str = "auto",
        optimizer: str = "sgd",
        schedule: str = "one-cycle",
        flip: bool = False,
        random_state: Any = None,
        engine: str = "auto",
    ) -> None:
        self.channels = channels
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
        channels = tuple(map(int, self.channels))
        return models.convnet(self.input_shape_, len(self.classes_), channels=channels, seed=seed)

    def _weight_count(self) -> int:
        widths = (self.input_shape_[-1], *self.channels)
        return 9 * dense_weights(*widths) + dense_weights(widths[-1], len(self.classes_))

    def check_settings(self) -> None:
        super().check_settings()
        check_sizes("channels", self.channels)
