"""The report as a page of its own, with the pictures that it speaks of."""

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any

import numpy as np

from nabi import metrics
from nabi.pages import inlined, rendered
from nabi.report.findings import MOST_MISTAKES, MOST_SUSPECTS, Findings, Picture

SHOWN = 112  # pixels of a picture's long side
MOST_IN_CELL, MOST_RIGHT = 16, 6  # pictures of one confusion; of one class that was found
MOST_CLASSES = 40  # that the matrix is drawn for
MOST_CELLS = 200  # that are opened: more would make the page heavy

_CONFUSED, _NOTHING = np.array([8, 81, 156]), np.array([247, 251, 255])  # as in Matplotlib's Blues


def page(found: Findings, title: str, said: str, command: str, versions: Mapping[str, str]) -> str:
    """An HTML page that holds all it needs, runs no script, and asks no other address for anything.

    Parameters
    ----------
    found : Findings
    title, said : str
        The heading, and a sentence below it.
    command : str
        That it was made with.
    versions : mapping of str to str
        Of what, and which.
    """
    about = found.as_dict()
    cells = _chosen(found)
    mistakes, suspects = found.mistakes(), [] if found.suspects is None else found.suspects.doubtful()
    surely = {(one.split, one.row) for one in ([] if found.suspects is None else found.suspects.surely())}
    wanted = [picture for _, pictures, most in cells for picture in pictures[:most]]
    addresses = _addresses(found, [*wanted, *mistakes[:MOST_MISTAKES], *suspects[:MOST_SUSPECTS]])

    def some(pictures: Sequence[Picture], most: int) -> dict[str, Any]:
        shown = [
            vars(one) | {"picture": addresses.get(place), "surely": place in surely}
            for one in pictures[:most]
            for place in [(one.split, one.row)]
        ]
        return {"some": shown, "more": len(pictures) - len(shown)}

    return rendered(
        "report",
        about=about,
        title=title,
        said=said,
        command=command,
        versions=versions,
        missing=found.missing,
        test=accuracy(found),
        commonest=_commonest(found),
        weighting=_weighting(about["class_weight"]),
        rows=rows(found),
        matrix=_matrix(found) if len(found.classes) <= MOST_CLASSES else None,
        cells=[
            {
                "key": f"{key[0]}-{key[1]}",
                "label": found.classes[key[0]],
                "answer": found.classes[key[1]],
                "wrong": key[0] != key[1],
                "count": len(pictures),
                "pictures": some(pictures, most),
            }
            for key, pictures, most in cells
        ],
        mistakes=some(mistakes, MOST_MISTAKES),
        suspects=some(suspects, MOST_SUSPECTS),
        calibration=about["calibration"],
        diagrams=_diagrams(about["calibration"]),
        strangers=about["none_of_these"],
        cost=found.cost,
    )


def _chosen(found: Findings) -> list[tuple[tuple[int, int], list[Picture], int]]:
    """The cells of the confusion matrix that can be opened, and how many pictures of each are shown."""
    cells = sorted(found.cells().items(), key=lambda item: (item[0][0] == item[0][1], -len(item[1]), item[0]))
    if len(found.classes) > MOST_CLASSES:
        cells = [cell for cell in cells if cell[0][0] != cell[0][1]][:MOST_CELLS]
    opened = min(len(cells), MOST_CELLS)
    # All of a matrix can be opened, but those beyond the most frequent show their names alone.
    return [
        (key, pictures, (MOST_RIGHT if key[0] == key[1] else MOST_IN_CELL) if place < opened else 1)
        for place, (key, pictures) in enumerate(cells)
    ]


def accuracy(found: Findings) -> dict[str, Any] | None:
    """Of the test, with its 95% interval; None without one."""
    test = found.test
    if test is None:
        return None
    correct = int((test.labels == test.predicted).sum())
    low, high = metrics.wilson_interval(correct, len(test))
    return {"accuracy": correct / len(test), "correct": correct, "total": len(test), "low": low, "high": high}


def _commonest(found: Findings) -> dict[str, Any] | None:
    """What the simplest of all classifiers would get: it knows how often each class is trained on, and no picture."""
    if found.test is None:
        return None
    name = max(found.counts, key=lambda name: found.counts[name]["train"])
    return {"name": name, "share": found.counts[name]["test"] / len(found.test)}


def _weighting(class_weight: Any) -> str:
    if class_weight is None:
        return "In training every picture counted the same, so that frequent classes counted more."
    if class_weight == "balanced":
        return "In training the pictures of rare classes counted more, so that every class counted the same."
    return "In training classes were weighted by hand."


def rows(found: Findings) -> list[dict[str, Any]]:
    """What is known of each class."""
    test = found.test
    measured = None if test is None else metrics.per_class(test.labels, test.predicted, len(found.classes))
    most = max(sum(row.values()) for row in found.counts.values())
    known = []
    for place, name in enumerate(found.classes):
        counts = found.counts[name]
        row: dict[str, Any] = {"name": name, **counts, "width": 100 * sum(counts.values()) / max(most, 1)}
        if measured is not None:
            row |= {"precision": measured["precision"][place], "recall": measured["recall"][place]}
            row["f1"] = measured["f1"][place]
        known.append(row)
    return known


def _matrix(found: Findings) -> dict[str, Any] | None:
    """The confusion matrix, coloured as `nabi.figures.confusion` has it: by the root of the share of the row."""
    test = found.test
    if test is None:
        return None
    matrix = metrics.confusion_matrix(test.labels, test.predicted, len(found.classes))
    rows = []
    for label, counts in enumerate(matrix):
        depths = [sqrt(count / max(counts.sum(), 1)) for count in counts.tolist()]
        cells = [
            {"key": f"{label}-{answer}", "count": count, "colour": _colour(depth), "dark": depth > 0.6}
            for answer, (count, depth) in enumerate(zip(counts.tolist(), depths, strict=True))
        ]
        rows.append({"name": found.classes[label], "cells": cells})
    return {"names": found.classes, "rows": rows}


def _colour(depth: float) -> str:
    red, green, blue = np.round(_NOTHING + depth * (_CONFUSED - _NOTHING)).astype(int).tolist()
    return f"#{red:02x}{green:02x}{blue:02x}"


def _diagrams(calibration: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Reliability diagrams: bars of accuracy over intervals of confidence, 200 units a side."""
    if calibration is None:
        return None
    parts = [("as it is", calibration["bins"])]
    if calibration["temperature"] != 1:
        parts = [("without the temperature", calibration["bins_before"]), ("with it", calibration["bins"])]
    diagrams = []
    for number, (title, bins) in enumerate(parts):
        bars = []
        most = max(max(bins["count"]), 1)
        for place, (sure, right, count) in enumerate(
            zip(bins["confidence"], bins["accuracy"], bins["count"], strict=True)
        ):
            if count:
                height = round(200 * right, 1)
                bars.append(
                    {
                        "x": place * 20 + 1,
                        "y": round(200 - height, 1),
                        "height": height,
                        "at": round(200 - 200 * sure, 1),
                        "opacity": round(0.15 + 0.85 * sqrt(count / most), 2),
                        "said": f"{count} pictures: {sure:.1%} sure, {right:.1%} right",
                    }
                )
        diagrams.append({"title": title, "left": 65 + 280 * number, "bars": bars})
    return {"all": diagrams, "width": 20 + 280 * len(diagrams)}


def _addresses(found: Findings, wanted: Sequence[Picture]) -> dict[tuple[str, int], str]:
    """The pictures made small, by split and row, as the addresses that hold them."""
    addresses = {}
    for split in sorted({one.split for one in wanted}):
        rows = sorted({one.row for one in wanted if one.split == split})
        images = found.split(split).images
        for row in rows:
            addresses[split, row] = inlined(np.asarray(images[row]), SHOWN)
    return addresses
