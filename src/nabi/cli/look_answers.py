"""``nabi look MODEL IMAGE...``: what a model answers, what that costs, and how it comes about."""

import itertools
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nabi import data, figures
from nabi.cli.characters import json_text, printable
from nabi.cli.look_files import figure_file
from nabi.cli.look_inside import Inside, look_inside
from nabi.cli.look_neighbors import look_at_neighbors
from nabi.cli.look_table import aligned, short_names, table
from nabi.cli.picture_model import picture_model
from nabi.cli.terminal import bar, console, note
from nabi.data.files import composed
from nabi.errors import DataError, PictureError, SettingError
from nabi.look.scores import HingeTerm, hinge_terms
from nabi.metrics import softmax

MOST_PICTURES = 64
EXPLAINED = 8  # pictures, each with a figure of its own


class Answer(NamedTuple):
    """What a model says of one picture.

    Attributes
    ----------
    path, name : str
        The file, and a short name that tells it from the others.
    right : int or None
        The right class's place; None where it is not known.
    source : str
        Where that is known from, or why it is not.
    scores, softmax : ndarray, (K,)
        As the model gives them, and their softmax.
    probabilities : ndarray, (K,), or None
        As the model gives them, which may be something else: of a model of photos the softmax at its temperature, of
        nearest neighbours shares of votes. None where it gives none.
    terms : list of HingeTerm
        Empty where the right class is not known.
    """

    path: str
    name: str
    right: int | None
    source: str
    scores: NDArray[np.float64]
    softmax: NDArray[np.float64]
    probabilities: NDArray[np.float64] | None
    terms: list[HingeTerm]

    @property
    def shares(self) -> NDArray[np.float64]:
        """How likely each class is, as the model says if it does."""
        return self.softmax if self.probabilities is None else self.probabilities

    @property
    def loss(self) -> float | None:
        """The multiclass hinge loss, where the right class is known."""
        return None if self.right is None else sum(term.loss for term in self.terms)


def look_at_answers(
    path: Path,
    pictures: Sequence[Path],
    labels: Sequence[str],
    top: int,
    neighbors: int | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Print scores, softmax and hinge loss of some pictures, or their nearest neighbours, and draw what is inside."""
    figure = figure_file(out, "look.png")
    if top < 1:
        raise SettingError(f"--top {top}: it must be 1 or more")
    classifier: Any = picture_model(path)
    paths, images = _read(pictures, classifier.input_shape_)
    classes = [str(name) for name in classifier.classes_]
    names = short_names(paths)
    if hasattr(classifier, "kneighbors"):
        if labels:
            raise SettingError("--label: nearest neighbours have no scores, and so no hinge loss")
        look_at_neighbors(classifier, paths, names, images, neighbors, figure, as_json)
        return
    if neighbors is not None:
        raise SettingError(f"--neighbors: {type(classifier).__name__} has none")
    said = classifier.answers(images)
    scores = said.scores.astype(np.float64)
    answers = []
    for number, (file, row) in enumerate(zip(paths, scores, strict=True)):
        right, source = _right_class(file, number, len(paths), labels, classes)
        terms = [] if right is None else hinge_terms(row, right)
        likely = None if said.probabilities is None else said.probabilities[number].astype(np.float64)
        answers.append(Answer(file, names[number], right, source, row, softmax(row), likely, terms))
    shown = _shown_classes(answers, top)
    figures.scores(
        list(images),
        names,
        [classes[place] for place in shown],
        scores[:, shown],
        figure,
        shares=np.stack([answer.shares[shown] for answer in answers]),
        right=[None if answer.right is None else shown.index(answer.right) for answer in answers],
        losses=[answer.loss for answer in answers],
    )
    insides = _insides(classifier, answers, images, classes, shown, figure)
    if as_json:
        print(json_text(_as_data(path, classifier, answers, insides, classes, figure), indent=2))
    else:
        _print(path, classifier, answers, insides, classes, shown, figure)


def _read(paths: Sequence[Path], shape: tuple[int, ...]) -> tuple[list[str], NDArray[np.uint8]]:
    """Pictures in the shape that the model takes; what is none is skipped, and said."""
    for path in paths:
        if not path.exists():
            raise DataError(f"{path}: no such file or folder")
    height, width, channels = shape
    found: list[tuple[str, NDArray[np.uint8]]] = []
    for name, picture in data.pictures(paths, size=(height, width), channels=channels):  # type: ignore[arg-type]
        if isinstance(picture, PictureError):
            note(f"skipped {picture}")
            continue
        if len(found) == MOST_PICTURES:
            raise SettingError(f"more than {MOST_PICTURES} pictures: nabi predict answers for any number")
        found.append((name, picture))
    if not found:
        raise DataError(f"{', '.join(map(str, paths))}: no picture that can be read")
    return [name for name, _ in found], np.stack([picture for _, picture in found])


def _right_class(
    path: str, number: int, count: int, labels: Sequence[str], classes: Sequence[str]
) -> tuple[int | None, str]:
    """The place of a picture's right class, and where that is known from or why it is not."""
    known = {composed(name): place for place, name in enumerate(classes)}
    if labels:
        if len(labels) not in (1, count):
            raise SettingError(f"--label: given {len(labels)} times; once for all, or for each of {count} pictures")
        label = labels[0] if len(labels) == 1 else labels[number]
        if composed(label) not in known:
            few = ", ".join(classes[:10]) + (", …" if len(classes) > 10 else "")
            raise SettingError(f"--label {label!r} is no class of the model: it knows {few}")
        return known[composed(label)], "--label"
    folder = Path(path).absolute().parent.name
    if composed(folder) in known:
        return known[composed(folder)], "its folder"
    return None, f"its folder, {folder}, is no class of the model; --label names the right one"


def _shown_classes(answers: Sequence[Answer], top: int) -> list[int]:
    """The places of the classes that score best somewhere, and of the right ones, in the model's order."""
    best = np.argsort(-np.max([answer.shares for answer in answers], axis=0), kind="stable")[:top]
    return sorted({*best.tolist(), *(answer.right for answer in answers if answer.right is not None)})


def _insides(
    classifier: Any,
    answers: Sequence[Answer],
    images: NDArray[np.uint8],
    classes: Sequence[str],
    shown: Sequence[int],
    figure: Path,
) -> list[Inside]:
    """What goes on inside for each of the first pictures, with a figure of its own beside the others'."""
    insides = []
    with bar(console(stderr=True)) as show:
        for number, (answer, image) in enumerate(zip(answers[:EXPLAINED], images, strict=False), 1):
            file = figure.with_name(f"{figure.stem}-{number}{figure.suffix}")
            best = sorted(shown, key=lambda place: -answer.scores[place])[:10]
            bars = [(classes[place], float(answer.scores[place])) for place in best]
            progress = partial(show, f"hiding parts of picture {number}")
            place = int(answer.scores.argmax())
            insides.append(look_inside(classifier, image, answer.name, place, classes[place], bars, file, progress))
    return insides


# --- as text ---


def _print(
    path: Path,
    classifier: Any,
    answers: Sequence[Answer],
    insides: Sequence[Inside],
    classes: Sequence[str],
    shown: Sequence[int],
    figure: Path,
) -> None:
    where = console()
    width = where.width if where.is_terminal else 100
    where.print(f"{printable(str(path))}: {type(classifier).__name__}, {len(classes):,} classes")
    if len(shown) < len(classes):
        where.print(f"shown: the {len(shown)} classes that score best; --top shows more")
    names = [classes[place] for place in shown]
    heads = [answer.name for answer in answers]
    right = [None if answer.right is None else shown.index(answer.right) for answer in answers]
    cells = [[f"{answer.scores[p]:z.2f}" for p in shown] for answer in answers]
    losses = [answer.loss for answer in answers]
    last = [("hinge loss", ["?" if loss is None else f"{loss:z.2f}" for loss in losses])]
    known = [loss for loss in losses if loss is not None]
    where.print(table("scores", heads, names, cells, right, last if known else [], width))
    shares = [[f"{answer.shares[p]:z.3f}" for p in shown] for answer in answers]
    alike = all(np.allclose(answer.shares, answer.softmax, rtol=0, atol=1e-5) for answer in answers)
    where.print(table("softmax" if alike else "probability", heads, names, shares, right, [], width))
    temperature = getattr(classifier, "temperature_", 1.0)
    if not alike and temperature != 1:
        where.print(f"probability: the softmax of the scores divided by {temperature:.3f}, the temperature")
    if known:
        where.print("* the right class\n\nhinge loss: Lᵢ = Σ max(0, sⱼ - s_y + 1), over the wrong classes j")
    else:
        where.print("\nno hinge loss:")
    for answer in answers:
        where.print(_hinge_lines(answer, classes, shown))
    if len(known) > 1:
        parts = " + ".join(f"{loss:z.2f}" for loss in known)
        parts = f"({parts}) / {len(known)} = " if len(known) <= 10 else ""
        where.print(f"mean of {len(known)}: L = {parts}{np.mean(known):z.2f}")
    for inside in insides:
        where.print()
        where.print("\n".join(inside.lines()))
    if len(answers) > len(insides):
        where.print(f"\n(the insides of the first {len(insides)} pictures only)")
    where.print(f"\nfigure of the scores: {printable(str(figure))}")


def _hinge_lines(answer: Answer, classes: Sequence[str], shown: Sequence[int]) -> str:
    """The hinge loss of one picture, term by term."""
    if answer.right is None:
        return f"{printable(answer.name)}: {printable(answer.source)}"
    right = answer.scores[answer.right]
    head = f"{printable(answer.name)} is {printable(classes[answer.right])} ({answer.source}): s_y = {right:z.2f}"
    terms = [term for term in answer.terms if term.place in shown]
    y = _in_brackets(right)
    rows = [
        (
            printable(classes[term.place]),
            f"max(0, {term.score:z.2f} - {y} + 1)",
            f"= max(0, {term.short:z.2f})",
            f"= {term.loss:z.2f}",
        )
        for term in terms
    ]
    lines = [head, *(f"  {line}" for line in aligned(rows))]
    left_out = [term.loss for term in answer.terms if term.place not in shown]
    if left_out:
        lines.append(f"  and {len(left_out):,} more terms, in all {sum(left_out):z.2f}")
    losses = [term.loss for term in answer.terms if term.loss > 0]
    parts = " + ".join(f"{loss:z.2f}" for loss in losses)
    lines.append(f"  L = {parts} = {answer.loss:z.2f}" if 1 < len(losses) <= 10 else f"  L = {answer.loss:z.2f}")
    return "\n".join(lines)


def _in_brackets(number: float) -> str:
    return f"({number:z.2f})" if number < 0 else f"{number:z.2f}"


# --- as data ---


def _as_data(
    path: Path,
    classifier: Any,
    answers: Sequence[Answer],
    insides: Sequence[Inside],
    classes: Sequence[str],
    figure: Path,
) -> dict[str, Any]:
    known = [answer.loss for answer in answers if answer.loss is not None]
    return {
        "model": str(path),
        "classifier": type(classifier).__name__,
        "classes": list(classes),
        "pictures": [
            {
                "path": answer.path,
                "prediction": classes[int(answer.scores.argmax())],
                "right": None if answer.right is None else classes[answer.right],
                "known_from": answer.source if answer.right is not None else None,
                "why_no_hinge": answer.source if answer.right is None else None,
                "scores": _by_class(classes, answer.scores),
                "softmax": _by_class(classes, answer.softmax),
                "probability": None if answer.probabilities is None else _by_class(classes, answer.probabilities),
                "hinge_terms": {classes[term.place]: _rounded(term.loss) for term in answer.terms},
                "hinge_loss": None if answer.loss is None else _rounded(answer.loss),
                "inside": None if inside is None else inside.as_data(),
            }
            for answer, inside in itertools.zip_longest(answers, insides)
        ],
        "hinge_loss": _rounded(float(np.mean(known))) if known else None,
        "figure": str(figure),
    }


def _by_class(classes: Sequence[str], values: NDArray[np.float64]) -> dict[str, float]:
    return {name: _rounded(value) for name, value in zip(classes, values, strict=True)}


def _rounded(value: float) -> float:
    return round(float(value), 6)
