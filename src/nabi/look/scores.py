"""From scores to what they are worth: the hinge loss term by term."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nabi.errors import SettingError, ShapeError


class HingeTerm(NamedTuple):
    """One wrong class's part of the multiclass hinge loss: max(0, sⱼ - s_y + margin).

    Attributes
    ----------
    place : int
        The wrong class j.
    score, right : float
        Its score sⱼ, and that of the right class, s_y.
    short : float
        sⱼ - s_y + margin: above zero where the right class does not win by the margin.
    loss : float
        ``short``, or 0 where that is negative.
    """

    place: int
    score: float
    right: float
    short: float
    loss: float


def hinge_terms(scores: ArrayLike, label: int, margin: float = 1.0) -> list[HingeTerm]:
    """The multiclass hinge loss of one picture, a term for each wrong class; the loss is the sum of their ``loss``.

    Lᵢ = Σ max(0, sⱼ - s_y + 1), over the wrong classes j ≠ y. Source: the lecture, chapter 3.1.

    Parameters
    ----------
    scores : array_like of float, (K,)
    label : int
        The right class's place among them, y.
    margin : float

    Raises
    ------
    ShapeError
        Scores that are not one row.
    SettingError
        A label that is no place among them.

    Examples
    --------
    The lecture's cat, whose classes are cat, car and frog:

    >>> [round(term.loss, 4) for term in hinge_terms([3.2, 5.1, -1.7], 0)]
    [2.9, 0.0]
    """
    row = [float(score) for score in _row(scores)]
    if not 0 <= label < len(row):
        raise SettingError(f"hinge_terms: label {label} is not one of {len(row)} classes")
    terms = []
    for place, score in enumerate(row):
        if place != label:
            short = score - row[label] + margin
            terms.append(HingeTerm(place, score, row[label], short, max(0.0, short) if short == short else math.nan))
    return terms


def _row(scores: ArrayLike) -> NDArray[np.float64]:
    row = np.asarray(scores, dtype=np.float64)
    if row.ndim != 1 or not row.size:
        raise ShapeError(f"hinge_terms: scores {row.shape}; they must be one row (K,)")
    return row
