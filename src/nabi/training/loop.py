"""The loop over epochs and steps."""

import itertools
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nabi import _watch, ops
from nabi._compile import compile
from nabi._tensor import Tensor
from nabi.errors import DataError, NonFiniteError
from nabi.graph import nest
from nabi.training.batches import Examples, answer_bounds, batch_bounds, evaluation_batch, filled
from nabi.training.checkpoint import Arrays, Progress, restore, save
from nabi.training.culprit import Trail
from nabi.training.events import EpochEnded, Event, Finished, Started, Stepped
from nabi.training.learner import Learner, Loss

CHECKPOINT_SECONDS = 60.0


def run(
    learner: Learner,
    loss: Loss,
    train: Examples,
    validation: tuple[NDArray[Any], NDArray[np.int64]] | None = None,
    *,
    epochs: int,
    batch_size: int,
    schedule: Callable[[int], float] | None = None,
    seed: int = 0,
    patience: int | None = None,
    until_separated: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    about: Mapping[str, Any] | None = None,
    stop: Callable[[], bool] = lambda: False,
    engine: str = "auto",
) -> Iterator[Event]:
    """Let a model learn, one event at a time.

    However the run ends (its last epoch, ``stop``, an exception, the caller's closing the generator), the model is left
    with the weights that were best on validation; without validation pictures, with those of the last epoch that ended.

    Parameters
    ----------
    learner : Learner
    loss : callable
        What is measured on validation pictures.
    train : Examples
    validation : (images, labels), optional
        Pictures to choose the best epoch by.
    epochs : int
    batch_size : int
        At most so many pictures a step: the batches of an epoch differ in size by at most one.
    schedule : callable, optional
        The learning rate of a step, counted from 0 over the whole run; by default the learner's own stays.
    seed : int
        Decides on the order of the pictures and on how they are augmented.
    patience : int, optional
        End the run when so many epochs in a row were not better on validation than the best before.
    until_separated : bool
        End the run after an epoch in which every training picture was right.
    checkpoint : path-like, optional
        A file for the whole state of the run. Where it exists, the run goes on from it; it is written now and then,
        and when the run ends or is stopped.
    checkpoint_seconds : float
        How old the last checkpoint is when the next is written.
    about : mapping, optional
        What JSON can say of the run. A checkpoint of a run about something else is refused.
    stop : callable
        Asked after every step; true ends the run there.
    engine : str
        See `nabi.compile`.

    Yields
    ------
    Started, Stepped, EpochEnded or Finished

    Raises
    ------
    NonFiniteError
        The loss, or a weight, is infinite or not a number: names epoch, step and the first node that was.
    SettingError, ModelFileError
        The checkpoint is of another run, or is none; inputs to augment that are no pictures.
    DataError
        There are no training pictures, or none for validation.

    Examples
    --------
    >>> import nabi
    >>> digits = nabi.data.load("digits")
    >>> from nabi.training import GradientDescent
    >>> model, loss = nabi.models.linear((8, 8, 1), 10), nabi.losses.LOSSES["softmax"]
    >>> learner = GradientDescent(model, nabi.optim.SGD(nabi.nn.parameters(model), 0.05), loss)
    >>> train = Examples(digits.train.images, digits.train.labels)
    >>> *_, finished = run(learner, loss, train, epochs=3, batch_size=32)
    >>> finished.history[-1].train_accuracy > 0.8
    True
    """
    if not len(train.images):
        raise DataError("there are no pictures to train on")
    if validation is not None and not len(validation[0]):
        raise DataError("there are no pictures to validate on")
    model, state = learner.model, learner.state
    settings = {"epochs": epochs, "batch_size": batch_size, "seed": seed, **(about or {})}
    steps = len(batch_bounds(len(train.images), batch_size)) - 1
    progress, best = Progress(), dict[str, Any]()
    if checkpoint is not None and Path(checkpoint).exists():
        progress, best = restore(checkpoint, state, settings)
    measure = compile(lambda images, labels: _measure(model, loss, images, labels), state=model, engine=engine)
    saved = time.monotonic()

    def is_over() -> bool:
        if patience is not None and progress.epoch - progress.best_epoch >= patience:
            return True
        separated = until_separated and progress.history and progress.history[-1].train_accuracy == 1
        return progress.epoch >= epochs or bool(separated)

    def save_now_and_then() -> None:
        nonlocal saved
        if checkpoint is not None and time.monotonic() - saved >= checkpoint_seconds:
            save(checkpoint, state, best, progress, settings)
            saved = time.monotonic()

    trail: Trail = deque(maxlen=2)
    tensors = _watch.tensors(state)
    try:
        yield Started(epochs, progress.epoch, progress.step, steps, tuple(progress.history))
        while not is_over():
            epoch = progress.epoch
            batches = train.epoch(seed, epoch, batch_size, progress.step)
            while progress.step < steps:
                begun = time.perf_counter()
                if schedule is not None:
                    learner.learning_rate = schedule(epoch * steps + progress.step)
                batch = next(batches)
                trail.append((batch, [t.held for t in tensors()]))
                value, correct = map(float, learner.step(*batch))
                progress.step += 1
                if not math.isfinite(value):
                    raise _diverged(learner, trail, epoch + 1, progress.step, f"the loss is {value}")
                progress.loss_sum += value * len(batch[1])
                progress.correct += int(correct)
                progress.seconds += time.perf_counter() - begun
                yield Stepped(epoch + 1, progress.step, steps, value)
                if progress.step < steps:
                    if stop():
                        break
                    save_now_and_then()
            if progress.step < steps:  # stopped
                break
            begun = time.perf_counter()
            if not all(np.isfinite(t.value).all() for t in nest.tensors(state).values()):
                raise _diverged(learner, trail, epoch + 1, steps, "a weight is not finite")
            learner.swap()
            try:
                validated = evaluate(measure, *validation) if validation is not None else (None, None)
                row = EpochEnded(
                    epoch + 1,
                    progress.loss_sum / len(train.images),
                    progress.correct / len(train.images),
                    validated[0],
                    validated[1],
                    float(learner.learning_rate),
                    progress.seconds + time.perf_counter() - begun,
                    best=_is_best(validated[0], validated[1], progress),
                )
                if row.validation_loss is not None and not math.isfinite(row.validation_loss):
                    raise NonFiniteError(f"epoch {epoch + 1}: the loss on validation pictures is {row.validation_loss}")
                if row.best:
                    progress.best_epoch = epoch + 1
                    best = {path: t.numpy() for path, t in nest.tensors(model).items()}
            finally:
                learner.swap()
            progress = Progress(epoch + 1, history=[*progress.history, row], best_epoch=progress.best_epoch)
            save_now_and_then()
            yield row
            if stop():
                break
        stopped = not is_over()
        if checkpoint is not None:
            save(checkpoint, state, best, progress, settings)
    finally:
        _keep(model, best)
    yield Finished(progress.epoch, progress.best_epoch, stopped, tuple(progress.history))


def evaluate(measure: Any, images: NDArray[Any], labels: NDArray[np.int64]) -> tuple[float, float]:
    """Mean loss and accuracy over any number of pictures.

    Parameters
    ----------
    measure : callable
        A compiled ``measure(images, labels)`` of a batch, which gives each picture's loss, and whether it was right.
    images, labels : array
    """
    most = evaluation_batch(images.shape[1:])
    loss, right = 0.0, 0
    for start, end in itertools.pairwise(answer_bounds(len(images), most)):
        values, correct = measure(filled(np.asarray(images[start:end]), most), filled(labels[start:end], most))
        loss += float(values.numpy()[: end - start].sum(dtype=np.float64))
        right += int(np.count_nonzero(correct.numpy()[: end - start]))
    return loss / len(images), right / len(images)


def _measure(model: Any, loss: Any, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    scores = model(images, training=False)
    return loss(scores, labels, reduction="none"), ops.argmax(scores, axis=1) == labels


def _is_best(loss: float | None, accuracy: float | None, progress: Progress) -> bool:
    """The higher accuracy on validation is better, then the lower loss; without validation, and at a draw, the last."""
    if loss is None or accuracy is None or not progress.best_epoch:
        return True
    before = progress.history[progress.best_epoch - 1]
    assert before.validation_accuracy is not None
    assert before.validation_loss is not None
    return (accuracy, -loss) >= (before.validation_accuracy, -before.validation_loss)


def _keep(model: Any, best: Arrays) -> None:
    tensors = nest.tensors(model)
    for path, value in best.items():
        tensors[path].assign(value)


def _diverged(learner: Learner, trail: Trail, epoch: int, step: int, what: str) -> NonFiniteError:
    found = learner.culprit(trail)
    what += f"; the first value that is not finite is {found}" if found else ""
    return NonFiniteError(f"epoch {epoch}, step {step}: {what}; a lower learning rate may help")
