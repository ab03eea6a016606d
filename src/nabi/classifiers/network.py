"""Classifiers that are trained by gradient descent: what they have in common."""

import itertools
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from nabi import nn, optim
from nabi._compile import compile
from nabi.classifiers.base import Arrays, Classifier, plain
from nabi.engines import ENGINES
from nabi.errors import ModelFileError, SettingError
from nabi.losses import LOSSES
from nabi.optim import OPTIMIZERS
from nabi.training import EpochEnded, Event, Started, batch_bounds, fit

SCHEDULES: dict[str, Callable[[float, int], optim.Schedule]] = {
    "constant": lambda rate, steps: optim.constant(rate),
    "cosine": optim.cosine,
    "one-cycle": optim.one_cycle,
}
"""How the learning rate goes over a run of so many steps, by the names that people choose it by."""

MAX_LAYERS = 1000
MAX_SIZE = 2**27  # of one layer

FOREIGN = (
    "of validation is not among those of training: either train/ lacks a class that val/ has, or its only pictures "
    "there were copies of others and left out"
)

_MOMENTUM = {"sgd": {"momentum": 0.9, "nesterov": True}}


def _gives_probabilities(classifier: Any) -> bool:
    if classifier.loss != "softmax":
        raise AttributeError(f"predict_proba needs loss='softmax': scores of loss={classifier.loss!r} are no logits")
    return True


class NetworkClassifier(Classifier):
    """A classifier that is trained by gradient descent; a subclass says which network.

    Attributes
    ----------
    model_ : callable
        The network, whose first layer standardises: it takes inputs as they are.
    history_ : dict of str to list
        For each epoch: ``epoch``, ``train_loss``, ``train_accuracy``, ``validation_loss``, ``validation_accuracy``
        (None without validation), ``learning_rate``, ``seconds``, ``best``.
    best_epoch_ : int
        The epoch, counted from 1, whose weights the model has.
    n_iter_ : int
        How many epochs it was trained.
    """

    # What `fit` reads; a subclass's constructor assigns them.
    loss: str
    alpha: float
    max_iter: int | str
    batch_size: int
    learning_rate: float | str
    optimizer: str
    schedule: str
    flip: bool
    random_state: Any
    engine: str

    rates: ClassVar[Mapping[str, float]]
    """The learning rate that ``learning_rate="auto"`` stands for, by optimiser."""

    model_: Any
    history_: dict[str, list[Any]]
    best_epoch_: int
    n_iter_: int

    def _network(self, seed: int) -> Any:
        """The network, untrained, for ``input_shape_`` and ``classes_``; its first layer is called standardize."""
        raise NotImplementedError

    def _weight_count(self) -> int:
        """How many numbers the weights of all layers hold (biases apart), known without building the network."""
        raise NotImplementedError

    def fit(self, X: ArrayLike, y: ArrayLike, *, validation: tuple[ArrayLike, ArrayLike] | None = None) -> Self:
        """Train on labelled pictures.

        Parameters
        ----------
        X : array_like, (N, H, W, C) or (N, features)
            uint8 pixels, or real numbers taken as given. A memory map is read batch by batch.
        y : array_like, (N,)
            Labels of any kind.
        validation : (X, y), optional
            Pictures to choose the best epoch by. They are not trained on.

        Raises
        ------
        SettingError
            A constructor argument with a value it cannot have.
        DataError
            One class only, or a validation label that training does not have.
        NonFiniteError
            Training diverged; the classifier has the weights of the best epoch before, where there was one.
        """
        for _ in self.fit_events(X, y, validation=validation):
            pass
        return self

    def fit_events(
        self,
        X: ArrayLike,
        y: ArrayLike,
        *,
        validation: tuple[ArrayLike, ArrayLike] | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        about: Mapping[str, Any] | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[Event]:
        """Train as `fit` does, one event of `nabi.training` at a time.

        Parameters
        ----------
        X, y, validation
            As for `fit`.
        checkpoint, about, stop
            As for `nabi.training.fit`.
        """
        self.check_settings()
        images, labels = self._learn_input(X, y)
        held_out = None
        if validation is not None:
            held_out = self._checked(validation[0]), self._encoded(validation[1], FOREIGN)
        seed = self._seed()
        self.model_ = self._network(seed)
        self._standardize(images)
        batch_size = min(self.batch_size, len(images))
        steps = len(batch_bounds(len(images), batch_size)) - 1
        epochs = self._epochs(steps)
        rate = self._rate(batch_size)
        self.history_ = {name: [] for name in EpochEnded.__dataclass_fields__}
        self.best_epoch_ = self.n_iter_ = 0
        self._prepare()
        settings = {name: plain(value) for name, value in self.get_params(deep=False).items() if name != "random_state"}
        events = fit(
            self.model_,
            OPTIMIZERS[self.optimizer](
                nn.parameters(self.model_), rate, weight_decay=self.alpha, **_MOMENTUM.get(self.optimizer, {})
            ),
            LOSSES[self.loss],
            (images, labels),
            held_out,
            epochs=epochs,
            batch_size=batch_size,
            schedule=SCHEDULES[self.schedule](rate, epochs * steps),
            seed=seed,
            flip=bool(self.flip),
            checkpoint=checkpoint,
            about={"model": self.registered_name, **settings, **(about or {})},
            stop=stop,
            engine=self.engine,
        )
        for event in events:
            for row in event.history if isinstance(event, Started) else [event]:
                if isinstance(row, EpochEnded):
                    for name, value in asdict(row).items():
                        self.history_[name].append(value)
                    self.n_iter_ = row.epoch
                    self.best_epoch_ = row.epoch if row.best else self.best_epoch_
            yield event

    @available_if(_gives_probabilities)
    def predict_proba(self, X: ArrayLike) -> NDArray[np.float32]:
        """The probability of each class, by the softmax of the scores.

        Only with ``loss="softmax"``: other losses teach scores that are no logarithms of probabilities.

        Returns
        -------
        ndarray of float32, (N, K)
            In the order of ``classes_``.
        """
        scores = self.scores(X)
        exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
        probabilities: NDArray[np.float32] = exponentials / exponentials.sum(axis=1, keepdims=True)
        return probabilities

    def weight_pictures(self, most: int = 64) -> NDArray[np.float32] | None:
        """The first layer's weights as pictures: templates, or what the first units or filters look for.

        Parameters
        ----------
        most : int
            Where there are more, those of the largest norm, in their order.

        Returns
        -------
        ndarray of float32, (K, H, W, C), or None
            None where they are no pictures: inputs are rows of numbers.
        """
        check_is_fitted(self, "classes_")
        if len(self.input_shape_) != 3:
            return None
        weight = next(t for t in nn.parameters(self.model_).values() if t.ndim > 1).numpy()
        shape = weight.shape[:-1] if weight.ndim == 4 else self.input_shape_
        pictures = np.moveaxis(weight.reshape(*shape, -1), -1, 0)
        strongest = np.argsort(-np.square(pictures).sum(axis=(1, 2, 3)), kind="stable")[:most]
        return pictures[np.sort(strongest)]

    # --- what `Classifier` asks for ---

    def _batch_scores(self, images: NDArray[Any]) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = self._apply(images).value
        return scores

    def _arrays(self) -> Arrays:
        return {path: tensor.numpy() for path, tensor in nn.tensors(self.model_).items()}

    def _restore(self, arrays: Arrays) -> None:
        self.check_settings()
        # Before anything is built: a few letters in a header can ask for more memory than there is.
        needed, held = self._weight_count(), sum(array.size for array in arrays.values())
        if needed > held:
            raise ModelFileError(f"its arguments ask for {needed:,} weights, and its arrays hold {held:,} numbers")
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                raise ModelFileError(f"{name!r} holds an infinity or a NaN")
        self.model_ = self._network(seed=0)
        nn.load_tensors(self.model_, arrays)
        self._prepare()

    def _prepare(self) -> None:
        """Make what answers: recorded once for each size of batch."""
        model = self.model_
        self._apply = compile(lambda images: model(images, training=False), state=model, engine=self.engine)

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        return {name: value for name, value in state.items() if name != "_apply"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if hasattr(self, "model_"):
            self._prepare()

    # --- settings ---

    def check_settings(self) -> None:
        """Raise SettingError where a constructor argument has a value that it cannot have."""
        one_of("loss", self.loss, LOSSES)
        one_of("optimizer", self.optimizer, OPTIMIZERS)
        one_of("schedule", self.schedule, SCHEDULES)
        one_of("engine", self.engine, {"auto": None} | ENGINES)
        if not isinstance(self.flip, bool | np.bool_):
            raise SettingError(f"flip is {self.flip!r}: it must be True or False")
        _number("alpha", self.alpha, least=0)
        _whole("batch_size", self.batch_size)
        if self.learning_rate != "auto":
            _number("learning_rate", self.learning_rate, above=0)
        if self.max_iter != "auto":
            _whole("max_iter", self.max_iter)
        _check_random_state(self.random_state)

    def _seed(self) -> int:
        if isinstance(self.random_state, int | np.integer):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(2**31))

    def _epochs(self, steps: int) -> int:
        """How many epochs: by default what makes 1,000 steps, between 30 and 50; more where 50 are not 500 steps."""
        if self.max_iter != "auto":
            return int(self.max_iter)
        return max(min(max(math.ceil(1000 / steps), 30), 50), math.ceil(500 / steps))

    def _rate(self, batch_size: int) -> float:
        """The highest learning rate of the run; by default lower for small batches, whose gradients are noisier."""
        if self.learning_rate != "auto":
            return float(self.learning_rate)
        return self.rates[self.optimizer] * min(1.0, math.sqrt(batch_size / 128))

    def _standardize(self, images: NDArray[Any]) -> None:
        """Give the first layer mean and deviation of each channel or feature; of all pixels where uint8 come in rows.

        (A pixel that is dark in nearly all pictures has a tiny deviation of its own; divided by that, the one
        picture in which it is bright would drown everything else.)
        """
        rows_of_pixels = images.ndim == 2 and images.dtype == np.uint8
        layer = self.model_.standardize
        found = statistics(images, None if rows_of_pixels else tuple(range(images.ndim - 1)))
        for tensor, value in zip((layer.mean, layer.std), found, strict=True):
            tensor.assign(np.broadcast_to(value, tensor.shape).astype(np.float32))


def statistics(images: NDArray[Any], axes: tuple[int, ...] | None) -> tuple[NDArray[Any], NDArray[Any]]:
    """Mean and standard deviation over these axes, on the scale where white is 1; 1 for what never varies.

    Computed in float64, a thousand rows at a time, so that a memory map stays on the disk.
    """
    scale = 255.0 if images.dtype == np.uint8 else 1.0
    blocks = range(0, len(images), 1000)
    parts = [images[start : start + 1000].sum(axis=axes, dtype=np.float64) for start in blocks]
    count = images.size / max(1, np.size(parts[0]))
    mean = np.sum(parts, axis=0) / count
    parts = [np.square(images[start : start + 1000] - mean).sum(axis=axes) for start in blocks]
    deviation = np.sqrt(np.sum(parts, axis=0) / count)
    return mean / scale, np.where(deviation > 0, deviation / scale, 1.0)


def one_of(name: str, value: Any, known: Mapping[str, Any]) -> None:
    """Raise SettingError unless ``value`` is a key of ``known``."""
    if not isinstance(value, str) or value not in known:
        raise SettingError(f"{name} {value!r} is not one of {', '.join(known)}")


def check_sizes(name: str, value: Any, count: int | None = None) -> None:
    """Raise SettingError unless ``value`` is a sequence of positive whole numbers, ``count`` of them if given."""
    if not isinstance(value, Sequence | np.ndarray) or isinstance(value, str):
        raise SettingError(f"{name} is {value!r}: it must be a sequence of whole numbers")
    if count is not None and len(value) != count:
        raise SettingError(f"{name} is {value!r}: there must be {count} of them")
    if len(value) > MAX_LAYERS:
        raise SettingError(f"{name} holds {len(value):,} sizes: there may be {MAX_LAYERS:,}")
    for size in value:
        _whole(name, size, MAX_SIZE)


def dense_weights(*widths: int) -> int:
    """How many weights there are between fully connected layers of these widths.

    Examples
    --------
    >>> dense_weights(64, 16, 10)
    1184
    """
    return sum(inputs * outputs for inputs, outputs in itertools.pairwise(widths))


def _check_random_state(value: Any) -> None:
    if isinstance(value, int | np.integer):
        if isinstance(value, bool) or not 0 <= value < 2**63:
            raise SettingError(f"random_state is {value}: a seed lies between 0 and 2**63 - 1")
        return
    try:
        check_random_state(value)
    except ValueError:
        raise SettingError(f"random_state is {value!r}: it must be a whole number, a RandomState or None") from None


def _whole(name: str, value: Any, most: int = 2**31 - 1) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 1 <= value <= most:
        raise SettingError(f"{name} is {value!r}: it must be a whole number from 1 to {most:,}")


def _number(name: str, value: Any, *, least: float | None = None, above: float | None = None) -> None:
    bound = f"above {above}" if above is not None else f"{least} or more"
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float | np.integer | np.floating)
        or not -sys.float_info.max <= value <= sys.float_info.max  # nor is NaN
        or (value <= above if above is not None else value < (least or 0))
    ):
        raise SettingError(f"{name} is {value!r}: it must be a number {bound}")
