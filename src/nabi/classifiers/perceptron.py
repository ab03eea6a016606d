"""The perceptron: the first machine that learnt."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from nabi import losses, threads
from nabi._tensor import tensor
from nabi.classifiers.registry import register
from nabi.classifiers.settings import check_flag
from nabi.classifiers.templates import TemplateClassifier
from nabi.data import augment
from nabi.errors import SettingError
from nabi.training import Examples, Learner

EPOCHS = 20
BLOCK = 500  # inputs that are learnt from, one after another, between two events


@register("perceptron")
@dataclass(eq=False, repr=False)
class Perceptron(TemplateClassifier):
    """A unit for each class fires when w·x > θ; the class whose unit lies furthest above its threshold is the answer.

    Learns by Rosenblatt's rule, from one input after another: where the answer is wrong, x is added to the weights of
    the right class and taken from those of the answer, and so are their thresholds. With two classes the difference
    of both is the lecture's one unit, that answers with the second class exactly where w·x > θ. Where a separation
    without errors exists, it is found, and training stops; where none exists, the weights wander: with validation
    inputs those of the best epoch are kept, and ``averaged`` gives the mean of all weights on the way, which wanders
    less. Inputs are standardised. Sources: the lecture, chapter 2; Rosenblatt, "The perceptron" (1958); for several
    classes Crammer and Singer (2003); for the average Freund and Schapire, "Large margin classification using the
    perceptron algorithm" (1999).

    Parameters
    ----------
    averaged : bool
        Answer with the mean of the weights after every input, rather than with the last ones.
    max_iter : int or "auto"
        How many epochs, at most; 20 by default.
    OTHERS

    Attributes
    ----------
    templates_ : ndarray of float32, (K, H, W, C) or (K, features)
        The weights of each class.
    thresholds_ : ndarray of float32, (K,)
        θ of each class.

    Examples
    --------
    The logical "and" fires when both inputs do:

    >>> inputs = [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]
    >>> unit = Perceptron(random_state=0).fit(inputs, [0, 0, 0, 1])
    >>> unit.predict(inputs)
    array([0, 0, 0, 1])
    """

    averaged: bool = False

    @property
    def thresholds_(self) -> NDArray[np.float32]:
        """θ of each class, (K,): its unit fires when w·x > θ."""
        check_is_fitted(self, "classes_")
        thresholds: NDArray[np.float32] = -self.model_.linear.bias.numpy()
        return thresholds

    def check_settings(self) -> None:
        super().check_settings()
        check_flag("averaged", self.averaged)
        varied = augment.parse(self.augment)
        if varied is not None and varied.mixup is not None:
            raise SettingError("augment: the perceptron is right or wrong about one class, and has no use for mixup")

    # --- what `TrainedClassifier` asks for ---

    def _batch(self) -> int:
        return BLOCK

    def _learner(self, batch_size: int) -> Learner:
        return Rosenblatt(self.model_, bool(self.averaged))

    def _measured_loss(self) -> Callable[..., Any]:
        return losses.perceptron

    def _plan(self, learner: Learner, examples: Examples, batch_size: int, seed: int) -> dict[str, Any]:
        return {"epochs": EPOCHS if self.max_iter == "auto" else int(self.max_iter), "until_separated": True}


class Rosenblatt(Learner):
    """Rosenblatt's rule, from one input after another.

    Parameters
    ----------
    model : Sequential
        Of `nabi.models.linear`.
    averaged : bool
        Keep the mean of the weights after every input.
    """

    def __init__(self, model: Any, averaged: bool) -> None:
        self.model = model
        self.averaged = averaged
        self._last: tuple[Any, Any] | None = None
        shape = model.linear.weight.shape
        # The mean of all weights is the last ones less what each change came too late for: Σ t·change / T.
        self.late = [tensor(np.zeros(shape, np.float64)), tensor(np.zeros(shape[1:], np.float64))]
        self.seen = tensor(np.array(0, np.int64))
        self.state = {"model": model, "late": self.late, "seen": self.seen}

    def step(self, images: Any, labels: Any, weights: Any = None) -> tuple[float, int]:
        """Learn from each input in turn: the mean of how far wrong answers lay above the right one, and how many
        answers were right."""
        inputs = self.model[:-1](images, training=False).numpy()  # standardised, in rows
        rates = np.ones(len(labels), np.float32) if weights is None else weights
        weight = np.ascontiguousarray(self.model.linear.weight.numpy().T)
        bias = self.model.linear.bias.numpy()
        late_weight, late_bias = (np.ascontiguousarray(late.numpy().T) for late in self.late)
        seen = int(self.seen)
        wrong, short = 0, 0.0
        with threads.one_blas_thread():
            for x, label, rate in zip(inputs, labels.tolist(), rates, strict=True):
                if rate == 0:
                    continue
                scores = weight @ x + bias
                answer = int(scores.argmax())
                if answer != label:
                    wrong += 1
                    short += float(scores[answer] - scores[label]) * float(rate)
                    change = rate * x
                    for row, sign in ((label, 1), (answer, -1)):
                        weight[row] += sign * change
                        bias[row] += sign * rate
                        if self.averaged:
                            late_weight[row] += seen * sign * change
                            late_bias[row] += seen * sign * rate
                seen += 1
        self.model.linear.weight.assign(weight.T)
        self.model.linear.bias.assign(bias)
        self.late[0].assign(late_weight.T)
        self.late[1].assign(late_bias)
        self.seen.assign(np.array(seen, np.int64))
        return short / len(labels), len(labels) - wrong

    def swap(self) -> None:
        """Put the mean where the weights are, and back."""
        if not self.averaged:
            return
        linear = self.model.linear
        if self._last is None:
            self._last = linear.weight.numpy(), linear.bias.numpy()
            weight, bias = (
                last - late.numpy() / int(self.seen) for last, late in zip(self._last, self.late, strict=True)
            )
        else:
            (weight, bias), self._last = self._last, None
        linear.weight.assign(weight.astype(np.float32))
        linear.bias.assign(bias.astype(np.float32))
