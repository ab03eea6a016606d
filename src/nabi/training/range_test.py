"""How high a learning rate may be, found by trying."""

import itertools
import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nabi.errors import NonFiniteError
from nabi.graph import nest
from nabi.training.batches import Examples
from nabi.training.learner import GradientDescent

MEMORY = 0.9  # of the smoothed loss: what a step before still counts


@dataclass(frozen=True)
class RangeTest:
    """How the loss went while the learning rate rose, and the rate that this suggests."""

    learning_rates: NDArray[np.float64] = field(repr=False)
    losses: NDArray[np.float64] = field(repr=False)
    suggestion: float


def find_learning_rate(
    learner: GradientDescent,
    examples: Examples,
    *,
    batch_size: int,
    seed: int = 0,
    lowest: float = 1e-6,
    highest: float = 10.0,
    steps: int = 100,
) -> RangeTest:
    """Raise the learning rate step by step until training fails, to see how high it may be.

    The rates rise geometrically; it ends early when the smoothed loss is four times its least. Suggested is a tenth of
    the rate at which the smoothed loss was least. The learner is left as it was. Source: Smith, "Cyclical learning
    rates for training neural networks" (2017), section 3.3.

    Parameters
    ----------
    learner : GradientDescent
    examples : Examples
    batch_size : int
    seed : int
        Of the order of the pictures.
    lowest, highest : float
        The first learning rate and the last.
    steps : int
        How many there are, each tried for one step.

    Raises
    ------
    NonFiniteError
        The loss is no number even at the lowest rate.
    """
    before = {path: t.numpy() for path, t in nest.tensors(learner.state).items()}
    rates = np.geomspace(lowest, highest, steps)
    epochs = (examples.epoch(seed, epoch, batch_size) for epoch in itertools.count())
    losses, smooth = list[float](), list[float]()
    mean = 0.0
    try:
        for number, (rate, batch) in enumerate(zip(rates, itertools.chain.from_iterable(epochs), strict=False), 1):
            learner.learning_rate = rate
            value = float(learner.step(*batch)[0])
            if not math.isfinite(value):
                break
            losses.append(value)
            mean = MEMORY * mean + (1 - MEMORY) * value
            smooth.append(mean / (1 - MEMORY**number))
            if smooth[-1] > 4 * min(smooth) > 0:
                break
    finally:
        for path, tensor in nest.tensors(learner.state).items():
            tensor.assign(before[path])
    if not losses:
        raise NonFiniteError(f"the loss is no number even at the learning rate {lowest}")
    # A loss of nothing at all is that of weights which say nothing yet.
    best = int(np.argmin(np.where(np.array(smooth) > 0, smooth, np.inf)))
    return RangeTest(rates[: len(losses)], np.array(losses), float(rates[best] / 10))
