"""How the epochs of a training went."""

from dataclasses import asdict
from typing import Any

from nabi.training import EpochEnded, Event, Started


class History:
    """What a classifier remembers of its epochs.

    Attributes
    ----------
    history_ : dict of str to list
        For each epoch: ``epoch``, ``train_loss``, ``train_accuracy``, ``validation_loss``, ``validation_accuracy``
        (None without validation), ``learning_rate``, ``seconds``, ``best``.
    best_epoch_ : int
        The epoch, counted from 1, whose weights the model has.
    n_iter_ : int
        How many epochs it was trained.
    """

    history_: dict[str, list[Any]]
    best_epoch_: int
    n_iter_: int

    def _forget(self) -> None:
        """Begin a new history."""
        self.history_ = {name: [] for name in EpochEnded.__dataclass_fields__}
        self.best_epoch_ = self.n_iter_ = 0

    def _remember(self, event: Event) -> None:
        """Of an event, the epoch that ended with it; of a run that is gone on with, those that ended before."""
        for row in event.history if isinstance(event, Started) else [event]:
            if isinstance(row, EpochEnded):
                for name, value in asdict(row).items():
                    self.history_[name].append(value)
                self.n_iter_ = row.epoch
                self.best_epoch_ = row.epoch if row.best else self.best_epoch_
