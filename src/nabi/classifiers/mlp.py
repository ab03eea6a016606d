"""The multilayer perceptron."""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

from nabi import models, nn
from nabi.classifiers.network import NetworkClassifier
from nabi.classifiers.registry import register
from nabi.classifiers.settings import check_choice, check_number, check_sizes


@register("mlp")
@dataclass(eq=False, repr=False)
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
    OTHERS

    Examples
    --------
    >>> from nabi import data
    >>> digits = data.load("digits")
    >>> classifier = MLPClassifier((64,), random_state=0)
    >>> classifier.fit(digits.train.images, digits.train.labels).score(digits.test.images, digits.test.labels) > 0.9
    True
    """

    rates: ClassVar[Mapping[str, float]] = {"sgd": 0.03, "rmsprop": 0.0003, "adam": 0.001, "adamw": 0.001, "muon": 0.03}

    hidden_layer_sizes: Sequence[int] = (512, 256)
    _: KW_ONLY
    activation: str = "relu"
    dropout: float = 0.2
    alpha: float = 5e-4

    def _network(self, seed: int) -> Any:
        return models.mlp(
            self.input_shape_,
            len(self.classes_),
            hidden=tuple(map(int, self.hidden_layer_sizes)),
            activation=self.activation,
            dropout=self.dropout,
            seed=seed,
        )

    def check_settings(self) -> None:
        super().check_settings()
        check_sizes("hidden_layer_sizes", self.hidden_layer_sizes)
        check_number("dropout", self.dropout, least=0, below=1)
        check_choice("activation", self.activation, nn.ACTIVATIONS)
