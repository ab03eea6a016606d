"""How many photos it takes: ``python -m benchmarks.photos [--seeds 0,1,2] [--nothing] [--uneven] [--json FILE]``.

The clothing photos (``clothing-photos.tar`` in the folder that NABI_DATA names: 10 classes, test pictures of their own)
are cut to 5, 10, 20 and 50 of a class, drawn by the seed, and all of them; where a class has fewer, it has all of its
own. A linear classifier learns from features of efficientnet_lite0, with its weight decay chosen on a part of the
training photos. ``--nothing`` trains the default convolutional network beside it, from nothing, on the same photos at
64x64: that takes minutes. What is said is the accuracy on the 372 test photos, each seed's and their mean.

``--uneven`` is about something else: it learns from all photos of every other class and from 10 of each of the rest,
with all counted alike and with rare classes counted as much as frequent ones, and is asked about the test photos as
they are, and about those of them that are as uneven: of the rest 2 each.
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from nabi import data
from nabi.classifiers import ConvNetClassifier, PhotoClassifier

COUNTS = (5, 10, 20, 50, None)
SIDE = 64
"""Of the photos that a network learns from without a backbone."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--nothing", action="store_true", help="from nothing, too")
    parser.add_argument("--uneven", action="store_true", help="what it is worth to balance uneven classes, instead")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    seeds = [int(seed) for seed in asked.seeds.split(",")]
    source = Path(os.environ["NABI_DATA"]) / "clothing-photos.tar"
    if asked.uneven:
        uneven(data.load(source, size=224), seeds)
        return
    ways = {"features": (data.load(source, size=224), lambda seed: PhotoClassifier(random_state=seed))}
    if asked.nothing:
        network = lambda seed: ConvNetClassifier(augment="flip,crop:5", random_state=seed)
        ways["from nothing"] = (data.load(source, size=SIDE), network)
    rows: list[dict[str, Any]] = []
    for count in COUNTS:
        for way, (photos, made) in ways.items():
            begun, found = time.perf_counter(), []
            for seed in seeds:
                chosen = drawn(photos.train.labels, count, seed)
                some = photos.train.take(chosen)
                found.append(
                    float(made(seed).fit(some.images, some.labels).score(photos.test.images, photos.test.labels))
                )
            seconds = (time.perf_counter() - begun) / len(seeds)
            rows.append({"a class": count or "all", "photos": len(chosen), "way": way, "accuracy": found})
            said = ", ".join(f"{one:.3f}" for one in found)
            print(
                f"{count or 'all':>4} a class ({len(chosen):5,} photos), {way:12}: {np.mean(found):.3f} ({said}), "
                f"{seconds:.1f} s a seed",
                flush=True,
            )
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


def uneven(photos: data.Dataset, seeds: list[int]) -> None:
    """Balanced and not, on test photos as they are and as uneven as those learnt from."""
    few = np.arange(1, len(photos.classes), 2)
    for weight in (None, "balanced"):
        for seed in seeds:
            some, held, tests = (
                part.take(thinned(part.labels, few, count, seed))
                for part, count in ((photos.train, 10), (photos.validation, 2), (photos.test, 2))
            )
            classifier = PhotoClassifier(class_weight=weight, random_state=seed)
            classifier.fit(some.images, some.labels, validation=(held.images, held.labels))
            for what, test in (("as they are", photos.test), ("as uneven", tests)):
                right = classifier.predict(test.images) == test.labels
                recall = np.mean([right[test.labels == label].mean() for label in range(len(photos.classes))])
                print(
                    f"class_weight {weight}, seed {seed}, {len(test)} test photos {what}: {right.mean():.3f} right, "
                    f"mean recall of the classes {recall:.3f}",
                    flush=True,
                )


def thinned(labels: Any, few: Any, count: int, seed: int) -> Any:
    """Positions of all photos, but of only so many of each of a ``few`` classes."""
    rare = np.isin(labels, few)
    places = np.flatnonzero(rare)
    return np.sort(np.concatenate([np.flatnonzero(~rare), places[drawn(labels[rare], count, seed)]]))


def drawn(labels: Any, count: int | None, seed: int) -> Any:
    """Positions of so many photos of each class, in rising order; of all of them where no number is given."""
    if count is None:
        return np.arange(len(labels))
    order = np.random.default_rng(seed).permutation(len(labels))
    parts = [order[labels[order] == label][:count] for label in np.unique(labels)]
    return np.sort(np.concatenate(parts))


if __name__ == "__main__":
    main()
