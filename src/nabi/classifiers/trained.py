"""Classifiers that learn epoch by epoch: what they have in common."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted

from nabi import nn
from nabi._compile import compile
from nabi.classifiers.base import Arrays, Classifier, plain
from nabi.classifiers.callbacks import Callbacks, CallbackSupportMixin, with_callbacks
from nabi.classifiers.settings import TrainingSettings, seed_of
from nabi.classifiers.weighting import example_weights, held_out_fraction
from nabi.data import augment
from nabi.errors import DataError, ModelFileError, SettingError
from nabi.listeners import lines
from nabi.training import EpochEnded, Event, Examples, Learner, Started, run

FOREIGN = (
    "of validation is not among those of training: either train/ lacks a class that val/ has, or its only pictures "
    "there were copies of others and left out"
)

# They do not decide on what a run ends with, or are said elsewhere (the seed).
_UNSAID = ("random_state", "callbacks", "verbose", "warm_start")


class TrainedClassifier(TrainingSettings, CallbackSupportMixin, Classifier):
    """A classifier that learns epoch by epoch; a subclass says which model, and by which rule it learns.

    Attributes
    ----------
    model_ : Sequential
        The model, whose first layer standardises: it takes inputs as they are.
    history_ : dict of str to list
        For each epoch: ``epoch``, ``train_loss``, ``train_accuracy``, ``validation_loss``, ``validation_accuracy``
        (None without validation), ``learning_rate``, ``seconds``, ``best``.
    best_epoch_ : int
        The epoch, counted from 1, whose weights the model has.
    n_iter_ : int
        How many epochs it was trained.
    loss_curve_ : list of float
        The loss of each epoch on the training inputs.
    """

    model_: Any
    history_: dict[str, list[Any]]
    best_epoch_: int
    n_iter_: int
    _partial: Learner | None  # what `partial_fit` learns by
    _on_the_way: Arrays

    # --- what a subclass has ---

    def _network(self, seed: int) -> Any:
        """The model, untrained, for ``input_shape_`` and ``classes_``; its first layer is called standardize."""
        raise NotImplementedError

    def _weight_count(self) -> int:
        """How many numbers the weights of all layers hold (biases apart), known without building the model."""
        raise NotImplementedError

    def _batch(self) -> int:
        """How many inputs a step takes, at most."""
        raise NotImplementedError

    def _learner(self, batch_size: int) -> Learner:
        """The rule by which ``model_`` learns, from nothing."""
        raise NotImplementedError

    def _measured_loss(self) -> Callable[..., Any]:
        """The loss that is measured on validation inputs."""
        raise NotImplementedError

    def _plan(self, learner: Learner, examples: Examples, batch_size: int, seed: int) -> dict[str, Any]:
        """How long and at which rates the learner learns: arguments of `nabi.training.run`."""
        raise NotImplementedError

    # --- training ---

    @with_callbacks
    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        validation: tuple[ArrayLike, ArrayLike] | None = None,
    ) -> Self:
        """Train on labelled pictures.

        Parameters
        ----------
        X : array_like, (N, H, W, C) or (N, features)
            uint8 pixels, or real numbers taken as given. A memory map is read batch by batch.
        y : array_like, (N,)
            Labels of any kind.
        sample_weight : array_like, (N,), optional
            How much each input counts.
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
        listeners = [*(self.callbacks or ()), *([lines(print)] if self.verbose else ())]
        told = Callbacks(self, listeners, X, y)
        for event in self.fit_events(X, y, sample_weight, validation=validation, stop=lambda: told.stopped):
            told(event)
        return self

    def fit_events(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        validation: tuple[ArrayLike, ArrayLike] | None = None,
        about: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Iterator[Event]:
        """Train as `fit` does, one event of `nabi.training` at a time.

        Parameters
        ----------
        X, y, sample_weight, validation
            As for `fit`.
        about : mapping, optional
            What else a checkpoint says of the run, beside the settings.
        **options
            ``checkpoint``, ``checkpoint_seconds`` and ``stop``, as for `nabi.training.run`.
        """
        self.check_settings()
        before = self._learnt()
        images, labels = self._learn_input(X, y)
        weights = example_weights(sample_weight, self.class_weight, images, labels, self.classes_)
        seed = seed_of(self.random_state)
        held_out = None
        if validation is not None:
            held_out = self._checked(validation[0]), self._encoded(validation[1], FOREIGN)
        elif self.early_stopping:
            train, held = held_out_fraction(labels, self.validation_fraction, seed)
            held_out = images[held], labels[held]
            images, labels = images[train], labels[train]
            weights = None if weights is None else weights[train]
        if self.warm_start and before is not None:
            self._go_on_with(*before)
        else:
            self._build(images, seed)
        self._forget()
        batch_size = min(self._batch(), len(images))
        learner = self._learner(batch_size)
        examples = Examples(images, labels, weights, augment.parse(self.augment))
        events = run(
            learner,
            self._measured_loss(),
            examples,
            held_out,
            batch_size=batch_size,
            seed=seed,
            patience=self.n_iter_no_change if self.early_stopping else None,
            about={} if options.get("checkpoint") is None else self._said() | dict(about or {}),
            engine=self.engine,
            **self._plan(learner, examples, batch_size, seed),
            **options,
        )
        for event in events:
            for row in event.history if isinstance(event, Started) else [event]:
                if isinstance(row, EpochEnded):
                    self._remember(row)
            yield event

    def partial_fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        classes: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Go through these inputs once, and keep what was learnt before.

        Inputs are standardised as the first call's ask for. How long a run lasts, its schedule of learning rates and
        its early stopping concern `fit` alone.

        Parameters
        ----------
        X, y, sample_weight
            As for `fit`.
        classes : array_like
            All labels that there will ever be: at the first call.
        """
        self.check_settings()
        if isinstance(self.class_weight, str):
            raise SettingError(f"class_weight {self.class_weight!r} needs all inputs: partial_fit sees a part of them")
        seed = seed_of(self.random_state)
        if not hasattr(self, "model_"):
            if classes is None:
                raise DataError("partial_fit needs classes= at its first call: all labels that there will ever be")
            images, labels = self._learn_input(X, y, classes=classes)
            self._build(images, seed)
            self._forget()
        else:
            images, labels = self._learn_more(X, y)
            if classes is not None and not np.array_equal(np.unique(np.asarray(classes)), self.classes_):
                raise DataError("classes= are not those of the first call")
        batch_size = min(self._batch(), len(images))
        if self._partial is None:
            self._partial = self._learner(batch_size)
        weights = example_weights(sample_weight, self.class_weight, images, labels, self.classes_)
        examples = Examples(images, labels, weights, augment.parse(self.augment))
        seed = (seed + self.n_iter_) % 2**63
        for path, value in self._on_the_way.items():  # the weights that are averaged, not their average
            nn.tensors(self.model_)[path].assign(value)
        events = run(
            self._partial,
            self._measured_loss(),
            examples,
            epochs=1,
            batch_size=batch_size,
            seed=seed,
            engine=self.engine,
        )
        for event in events:
            if isinstance(event, EpochEnded):
                self._remember(replace(event, epoch=self.n_iter_ + 1))
                if self._partial.averages:
                    self._on_the_way = {path: t.numpy() for path, t in nn.tensors(self.model_).items()}
        return self

    def _forget(self) -> None:
        """Begin a new history."""
        self.history_ = {name: [] for name in EpochEnded.__dataclass_fields__}
        self.best_epoch_ = self.n_iter_ = 0
        self._partial, self._on_the_way = None, {}

    def _remember(self, row: EpochEnded) -> None:
        for name, value in asdict(row).items():
            self.history_[name].append(value)
        self.n_iter_ = row.epoch
        self.best_epoch_ = row.epoch if row.best else self.best_epoch_

    @property
    def loss_curve_(self) -> list[float]:
        """The loss of each epoch on the training inputs."""
        curve: list[float] = self.history_["train_loss"]
        return curve

    def _said(self) -> dict[str, Any]:
        """The settings that decide on what a run ends with, as JSON has them."""
        said = {name: plain(value) for name, value in self.get_params(deep=False).items() if name not in _UNSAID}
        return {"model": self.registered_name, **said}

    def _learnt(self) -> tuple[Any, NDArray[Any], tuple[int, ...], Any] | None:
        """The model of the last `fit`, and what it was fitted on."""
        if not hasattr(self, "model_"):
            return None
        return self.model_, self.classes_, self.input_shape_, self.input_dtype_

    def _go_on_with(self, model: Any, classes: NDArray[Any], shape: tuple[int, ...], dtype: Any) -> None:
        now = self.classes_, self.input_shape_, self.input_dtype_
        self.model_, self.classes_, self.input_shape_, self.input_dtype_ = model, classes, shape, dtype
        self.n_features_in_ = shape[0]
        if not np.array_equal(classes, now[0]):
            raise DataError("warm_start: the classes are not those of the last fit")
        if (shape, dtype) != now[1:]:
            raise DataError(f"warm_start: inputs {now[1]} of {now[2]}, the last fit's were {shape} of {dtype}")

    def _build(self, images: NDArray[Any], seed: int) -> None:
        """Make the model, untrained, for inputs like these."""
        self.model_ = self._network(seed)
        self._standardize(images)
        self._prepare()

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

    # --- looking ---

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
        self._forget()
        self._prepare()

    def _prepare(self) -> None:
        """Make what answers: recorded once for each size of batch."""
        model = self.model_
        self._apply = compile(lambda images: model(images, training=False), state=model, engine=self.engine)

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        return {name: value for name, value in state.items() if name != "_apply"} | {
            "_partial": None,
            "_on_the_way": {},
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if hasattr(self, "model_"):
            self._prepare()


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
