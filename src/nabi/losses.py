"""Losses: how unhappy one is with the scores, as one number.

Scores (or logits) are floating point, shape (N, K): one row an example, one column a class. Labels are integers, shape
(N,): the place of the right class. ``reduction`` says what becomes of the N losses: their "mean", their "sum", or
"none", which leaves them as they are. ``weights``, shape (N,), says how much each example counts; the mean is then
Σ w·L / Σ w.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from nabi import ops
from nabi._tensor import Tensor, tensor
from nabi.errors import DTypeError, SettingError, ShapeError
from nabi.graph.interpreter import scope, stack

REDUCTIONS = ("mean", "sum", "none")


@scope("multiclass_hinge")
def multiclass_hinge(
    scores: Any, labels: Any, margin: float = 1.0, reduction: str = "mean", *, weights: Any = None
) -> Tensor:
    """The multiclass support vector machine's loss: every wrong class should stay ``margin`` below the right one.

    L = Σ max(0, sⱼ - s_y + margin), over the wrong classes j ≠ y. Where a term is exactly at the hinge, its gradient
    is 0. Source: the lecture, chapter 3.1; Weston and Watkins, "Support vector machines for multi-class pattern
    recognition" (1999).

    Parameters
    ----------
    scores : Tensor or array_like, floating point, shape (N, K)
    labels : Tensor or array_like, integers, shape (N,)
    margin : float
        How far below the right class's score the others should stay.
    reduction : str
        "mean", "sum" or "none".
    weights : Tensor or array_like, shape (N,), optional
        How much each example counts.

    Returns
    -------
    Tensor
        Shape (), or (N,) where nothing is reduced.

    Raises
    ------
    ShapeError, DTypeError
        Where scores or labels are not as above.
    SettingError
        Where a label names no class, or the reduction is unknown.

    Examples
    --------
    >>> multiclass_hinge([[3.2, 5.1, -1.7]], [0])  # cat, car, frog; it is a cat
    tensor(2.8999999)
    """
    scores, labels, right = _classified("multiclass_hinge", scores, labels)
    short = ops.relu(scores - _at(scores, right) + margin)
    losses = ops.where(right, 0, short).sum(axis=1)
    return _reduce("multiclass_hinge", _known(losses, right), reduction, weights)


@scope("perceptron")
def perceptron(scores: Any, labels: Any, reduction: str = "mean", *, weights: Any = None) -> Tensor:
    """The perceptron's loss: how far the best class lies above the right one.

    L = max(0, maxⱼ sⱼ - s_y): zero, and so nothing to learn, where the right class wins. Source: Rosenblatt, "The
    perceptron" (1958), for more than two classes as in Crammer and Singer, "Ultraconservative online algorithms for
    multiclass problems" (2003).

    Parameters, returned value and errors are those of `multiclass_hinge`.

    Examples
    --------
    >>> perceptron([[1.0, 3.0], [2.0, 0.0]], [0, 0], reduction="none")
    tensor([2., 0.])
    """
    scores, labels, right = _classified("perceptron", scores, labels)
    best = scores.max(axis=1)  # the right class is among them, so that the difference is never negative
    losses = best - _at(scores, right).reshape(best.shape)
    return _reduce("perceptron", _known(losses, right), reduction, weights)


@scope("softmax_cross_entropy")
def softmax_cross_entropy(
    logits: Any, labels: Any, label_smoothing: float = 0.0, reduction: str = "mean", *, weights: Any = None
) -> Tensor:
    """Minus the logarithm of the probability that the softmax of the logits gives to the right class.

    L = -ln p_y, with pⱼ = exp sⱼ / Σ exp sₖ. With label smoothing ε, the target is not y alone but 1 - ε of it and ε
    spread evenly over all K classes: L = -(1 - ε)·ln p_y - ε/K·Σ ln pⱼ. Sources: Bridle, "Probabilistic
    interpretation of feedforward classification network outputs" (1990); Szegedy and others, "Rethinking the
    Inception architecture" (2016), section 7.

    Parameters
    ----------
    logits : Tensor or array_like, floating point, shape (N, K)
    labels : Tensor or array_like, integers, shape (N,)
    label_smoothing : float
        ε, from 0 to 1.
    reduction : str
        "mean", "sum" or "none".
    weights : Tensor or array_like, shape (N,), optional
        How much each example counts.

    Returns
    -------
    Tensor
        Shape (), or (N,) where nothing is reduced.

    Raises
    ------
    ShapeError, DTypeError, SettingError
        As `multiclass_hinge`, and where ``label_smoothing`` lies outside [0, 1].

    Examples
    --------
    >>> softmax_cross_entropy([[0.0, 0.0]], [1])  # ln 2: a coin's worth of doubt
    tensor(0.6931472)
    """
    if not 0 <= label_smoothing <= 1:
        raise SettingError(f"softmax_cross_entropy: label_smoothing={label_smoothing} must lie in [0, 1]")
    logits, labels, right = _classified("softmax_cross_entropy", logits, labels)
    logarithms = ops.log_softmax(logits, axis=1)
    losses = -ops.where(right, logarithms, 0).sum(axis=1)
    if label_smoothing:
        losses = (1 - label_smoothing) * losses - label_smoothing * logarithms.mean(axis=1)
    return _reduce("softmax_cross_entropy", _known(losses, right), reduction, weights)


@scope("mean_squared_error")
def mean_squared_error(predictions: Any, targets: Any, reduction: str = "mean") -> Tensor:
    """The squared difference between predictions and targets, element by element: L = (p - t)².

    Parameters
    ----------
    predictions, targets : Tensor or array_like
        Of one shape.
    reduction : str
        "mean" and "sum" are taken over every element; "none" keeps the shape.

    Raises
    ------
    ShapeError
        Where the shapes differ: they are never broadcast, since a column against a row is a well-known trap.
    SettingError
        Where the reduction is unknown.

    Examples
    --------
    >>> mean_squared_error([1.0, 2.0], [1.0, 4.0])
    tensor(2.)
    """
    predictions, targets = _as_float(predictions), _as_float(targets)
    if predictions.shape != targets.shape:
        raise ShapeError(f"mean_squared_error: predictions {predictions.shape} and targets {targets.shape} differ")
    return _reduce("mean_squared_error", ops.square(ops.subtract(predictions, targets)), reduction, None)


LOSSES: dict[str, Callable[..., Tensor]] = {
    "hinge": multiclass_hinge,
    "perceptron": perceptron,
    "softmax": softmax_cross_entropy,
}
"""The losses of a classifier by the names that people choose them by: each takes scores (N, K) and labels (N,)."""


def _as_tensor(data: Any) -> Tensor:
    return data if isinstance(data, Tensor) else tensor(data)


def _as_float(data: Any) -> Tensor:
    """Integers would wrap around where their differences and squares do not fit."""
    given = _as_tensor(data)
    return given if given.dtype.kind == "f" else given.astype(np.float32)


def _classified(loss: str, scores: Any, labels: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Scores and labels as tensors, checked; and where the right class of each example stands: bool, (N, K)."""
    scores, labels = _as_tensor(scores), _as_tensor(labels)
    if scores.dtype.kind != "f":
        raise DTypeError(f"{loss}: scores must be floating point, not {scores.dtype}")
    if labels.dtype.kind not in "iu":
        raise DTypeError(f"{loss}: labels must be integers, not {labels.dtype}")
    if scores.ndim != 2 or labels.shape != scores.shape[:1] or scores.shape[1] == 0:
        raise ShapeError(f"{loss}: scores (N, K) and labels (N,) are wanted, not {scores.shape} and {labels.shape}")
    classes = scores.shape[1]
    if not stack.recording:  # while a function is being compiled, labels have no value to look at
        wrong = np.flatnonzero((labels.value < 0) | (labels.value >= classes))
        if wrong.size:
            first = int(wrong[0])
            raise SettingError(f"{loss}: label {labels.value[first]} at place {first} is not one of {classes} classes")
    return scores, labels, ops.expand_dims(labels, axis=1) == ops.arange(start=classes)


def _known(losses: Tensor, right: Tensor) -> Tensor:
    """The losses, NaN where a label is no class: in a compiled function nobody can look at it beforehand."""
    return ops.where(ops.any(right, axis=1), losses, math.nan) if stack.recording else losses


def _at(scores: Tensor, right: Tensor) -> Tensor:
    """The right class's score of each example, shape (N, 1)."""
    return ops.where(right, scores, 0).sum(axis=1, keepdims=True)  # type: ignore[no-any-return]


def _reduce(loss: str, losses: Tensor, reduction: str, weights: Any) -> Tensor:
    if reduction not in REDUCTIONS:
        raise SettingError(f"{loss}: reduction {reduction!r} is not one of {', '.join(REDUCTIONS)}")
    if weights is not None:
        weights = _as_tensor(weights).astype(losses.dtype)
        if weights.shape != losses.shape:
            raise ShapeError(f"{loss}: weights {weights.shape} must be one for each of the losses {losses.shape}")
        losses = losses * weights
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    return losses.mean() if weights is None else losses.sum() / weights.sum()
