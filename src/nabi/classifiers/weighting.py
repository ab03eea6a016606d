"""How much each input counts in training: its own weight times that of its class."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.validation import _check_sample_weight

from nabi.errors import DataError


def example_weights(
    sample_weight: ArrayLike | None,
    class_weight: Mapping[Any, float] | str | None,
    images: NDArray[Any],
    labels: NDArray[np.int64],
    classes: NDArray[Any],
) -> NDArray[np.float32] | None:
    """How much each input counts, or None where all count alike.

    Parameters
    ----------
    sample_weight : array_like, (N,), optional
        0 or more.
    class_weight : mapping, "balanced" or None
        By label; "balanced" is N / (K·count), as scikit-learn has it.
    images, labels : arrays of N
    classes : array, (K,)

    Raises
    ------
    DataError
        Every weight is 0, or ``class_weight`` names a class that is not there.
    """
    if sample_weight is None and class_weight is None:
        return None
    weights: NDArray[np.float64] = _check_sample_weight(
        sample_weight, labels, dtype=np.float64, ensure_non_negative=True
    )
    if isinstance(class_weight, Mapping):
        strange = [label for label in class_weight if label not in classes.tolist()]
        if strange:
            raise DataError(f"class_weight names the class {strange[0]!r}, which is not among those of training")
        weights = weights * np.array([class_weight.get(label, 1.0) for label in classes.tolist()])[labels]
    elif class_weight is not None:
        present = np.unique(labels)
        by_place = np.ones(len(classes))
        by_place[present] = compute_class_weight(class_weight, classes=present, y=labels)
        weights = weights * by_place[labels]
    of_mean_one(weights)  # or an error
    return weights.astype(np.float32)


def of_mean_one(weights: NDArray[Any] | None) -> NDArray[np.float32] | None:
    """The same weights in relation to each other, so that together they move as much as if all counted 1.

    Raises
    ------
    DataError
        Every weight is 0.

    Examples
    --------
    >>> of_mean_one(np.array([3.0, 1.0, 0.0, 0.0]))
    array([3., 1., 0., 0.], dtype=float32)
    >>> of_mean_one(np.array([30.0, 10.0]))
    array([1.5, 0.5], dtype=float32)
    """
    if weights is None:
        return None
    total = weights.sum(dtype=np.float64)
    if not 0 < total < np.inf:
        raise DataError(f"the weights of all inputs add up to {total}: some must count")
    scaled: NDArray[np.float32] = (weights * (len(weights) / total)).astype(np.float32)
    return scaled


def held_out_fraction(
    labels: NDArray[np.int64], fraction: float, seed: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Positions to train on and to validate on, each class in its share where it has enough inputs.

    Examples
    --------
    >>> train, held = held_out_fraction(np.array([0] * 8 + [1] * 4), 0.25, seed=0)
    >>> len(train), len(held)
    (9, 3)
    """
    from sklearn.model_selection import train_test_split  # which brings all of scikit-learn's metrics

    places = np.arange(len(labels))
    held = max(1, math.ceil(fraction * len(labels)))
    counts = np.unique(labels, return_counts=True)[1]
    if held >= len(labels):
        raise DataError(f"validation_fraction {fraction} of {len(labels)} inputs leaves none to train on")
    enough = counts.min() >= 2 and len(counts) <= min(held, len(labels) - held)
    train, validation = train_test_split(
        places, test_size=held, random_state=seed % 2**32, stratify=labels if enough else None
    )
    return np.sort(train), np.sort(validation)
