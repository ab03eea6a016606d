"""By which score strangers are known: ``python -m benchmarks.strangers``, for a table of docs/photos.md.

A linear head learns the clothing photos (``clothing-photos.tar`` in the folder that NABI_DATA names) by features of
efficientnet_lite0. For each of five scores the threshold is what 5% of the validation photos lie below; what is said is
which share of other pictures lies below it: of the test photos, which should not; of pictures of CIFAR-10 and
Fashion-MNIST, of parts of the two photos that come with scikit-learn, and of noise, all 224×224, which should; and of
the test photos of a class that was left out of training, on average over four such classes.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nabi import data
from nabi.classifiers import PhotoClassifier
from nabi.classifiers.photo import FALSE_REJECTS
from nabi.data.dataset import Split
from nabi.data.resize import fit
from nabi.metrics import rejection_threshold, softmax

LEFT_OUT = ("hat", "outwear", "shoes", "skirt")
SIZE = (224, 224)
PARTS = 90  # of each photo
NOISE = 50


def main() -> None:
    photos = data.load(named("clothing-photos.tar"), size=SIZE)
    known = Scored(photos.train, photos.validation)
    alone = []
    for name in LEFT_OUT:
        label = photos.classes.index(name)
        train, validation = (without(part, label) for part in (photos.train, photos.validation))
        test = photos.test.images[photos.test.labels == label]
        alone.append(Scored(train, validation).rejected(test))
    rows = {
        f"test photos ({len(photos.test)})": known.rejected(photos.test.images),
        **{f"{what} ({len(pictures)})": known.rejected(pictures) for what, pictures in strangers().items()},
        f"a class left out ({', '.join(LEFT_OUT)})": {
            score: float(np.mean([one[score] for one in alone])) for score in SCORES
        },
    }
    print("| score |", " | ".join(rows), "|")
    print("|", " | ".join(["---"] * (len(rows) + 1)), "|")
    for score in SCORES:
        print(f"| {score} |", " | ".join(f"{row[score]:.1%}" for row in rows.values()), "|")


class Scored:
    """A classifier of these photos, and how it scores others."""

    def __init__(self, train: Split, validation: Split) -> None:
        self.classifier = PhotoClassifier(random_state=0)
        self.classifier.fit(train.images, train.labels, validation=(validation.images, validation.labels))
        self.classifier.calibrate(validation.images, validation.labels)
        self.seen = _unit(self.classifier.extractor_.transform(train.images))
        usual = self._scores(validation.images)
        self.thresholds = {name: rejection_threshold(usual[name], FALSE_REJECTS) for name in SCORES}

    def _scores(self, pictures: Any) -> dict[str, NDArray[Any]]:
        features = self.classifier.extractor_.transform(pictures)
        scores = self.classifier.head_.scores(features)
        return {name: score(self, features, scores) for name, score in SCORES.items()}

    def rejected(self, pictures: Any) -> dict[str, float]:
        """The share of pictures that each score rejects."""
        return {name: float(np.mean(found < self.thresholds[name])) for name, found in self._scores(pictures).items()}


SCORES: dict[str, Callable[[Scored, NDArray[Any], NDArray[Any]], NDArray[Any]]] = {
    "largest probability, calibrated": lambda on, features, scores: softmax(scores, on.classifier.temperature_).max(1),
    "energy (log of the sum of the scores' exponentials)": lambda on, features, scores: np.logaddexp.reduce(scores, 1),
    "largest score": lambda on, features, scores: scores.max(1),
    "cosine to the nearest training photo": lambda on, features, scores: (_unit(features) @ on.seen.T).max(1),
    "cosine to the nearest class mean": lambda on, features, scores: on.classifier._likeness(features),
}


def _unit(rows: NDArray[Any]) -> NDArray[Any]:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def without(part: Split, label: int) -> Split:
    return part.take(np.flatnonzero(part.labels != label))


def strangers() -> dict[str, NDArray[np.uint8]]:
    """Pictures of nothing that is worn."""
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(0)
    parts = []
    for photo in load_sample_images().images:
        for _ in range(PARTS):
            top, left = (int(rng.integers(0, n - side + 1)) for n, side in zip(photo.shape, SIZE, strict=False))
            parts.append(photo[top : top + SIZE[0], left : left + SIZE[1]])
    return {
        "CIFAR-10": enlarged(data.load(named("cifar10-jpeg.tar.xz")).test.images[:600]),
        "Fashion-MNIST": enlarged(data.load("fashion-mnist").test.images[:200]),
        "parts of two photos": np.stack(parts),
        "noise": rng.integers(0, 256, (NOISE, *SIZE, 3), np.uint8),
    }


def named(file: str) -> Path:
    return Path(os.environ["NABI_DATA"]) / file


def enlarged(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.stack([np.broadcast_to(fit(picture, SIZE), (*SIZE, 3)) for picture in pictures])


if __name__ == "__main__":
    main()
