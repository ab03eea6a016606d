"""Labels that are likely wrong, by confident learning: plain arrays throughout.

A picture is suspected where classifiers that were not trained on it are sure of another class than its label. How sure
is sure enough differs from class to class, and is what they say, on average, of the pictures that bear the label.

References
----------
.. [1] C. G. Northcutt, L. Jiang, I. L. Chuang, "Confident learning: estimating uncertainty in dataset labels", Journal
   of Artificial Intelligence Research 70 (2021), 1373-1411.
"""

import warnings
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nabi import threads
from nabi.errors import DataError, ShapeError
from nabi.waiting import Show

FOLDS = 5
WEIGHT = 1e-3  # of the data against the penalty, as scikit-learn's C
STEPS = 15
"""Of the linear classifiers' training: who learns longer learns the wrong labels, too, and finds no more of them."""


class Suspicion(NamedTuple):
    """What `suspicion` gives, for N labels of K classes."""

    order: NDArray[np.int64]
    """Positions of all labels, (N,): the likeliest to be wrong first."""
    self_confidence: NDArray[np.float64]
    """The probability of each label, (N,)."""
    margin: NDArray[np.float64]
    """By how much that is more than the most likely other class has, (N,)."""
    instead: NDArray[np.int64]
    """The most likely other class, (N,)."""
    suspected: NDArray[np.bool_]
    """Whether the label lies off the diagonal of the confident joint, and another class is likelier, (N,)."""
    joint: NDArray[np.float64]
    """The share of pictures with label i that are of class j, as estimated, (K, K)."""


def thresholds(probabilities: ArrayLike, labels: ArrayLike) -> NDArray[np.float64]:
    """How sure of a class is sure enough: what its own pictures get on average, [1]_ equation 2.

    tⱼ = the mean of p(j; x) over the pictures x with label j.

    Parameters
    ----------
    probabilities : array_like of float, (N, K)
        From classifiers that were not trained on the picture they answer.
    labels : array_like of int, (N,)

    Returns
    -------
    ndarray of float64, (K,)
        Infinite for a class without labels.

    Examples
    --------
    >>> thresholds([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]], [0, 0, 1]).round(3).tolist()
    [0.7, 0.8]
    """
    probabilities, labels = _given(probabilities, labels)
    k = probabilities.shape[1]
    count = np.bincount(labels, minlength=k)
    total = np.bincount(labels, weights=probabilities[np.arange(len(labels)), labels], minlength=k)
    return np.where(count > 0, total / np.maximum(count, 1), np.inf)


def confident_class(probabilities: ArrayLike, labels: ArrayLike) -> NDArray[np.int64]:
    """The class that each picture surely is of: of those that reach their threshold the most likely, [1]_ equation 1.

    Returns
    -------
    ndarray of int64, (N,)
        -1 where no class reaches its threshold.

    Examples
    --------
    >>> confident_class([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8], [0.95, 0.05]], [0, 0, 1, 1]).tolist()
    [0, 1, 1, 0]
    """
    probabilities, labels = _given(probabilities, labels)
    sure = probabilities >= thresholds(probabilities, labels)
    best = np.where(sure, probabilities, -1.0).argmax(axis=1)
    return np.where(sure.any(axis=1), best, -1).astype(np.int64)


def confident_joint(probabilities: ArrayLike, labels: ArrayLike) -> NDArray[np.int64]:
    """How many pictures with label i surely are of class j, [1]_ equation 1.

    Parameters
    ----------
    probabilities : array_like of float, (N, K)
    labels : array_like of int, (N,)

    Returns
    -------
    ndarray of int64, (K, K)
        ``[i, j]``; who is surely of no class is not counted.

    Examples
    --------
    >>> confident_joint([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8], [0.95, 0.05]], [0, 0, 1, 1])
    array([[1, 1],
           [1, 1]])
    """
    probabilities, labels = _given(probabilities, labels)
    k = probabilities.shape[1]
    surely = confident_class(probabilities, labels)
    cells = (labels * k + surely)[surely >= 0]
    return np.bincount(cells, minlength=k * k).reshape(k, k).astype(np.int64)


def estimated_joint(joint: ArrayLike, labels: ArrayLike) -> NDArray[np.float64]:
    """The confident joint as shares of all pictures, [1]_ equation 3: each row adds up to the share of its label.

    A row of nothing puts its share on the diagonal.

    Examples
    --------
    >>> estimated_joint([[1, 1], [0, 4]], [0, 0, 0, 1]).tolist()
    [[0.375, 0.375], [0.0, 0.25]]
    """
    counts = np.asarray(joint, dtype=np.float64)
    labels = np.asarray(labels)
    rows = counts.sum(axis=1, keepdims=True)
    counts = np.where(rows > 0, counts, np.eye(len(counts)))
    share = np.bincount(labels, minlength=len(counts))[:, None] / len(labels)
    shares: NDArray[np.float64] = counts / np.maximum(rows, 1) * share
    return shares


def suspicion(probabilities: ArrayLike, labels: ArrayLike) -> Suspicion:
    """Which labels are likely wrong.

    Suspected are those off the diagonal of the confident joint ([1]_, section 3.1, the method C of its section 4), but
    none that is likelier than every other class: of a class with a handful of pictures, no classifier is sure, and what
    reaches its threshold may be next to nothing. The order is that of the self-confidence p(label; x), the margin
    deciding between equals.

    Parameters
    ----------
    probabilities : array_like of float, (N, K)
        From classifiers that were not trained on the picture they answer: see `cross_validated`.
    labels : array_like of int, (N,)

    Raises
    ------
    ShapeError, DataError
        Not (N, K) and (N,), fewer than two classes, or a label that is none of them.

    Examples
    --------
    >>> found = suspicion([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.95, 0.05]], [0, 0, 1, 1])
    >>> found.order.tolist(), found.instead.tolist(), found.suspected.tolist()
    ([3, 1, 2, 0], [1, 1, 0, 0], [False, False, False, True])
    """
    probabilities, labels = _given(probabilities, labels)
    if probabilities.shape[1] < 2:
        raise DataError("suspicion: of one class only, no label can be wrong")
    rows = np.arange(len(labels))
    own = probabilities[rows, labels]
    others = probabilities.copy()
    others[rows, labels] = -1.0
    instead = others.argmax(axis=1)
    margin = own - others[rows, instead]
    surely = confident_class(probabilities, labels)
    joint = estimated_joint(confident_joint(probabilities, labels), labels)
    order = np.lexsort((margin, own))
    suspected = (surely >= 0) & (surely != labels) & (margin < 0)
    return Suspicion(order, own, margin, instead, suspected, joint)


def cross_validated(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    n_classes: int,
    show: Show = lambda what, done, total: None,
) -> NDArray[np.float64]:
    """Of each picture the probability of each class, by a linear classifier that was trained on others.

    Parameters
    ----------
    features : ndarray of float32, (N, features)
    labels : ndarray of int64, (N,)
        Each that occurs at least twice, so that each classifier knows all of them.
    n_classes : int
        K.
    show : callable, optional
        Called as ``show(what, done, total)``.

    Returns
    -------
    ndarray of float64, (N, K)

    Raises
    ------
    DataError
        A label that occurs once only, or fewer than two.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    count = np.bincount(labels, minlength=n_classes)
    if (count == 1).any() or (count > 0).sum() < 2:
        raise DataError("cross_validated: two classes at least, and two pictures of each")
    deviation = features.std(axis=0)
    rows = (features - features.mean(axis=0)) / np.where(deviation > 0, deviation, 1)
    fold_of = folds(labels)
    found = np.zeros((len(labels), n_classes))

    def answer(fold: int) -> None:
        held = fold_of == fold
        if held.any():
            linear: Any = LogisticRegression(C=WEIGHT, max_iter=STEPS)  # type: ignore[no-untyped-call]
            linear.fit(rows[~held], labels[~held])
            found[np.ix_(held, linear.classes_)] = linear.predict_proba(rows[held])

    with warnings.catch_warnings(), threads.one_blas_thread():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it is not to converge
        show("looking for wrong labels", 0, FOLDS)
        for done, _ in enumerate(threads.map_in_order(answer, range(FOLDS), ahead=2), 1):
            show("looking for wrong labels", done, FOLDS)
    return found


def folds(labels: NDArray[np.int64], n_folds: int = FOLDS) -> NDArray[np.int64]:
    """A fold for each picture, by lot, always the same; each class is spread over them evenly.

    Examples
    --------
    >>> fold_of = folds(np.array([0, 0, 0, 1, 1, 1]), 3)
    >>> sorted(fold_of[:3].tolist()), sorted(fold_of[3:].tolist())
    ([0, 1, 2], [0, 1, 2])
    """
    random = np.random.default_rng(0)
    fold_of = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        fold_of[members] = np.arange(len(members)) % n_folds
    return fold_of


def _given(probabilities: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    shares, places = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    if shares.ndim != 2 or places.shape != shares.shape[:1]:
        raise ShapeError(f"probabilities {shares.shape} and labels {places.shape}; they must be (N, K) and (N,)")
    if not len(places):
        raise DataError("no labels to suspect")
    if not (shares.min() >= 0 and shares.max() <= 1 + 1e-5):
        raise DataError("a probability that is not between 0 and 1")
    if places.dtype.kind not in "iu" or places.min() < 0 or places.max() >= shares.shape[1]:
        raise DataError(f"a label that is none of the {shares.shape[1]} classes from 0")
    return shares, places.astype(np.int64)
