"""The lecture's three-layer network."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from nabi import models
from nabi.classifiers.network import NetworkClassifier
from nabi.classifiers.registry import register
from nabi.classifiers.settings import check_sizes


@register("three-layer")
@dataclass(eq=False, repr=False)
class ThreeLayerClassifier(NetworkClassifier):
    """s = W₃·σ(W₂·σ(W₁·x + b₁) + b₂) + b₃: the sigmoid network that the lecture writes down in three lines.

    Source: the lecture, chapter 5.

    Parameters
    ----------
    hidden_layer_sizes : (int, int)
        Units of the two hidden layers.
    loss : str
        "softmax", "hinge" or "perceptron".
    OTHERS

    Examples
    --------
    >>> from nabi import data
    >>> digits = data.load("digits")
    >>> classifier = ThreeLayerClassifier((64, 64), random_state=0)
    >>> classifier.fit(digits.train.images, digits.train.labels).score(digits.test.images, digits.test.labels) > 0.9
    True
    """

    rates: ClassVar[Mapping[str, float]] = {"sgd": 0.1, "rmsprop": 0.0003, "adam": 0.003, "adamw": 0.003, "muon": 0.1}

    hidden_layer_sizes: tuple[int, int] = (512, 256)

    def _network(self, seed: int) -> Any:
        first, second = map(int, self.hidden_layer_sizes)
        return models.three_layer(self.input_shape_, len(self.classes_), hidden=(first, second), seed=seed)

    def check_settings(self) -> None:
        super().check_settings()
        check_sizes("hidden_layer_sizes", self.hidden_layer_sizes, count=2)
