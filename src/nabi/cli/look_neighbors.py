"""``nabi look MODEL IMAGE...`` for nearest neighbours: who they are, and how far."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nabi import figures
from nabi.cli.characters import json_text, printable
from nabi.cli.look_table import aligned
from nabi.cli.terminal import console
from nabi.errors import SettingError


def look_at_neighbors(
    classifier: Any,
    paths: Sequence[str],
    names: Sequence[str],
    images: NDArray[np.uint8],
    count: int | None,
    figure: Path,
    as_json: bool,
) -> None:
    """Print each picture's nearest neighbours with their distances, and draw them side by side, a row a picture."""
    count = int(classifier.n_neighbors) if count is None else count
    remembered = len(classifier.images_)
    if not 1 <= count <= remembered:
        raise SettingError(f"--neighbors {count}: from 1 to the {remembered:,} pictures that the model remembers")
    distances, places = classifier.kneighbors(images, count)
    predictions = classifier.predict(images)
    classes = [str(name) for name in classifier.classes_]
    nearest = [
        [
            (int(place), classes[classifier.labels_[place]], float(distance))
            for place, distance in zip(*row, strict=True)
        ]
        for row in zip(places, distances, strict=True)
    ]
    _draw(classifier, names, images, nearest, figure)
    if as_json:
        content = {
            "classifier": type(classifier).__name__,
            "metric": getattr(classifier, "metric", None),
            "pictures": [
                {
                    "path": path,
                    "prediction": str(prediction),
                    "neighbors": [{"number": n, "class": name, "distance": far} for n, name, far in row],
                }
                for path, prediction, row in zip(paths, predictions, nearest, strict=True)
            ],
            "figure": str(figure),
        }
        print(json_text(content, indent=2))
        return
    where = console()
    metric = str(getattr(classifier, "metric", "l2")).upper()
    for name, prediction, row in zip(names, predictions, nearest, strict=True):
        where.print(f"{printable(name)}: {printable(str(prediction))}")
        rows = [
            (str(rank), printable(kind), f"images_[{number}]", f"{metric} distance", f"{far:,.2f}")
            for rank, (number, kind, far) in enumerate(row, 1)
        ]
        where.print("\n".join(f"  {line}" for line in aligned(rows, right=1)))
    where.print(f"figure: {printable(str(figure))}")


def _draw(
    classifier: Any,
    names: Sequence[str],
    images: NDArray[np.uint8],
    nearest: Sequence[Sequence[tuple[int, str, float]]],
    figure: Path,
) -> None:
    most = 10
    pictures: list[Any] = []
    titles: list[str] = []
    for name, image, row in zip(names, images, nearest, strict=True):
        pictures += [image, *(classifier.images_[number] for number, _, _ in row[:most])]
        titles += [name, *(f"{kind}\n{far:,.1f}" for _, kind, far in row[:most])]
    figures.pictures(pictures, titles, figure, columns=1 + min(most, len(nearest[0])), width=0.95)
