"""How good a classifier is: accuracy and how sure one can be of it, confusion, calibration. Plain arrays throughout.

Labels and predictions are integers from 0 to the number of classes less one, in arrays (N,).
"""

from math import sqrt
from statistics import NormalDist
from typing import Any, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nabi.errors import DataError, DTypeError, SettingError, ShapeError

MAX_CONFUSION_CLASSES = 1_000
"""Of how many classes a confusion matrix, which grows with their square, is still worth its memory and a look."""


HOTTEST = 10.0
"""The highest temperature that `fit_temperature` gives; the lowest is its inverse."""


class PerClass(TypedDict):
    """What `per_class` gives: one number a class, each an array (K,)."""

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]
    support: NDArray[np.int64]


class Reliability(TypedDict):
    """What `reliability` gives: one number for each interval of confidence, each an array (M,)."""

    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    count: NDArray[np.int64]


def accuracy(labels: ArrayLike, predictions: ArrayLike) -> float:
    """Share of the predictions that are right.

    Parameters
    ----------
    labels, predictions : array_like of int, (N,)

    Raises
    ------
    ShapeError
        The two differ in shape or have another than one axis.
    DataError
        There are none.

    Examples
    --------
    >>> accuracy([0, 1, 2, 2], [0, 1, 1, 2])
    0.75
    """
    labels, predictions = _pair(labels, predictions)
    if labels.size == 0:
        raise DataError("accuracy: no predictions to score")
    return float(np.mean(labels == predictions))


def wilson_interval(correct: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval: where the accuracy lies of which `correct` out of `total` is a sample.

    With p = correct / total, n = total and z the normal quantile at (1 + confidence) / 2, the interval is
    (p + z²/2n ± z √(p(1 - p)/n + z²/4n²)) / (1 + z²/n) [1]_. Unlike p ± z √(p(1 - p)/n) it stays between 0 and 1, and
    keeps close to its confidence also where few pictures were tested or nearly all were right [2]_.

    Parameters
    ----------
    correct, total : int
        How many predictions were right, out of how many.
    confidence : float
        Between 0 and 1, both excluded.

    Returns
    -------
    low, high : float

    Raises
    ------
    SettingError
        Not 0 ≤ correct ≤ total with total ≥ 1, or a confidence outside (0, 1).

    References
    ----------
    .. [1] E. B. Wilson, "Probable inference, the law of succession, and statistical inference", Journal of the American
       Statistical Association 22 (1927), 209-212.
    .. [2] R. G. Newcombe, "Two-sided confidence intervals for the single proportion: comparison of seven methods",
       Statistics in Medicine 17 (1998), 857-872; method 3.

    Examples
    --------
    >>> low, high = wilson_interval(350, 360)
    >>> f"{low:.3f} to {high:.3f}"
    '0.950 to 0.985'
    """
    if not (total >= 1 and 0 <= correct <= total):
        raise SettingError(f"wilson_interval: {correct} correct out of {total}")
    if not 0 < confidence < 1:
        raise SettingError(f"wilson_interval: confidence is {confidence}, and lies between 0 and 1")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    p = correct / total
    centre = p + z * z / (2 * total)
    margin = z * sqrt(p * (1 - p) / total + (z / (2 * total)) ** 2)
    scale = 1 + z * z / total
    # At the ends the interval closes exactly, but for rounding.
    low = 0.0 if correct == 0 else (centre - margin) / scale
    high = 1.0 if correct == total else (centre + margin) / scale
    return low, high


def confusion_matrix(labels: ArrayLike, predictions: ArrayLike, n_classes: int) -> NDArray[np.int64]:
    """How often each class was taken for each.

    Parameters
    ----------
    labels, predictions : array_like of int, (N,)
    n_classes : int
        K. Classes that do not occur have a row and a column too.

    Returns
    -------
    matrix : ndarray of int64, (K, K)
        ``matrix[i, j]`` counts the pictures of class i that were predicted to be of class j.

    Raises
    ------
    ShapeError
        The two differ in shape or have another than one axis.
    DataError
        A label or prediction outside of 0 to K - 1.

    Examples
    --------
    >>> confusion_matrix([0, 0, 1, 2], [0, 1, 1, 2], 3)
    array([[1, 1, 0],
           [0, 1, 0],
           [0, 0, 1]])
    """
    labels, predictions = _pair_within("confusion_matrix", labels, predictions, n_classes)
    cells = labels * n_classes + predictions
    return np.bincount(cells, minlength=n_classes * n_classes).reshape(n_classes, n_classes).astype(np.int64)


def per_class(labels: ArrayLike, predictions: ArrayLike, n_classes: int) -> PerClass:
    """Precision, recall, F1 and number of pictures of each class.

    Precision is the share of right ones among those predicted to be of the class, recall the share of those found among
    the class's own, F1 = 2 · precision · recall / (precision + recall) their harmonic mean. Where a share is one of
    nothing (a class never predicted, or without pictures) it is 0, as in scikit-learn.

    Parameters
    ----------
    labels, predictions : array_like of int, (N,)
    n_classes : int
        K.

    Returns
    -------
    dict
        ``precision``, ``recall``, ``f1``: arrays of float64 (K,); ``support``: pictures of each class, int64 (K,).

    Raises
    ------
    ShapeError, DataError
        As `confusion_matrix`.

    Examples
    --------
    >>> scores = per_class([0, 0, 1, 1], [0, 1, 1, 1], 2)
    >>> scores["precision"].round(3).tolist(), scores["recall"].tolist(), scores["f1"].round(3).tolist()
    ([1.0, 0.667], [0.5, 1.0], [0.667, 0.8])
    """
    labels, predictions = _pair_within("per_class", labels, predictions, n_classes)
    # Counted class by class: with many classes there is no room for a matrix.
    right, predicted, support = (
        np.bincount(of, minlength=n_classes).astype(np.int64)
        for of in (labels[labels == predictions], predictions, labels)
    )
    return {
        "precision": right / np.maximum(predicted, 1),
        "recall": right / np.maximum(support, 1),
        "f1": 2 * right / np.maximum(predicted + support, 1),
        "support": support,
    }


def expected_calibration_error(probabilities: ArrayLike, labels: ArrayLike, bins: int = 15) -> float:
    """How far, on average, the probability that a classifier gives its answer is from how often it is right.

    The predictions are sorted by confidence (their highest probability) into `bins` intervals ((m - 1)/M, m/M]; the
    error is Σ over the intervals of (share of all predictions) · abs(accuracy - mean confidence) [1]_.

    Parameters
    ----------
    probabilities : array_like of float, (N, K)
    labels : array_like of int, (N,)
    bins : int
        M.

    Raises
    ------
    ShapeError
        Not (N, K) and (N,).
    DataError
        There are none, or a probability outside of 0 to 1.
    SettingError
        Less than one bin.

    References
    ----------
    .. [1] C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, "On calibration of modern neural networks", ICML 2017,
       equations 2 and 3.

    Examples
    --------
    Two answers given with 0.9, of which one is right: off by 0.4.

    >>> round(expected_calibration_error([[0.9, 0.1], [0.1, 0.9]], [0, 0]), 6)
    0.4
    """
    bin_of, confidence, right = _by_confidence("expected_calibration_error", probabilities, labels, bins)
    # Share · abs(accuracy - confidence) = abs(Σ right - Σ confidence) / N, bin by bin.
    gaps = np.bincount(bin_of, weights=right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(right))


def reliability(probabilities: ArrayLike, labels: ArrayLike, bins: int = 10) -> Reliability:
    """How often answers are right that are given with so much confidence: what a reliability diagram shows.

    The predictions are sorted into intervals as by `expected_calibration_error`, of which this has the parts.

    Parameters
    ----------
    probabilities : array_like of float, (N, K)
    labels : array_like of int, (N,)
    bins : int
        M.

    Returns
    -------
    dict
        ``confidence``, ``accuracy``: the mean of each interval, 0 where it is empty, float64 (M,); ``count``: its
        predictions, int64 (M,).

    Raises
    ------
    ShapeError, DataError, SettingError
        As `expected_calibration_error`.

    Examples
    --------
    >>> found = reliability([[0.9, 0.1], [0.1, 0.9], [0.4, 0.6]], [0, 0, 1], bins=2)
    >>> found["count"].tolist(), found["confidence"].round(3).tolist(), found["accuracy"].round(3).tolist()
    ([0, 3], [0.0, 0.8], [0.0, 0.667])
    """
    bin_of, confidence, right = _by_confidence("reliability", probabilities, labels, bins)
    count = np.bincount(bin_of, minlength=bins).astype(np.int64)
    mean = [
        np.bincount(bin_of, weights=values, minlength=bins) / np.maximum(count, 1) for values in (confidence, right)
    ]
    return {"confidence": mean[0], "accuracy": mean[1], "count": count}


def softmax(scores: ArrayLike, temperature: float = 1.0) -> NDArray[np.float64]:
    """The probabilities that scores stand for: exp(s / T), divided by their sum along the last axis.

    They are probabilities where the model was taught with the softmax's own loss. Source: Bridle, "Probabilistic
    interpretation of feedforward classification network outputs" (1990).

    Parameters
    ----------
    scores : array_like of float, (..., K)
    temperature : float
        T: above 1 it makes all answers less sure, below 1 surer; the order of the classes stays.

    Examples
    --------
    >>> softmax([[0.0, np.log(3)]]).round(3).tolist(), softmax([[0.0, 2 * np.log(3)]], 2.0).round(3).tolist()
    ([[0.25, 0.75]], [[0.25, 0.75]])
    """
    scaled = np.asarray(scores, dtype=np.float64) / temperature
    exponentials = np.exp(scaled - scaled.max(axis=-1, keepdims=True))  # the largest is 1: nothing overflows
    shares: NDArray[np.float64] = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return shares


def fit_temperature(scores: ArrayLike, labels: ArrayLike) -> float:
    """The temperature T by which softmax(s / T) gives what happened the highest probability.

    It minimises the mean of -log softmax(s / T) at the right class [1]_. In β = 1/T that is convex: its derivative,
    the mean of Σⱼ pⱼ sⱼ - s at the right class, rises with β, and is brought to 0 by Newton's method, kept between
    bounds that close in on the root. Where all answers are right with room to spare there is no minimum, since ever
    colder were ever better; T is then 1, as it is where one class is all there is.

    Parameters
    ----------
    scores : array_like of float, (N, K)
        The logits, of pictures that were not trained on.
    labels : array_like of int, (N,)

    Returns
    -------
    float
        From 0.1 to 10.

    Raises
    ------
    ShapeError, DataError
        Not (N, K) and (N,), none at all, a score that is not finite, or a label that is none of the K classes.

    References
    ----------
    .. [1] C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, "On calibration of modern neural networks", ICML 2017,
       section 4.2, equation 9.

    Examples
    --------
    Three of four right, each said with the logit ln 9, which is 0.9: T = ln 9 / ln 3 makes 0.75 of it.

    >>> temperature = fit_temperature([[np.log(9), 0]] * 4, [0, 0, 0, 1])
    >>> round(temperature, 6), softmax([[np.log(9), 0]], temperature).round(6).tolist()
    (2.0, [[0.75, 0.25]])
    """
    given, labels = np.asarray(scores, dtype=np.float64), _integers(labels)
    if given.ndim != 2 or labels.shape != given.shape[:1]:
        raise ShapeError(f"fit_temperature: scores {given.shape} and labels {labels.shape}; not (N, K) and (N,)")
    if given.size == 0 or not np.isfinite(given).all():
        raise DataError("fit_temperature: no scores" if given.size == 0 else "fit_temperature: a score is not finite")
    _pair_within("fit_temperature", labels, labels, given.shape[1])
    logits = given - given.max(axis=1, keepdims=True)
    right = logits[np.arange(len(labels)), labels]

    def slope(beta: float) -> tuple[float, float]:
        """The derivative in β, and its own."""
        shares = softmax(logits, 1 / beta)
        mean = (shares * logits).sum(axis=1)
        return float((mean - right).mean()), float(((shares * logits**2).sum(axis=1) - mean**2).mean())

    low, high = 1 / HOTTEST, HOTTEST
    if slope(high)[0] <= 0:
        return 1.0
    if slope(low)[0] >= 0:
        return HOTTEST
    beta = 1.0
    for _ in range(100):
        value, steepness = slope(beta)
        low, high = (low, beta) if value > 0 else (beta, high)
        step = beta - value / steepness if steepness > 0 else low
        following = step if low < step < high else (low + high) / 2
        if abs(following - beta) <= 1e-12 * beta:
            break
        beta = following
    return 1 / beta


def rejection_threshold(scores: ArrayLike, rate: float = 0.05) -> float:
    """The highest threshold that no more than a share of these scores lies below.

    Parameters
    ----------
    scores : array_like of float, (N,)
        Of what should not be rejected.
    rate : float
        The share, from 0 to 1.

    Raises
    ------
    ShapeError, DataError
        Not (N,), or none.
    SettingError
        A rate outside of [0, 1).

    Examples
    --------
    >>> rejection_threshold([0.9, 0.2, 0.8, 0.7], 0.25)
    0.7
    """
    ordered = np.sort(np.asarray(scores, dtype=np.float64))
    if ordered.ndim != 1:
        raise ShapeError(f"rejection_threshold: scores {ordered.shape}; they must be (N,)")
    if not ordered.size:
        raise DataError("rejection_threshold: no scores")
    if not 0 <= rate < 1:
        raise SettingError(f"rejection_threshold: rate is {rate}, and lies from 0 to less than 1")
    return float(ordered[int(rate * len(ordered))])


def _by_confidence(
    function: str, probabilities: ArrayLike, labels: ArrayLike, bins: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_]]:
    """Of each prediction the interval its confidence lies in, the confidence, and whether it is right."""
    probabilities = np.asarray(probabilities, dtype=np.float64)
    labels = _integers(labels)
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1]:
        raise ShapeError(
            f"{function}: probabilities {probabilities.shape} and labels {labels.shape}; "
            "they go together as (N, K) and (N,)"
        )
    if bins < 1:
        raise SettingError(f"{function}: {bins} bins, and there must be one at least")
    if probabilities.size == 0:
        raise DataError(f"{function}: no predictions to score")
    confidence = probabilities.max(axis=1)
    # A softmax in float32 may exceed 1 by its rounding.
    if not (probabilities.min() >= 0 and confidence.max() <= 1 + 1e-5):
        raise DataError(f"{function}: a probability that is not between 0 and 1 (before softmax?)")
    right = probabilities.argmax(axis=1) == labels
    bin_of = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    return bin_of, confidence, right


def _integers(values: ArrayLike) -> NDArray[Any]:
    array = np.asarray(values)
    if array.size and array.dtype.kind not in "iu":
        raise DTypeError(f"labels and predictions are integers, not {array.dtype}")
    return array


def _pair(labels: ArrayLike, predictions: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    labels, predictions = _integers(labels), _integers(predictions)
    if labels.ndim != 1 or labels.shape != predictions.shape:
        raise ShapeError(f"labels {labels.shape} and predictions {predictions.shape}; both must be (N,)")
    return labels, predictions


def _pair_within(
    function: str, labels: ArrayLike, predictions: ArrayLike, n_classes: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    labels, predictions = _pair(labels, predictions)
    for name, values in (("label", labels), ("prediction", predictions)):
        outside = values[(values < 0) | (values >= n_classes)]
        if outside.size:
            raise DataError(f"{function}: the {name} {outside[0]} is none of the {n_classes} classes from 0")
    return labels.astype(np.int64), predictions.astype(np.int64)
