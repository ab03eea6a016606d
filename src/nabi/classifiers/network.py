"""Classifiers that are trained by gradient descent: what they have in common."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.metaestimators import available_if

from nabi import nn
from nabi.classifiers.base import Answers
from nabi.classifiers.settings import SCHEDULES, NetworkSettings
from nabi.classifiers.trained import TrainedClassifier
from nabi.errors import SettingError
from nabi.losses import LOSSES
from nabi.metrics import softmax
from nabi.optim import OPTIMIZERS
from nabi.training import Examples, GradientDescent, RangeTest, batch_bounds, find_learning_rate

_MOMENTUM = {"sgd": {"momentum": 0.9, "nesterov": True}}


def _gives_probabilities(classifier: Any) -> bool:
    if classifier.loss != "softmax":
        raise AttributeError(f"predict_proba needs loss='softmax': scores of loss={classifier.loss!r} are no logits")
    return True


class NetworkClassifier(NetworkSettings, TrainedClassifier):
    """A classifier that is trained by gradient descent; a subclass says which network.

    Attributes
    ----------
    range_test_ : RangeTest
        Only with ``learning_rate="find"``: how the loss went while the learning rate rose.
    """

    range_test_: RangeTest

    rates: ClassVar[Mapping[str, float]]
    """The learning rate that ``learning_rate="auto"`` stands for, by optimiser."""
    enough_steps: ClassVar[int] = 1000
    usual_epochs: ClassVar[tuple[int, int]] = (30, 50)
    """What ``max_iter="auto"`` stands for: the epochs that make so many steps, but within these bounds."""

    @available_if(_gives_probabilities)
    def predict_proba(self, X: ArrayLike) -> NDArray[np.float32]:
        """The probability of each class, by the softmax of the scores.

        Only with ``loss="softmax"``: other losses teach scores that are no logarithms of probabilities.

        Returns
        -------
        ndarray of float32, (N, K)
            In the order of ``classes_``.
        """
        found: NDArray[np.float32] = self._probabilities(X)
        return found

    def answers(self, X: ArrayLike) -> Answers:
        found = super().answers(X)
        if self.loss != "softmax":
            return found
        return found._replace(probabilities=softmax(found.scores).astype(np.float32))

    # --- what `TrainedClassifier` asks for ---

    def _batch(self) -> int:
        return self.batch_size

    def _partial_rate(self, batch_size: int) -> float:
        if self.learning_rate == "find":
            raise SettingError("learning_rate 'find' needs all inputs: partial_fit sees a part of them")
        return self._rate(batch_size)

    def _learner(self, batch_size: int) -> GradientDescent:
        name = self._optimizer()
        optimizer = OPTIMIZERS[name](
            nn.parameters(self.model_), self._rate(batch_size), weight_decay=self.alpha, **_MOMENTUM.get(name, {})
        )
        return GradientDescent(
            self.model_,
            optimizer,
            self._measured_loss(),
            clip_norm=self.clip_norm,
            average=self.average,
            engine=self.engine,
            precision=self.precision,
        )

    def _measured_loss(self) -> Callable[..., Any]:
        loss = LOSSES[self.loss]
        smoothing = self._usual_smoothing() if self.label_smoothing == "auto" else float(self.label_smoothing)
        return partial(loss, label_smoothing=smoothing) if smoothing and self.loss == "softmax" else loss

    def _optimizer(self) -> str:
        return self._usual_optimizer() if self.optimizer == "auto" else self.optimizer

    def _usual_optimizer(self) -> str:
        """What ``optimizer="auto"`` stands for."""
        return "sgd"

    def _usual_smoothing(self) -> float:
        """What ``label_smoothing="auto"`` stands for."""
        return 0.0

    def _plan(self, learner: Any, examples: Examples, batch_size: int, seed: int) -> dict[str, Any]:
        steps = len(batch_bounds(len(examples.images), batch_size)) - 1
        epochs = self._epochs(steps)
        vars(self).pop("range_test_", None)  # of an earlier fit
        if self.learning_rate == "find":
            self.range_test_ = find_learning_rate(learner, examples, batch_size=batch_size, seed=seed)
            learner.learning_rate = self.range_test_.suggestion
        return {"epochs": epochs, "schedule": SCHEDULES[self.schedule](learner.learning_rate, epochs * steps)}

    def _epochs(self, steps: int) -> int:
        """How many epochs: by default what makes enough steps, within bounds; more where the most are not 500 steps."""
        if self.max_iter != "auto":
            return int(self.max_iter)
        fewest, most = self.usual_epochs
        return max(min(max(math.ceil(self.enough_steps / steps), fewest), most), math.ceil(500 / steps))

    def _rate(self, batch_size: int) -> float:
        """The highest learning rate of the run; by default lower for small batches, whose gradients are noisier."""
        if self.learning_rate not in ("auto", "find"):
            return float(self.learning_rate)
        return self.rates[self._optimizer()] * min(1.0, math.sqrt(batch_size / 128))
