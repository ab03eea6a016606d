"""Nearest neighbours: the classifier that remembers everything and learns nothing."""

from collections.abc import Iterator, Mapping
from typing import Any, Self, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted

from nabi.classifiers.attempt import attempt
from nabi.classifiers.base import Answers, Arrays, Classifier
from nabi.classifiers.registry import register
from nabi.classifiers.settings import check_choice, check_whole
from nabi.errors import ModelFileError, SettingError
from nabi.nearest import METRICS, nearest
from nabi.training import Event, Finished, Started

WEIGHTS = ("uniform", "distance")


@register("knn")
class KNNClassifier(Classifier):
    """An input is of the class that most of its k nearest training inputs are of.

    Exact: every answer is that of going through all pairs (see `nabi.nearest` for how most of them are spared). uint8
    pixels are compared in whole numbers, so that two distances are equal exactly when they are; at a draw the training
    input that came first is nearer, and among classes with equally many votes the first of ``classes_`` wins.
    Source: the lecture, chapter 1.1.3.

    Parameters
    ----------
    n_neighbors : int
        How many neighbours vote.
    metric : str
        "l2", the square root of the sum of squared differences of pixels; or "l1", the sum of absolute differences.
    weights : str
        "uniform": each neighbour has one vote. "distance": the nearer, the more, in proportion to 1/distance; where
        there are neighbours at distance 0, they alone decide.

    Attributes
    ----------
    images_ : ndarray of uint8 or float32, (M, H, W, C) or (M, features)
        The training inputs as they came; not a copy, where none was needed.
    labels_ : ndarray of int64, (M,)
        Their classes, as positions in ``classes_``.
    n_samples_fit_ : int
        How many they are.

    Examples
    --------
    >>> from nabi import data
    >>> digits = data.load("digits")
    >>> classifier = KNNClassifier(n_neighbors=1).fit(digits.train.images, digits.train.labels)
    >>> classifier.score(digits.test.images, digits.test.labels) > 0.95
    True
    >>> distances, positions = classifier.kneighbors(digits.test.images[:1], n_neighbors=3)
    >>> positions.shape
    (1, 3)
    """

    images_: NDArray[Any]
    labels_: NDArray[np.int64]
    n_samples_fit_: int

    def __init__(self, n_neighbors: int = 5, *, metric: str = "l2", weights: str = "uniform") -> None:
        self.n_neighbors = n_neighbors
        self.metric = metric
        self.weights = weights

    # --- what is remembered ---

    def fit(self, X: ArrayLike, y: ArrayLike, *, validation: tuple[ArrayLike, ArrayLike] | None = None) -> Self:
        """Remember labelled inputs.

        Parameters
        ----------
        X : array_like, (N, H, W, C) or (N, features)
            uint8 pixels, or real numbers taken as given. A memory map stays on the disk.
        y : array_like, (N,)
            Labels of any kind.
        validation : (X, y), optional
            Checked like those of other classifiers, and otherwise of no use here.

        Raises
        ------
        SettingError
            A constructor argument with a value it cannot have.
        DataError
            A validation label that training does not have.
        """
        for _ in self.fit_events(X, y, validation=validation):
            pass
        return self

    def fit_events(
        self, X: ArrayLike, y: ArrayLike, *, validation: tuple[ArrayLike, ArrayLike] | None = None, **options: Any
    ) -> Iterator[Event]:
        """Fit as `fit` does, with the events of `nabi.training`: a run of no epochs.

        Parameters
        ----------
        X, y, validation
            As for `fit`.
        **options
            What other classifiers need (``checkpoint``, ``stop``): of no use here, since it is over at once.
        """
        self.check_settings()
        with attempt(self):
            images, labels = self._learn_input(X, y, fewest=1)
            if self.n_neighbors > len(images):  # of what cannot answer nobody should hear that it was learnt
                raise SettingError(f"n_neighbors is {self.n_neighbors}, but it is fitted on n_samples = {len(images)}")
            if validation is not None:
                self._held_out(validation)
            self._remember(images, labels)
        yield Started(epochs=0, epoch=0, step=0, steps_per_epoch=0, history=())
        yield Finished(epochs=0, best_epoch=0, stopped=False, history=())

    def partial_fit(self, X: ArrayLike, y: ArrayLike, classes: ArrayLike | None = None) -> Self:
        """Remember these inputs too.

        Parameters
        ----------
        X, y
            As for `fit`.
        classes : array_like
            All labels that there will ever be: at the first call.

        Raises
        ------
        DataError
            ``classes`` is missing at the first call, or another at a later one; a label that is not among them.
        """
        self.check_settings()
        with attempt(self):
            first = not hasattr(self, "classes_")
            images, labels = self._learn_part(X, y, classes, fewest=1)
            if not first:
                images, labels = np.concatenate([self.images_, images]), np.concatenate([self.labels_, labels])
            self._remember(images, labels)
        return self

    def _remember(self, images: NDArray[Any], labels: NDArray[np.int64]) -> None:
        self.images_, self.labels_ = np.asarray(images), labels
        self.n_samples_fit_ = len(images)

    # --- answers ---

    @overload
    def kneighbors(
        self, X: ArrayLike | None = None, n_neighbors: int | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]: ...

    @overload
    def kneighbors(
        self, X: ArrayLike | None = None, n_neighbors: int | None = None, return_distance: bool = True
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]] | NDArray[np.int64]: ...

    def kneighbors(
        self, X: ArrayLike | None = None, n_neighbors: int | None = None, return_distance: bool = True
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]] | NDArray[np.int64]:
        """The nearest training inputs.

        Parameters
        ----------
        X : array_like, optional
            Inputs of the kind that it was fitted on; by default the training inputs, none of them its own neighbour.
        n_neighbors : int, optional
            By default the constructor's.
        return_distance : bool

        Returns
        -------
        distances : ndarray of float64, (N, n_neighbors)
            In ascending order; left out where ``return_distance`` is false.
        positions : ndarray of int64, (N, n_neighbors)
            Positions in ``images_``; of neighbours at the same distance, the lowest first.

        Raises
        ------
        SettingError
            There are fewer training inputs than that.
        """
        check_is_fitted(self, "classes_")
        k = self.n_neighbors if n_neighbors is None else n_neighbors
        distances, positions = self._nearest(None if X is None else self._checked(X), k)
        return (distances, positions) if return_distance else positions

    def _nearest(self, images: NDArray[Any] | None, k: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        self.check_settings()
        check_whole("n_neighbors", k)
        if k > self.n_samples_fit_ - (images is None):
            itself = ", one of which is the input itself" if images is None else ""
            raise SettingError(f"n_neighbors is {k}, but it was fitted on n_samples = {self.n_samples_fit_}{itself}")
        if images is None:
            return _without_itself(*nearest(self.images_, self.images_, k + 1, self.metric))
        return nearest(np.asarray(images), self.images_, k, self.metric)

    def scores(self, X: ArrayLike) -> NDArray[np.float32]:
        """The votes for each class.

        With ``weights="distance"`` in units of the nearest neighbour's vote: another one at twice its distance has half
        a vote.

        Returns
        -------
        ndarray of float32, (N, K)
            In the order of ``classes_``.
        """
        return self.answers(X).scores

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The class with the most votes; of several with as many, the first in ``classes_``.

        Returns
        -------
        ndarray, (N,)
            Of the kind that ``classes_`` is.
        """
        places = self.answers(X).places
        predicted: NDArray[Any] = self.classes_[places]
        return predicted

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """The share of each class in the votes.

        Returns
        -------
        ndarray of float64, (N, K)
            In the order of ``classes_``.
        """
        shares: NDArray[np.float64] = self._probabilities(X)
        return shares

    def answers(self, X: ArrayLike) -> Answers:
        votes = self._votes(X)  # and not the scores decide, whose rounding could make a draw of them
        return Answers(votes.argmax(axis=1), votes.astype(np.float32), votes / votes.sum(axis=1, keepdims=True))

    # --- what `Classifier` asks for ---

    def _votes(self, X: ArrayLike) -> NDArray[np.float64]:
        """The votes for each class, (N, K)."""
        check_is_fitted(self, "classes_")
        images = self._checked(X)
        # All at once: the search cuts by itself, and in larger batches it has less to prepare.
        distances, positions = self._nearest(images, self.n_neighbors)
        # 1/distance in units of the nearest neighbour's; where that one is at distance 0, nothing for those farther.
        weights = np.ones_like(distances)
        if self.weights == "distance":
            np.divide(distances[:, :1], distances, out=weights, where=distances > 0)
        votes = np.zeros((len(images), len(self.classes_)))
        rows = np.arange(len(images))
        for labels, weight in zip(self.labels_[positions].T, weights.T, strict=True):
            votes[rows, labels] += weight
        return votes

    def _arrays(self) -> Arrays:
        return {"images": self.images_, "labels": self.labels_}

    def _restore(self, arrays: Arrays, header: Mapping[str, Any]) -> None:
        self.check_settings()
        if set(arrays) != {"images", "labels"}:
            raise ModelFileError(f"its arrays are {', '.join(sorted(arrays)) or 'none'}, not images and labels")
        images, labels = arrays["images"], arrays["labels"]
        if images.shape[1:] != self.input_shape_ or images.dtype != self.input_dtype_ or not images.size:
            raise ModelFileError(
                f"images {images.shape} of {images.dtype}, but inputs of {self.input_shape_} and {self.input_dtype_}"
            )
        if labels.shape != images.shape[:1] or labels.dtype != np.int64:
            raise ModelFileError(f"labels {labels.shape} of {labels.dtype} for {len(images)} images")
        if not 0 <= labels.min() <= labels.max() < len(self.classes_):
            raise ModelFileError(f"a label that is none of its {len(self.classes_)} classes")
        self._remember(images, labels)

    def check_settings(self) -> None:
        """Raise SettingError where a constructor argument has a value that it cannot have."""
        check_whole("n_neighbors", self.n_neighbors)
        check_choice("metric", self.metric, dict.fromkeys(METRICS))
        check_choice("weights", self.weights, dict.fromkeys(WEIGHTS))


def _without_itself(
    distances: NDArray[np.float64], positions: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Neighbours (N, k + 1) of all inputs to the k that are others.

    Where an input is not among its own neighbours, k + 1 copies of it come before it: then the last is left out.
    """
    itself = positions == np.arange(len(positions))[:, np.newaxis]
    itself[~itself.any(axis=1), -1] = True
    others = ~itself
    shape = (len(positions), positions.shape[1] - 1)
    return distances[others].reshape(shape), positions[others].reshape(shape)
