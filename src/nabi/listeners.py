"""Who listens to a training: functions of an event that show it or write it down."""

import os
from collections.abc import Callable
from typing import Any

from nabi.errors import SettingError
from nabi.training import EpochEnded, Finished, Started, Stepped

Listener = Callable[[Any], Any]


def lines(write: Callable[[str], Any]) -> Listener:
    """Write a line for each epoch.

    Examples
    --------
    >>> from nabi.training import EpochEnded, Started
    >>> listen = lines(print)
    >>> listen(Started(epochs=10, epoch=0, step=0, steps_per_epoch=3, history=()))
    >>> listen(EpochEnded(1, 0.5, 0.8, 0.6, 0.75, learning_rate=0.1, seconds=2.0, best=True))
    epoch  1/10  loss 0.5000  accuracy 0.8000  validation loss 0.6000  accuracy 0.7500  2.0 s
    """
    epochs = 0

    def listen(event: Any) -> None:
        nonlocal epochs
        match event:
            case Started():
                epochs = event.epochs
                if event.history or event.step:
                    write(f"going on after epoch {event.epoch}, step {event.step}")
            case EpochEnded():
                line = f"epoch {event.epoch:{len(str(epochs))}}/{epochs}"
                line += f"  loss {event.train_loss:.4f}  accuracy {event.train_accuracy:.4f}"
                if event.validation_loss is not None:
                    line += f"  validation loss {event.validation_loss:.4f}  accuracy {event.validation_accuracy:.4f}"
                write(f"{line}  {event.seconds:.1f} s")

    return listen


def tensorboard_writers() -> Any:
    """The package that writes event files; SettingError where it is not installed."""
    try:
        import tensorboardX
    except ImportError:
        raise SettingError("--tensorboard needs the package tensorboardX: pip install 'nabi[tensorboard]'") from None
    return tensorboardX


def events_for_tensorboard(folder: str | os.PathLike[str]) -> Listener:
    """Write event files that TensorBoard shows: the loss of each step, and what is known of each epoch.

    Parameters
    ----------
    folder : path-like

    Raises
    ------
    SettingError
        The package tensorboardX is not installed.
    """
    tensorboardX = tensorboard_writers()
    writer: Any = None
    done = 0  # steps

    def listen(event: Any) -> None:
        try:
            write(event)
        except OSError as error:  # of a full disk, without a name
            raise OSError(error.errno, error.strerror, os.fspath(folder)) from error

    def write(event: Any) -> None:
        nonlocal writer, done
        match event:
            case Started():
                done = event.epoch * event.steps_per_epoch + event.step
                # What a killed run wrote beyond its last checkpoint is written again.
                writer = tensorboardX.writer.SummaryWriter(os.fspath(folder), purge_step=done + 1)
            case Stepped():
                done += 1
                writer.add_scalar("step/loss", event.loss, done)
            case EpochEnded():
                for name in ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "learning_rate"):
                    value = getattr(event, name)
                    if value is not None:
                        writer.add_scalar(f"epoch/{name}", value, done)
                writer.flush()
            case Finished():
                writer.close()

    return listen
