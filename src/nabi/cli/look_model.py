"""``nabi look MODEL``: what a model is made of, and its weights as pictures."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nabi import container, figures, nn
from nabi.classifiers import PhotoClassifier, load, pretrained
from nabi.cli.characters import json_text, printable
from nabi.cli.look_files import figure_file
from nabi.cli.run_folder import is_backbone, model_file
from nabi.cli.terminal import console

PER_CLASS, MOST_CLASSES = 10, 20  # of remembered pictures on a sheet
MOST_WEIGHTS, MOST_TEMPLATES = 64, 100


def look_at_model(path: Path, out: Path | None, as_json: bool) -> None:
    """Print what a model takes, answers and is made of, and draw its weights."""
    figure: Path | None = figure_file(out, "weights.png")
    file = model_file(path)
    known = is_backbone(path)
    classifier: Any = pretrained(str(path)) if known else load(file)
    remembers = hasattr(classifier, "kneighbors")
    assert figure is not None
    drawn = _draw_remembered(classifier, figure) if remembers else _draw_weights(classifier, figure)
    if drawn is None:
        figure = None
    model = getattr(classifier, "model_", None)
    if known or file.suffix == ".onnx":
        arrays, header = {name: tensor.numpy() for name, tensor in nn.tensors(model).items()}, classifier.header()
    else:
        arrays, header = container.read(file)
    summary = nn.summary(model, classifier.input_shape_) if isinstance(model, nn.Layer) else None
    about = header.get("about", {})
    classes = [str(name) for name in classifier.classes_]
    counts = np.bincount(classifier.labels_, minlength=len(classes)).tolist() if remembers else None
    if as_json:
        content = {
            "path": str(file),
            "classifier": type(classifier).__name__,
            "arguments": header["arguments"],
            "classes": classes,
            "input_shape": list(classifier.input_shape_),
            "input_dtype": classifier.input_dtype_.name,
            "about": about,
            "layers": None if summary is None else [row._asdict() for row in summary.rows],
            "parameters": None if summary is None else summary.parameters,
            "remembered": None if counts is None else dict(zip(classes, counts, strict=True)),
            "arrays": {name: list(array.shape) for name, array in arrays.items()},
            "drawn": drawn,
            "figure": None if figure is None else str(figure),
        }
        print(json_text(content, indent=2))
        return
    where = console()
    where.print(f"{printable(str(file))}: {type(classifier).__name__}{_trained_on(about)}")
    shape = "x".join(map(str, classifier.input_shape_))
    what = f"pictures of {shape}" if len(classifier.input_shape_) == 3 else f"rows of {shape} numbers"
    where.print(f"takes {what}, {classifier.input_dtype_.name}")
    where.print(f"answers with one of {len(classes):,} classes: {_few(classes)}")
    if counts is not None:
        where.print(f"remembers {sum(counts):,}: {_few([f'{n} {c:,}' for n, c in zip(classes, counts, strict=True)])}")
    where.print()
    if summary is not None:
        where.print(str(summary))
    else:
        for name, array in arrays.items():
            where.print(f"{printable(name)}  {array.dtype}  {' × '.join(map(str, array.shape)) or '1'}")
    where.print()
    if drawn is None:
        why = "it has no weights of pixels"
        if len(classifier.input_shape_) != 3:
            why = "it takes rows of numbers, not pictures"
        elif isinstance(classifier, PhotoClassifier):
            why = "its weights are not of pixels, but of what its backbone makes of them"
        where.print(f"no figure: {why}")
    else:
        where.print(f"{drawn}: {printable(str(figure))}")


def _trained_on(about: Any) -> str:
    """What the file says of its training, where it says anything."""
    if not isinstance(about, dict) or "data" not in about:
        return ""
    asked = about.get("asked")
    seed = f", seed {asked['seed']}" if isinstance(asked, dict) and "seed" in asked else ""
    best = f", best in epoch {about['best_epoch']}" if about.get("best_epoch") else ""
    return f", trained on {printable(str(about['data']))}{best}{seed}"


def _draw_weights(classifier: Any, figure: Path) -> str | None:
    """Draw templates, filters or units, and say which; None where they are no pictures."""
    classes = [str(name) for name in classifier.classes_]
    templates = _one_layer(classifier)
    all_of_them = templates and len(classes) <= MOST_TEMPLATES
    pictures = classifier.weight_pictures(len(classes) if all_of_them else MOST_WEIGHTS)
    if pictures is None or pictures.shape[3] not in (1, 3):
        return None
    figures.weights(pictures, figure, classes if all_of_them else None)
    if templates:
        return "the template of each class" if all_of_them else f"the {len(pictures)} strongest templates"
    return f"what the first layer looks for, {len(pictures)} {'filters' if _convolves(classifier) else 'units'}"


def _draw_remembered(classifier: Any, figure: Path) -> str | None:
    """Draw a row of remembered pictures for each class."""
    if len(classifier.input_shape_) != 3:
        return None
    images: list[NDArray[Any]] = []
    titles: list[str] = []
    for place, name in enumerate(classifier.classes_[:MOST_CLASSES]):
        found = np.flatnonzero(np.asarray(classifier.labels_) == place)[:PER_CLASS]
        row = [np.asarray(classifier.images_[number]) for number in found]
        images += row + [np.full(classifier.input_shape_, 255, np.uint8)] * (PER_CLASS - len(row))
        titles += [str(name)] + [""] * (PER_CLASS - 1)
    figures.pictures(images, titles, figure, columns=PER_CLASS, width=0.8)
    return f"the first {PER_CLASS} of each class that it remembers"


def _one_layer(classifier: Any) -> bool:
    """Whether there is but one layer of weights, so that each of its outputs is a class."""
    model = getattr(classifier, "model_", None)
    return model is None or sum(weight.ndim > 1 for weight in nn.parameters(model).values()) == 1


def _convolves(classifier: Any) -> bool:
    return next(w for w in nn.parameters(classifier.model_).values() if w.ndim > 1).ndim == 4


def _few(names: list[str]) -> str:
    return printable(", ".join(names[:20])) + (", …" if len(names) > 20 else "")
