"""Whether an ONNX file answers as the classifier that it was made of."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nabi.classifiers.base import Classifier
from nabi.data.decode import grey
from nabi.data.resize import fit
from nabi.onnx.running import Session

TOLERANCE = 1e-4
"""How far an answer may be from ours: a probability, or a score for each unit of the largest of its input."""
TOGETHER = 32
"""Pictures that ours is asked about at a time."""
MOST_PIXELS = 1 << 21
"""Pixels of pictures that the file is asked about at a time, if they are several: it resizes them in float64."""

Named = tuple[str, NDArray[np.uint8]]


class Agreement(NamedTuple):
    """How the two went together.

    Attributes
    ----------
    pictures : int
    difference : float
        The largest between two answers; of scores, as a part of the largest score of that input, if that is above 1.
    changed : list of (str, object, object)
        Pictures with another prediction: what they are called, ours, and the file's.
    wrong : list of str
        What is beyond the tolerance.
    """

    pictures: int
    difference: float
    changed: list[tuple[str, Any, Any]]
    wrong: list[str]


def agreement(classifier: Classifier, session: Session, pictures: Iterable[Named]) -> Agreement:
    """Ask both about pictures (H, W, 3) of any size.

    A prediction may be another one only where ours is so close to a draw that the tolerance decides.
    """
    count, largest = 0, 0.0
    changed: list[tuple[str, Any, Any]] = []
    wrong: list[str] = []
    kind = "probability" if hasattr(classifier, "predict_proba") else "score"
    rest = iter(pictures)
    while some := list(_some(rest)):
        ours, labels = _ours(classifier, np.stack([_seen(classifier, picture) for _, picture in some]))
        theirs, named = _theirs(session, [picture for _, picture in some])
        scale = np.maximum(1, np.abs(ours).max(axis=1))
        difference = np.abs(ours - theirs).max(axis=1) / scale
        top = np.sort(ours, axis=1)[:, -2:]
        margin = (top[:, -1] - top[:, 0]) / scale if ours.shape[1] > 1 else np.zeros(len(ours))
        for place, (name, _) in enumerate(some):
            if not difference[place] <= TOLERANCE:
                wrong.append(f"{name}: a {kind} that differs by {difference[place]:.2g}")
            if _plain(labels[place]) != _plain(named[place]):
                changed.append((name, _plain(labels[place]), _plain(named[place])))
                if margin[place] > 2 * TOLERANCE:
                    wrong.append(f"{name}: {changed[-1][2]!r} where nabi says {changed[-1][1]!r}")
        count, largest = count + len(some), max(largest, float(difference.max()))
    return Agreement(count, largest, changed, wrong)


def _some(pictures: Iterator[Named]) -> Iterator[Named]:
    """As many of the next pictures as go together."""
    pixels = 0
    for named in itertools.islice(pictures, TOGETHER):
        yield named
        pixels += named[1].shape[0] * named[1].shape[1]
        if pixels > MOST_PIXELS:
            return


def _seen(classifier: Classifier, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture as ours is given it."""
    height, width, channels = classifier.input_shape_
    sized = fit(picture, (height, width))
    return grey(sized) if channels == 1 else sized


def _ours(classifier: Classifier, images: NDArray[np.uint8]) -> tuple[NDArray[Any], NDArray[Any]]:
    found = classifier.answers(images)
    return found.numbers, classifier.classes_[found.places]


def _theirs(session: Session, pictures: list[NDArray[np.uint8]]) -> tuple[NDArray[Any], list[Any]]:
    """Pictures of one size that come one after another go together."""
    answers, labels = [], []
    for _, group in itertools.groupby(pictures, key=lambda picture: picture.shape):
        named, numbers = session(np.stack(list(group)))
        labels += list(named)
        answers.append(numbers)
    return np.concatenate(answers), labels


def _plain(label: Any) -> Any:
    return label.item() if isinstance(label, np.generic) else label


def made_pictures(height: int, width: int, count: int = 16, seed: int = 0) -> Iterator[Named]:
    """Pictures to try where there are no real ones: soft colours with noise, of the model's size and of others."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    shapes = [(height, width), (2 * height, 3 * width), (3 * height + 1, 2 * width + 1), (height // 2 + 1, width)]
    for number in range(count):
        h, w = shapes[number % len(shapes)]
        soft = Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8)).resize((w, h), Image.Resampling.BICUBIC)
        noisy = np.asarray(soft, np.int64) + rng.integers(-20, 21, (h, w, 3))
        yield f"made picture {number + 1}", noisy.clip(0, 255).astype(np.uint8)
