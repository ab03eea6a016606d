"""How a step learns from a batch."""

from collections.abc import Callable
from typing import Any

from nabi import nn, ops
from nabi._compile import compile
from nabi._tensor import Tensor
from nabi.optim import MovingAverage
from nabi.training.culprit import Trail, culprit

Loss = Callable[..., Tensor]
"""``loss(scores, labels, reduction=...)`` gives the "mean" over the batch, or with "none" each picture's own."""


class Learner:
    """A model and a rule by which it learns.

    Attributes
    ----------
    model : callable
        ``model(images, training=...)`` gives scores (N, K).
    state : nest of tensors
        All that a step changes, the model included: what a checkpoint holds.
    """

    model: Any
    state: dict[str, Any]
    learning_rate: float = 1.0

    def step(self, *batch: Any) -> tuple[Any, Any]:
        """Learn from a batch (see `Examples.take`): its loss, and how many pictures were right before."""
        raise NotImplementedError

    def swap(self) -> None:
        """Exchange the weights that are trained with those to validate and keep; twice is nothing."""

    def culprit(self, trail: Trail) -> str | None:
        """What made the loss infinite, or not a number, in the last steps."""
        return None


class GradientDescent(Learner):
    """A step down the gradient of the loss.

    Parameters
    ----------
    model : callable
    optimizer : object
        One of `nabi.optim`, over the model's parameters.
    loss : callable
    clip_norm : float, optional
        See `nabi.optim.clip`.
    average : float, optional
        Keep an exponential moving average of the weights with this decay, not the weights themselves.
    engine, precision : str
        See `nabi.compile`.
    """

    def __init__(
        self,
        model: Any,
        optimizer: Any,
        loss: Loss,
        *,
        clip_norm: float | None = None,
        average: float | None = None,
        engine: str = "auto",
        precision: str = "float32",
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.state = {"model": model, "optimizer": optimizer}
        averages = None if average is None else MovingAverage(nn.parameters(model), average)
        if averages is not None:
            self.state["average"] = averages

        def descend(images: Tensor, labels: Tensor, *mixture: Tensor) -> tuple[Tensor, Tensor]:
            scores = model(images, training=True)
            value = (
                loss(scores, labels) if not mixture else ops.mean(loss(scores, labels, reduction="none") * mixture[0])
            )
            if len(mixture) > 1:
                value = value + ops.mean(loss(scores, mixture[1], reduction="none") * mixture[2])
            optimizer.minimize(value, clip_norm)
            if averages is not None:
                averages.update()
            return value, ops.sum(ops.argmax(scores, axis=1) == labels)

        self._averages = averages
        self._step = compile(descend, state=self.state, engine=engine, precision=precision)

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        return float(self.optimizer.learning_rate)

    @learning_rate.setter
    def learning_rate(self, rate: float) -> None:
        self.optimizer.learning_rate.assign(rate)

    def step(self, *batch: Any) -> tuple[Any, Any]:
        value, correct = self._step(*batch)
        return value, correct

    def swap(self) -> None:
        if self._averages is not None:
            self._averages.swap()

    def culprit(self, trail: Trail) -> str | None:
        return culprit(self._step.plan, trail)
