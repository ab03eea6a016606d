"""``nabi export``: a model as a file that other programs run."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from nabi import container, data
from nabi.classifiers import Classifier
from nabi.classifiers.agreement import TOLERANCE, Named, agreement, made_pictures
from nabi.classifiers.exporting import takes_pictures, to_onnx
from nabi.cli.characters import printable
from nabi.cli.picture_model import picture_model
from nabi.cli.run_folder import model_file
from nabi.cli.terminal import bar, console, note
from nabi.data.decode import decode
from nabi.data.files import is_archive, members
from nabi.data.layout import SPLITS, layout
from nabi.data.named import NAMED
from nabi.errors import DataError, ModelFileError, NabiError, PictureError, SettingError
from nabi.onnx.running import Session

MOST_BY_ITSELF = 256
"""Pictures of what the model was trained on that are tried where nobody names others."""
SHOWN = 5


def export(
    model: Annotated[Path, typer.Argument(help="A model file, or the folder of a run.")],
    onnx: Annotated[Path | None, typer.Option(metavar="FILE", help="The ONNX file to write.")] = None,
    check: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            show_default="what it was trained on, if that is still there",
            help="Pictures to compare on: a name, folder, archive or file.",
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(show_default="all", help="Of --check, those in the folder of a split: test, validation or train."),
    ] = None,
) -> None:
    """Write a model as an ONNX file that takes raw pictures of any size and gives labels and probabilities.

    Scaling, cropping and everything else before the first layer are in the file. Before it is written, onnxruntime
    answers real pictures with it: where an answer differs from nabi's by more than a ten-thousandth, or a prediction
    is another one, nothing is written. Needs the extra: pip install 'nabi[onnx]'.
    """
    if onnx is None:
        raise SettingError("--onnx FILE: name the file to write")
    if split is not None and (check is None or split not in SPLITS.values()):
        raise SettingError(f"--split {split!r}: it is test, validation or train, of what --check names")
    classifier = picture_model(model)
    if not takes_pictures(classifier):
        raise ModelFileError(f"{model}: its pictures have {classifier.input_shape_[2]} channels: no file has such")
    content = to_onnx(classifier)
    session = Session(content)
    source, pictures = _pictures(check, split, model, classifier)
    with bar(console(stderr=True)) as show:
        found = agreement(classifier, session, _counted(pictures, lambda done: show("comparing", done, done + 1)))
    if not found.pictures:
        raise DataError(f"{source}: no picture to compare on")
    for name, ours, theirs in found.changed[:SHOWN]:
        note(f"{name}: {theirs} where nabi says {ours}")
    if found.wrong:
        more = f", and {len(found.wrong) - 1:,} more" if len(found.wrong) > 1 else ""
        raise NabiError(f"{onnx}: not written: it does not answer as {model} does: {found.wrong[0]}{more}")
    with container.replace_file(onnx) as file:
        file.write(content)
    gives = "probabilities" if hasattr(classifier, "predict_proba") else "scores"
    changed = "no prediction is another one" if not found.changed else f"{len(found.changed):,} draws fall otherwise"
    print(f"{printable(str(onnx))}: {len(content) / 1e6:.1f} MB, from pictures of any size to labels and {gives}")
    print(
        f"onnxruntime {session.version} beside nabi on {found.pictures:,} pictures of {printable(source)}: "
        f"largest difference {found.difference:.2g} (up to {TOLERANCE:g} is let pass), {changed}"
    )


def _pictures(check: str | None, split: str | None, model: Path, classifier: Classifier) -> tuple[str, Iterator[Named]]:
    """What to compare on, and what it is called."""
    if check is not None:
        return check if split is None else f"{check}, {split}", _of(check, split)
    trained_on = _trained_on(model)
    if trained_on is not None:
        some = _of(trained_on)
        with suppress(NabiError, StopIteration):  # moved, or not to be had now
            first = next(some)
            return _near(trained_on), itertools.islice(itertools.chain([first], some), MOST_BY_ITSELF)
    height, width, _ = classifier.input_shape_
    note("what the model was trained on is not there: compared on made pictures; name real ones with --check")
    return "noise", made_pictures(height, width)


def _near(source: str) -> str:
    """A path as it is from here, if that is where it is."""
    path, here = Path(source), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else source


def _trained_on(model: Path) -> str | None:
    """What the run that made the model was asked to train on."""
    file = model_file(model)
    if not file.is_file():  # the name of a network that was trained elsewhere
        return None
    _, header = container.read(file)
    about: Any = header.get("about")
    asked = about.get("asked") if isinstance(about, dict) else None
    source = asked.get("data") if isinstance(asked, dict) else None
    return source if isinstance(source, str) else None


def _of(source: str, split: str | None = None) -> Iterator[Named]:
    """Pictures as large as they are, of a folder, archive or file; of a data set that is known, its test pictures."""
    path = Path(source)
    if source not in NAMED and path.exists():
        found = False
        for name, picture in _in_archive(path, split) if path.is_file() and is_archive(path) else _in(path, split):
            if not isinstance(picture, PictureError):
                found = True
                yield name, picture
        if found:
            return
    dataset = data.load(source)
    part = getattr(dataset, split or ("train" if dataset.test is None else "test"))
    if part is None:
        raise DataError(f"{source}: has no {split} pictures of its own")
    for number, picture in enumerate(part.images):
        yield f"picture {number}", np.repeat(picture, 3, axis=2) if picture.shape[2] == 1 else np.asarray(picture)


def _in(path: Path, split: str | None) -> Iterator[tuple[str, Any]]:
    """What the pictures in a folder, or a file, are called, and they themselves, or why they are none."""
    if split is None or not path.is_dir():
        return data.pictures(path)
    wanted = _wanted(path, split)
    there = (member for member in members(path) if not member.is_folder and not member.problem)
    return data.pictures(path / member.name for member in there if wanted(member.name))


def _in_archive(path: Path, split: str | None) -> Iterator[tuple[str, Any]]:
    wanted = _wanted(path, split)
    for member in members(path, wanted):
        if wanted(member.name) and not member.is_folder and not member.problem:
            try:
                yield member.name, decode(member.read(), member.name)
            except PictureError as error:
                yield member.name, error


def _wanted(path: Path, split: str | None) -> Callable[[str], bool]:
    """Which names in a folder or archive are in a split's folder; all where none is asked for."""
    if split is None:
        return lambda name: True
    place = layout([member.name for member in members(path, lambda name: False)]).place
    return lambda name: getattr(place(name), "split", None) == split


def _counted(pictures: Iterator[Named], show: Any) -> Iterator[Named]:
    for done, named in enumerate(pictures):
        show(done)
        yield named
