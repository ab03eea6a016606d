"""Classifiers that learn epoch by epoch: what they have in common."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted

from nabi import nn
from nabi.classifiers.answering import Answering
from nabi.classifiers.attempt import attempt
from nabi.classifiers.base import Arrays, Classifier, plain
from nabi.classifiers.callbacks import Callbacks, CallbackSupportMixin, with_callbacks
from nabi.classifiers.history import History
from nabi.classifiers.restoring import restored_model
from nabi.classifiers.settings import TrainingSettings, seed_of
from nabi.classifiers.statistics import statistics
from nabi.classifiers.weighting import example_weights, held_out_fraction, of_mean_one
from nabi.data import OnDemand, augment
from nabi.errors import DataError, SettingError
from nabi.graph import nest
from nabi.listeners import lines
from nabi.training import EpochEnded, Event, Examples, Finished, Learner, evaluation_batch, filled, run
from nabi.waiting import saying_that_code_is_made

# They do not decide on what a run ends with, or are said elsewhere (the seed).
_DECIDING_NOTHING = ("random_state", "callbacks", "verbose", "warm_start")
# Of what is learnt by, what the settings say anew for each part.
_OF_SETTINGS = ("optimizer.learning_rate", "optimizer.weight_decay")


class TrainedClassifier(TrainingSettings, History, CallbackSupportMixin, Answering, Classifier):
    """A classifier that learns epoch by epoch; a subclass says which model, and by which rule it learns.

    Attributes
    ----------
    model_ : Sequential
        The model, whose first layer standardises: it takes inputs as they are.
    history_, best_epoch_, n_iter_
        As `History` has them.
    loss_curve_ : list of float
        The loss of each epoch on the training inputs.
    """

    _partial: Arrays  # the state of what `partial_fit` learns by

    # --- what a subclass has ---

    def _network(self, seed: int) -> Any:
        """The model, untrained, for ``input_shape_`` and ``classes_``; one of its first layers standardises."""
        raise NotImplementedError

    def _batch(self) -> int:
        """How many inputs a step takes, at most."""
        raise NotImplementedError

    def _partial_rate(self, batch_size: int) -> float:
        """The learning rate of `partial_fit`."""
        return 1.0

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
            uint8 pixels, or real numbers taken as given. A memory map is read batch by batch, unless ``early_stopping``
            holds a part of it out; a `nabi.data.OnDemand` always.
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
        self.check_settings()
        listeners = [*(self.callbacks or ()), *([lines(print)] if self.verbose else ())]
        told = Callbacks(self, listeners, X, y)
        with saying_that_code_is_made(bool(self.verbose)):
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
        with attempt(self) as tried:
            for event in self._events(X, y, sample_weight, validation, about, options):
                tried.succeeded |= isinstance(event, EpochEnded | Finished)
                yield event

    def _events(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None,
        validation: tuple[ArrayLike, ArrayLike] | None,
        about: Mapping[str, Any] | None,
        options: Mapping[str, Any],
    ) -> Iterator[Event]:
        self.check_settings()
        before = self._learnt()
        images, labels = self._learn_input(X, y)
        weights = example_weights(sample_weight, self.class_weight, images, labels, self.classes_)
        seed = seed_of(self.random_state)
        held_out = None
        if validation is not None:
            held_out = self._held_out(validation)
        elif self.early_stopping:
            train, held = held_out_fraction(labels, self.validation_fraction, seed)
            given: Any = images
            part: Any = given.take if isinstance(given, OnDemand) else given.__getitem__
            held_out = part(held), labels[held]
            images, labels = part(train), labels[train]
            weights = None if weights is None else weights[train]
        self._build(images, seed)
        if self.warm_start and before is not None:
            self._go_on_with(*before)
        self._forget()
        batch_size = min(self._batch(), len(images))
        learner = self._learner(batch_size)
        examples = Examples(images, labels, of_mean_one(weights), augment.parse(self.augment))
        events = run(
            learner,
            self._measured_loss(),
            examples,
            held_out,
            batch_size=batch_size,
            seed=seed,
            patience=self.n_iter_no_change if self.early_stopping else None,
            about={} if options.get("checkpoint") is None else self._deciding() | dict(about or {}),
            engine=self.engine,
            **self._plan(learner, examples, batch_size, seed),
            **options,
        )
        for event in events:
            self._remember(event)
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
        with attempt(self):
            self._learn_one_part(X, y, classes, sample_weight)
        return self

    def _learn_one_part(
        self, X: ArrayLike, y: ArrayLike, classes: ArrayLike | None, sample_weight: ArrayLike | None
    ) -> None:
        seed = seed_of(self.random_state)
        images, labels = self._learn_part(X, y, classes)
        if not hasattr(self, "model_"):
            self._build(images, seed)
            self._forget()
        batch_size = min(self._batch(), len(images))
        learner = self._learner(batch_size)
        learner.learning_rate = self._partial_rate(batch_size)
        tensors = nest.tensors(learner.state)
        for path, value in self._partial.items():  # as it was after the last part, if it learns by the same rule
            if path in tensors:
                tensors[path].assign(value)
        weights = example_weights(sample_weight, self.class_weight, images, labels, self.classes_)
        events = run(
            learner,
            self._measured_loss(),
            Examples(images, labels, weights, augment.parse(self.augment)),
            epochs=1,
            batch_size=batch_size,
            seed=(seed + self.n_iter_) % 2**63,
            engine=self.engine,
        )
        for event in events:
            if isinstance(event, EpochEnded):
                self._remember(replace(event, epoch=self.n_iter_ + 1))
                # Where weights are averaged, those that are trained, and not their average, which the model keeps.
                self._partial = {path: t.numpy() for path, t in tensors.items() if path not in _OF_SETTINGS}

    def _forget(self) -> None:
        super()._forget()
        self._partial = {}

    @property
    def loss_curve_(self) -> list[float]:
        """The loss of each epoch on the training inputs."""
        curve: list[float] = self.history_["train_loss"]
        return curve

    def _deciding(self) -> dict[str, Any]:
        """The settings that decide on what a run ends with, as JSON has them."""
        deciding = {name: value for name, value in self.get_params(deep=False).items() if name not in _DECIDING_NOTHING}
        return {"model": self.registered_name} | {name: plain(value) for name, value in deciding.items()}

    def _learnt(self) -> tuple[Any, NDArray[Any], tuple[int, ...], Any] | None:
        """The model of the last `fit`, and what it was fitted on."""
        if not hasattr(self, "model_"):
            return None
        return self.model_, self.classes_, self.input_shape_, self.input_dtype_

    def _go_on_with(self, model: Any, classes: NDArray[Any], shape: tuple[int, ...], dtype: Any) -> None:
        """Take the model of the last `fit`, where what is to be learnt now is of the same kind."""
        if not np.array_equal(classes, self.classes_):
            raise DataError("warm_start: the classes are not those of the last fit")
        if (shape, dtype) != (self.input_shape_, self.input_dtype_):
            now = f"{self.input_shape_} of {self.input_dtype_}"
            raise DataError(f"warm_start: inputs {now}, the last fit's were {shape} of {dtype}")
        kinds = [{path: t.shape for path, t in nn.tensors(one).items()} for one in (model, self.model_)]
        if kinds[0] != kinds[1]:
            raise SettingError("warm_start: the settings ask for another network than the last fit's")
        self.model_ = model
        self._prepare()

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
        layer = standardizing(self.model_)
        axes = None if rows_of_pixels or not layer.mean.ndim else tuple(range(images.ndim - 1))
        for tensor, value in zip((layer.mean, layer.std), statistics(images, axes), strict=True):
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
        tensors = [tensor.numpy() for tensor in nn.tensors(self.model_).values() if tensor.ndim in (2, 4)]
        if not tensors:
            return None
        weight: NDArray[np.float32] = tensors[0]
        if weight.ndim != 4 and len(weight) != math.prod(self.input_shape_):
            return None  # the first weights do not see the picture, but what other layers made of it
        shape = weight.shape[:-1] if weight.ndim == 4 else self.input_shape_
        pictures = np.moveaxis(weight.reshape(*shape, -1), -1, 0)
        strongest = np.argsort(-np.square(pictures).sum(axis=(1, 2, 3)), kind="stable")[:most]
        return pictures[np.sort(strongest)]

    # --- what `Classifier` asks for ---

    def _batch_scores(self, images: NDArray[Any]) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = self._apply(filled(images, evaluation_batch(self.input_shape_))).value
        return scores[: len(images)]

    def _arrays(self) -> Arrays:
        return {path: tensor.numpy() for path, tensor in nn.tensors(self.model_).items()}

    def _described(self) -> dict[str, Any]:
        # Not by the constructor's arguments, which may have been set to others since.
        return {"model": nn.describe(self.model_)}

    def _restore(self, arrays: Arrays, header: Mapping[str, Any]) -> None:
        self.check_settings()
        self.model_ = restored_model(header["model"], arrays, self.input_shape_, self.input_dtype_, len(self.classes_))
        self._forget()
        self._prepare()

    def _take(self, model: Any) -> None:
        """Answer with this model, of the same kind."""
        self.model_ = model
        self._prepare()


def standardizing(model: nn.Layer) -> nn.Standardize:
    """The layer that standardises: the first, or the first after a change of shape."""
    for layer in vars(model).values():
        if isinstance(layer, nn.Standardize):
            return layer
        if isinstance(layer, nn.Sequential):
            return standardizing(layer)
        if not isinstance(layer, nn.Reshape):
            break
    raise SettingError("architecture: its first layer does not standardise")
