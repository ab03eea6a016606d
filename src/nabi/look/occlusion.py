"""What a score needs to see: a grey patch is slid over the picture."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nabi.data.files import Progress
from nabi.errors import SettingError

Scores = Callable[[NDArray[Any]], NDArray[Any]]

SIDES = 4  # of a patch go into one of the picture, by default
STEPS = 4  # of the patch go into its side
BATCH = 2**22  # numbers at a time


class Occlusion(NamedTuple):
    """How the score of a class fell while a patch hid part of the picture.

    Attributes
    ----------
    place : int
        The class.
    score : float
        Its score for the whole picture.
    patch : (int, int)
        Height and width of the patch.
    corners : ndarray of int, (P, 2)
        Top and left of each position.
    falls : ndarray of float, (P,)
        By how much the score fell there; negative where it rose.
    map : ndarray of float, (H, W)
        Of each pixel, the mean fall over the patches that hid it.
    """

    place: int
    score: float
    patch: tuple[int, int]
    corners: NDArray[np.int64]
    falls: NDArray[np.float64]
    map: NDArray[np.float64]


def occlusion(
    scores: Scores,
    picture: NDArray[Any],
    place: int,
    *,
    patch: int | None = None,
    stride: int | None = None,
    fill: float = 128,
    progress: Progress = lambda done, total: None,
) -> Occlusion:
    """Slide a patch over a picture and see how the score of a class changes.

    It needs nothing of a classifier but its scores. Source: Zeiler and Fergus, "Visualizing and understanding
    convolutional networks" (2014), section 4.2.

    Parameters
    ----------
    scores : callable
        From pictures (N, H, W, C) to scores (N, K).
    picture : ndarray, (H, W, C)
    place : int
        The class's place among the scores.
    patch : int, optional
        Its side; by default a quarter of the picture's height and width.
    stride : int, optional
        How far it is moved each time, at most the patch's side so that no pixel is left out; by default a quarter of
        the patch. The last row and column of positions end with the picture.
    fill : number
        What the patch is filled with: by default the grey in the middle.
    progress : callable
        Called as ``progress(done, total)``.

    Raises
    ------
    SettingError
        A patch or stride that does not go, or no such class.

    Examples
    --------
    A score that is the sum of all pixels falls by what the patch hides:

    >>> picture = np.zeros((4, 4, 1), np.uint8)
    >>> picture[0, 0] = 9
    >>> total = lambda pictures: pictures.reshape(len(pictures), -1).sum(axis=1, keepdims=True)
    >>> occlusion(total, picture, 0, patch=2, stride=2, fill=0).falls.tolist()
    [9.0, 0.0, 0.0, 0.0]
    """
    height, width = picture.shape[:2]
    sides = [_side(side, patch) for side in (height, width)]
    steps = [_step(side, stride) for side in sides]
    tops, lefts = (_positions(*along) for along in zip((height, width), sides, steps, strict=True))
    corners = np.stack(np.meshgrid(tops, lefts, indexing="ij"), axis=-1).reshape(-1, 2)
    whole = np.asarray(scores(picture[None]), dtype=np.float64)[0]
    if not 0 <= place < len(whole):
        raise SettingError(f"occlusion: class {place} is not one of {len(whole)} classes")
    hidden = np.empty(len(corners))
    batch = max(1, min(64, BATCH // picture.size))
    for start in range(0, len(corners), batch):
        some = corners[start : start + batch]
        pictures = np.repeat(picture[None], len(some), axis=0)
        for one, (top, left) in zip(pictures, some, strict=True):
            one[top : top + sides[0], left : left + sides[1]] = fill
        hidden[start : start + batch] = np.asarray(scores(pictures))[:, place]
        progress(min(start + batch, len(corners)), len(corners))
    falls = whole[place] - hidden
    total, count = np.zeros((height, width)), np.zeros((height, width))
    for (top, left), fall in zip(corners, falls, strict=True):
        total[top : top + sides[0], left : left + sides[1]] += fall
        count[top : top + sides[0], left : left + sides[1]] += 1
    return Occlusion(place, float(whole[place]), (sides[0], sides[1]), corners, falls, total / count)


def _side(side: int, patch: int | None) -> int:
    if patch is None:
        return max(1, side // SIDES)
    if not 1 <= patch <= side:
        raise SettingError(f"occlusion: a patch of {patch} pixels does not go into {side}")
    return patch


def _step(side: int, stride: int | None) -> int:
    if stride is None:
        return max(1, side // STEPS)
    if not 1 <= stride <= side:
        raise SettingError(f"occlusion: a stride of {stride}; from 1 to the patch's side, {side}, no pixel is left out")
    return stride


def _positions(length: int, side: int, step: int) -> NDArray[np.int64]:
    return np.unique([*range(0, length - side, step), length - side])
