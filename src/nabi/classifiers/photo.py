"""Photos: what others have learnt from a million of them, and a classifier of ours on top."""

import os
import reprlib
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from nabi import nn, threads
from nabi.classifiers.attempt import Attempt, attempt
from nabi.classifiers.base import Answers, Arrays, Classifier, rebuild
from nabi.classifiers.features import FeatureExtractor, Pictures, as_photos
from nabi.classifiers.finetuning import Whole, finetune, parted
from nabi.classifiers.history import History
from nabi.classifiers.registry import register, registered
from nabi.classifiers.restoring import restored_model
from nabi.classifiers.settings import check_choice, check_number, check_random_state_argument, check_whole, seed_of
from nabi.classifiers.weighting import example_weights, held_out_fraction, of_mean_one
from nabi.data import augment
from nabi.engines import ENGINES
from nabi.errors import ModelFileError, NonFiniteError, SettingError
from nabi.metrics import HOTTEST, fit_temperature, rejection_threshold, softmax
from nabi.models import BACKBONES
from nabi.training import EpochEnded, Event, Examples, Finished, Stepped, Tried

HEADS: dict[str, dict[str, Any]] = {
    "linear": {"loss": "softmax"},
    "mlp": {"hidden_layer_sizes": (256,), "dropout": 0.5, "optimizer": "adamw"},
    "perceptron": {"averaged": True},
    "knn": {},
}
"""The classifiers that learn from features, and how they are set for them."""

PATIENT = ("mlp",)
"""Which of them end early, where photos to validate with say that epochs get no better."""

ALPHAS = (1e-3, 1e-2, 1e-1, 1.0)
"""What ``alpha="auto"`` tries for a linear head; others have that of their class."""

A_FEW = 32
"""Photos a class whose features are looked at again after fine-tuning, for its centroid."""

FALSE_REJECTS = 0.05
"""The share of photos of its classes that a classifier may take for none of them."""


def _gives_probabilities(classifier: Any) -> bool:
    head = classifier.head_ if hasattr(classifier, "head_") else classifier._head(None)
    return head.predict_proba is not None  # or the head says in its own words why it has none


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of length 1; of zeros, zeros."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(lengths > 0, lengths, 1)).astype(np.float32, copy=False)


def _centroids(features: NDArray[np.float32], labels: NDArray[np.int64], n_classes: int) -> NDArray[np.float32]:
    return _unit(np.stack([features[labels == label].mean(axis=0) for label in range(n_classes)]))


@register("photo")
@dataclass(eq=False, repr=False)
class PhotoClassifier(History, Classifier):
    """A classifier of photos that needs few of them: it learns from the features that a trained network gives.

    Each photo is looked at once, by a `FeatureExtractor`, and a ``head`` learns from what that saw.

    Parameters
    ----------
    head : str
        "linear", "mlp", "perceptron" or "knn".
    backbone : str
        One of `nabi.models.BACKBONES`: "efficientnet_lite0", "resnet18", "resnet50", "mobilenet_v2", or
        "efficientnet_lite0_timm" for weights that timm trained itself.
    weights : str or path, optional
        Of the backbone: see `FeatureExtractor`.
    alpha : float or "auto"
        Weight decay of the head; by default of a linear one the best of a few on validation photos.
    finetune : int
        For how many epochs the last part of the backbone is trained, too, together with the head, which must be
        "linear" or "mlp". What comes before that part looks at each photo twice, whatever the number.
    augment : str, sequence of str, or None
        How photos are varied the second time: see `nabi.data.augment`. By default they are mirrored.
    settings : mapping, optional
        What else the head is told: constructor arguments of its class.
    class_weight : dict, "balanced" or None
        How much the photos of each class count, where the head learns by them.
    validation_fraction : float
        Of the training photos, where none are given to validate with and ``alpha`` is to be found.
    random_state : int, RandomState or None
    engine : str
        See `nabi.compile`.

    Attributes
    ----------
    extractor_ : FeatureExtractor
    head_ : Classifier
        Fitted on features.
    alpha_ : float or None
        The weight decay that was taken.
    tried_ : dict of float to float
        With ``alpha="auto"``, the validation accuracy of each that was tried.
    history_ : dict of str to list
        For each epoch, of the head or of fine-tuning: see `nabi.training.EpochEnded`.
    best_epoch_, n_iter_ : int
        The epoch, counted from 1, whose weights it has, and how many there were.
    temperature_ : float
        What scores are divided by before they become probabilities: 1 until `calibrate`.
    centroids_ : ndarray of float32, (K, features)
        Where the features of each class's training photos point on average, as unit vectors.
    threshold_ : float or None
        Photos whose `likeness` is below it are of none of the classes; None until `calibrate`.

    Examples
    --------
    >>> photos, labels = ["cat1.jpg", "cat2.jpg", "dog1.jpg", "dog2.jpg"], ["cat", "cat", "dog", "dog"]
    >>> classifier = PhotoClassifier(alpha=0.01).fit(photos, labels)  # doctest: +SKIP
    >>> classifier.predict(["what.jpg"])  # doctest: +SKIP
    array(['dog'], dtype='<U3')
    """

    head: str = "linear"
    _: KW_ONLY
    backbone: str = "efficientnet_lite0"
    weights: str | os.PathLike[str] | None = None
    alpha: float | str = "auto"
    finetune: int = 0
    augment: str | Sequence[str] | None = "flip:1"
    settings: Mapping[str, Any] | None = None
    class_weight: Mapping[Any, float] | str | None = None
    validation_fraction: float = 0.15
    random_state: Any = None
    engine: str = "auto"

    # --- training ---

    def fit(self, X: Pictures, y: ArrayLike, *, validation: tuple[Pictures, ArrayLike] | None = None) -> Self:
        """Look at the photos, and train the head.

        Parameters
        ----------
        X : array of uint8, (N, H, W, 3), or sequence of paths
        y : array_like, (N,)
            Labels of any kind.
        validation : (X, y), optional
            To choose ``alpha`` by, and the head's best epoch.

        Raises
        ------
        SettingError
            A constructor argument with a value it cannot have.
        ModelFileError
            The backbone's weights are not there.
        """
        for _ in self.fit_events(X, y, validation=validation):
            pass
        return self

    def fit_events(
        self, X: Pictures, y: ArrayLike, *, validation: tuple[Pictures, ArrayLike] | None = None, **options: Any
    ) -> Iterator[Event]:
        """Fit as `fit` does, one event of `nabi.training` at a time.

        Parameters
        ----------
        X, y, validation
            As for `fit`.
        **options
            ``stop``, as for `nabi.training.run`, asked also before the first event, and while decays are tried by
            several threads at once; and what concerns checkpoints, of ``finetune`` alone: without, what takes long is
            to look at the photos, and their features are in the cache.
        """
        with attempt(self) as tried:
            for event in self._events(X, y, validation, options, tried):
                self._remember(event)
                tried.succeeded |= isinstance(event, Finished)
                yield event

    def _events(
        self,
        X: Pictures,
        y: ArrayLike,
        validation: tuple[Pictures, ArrayLike] | None,
        options: Mapping[str, Any],
        tried: Attempt,
    ) -> Iterator[Event]:
        self.check_settings()
        seed = seed_of(self.random_state)
        extractor = FeatureExtractor(self.backbone, self.weights, self.engine).fit()
        images, labels = self._learn_input(as_photos(X, (extractor.size, extractor.size)), y)
        held = None
        if validation is not None:
            held = self._held_out((as_photos(validation[0], self.input_shape_[:2]), validation[1]))
        features = yield from extractor.looked(images)
        held_features = None if held is None else ((yield from extractor.looked(held[0])), held[1])
        self._forget()
        self.temperature_: float = 1.0
        self.threshold_: float | None = None
        never = lambda: False
        stop = never if self.finetune else options.get("stop", never)
        self.alpha_, self.tried_, learnt = yield from self._chosen_alpha(features, labels, held_features, seed, stop)
        self.extractor_, self.centroids_ = extractor, _centroids(features, labels, len(self.classes_))
        events: Iterable[Event]
        if learnt is None:
            self.head_ = self._head(self.alpha_, seed, held is not None)
            events = self._fitting(self.head_, features, labels, held_features, stop)
        else:
            self.head_, events = learnt
        if not self.finetune:
            for event in events:
                tried.succeeded |= learnt is None and isinstance(event, EpochEnded)  # else it has learnt all already
                yield event
            return
        for _ in events:  # in whole, for whoever goes on later
            pass
        extractor._prepare()  # which forgets the memory that it looked in
        weights = of_mean_one(example_weights(None, self.class_weight, images, labels, self.classes_))
        whole = Whole(extractor.model_, self.head_.model_)  # type: ignore[attr-defined]
        try:
            finished = yield from finetune(
                whole,
                extractor.model_,
                Examples(images, labels, weights, augment.parse(self.augment)),
                held,
                epochs=self.finetune,
                seed=seed,
                engine=self.engine,
                **options,
            )
        except NonFiniteError:
            if self.best_epoch_:
                self._take(whole, images, labels)
                tried.succeeded = True
            raise
        self._take(whole, images, labels)
        yield finished

    def _take(self, whole: Whole, images: Any, labels: NDArray[np.int64]) -> None:
        """Answer with the backbone and the head that were trained together on these."""
        trunk, _ = parted(self.extractor_.model_)
        self.extractor_._take(nn.Sequential(dict([*trunk.items(), *whole.backbone.items()])))
        self.head_._take(whole.head)  # type: ignore[attr-defined]
        some = np.concatenate([np.flatnonzero(labels == label)[:A_FEW] for label in range(len(self.classes_))])
        self.centroids_ = _centroids(self.extractor_.transform(images[some]), labels[some], len(self.classes_))

    def calibrate(self, X: Pictures, y: ArrayLike, rate: float = FALSE_REJECTS) -> Self:
        """Have probabilities say how often answers are right, and learn which photos are of none of the classes.

        The temperature is fitted where the head's probabilities are the softmax of its scores: see
        `nabi.metrics.fit_temperature`. The classes' order does not change. The threshold is one on `likeness`.

        Parameters
        ----------
        X : array of uint8, (N, H, W, 3), or sequence of paths
            Photos that were not trained on, such as those of validation.
        y : array_like, (N,)
        rate : float
            At most this share of them is to be taken for none of the classes.
        """
        check_is_fitted(self, "classes_")
        images, labels = self._held_out((as_photos(X, self.input_shape_[:2]), y))
        features = self.extractor_.transform(images)
        self.temperature_ = fit_temperature(self.head_.scores(features), labels) if self._has_logits else 1.0
        self.threshold_ = rejection_threshold(self._likeness(features), rate)
        return self

    def _fitting(
        self,
        head: Classifier,
        features: NDArray[np.float32],
        labels: NDArray[np.int64],
        held: tuple[NDArray[np.float32], NDArray[np.int64]] | None,
        stop: Callable[[], bool],
    ) -> Iterator[Event]:
        validation = None if held is None else (held[0], self.classes_[held[1]])
        yield from head.fit_events(features, self.classes_[labels], validation=validation, stop=stop)

    def _chosen_alpha(
        self,
        features: NDArray[np.float32],
        labels: NDArray[np.int64],
        held: Any,
        seed: int,
        stop: Callable[[], bool],
    ) -> Generator[Tried, None, tuple[float | None, dict[float, float], tuple[Classifier, list[Event]] | None]]:
        """The weight decay to take, and how good each was that was tried.

        And, where they learnt from all photos, the head that learnt with it, and what it told but single steps. Where
        that is stopped, it is the best that has learnt in whole, if one has.
        """
        if self.alpha != "auto":
            return float(self.alpha), {}, None
        if self.head != "linear":
            return None, {}, None
        whole = held is not None
        if held is None:
            train, kept = held_out_fraction(labels, self.validation_fraction, seed)
            known = np.isin(labels[kept], labels[train])  # a class of few photos may be all among them
            train, kept = np.concatenate([train, kept[~known]]), kept[known]
            if not len(kept):  # every class has one photo
                return ALPHAS[0], {}, None
            held = features[kept], labels[kept]
            features, labels = features[train], labels[train]
        over = threading.Event()

        def learn(alpha: float) -> tuple[float, Classifier, list[Event], Finished] | None:
            if alpha != ALPHAS[0] and (over.is_set() or stop()):
                over.set()
                return None
            head = self._head(alpha, seed, whole)
            events = self._fitting(head, features, labels, held, lambda: over.is_set() or stop())
            told: list[Event] = [event for event in events if not isinstance(event, Stepped)]
            end = told.pop()
            assert isinstance(end, Finished)
            if end.stopped:
                over.set()
            return alpha, head, told, end

        learnt = []
        try:  # side by side: steps on features are too short to be shared by threads
            yield Tried(0, len(ALPHAS))
            for done, one in enumerate(threads.map_in_order(learn, ALPHAS), 1):
                learnt += [] if one is None else [one]
                yield Tried(done, len(ALPHAS))
            stopped = stop() or over.is_set()
        finally:
            over.set()
        learnt = [one for one in learnt if not one[-1].stopped] or learnt
        tried = {alpha: float((head.answers(held[0]).places == held[1]).mean()) for alpha, head, _, _ in learnt}
        best, head, told, end = max(learnt, key=lambda one: (tried[one[0]], one[0]))  # of equals, the simplest
        return best, tried, (head, [*told, replace(end, stopped=stopped)]) if whole else None

    def _head(self, alpha: float | None, seed: int = 0, validated: bool = False) -> Classifier:
        """The head, unfitted."""
        kind = registered(self.head)
        known = kind().get_params()
        arguments = HEADS[self.head] | dict(self.settings or {})
        for name, value in (
            ("alpha", alpha),
            ("class_weight", self.class_weight),
            ("random_state", seed),
            ("engine", self.engine),
            ("early_stopping", True if validated and self.head in PATIENT else None),
        ):
            if value is not None and name in known:
                arguments.setdefault(name, value)
        made: Classifier = kind(**arguments)
        return made

    # --- answers ---

    @available_if(_gives_probabilities)
    def predict_proba(self, X: Pictures) -> NDArray[np.float32]:
        """The probability of each class, as the head gives them at ``temperature_``.

        Returns
        -------
        ndarray of float32, (N, K)
            In the order of ``classes_``.
        """
        found: NDArray[np.float32] = self._probabilities(X)
        return found

    def likeness(self, X: Pictures) -> NDArray[np.float32]:
        """How much photos are like those of any class: the largest cosine between their features and its centroid.

        It knows strangers that probabilities do not: these say which class is likelier than the others, and some class
        always is. After K. Lee and others, "A simple unified framework for detecting out-of-distribution samples and
        adversarial attacks" (2018), with the angle in place of their distance.

        Parameters
        ----------
        X : array of uint8, (N, H, W, 3), or sequence of paths

        Returns
        -------
        ndarray of float32, (N,)
            From -1 to 1.
        """
        check_is_fitted(self, "classes_")
        return self._likeness(self._features(X))

    def fits_none(self, X: Pictures) -> NDArray[np.bool_]:
        """Whether photos are of none of the classes: less like any of them than ``threshold_``.

        Parameters
        ----------
        X : array of uint8, (N, H, W, 3), or sequence of paths

        Returns
        -------
        ndarray of bool, (N,)

        Raises
        ------
        SettingError
            It was not calibrated, and has no threshold.
        """
        check_is_fitted(self, "classes_")
        if self.threshold_ is None:
            raise SettingError("no threshold says what is of none of the classes: calibrate it on validation photos")
        found: NDArray[np.bool_] = self.likeness(X) < self.threshold_
        return found

    @property
    def _has_logits(self) -> bool:
        """Whether the head's probabilities are the softmax of its scores."""
        return getattr(self.head_, "loss", None) == "softmax"

    def _likeness(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        best: NDArray[np.float32] = (_unit(features) @ self.centroids_.T).max(axis=1)
        return best

    def answers(self, X: Pictures) -> Answers:
        """What the head says by the features, with probabilities at ``temperature_``."""
        check_is_fitted(self, "classes_")
        features = self._features(X)
        found = self.head_.answers(features)
        if found.probabilities is not None and self.temperature_ != 1.0:
            found = found._replace(probabilities=softmax(found.scores, self.temperature_).astype(np.float32))
        if self.threshold_ is not None:
            found = found._replace(none=self._likeness(features) < self.threshold_)
        return found

    def scores(self, X: Pictures) -> NDArray[np.float32]:
        """The head's score of each class.

        Returns
        -------
        ndarray of float32, (N, K)
            In the order of ``classes_``.
        """
        return self.answers(X).scores

    def predict(self, X: Pictures) -> NDArray[Any]:
        """The most likely class of each photo.

        Parameters
        ----------
        X : array of uint8, (N, H, W, 3), or sequence of paths

        Returns
        -------
        ndarray, (N,)
            Of the kind that ``classes_`` is.
        """
        places = self.answers(X).places
        predicted: NDArray[Any] = self.classes_[places]
        return predicted

    def _features(self, X: Pictures) -> NDArray[np.float32]:
        return self.extractor_.transform(self._checked(as_photos(X, self.input_shape_[:2])))

    @property
    def model_(self) -> nn.Sequential:
        """From photos to scores in one network, where the head is one."""
        return nn.Sequential({"backbone": self.extractor_.model_, "head": self.head_.model_})  # type: ignore[attr-defined]

    # --- files ---

    def _arrays(self) -> Arrays:
        arrays = {f"backbone.{path}": tensor.numpy() for path, tensor in nn.tensors(self.extractor_.model_).items()}
        arrays |= {f"head.{name}": array for name, array in self.head_._arrays().items()}
        return arrays | {"centroids": self.centroids_}

    def _described(self) -> dict[str, Any]:
        return {
            "backbone": nn.describe(self.extractor_.model_),
            "head": self.head_.header(),
            "temperature": self.temperature_,
            "threshold": self.threshold_,
        }

    def _restore(self, arrays: Arrays, header: Mapping[str, Any]) -> None:
        self.check_settings()
        parts: dict[str, Arrays] = {"backbone": {}, "head": {}}
        arrays = dict(arrays)
        centroids = arrays.pop("centroids", None)
        for name, array in arrays.items():
            part, _, path = name.partition(".")
            if part not in parts:
                raise ModelFileError(f"an array {name!r}, which is neither of the backbone nor of the head")
            parts[part][path] = array
        if centroids is None or centroids.ndim != 2:
            raise ModelFileError("its classes have no centroids")
        model = restored_model(
            header["backbone"], parts["backbone"], self.input_shape_, self.input_dtype_, centroids.shape[1]
        )
        self.extractor_ = FeatureExtractor(self.backbone, self.weights, self.engine)
        self.extractor_._take(model)
        head = header["head"]
        if head["classifier"] not in HEADS:
            raise ModelFileError(f"its head is a {head['classifier']!r}")
        self.head_ = rebuild(registered(head["classifier"]), parts["head"], head)
        if not np.array_equal(self.head_.classes_, self.classes_):
            raise ModelFileError("the classes of its head are others")
        self.alpha_, self.tried_ = getattr(self.head_, "alpha", None), {}
        wanted = (len(self.classes_), self.extractor_.n_features_out_)
        if centroids.dtype != np.float32 or centroids.shape != wanted:
            raise ModelFileError(f"its centroids are {centroids.dtype} of {centroids.shape}")
        self.centroids_ = centroids
        self.temperature_, self.threshold_ = float(header["temperature"]), header["threshold"]
        if not 1 / HOTTEST <= self.temperature_ <= HOTTEST:
            raise ModelFileError(f"its temperature is {self.temperature_}")
        if self.threshold_ is not None and not (type(self.threshold_) is float and -1.001 <= self.threshold_ <= 1.001):
            raise ModelFileError(f"its threshold is {reprlib.repr(self.threshold_)}")

    # --- settings ---

    def check_settings(self) -> None:
        """Raise SettingError where a constructor argument has a value that it cannot have."""
        check_choice("head", self.head, HEADS)
        check_choice("backbone", self.backbone, BACKBONES)
        check_choice("engine", self.engine, {"auto": None} | ENGINES)
        check_number("validation_fraction", self.validation_fraction, above=0, below=1)
        check_random_state_argument(self.random_state)
        if self.alpha != "auto":
            check_number("alpha", self.alpha, least=0)
        check_whole("finetune", self.finetune, least=0)
        if self.finetune:
            pipeline = augment.parse(self.augment)
            if pipeline is not None and pipeline.mixup is not None:
                raise SettingError(f"augment is {self.augment!r}: with finetune, photos are not mixed")
            if self.head not in ("linear", "mlp"):
                raise SettingError(f"finetune is {self.finetune}: a {self.head} head has no gradient to train by")
            if (loss := dict(self.settings or {}).get("loss", "softmax")) != "softmax":
                raise SettingError(f"settings: with finetune, the loss is softmax, not {loss!r}")
        for name in ("alpha", "class_weight", "random_state", "engine"):
            if name in (self.settings or {}):
                raise SettingError(f"settings {name!r}: it is an argument of PhotoClassifier itself")
        unknown = set(self.settings or {}) - set(registered(self.head)().get_params())
        if unknown:
            raise SettingError(f"settings {min(unknown)!r}: a {self.head} classifier has no such argument")
        self._head(None).check_settings()
