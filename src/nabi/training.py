"""The fit loop: a generator of events. It prints nothing, and knows neither files of pictures nor terminals.

Everything that a run does follows from its seed, and all that it is at a step is in its checkpoint: a run that was
stopped and goes on ends with the same bits as one that never stopped.
"""

import itertools
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nabi import container, ops, random
from nabi._compile import compile
from nabi._tensor import Tensor
from nabi.errors import DataError, ModelFileError, NonFiniteError, SettingError
from nabi.graph import namespace, nest
from nabi.graph.node import describe
from nabi.graph.plan import Plan

Arrays = dict[str, NDArray[Any]]
Labelled = tuple[NDArray[Any], NDArray[np.int64]]

CHECKPOINT_SECONDS = 10.0  # a checkpoint is written at the end of an epoch if the last is at least this old


@dataclass(frozen=True)
class Started:
    """A run begins, or goes on: at step ``step`` of ``epoch``, both counted from 0."""

    epochs: int
    epoch: int
    step: int
    steps_per_epoch: int
    history: tuple["EpochEnded", ...]


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


Event = Started | Stepped | EpochEnded | Finished


@dataclass
class _Progress:
    """How far a run is, but for the tensors."""

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    seconds: float = 0.0
    history: list[EpochEnded] = field(default_factory=list)
    best_epoch: int = 0


def fit(
    model: Any,
    optimizer: Any,
    loss: Callable[[Tensor, Tensor], Tensor],
    train: Labelled,
    validation: Labelled | None = None,
    *,
    epochs: int,
    batch_size: int,
    schedule: Callable[[int], float] | None = None,
    seed: int = 0,
    flip: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    about: Mapping[str, Any] | None = None,
    stop: Callable[[], bool] = lambda: False,
    engine: str = "auto",
) -> Iterator[Event]:
    """Train a model, one event at a time.

    However the run ends (its last epoch, ``stop``, an exception, the caller's closing the generator), the model is left
    with the weights that were best on validation; without validation pictures, with those of the last epoch that ended.

    Parameters
    ----------
    model : callable
        ``model(images, training=...)`` gives scores (N, K).
    optimizer : object
        One of `nabi.optim`, over the model's parameters.
    loss : callable
        ``loss(scores, labels)`` gives one number, a mean over the batch.
    train, validation : (images, labels)
        Arrays of shapes (N, ...) and (N,), labels int64 from 0 to K - 1.
    epochs : int
    batch_size : int
        At most so many pictures a step: the batches of an epoch differ in size by at most one.
    schedule : callable, optional
        The learning rate of a step, counted from 0 over the whole run; by default the optimiser's own stays.
    seed : int
        Decides on the order of the pictures and on what is flipped.
    flip : bool
        Show half of the training pictures, drawn anew each time, mirrored left to right. Pictures (N, H, W, C) only.
    checkpoint : path-like, optional
        A file for the whole state of the run. Where it exists, the run goes on from it; it is written at ends of
        epochs (at most every 10 seconds), and when the run is stopped.
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
        The checkpoint is of another run, or is none; inputs to flip that are no pictures.
    DataError
        There are no training pictures.
    """
    images, labels = train
    if not len(images):
        raise DataError("there are no pictures to train on")
    if flip and images.ndim != 4:
        raise SettingError(f"flip: only pictures (N, H, W, C) have a mirror image, not inputs {images.shape}")
    state = {"model": model, "optimizer": optimizer}
    settings = {"epochs": epochs, "batch_size": batch_size, "seed": seed, "flip": flip, **(about or {})}
    bounds = batch_bounds(len(images), batch_size)
    steps = len(bounds) - 1
    progress, best = _Progress(), dict[str, Any]()
    if checkpoint is not None and Path(checkpoint).exists():
        progress, best = _restore(checkpoint, state, settings)

    def descend(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        scores = model(images, training=True)
        value = loss(scores, labels)
        optimizer.minimize(value)
        return value, ops.sum(ops.argmax(scores, axis=1) == labels)

    step = compile(descend, state=state, engine=engine)
    measure = compile(lambda images, labels: _measure(model, loss, images, labels), state=model, engine=engine)
    saved = time.monotonic()
    trail: deque[tuple[list[Any], list[Any]]] = deque(maxlen=2)  # inputs and state of the last steps, to find a culprit
    try:
        yield Started(epochs, progress.epoch, progress.step, steps, tuple(progress.history))
        while progress.epoch < epochs:
            epoch = progress.epoch
            key = random.fold_in(namespace.numpy, random.key(seed), np.uint32(epoch))
            order = random.permutation(namespace.numpy, key, len(images))
            while progress.step < steps:
                begun = time.perf_counter()
                if schedule is not None:
                    optimizer.learning_rate.assign(schedule(epoch * steps + progress.step))
                chosen = order[bounds[progress.step] : bounds[progress.step + 1]]
                batch = [np.asarray(images[chosen]), labels[chosen]]
                if flip:
                    batch[0] = _flipped(batch[0], random.fold_in(namespace.numpy, key, np.uint32(progress.step)))
                trail.append((batch, [t.value for t in nest.tensors(state).values()]))
                value, correct = map(float, step(*batch))
                progress.step += 1
                if not math.isfinite(value):
                    raise _culprit(step.plan, trail, epoch + 1, progress.step, f"the loss is {value}")
                progress.loss_sum += value * len(chosen)
                progress.correct += int(correct)
                progress.seconds += time.perf_counter() - begun
                yield Stepped(epoch + 1, progress.step, steps, value)
                if progress.step < steps and stop():
                    break
            if progress.step < steps:  # stopped
                break
            begun = time.perf_counter()
            if not all(np.isfinite(t.value).all() for t in nest.tensors(state).values()):
                raise _culprit(step.plan, trail, epoch + 1, steps, "a weight is not finite")
            validated = evaluate(measure, *validation) if validation is not None else (None, None)
            row = EpochEnded(
                epoch + 1,
                progress.loss_sum / len(images),
                progress.correct / len(images),
                validated[0],
                validated[1],
                float(optimizer.learning_rate),
                progress.seconds + time.perf_counter() - begun,
                best=_is_best(validated[0], validated[1], progress),
            )
            if row.validation_loss is not None and not math.isfinite(row.validation_loss):
                raise NonFiniteError(f"epoch {epoch + 1}: the loss on validation pictures is {row.validation_loss}")
            if row.best:
                progress.best_epoch = epoch + 1
                best = {path: t.numpy() for path, t in nest.tensors(model).items()}
            progress = _Progress(epoch + 1, history=[*progress.history, row], best_epoch=progress.best_epoch)
            if checkpoint is not None and time.monotonic() - saved >= CHECKPOINT_SECONDS:
                _save(checkpoint, state, best, progress, settings)
                saved = time.monotonic()
            yield row
            if stop():
                break
        stopped = progress.epoch < epochs
        if checkpoint is not None:
            _save(checkpoint, state, best, progress, settings)
        _keep(model, best)
        yield Finished(progress.epoch, progress.best_epoch, stopped, tuple(progress.history))
    finally:
        _keep(model, best)


def batch_bounds(length: int, batch_size: int) -> list[int]:
    """Where to cut ``length`` things into as few batches as fit: sizes differ by at most one.

    Examples
    --------
    >>> batch_bounds(10, 4)
    [0, 3, 6, 10]
    """
    batches = max(1, -(-length // batch_size))
    return [number * length // batches for number in range(batches + 1)]


def evaluation_batch(shape: tuple[int, ...]) -> int:
    """How many pictures of a shape (H, W, C) to look at together, so that any number of them takes bounded memory.

    Examples
    --------
    >>> evaluation_batch((32, 32, 3)), evaluation_batch((224, 224, 3))
    (1000, 27)
    """
    return max(1, min(1000, 2**22 // max(1, math.prod(shape))))


def evaluate(measure: Any, images: NDArray[Any], labels: NDArray[np.int64]) -> tuple[float, float]:
    """Mean loss and accuracy over any number of pictures, by a compiled ``measure(images, labels)`` of a batch."""
    bounds = batch_bounds(len(images), evaluation_batch(images.shape[1:]))
    loss, right = 0.0, 0
    for start, end in itertools.pairwise(bounds):
        value, correct = measure(np.asarray(images[start:end]), labels[start:end])
        loss += float(value) * (end - start)
        right += int(correct)
    return loss / len(images), right / len(images)


def _measure(model: Any, loss: Any, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    scores = model(images, training=False)
    return loss(scores, labels), ops.sum(ops.argmax(scores, axis=1) == labels)


def _flipped(images: NDArray[Any], key: Any) -> NDArray[Any]:
    chosen = random.bits(namespace.numpy, key, (len(images),)) >> 31 == 1
    images[chosen] = images[chosen, :, ::-1]
    return images


def _is_best(loss: float | None, accuracy: float | None, progress: _Progress) -> bool:
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


# --- checkpoints ---


def _save(
    path: str | os.PathLike[str], state: Any, best: Arrays, progress: _Progress, settings: Mapping[str, Any]
) -> None:
    arrays = {f"now.{name}": t.numpy() for name, t in nest.tensors(state).items()}
    arrays |= {f"best.{name}": value for name, value in best.items()}
    # As arrays: a header has room for some thousands of epochs only.
    arrays |= {f"history.{name}": column for name, column in _columns(progress.history).items()}
    record = {name: value for name, value in vars(progress).items() if name != "history"}
    container.write(path, arrays, {"checkpoint": record, "settings": dict(settings)})


_NOT_FLOATS = {"epoch": np.int64, "best": np.bool_}


def _columns(history: list[EpochEnded]) -> Arrays:
    """A history as arrays, one for each field; None is NaN there, which no value of a history is."""
    return {
        name: np.array([getattr(row, name) for row in history], _NOT_FLOATS.get(name, np.float64))
        for name in EpochEnded.__dataclass_fields__
    }


def _rows(columns: Arrays) -> list[EpochEnded]:
    """The history of `_columns`."""
    values = [
        [None if math.isnan(value) else value for value in columns[name].tolist()]
        for name in EpochEnded.__dataclass_fields__
    ]
    return list(itertools.starmap(EpochEnded, zip(*values, strict=True)))


def _restore(path: str | os.PathLike[str], state: Any, settings: Mapping[str, Any]) -> tuple[_Progress, Arrays]:
    arrays, header = container.read(path)
    if "checkpoint" not in header or "settings" not in header:
        raise ModelFileError(f"{path}: a model file, not the checkpoint of a run")
    for name in sorted({*settings, *header["settings"]}):
        then, now = header["settings"].get(name), settings.get(name)
        if then != now and not (isinstance(now, tuple) and then == list(now)):
            raise SettingError(
                f"{path}: of a run with {name}={then!r}, not {now!r}: go on with the same, or start anew"
            )
    now = {name.removeprefix("now."): value for name, value in arrays.items() if name.startswith("now.")}
    tensors = nest.tensors(state)
    if set(now) != set(tensors):
        raise ModelFileError(f"{path}: the checkpoint of another model")
    for name, tensor in tensors.items():
        tensor.assign(now[name])
    try:
        columns = {
            name.removeprefix("history."): value for name, value in arrays.items() if name.startswith("history.")
        }
        progress = _Progress(**header["checkpoint"], history=_rows(columns))
    except (KeyError, TypeError, ValueError):
        raise ModelFileError(f"{path}: the checkpoint of another version of nabi") from None
    best = {name.removeprefix("best."): value for name, value in arrays.items() if name.startswith("best.")}
    return progress, best


# --- what made a loss infinite, or not a number ---


def _culprit(
    plan: Callable[..., Plan], trail: deque[tuple[list[Any], list[Any]]], epoch: int, step: int, what: str
) -> NonFiniteError:
    """An error that names the first node, in the order of computing, whose value is not finite.

    The loss of a step may be the fault of the update before it: so that one is gone through first.
    """
    for batch, state in trail:
        found = _first_not_finite(plan(*batch), [*batch, *state])
        if found:
            what += f"; the first value that is not finite is {found}"
            break
    return NonFiniteError(f"epoch {epoch}, step {step}: {what}; a lower learning rate may help")


def _first_not_finite(plan: Plan, inputs: list[Any]) -> str | None:
    values: dict[int, Any] = {}
    for node, value in zip(plan.inputs, inputs, strict=True):
        values[id(node)] = value
        if not np.isfinite(value).all():
            return f"in {describe(node)}"
    values |= {id(node): node.value for node in plan.constants}  # type: ignore[attr-defined]
    with np.errstate(all="ignore"):
        for node in plan.nodes:
            assert node.operation is not None
            sources = [values[id(source)] for source in node.inputs]
            value = values[id(node)] = node.operation.forward(namespace.numpy, *sources, **node.settings)
            for part in value if isinstance(value, tuple) else (value,):
                finite = np.isfinite(part)
                if not finite.all():
                    return f"of {describe(node)}: {np.asarray(part)[~finite][0]}"
    return None
