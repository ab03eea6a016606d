"""What a training tells those who listen to it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Started:
    """A run begins, or goes on: at step ``step`` of ``epoch``, both counted from 0."""

    epochs: int
    epoch: int
    step: int
    steps_per_epoch: int
    history: tuple["EpochEnded", ...]


@dataclass(frozen=True)
class Looked:
    """A network that is not trained has looked at ``done`` of ``total`` pictures."""

    done: int
    total: int


@dataclass(frozen=True)
class Tried:
    """Of the settings that are to be chosen among, ``done`` of ``total`` were tried."""

    done: int
    total: int


@dataclass(frozen=True)
class Stepped:
    """One step of gradient descent was taken; ``step`` counts from 1 within ``epoch``, which counts from 1."""

    epoch: int
    step: int
    steps_per_epoch: int
    loss: float


@dataclass(frozen=True)
class EpochEnded:
    """All training pictures were seen once more; ``epoch`` counts from 1.

    Training loss and accuracy are those of the batches as they came, with dropout and before each one's update;
    validation is what the model says afterwards, and ``None`` without validation pictures. ``best`` says whether no
    epoch before was better.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    validation_loss: float | None
    validation_accuracy: float | None
    learning_rate: float
    seconds: float
    best: bool


@dataclass(frozen=True)
class Finished:
    """The run is over, and the model has the weights of ``best_epoch`` (0: no epoch was completed)."""

    epochs: int
    best_epoch: int
    stopped: bool
    history: tuple[EpochEnded, ...]


Event = Started | Looked | Tried | Stepped | EpochEnded | Finished
