"""CIFAR-10 and CIFAR-100 in their two official forms (https://www.cs.toronto.edu/~kriz/cifar.html).

Each picture is 3072 bytes: 32x32 of red, then of green, then of blue. The *binary* form puts the label (CIFAR-100: the
coarse, then the fine label) in front of each; the *python* form is a pickle of an array and of lists.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nabi.data.dataset import Dataset, Split
from nabi.data.files import members
from nabi.data.unpickle import unpickle
from nabi.errors import FormatError

PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class Form:
    """One of the four ways that CIFAR comes: its files, and how one of them becomes pixels and labels."""

    name: str
    train: tuple[str, ...]
    test: str
    meta: str
    read: Callable[[bytes, str], tuple[NDArray[np.uint8], NDArray[np.int64]]]
    read_classes: Callable[[bytes, str], list[str]]

    @property
    def files(self) -> tuple[str, ...]:
        return (*self.train, self.test, self.meta)


def form_of(names: list[str]) -> Form | None:
    """The form that files of these names (without folders) are of, if any."""
    there = set(names)
    return next((form for form in FORMS if form.meta in there and there & {*form.train, form.test}), None)


def may_be_cifar(name: str) -> bool:
    """Whether a file of this name (within a folder or archive) can belong to CIFAR, and nothing else would."""
    path = PurePosixPath(name)
    return len(path.parts) <= 2 and any(path.name in form.files for form in FORMS)


def load_cifar(path: Path, name: str) -> Dataset:
    """CIFAR from an archive or a folder of its files, in any of its forms.

    Raises
    ------
    FormatError
        If files are missing, damaged or not of their sizes.
    """
    contents = {}
    for member in members(path, may_be_cifar):
        if may_be_cifar(member.name) and not member.is_folder:
            if member.problem:
                raise FormatError(f"{path}: {member.name}: {member.problem}")
            contents[PurePosixPath(member.name).name] = member.read()
    form = form_of(list(contents))
    if form is None:
        raise FormatError(f"{path}: not CIFAR in its binary or python form")
    train = [file for file in form.train if file in contents]
    if not train:
        raise FormatError(f"{path}: none of {', '.join(form.train)} is there")
    classes = form.read_classes(contents[form.meta], f"{path}: {form.meta}")
    return Dataset(
        name,
        tuple(classes),
        _read_split(form, {file: contents[file] for file in train}, path, len(classes)),
        _read_split(form, {form.test: contents[form.test]}, path, len(classes)) if form.test in contents else None,
    )


def _read_split(form: Form, contents: dict[str, bytes], path: Path, classes: int) -> Split:
    parts = []
    for file, content in contents.items():
        pixels, labels = form.read(content, f"{path}: {file}")
        if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
            raise FormatError(f"{path}: {file}: a label that is not one of the {classes} classes")
        parts.append((pixels, labels))
    images = np.concatenate([pixels for pixels, _ in parts]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return Split(np.ascontiguousarray(images), np.concatenate([labels for _, labels in parts]))


def _binary(labels: int) -> Callable[[bytes, str], tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    def read(content: bytes, name: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        if len(content) % (labels + PIXELS):
            raise FormatError(f"{name}: {len(content)} bytes are not a whole number of pictures ({labels + PIXELS})")
        records = np.frombuffer(content, np.uint8).reshape(-1, labels + PIXELS)
        return records[:, labels:], records[:, labels - 1].astype(np.int64)

    return read


def _binary_classes(content: bytes, name: str) -> list[str]:
    try:
        lines = content.decode("utf-8").split("\n")
    except UnicodeDecodeError:
        raise FormatError(f"{name}: not a list of names") from None
    return [line.strip() for line in lines if line.strip()]


def _python(labels_name: bytes) -> Callable[[bytes, str], tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    def read(content: bytes, name: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        batch = _with_bytes_keys(unpickle(content, name))
        pixels, labels = batch.get(b"data"), batch.get(labels_name)
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (PIXELS,):
            raise FormatError(f"{name}: 'data' is not an array of bytes, {PIXELS} a picture")
        if not isinstance(labels, list) or not all(type(label) is int and 0 <= label < 256 for label in labels):
            raise FormatError(f"{name}: {labels_name.decode()!r} is not a list of labels")
        if len(labels) != len(pixels):
            raise FormatError(f"{name}: {len(labels)} labels for {len(pixels)} pictures")
        return pixels, np.array(labels, np.int64)

    return read


def _python_classes(names: bytes) -> Callable[[bytes, str], list[str]]:
    def read(content: bytes, name: str) -> list[str]:
        classes = _with_bytes_keys(unpickle(content, name)).get(names)
        if not isinstance(classes, list) or not all(isinstance(label, (bytes, str)) for label in classes):
            raise FormatError(f"{name}: {names.decode()!r} is not a list of names")
        return [label.decode("latin1") if isinstance(label, bytes) else label for label in classes]

    return read


def _with_bytes_keys(values: dict[Any, Any]) -> dict[Any, Any]:
    return {key.encode() if isinstance(key, str) else key: value for key, value in values.items()}


_BATCHES = range(1, 6)
FORMS = (
    Form(
        "CIFAR-10 binary",
        tuple(f"data_batch_{number}.bin" for number in _BATCHES),
        "test_batch.bin",
        "batches.meta.txt",
        _binary(1),
        _binary_classes,
    ),
    Form(
        "CIFAR-10 python",
        tuple(f"data_batch_{number}" for number in _BATCHES),
        "test_batch",
        "batches.meta",
        _python(b"labels"),
        _python_classes(b"label_names"),
    ),
    Form("CIFAR-100 binary", ("train.bin",), "test.bin", "fine_label_names.txt", _binary(2), _binary_classes),
    Form("CIFAR-100 python", ("train",), "test", "meta", _python(b"fine_labels"), _python_classes(b"fine_label_names")),
)
