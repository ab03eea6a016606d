"""IDX, the format of MNIST and its relatives (http://yann.lecun.com/exdb/mnist/): pairs of images and labels."""

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nabi.data.dataset import Dataset, Split
from nabi.data.files import MEBIBYTE, open_regular, unpacked
from nabi.errors import DataError, FormatError

MAX_BYTES = 4096 * MEBIBYTE
DEFLATE_RATIO = 1100  # deflate cannot do better than 1032 to 1

_NAME = re.compile(r"(?P<part>[^/]*?)-?(?P<kind>images|labels)[-.]idx[13][-.]ubyte(?P<packed>\.gz)?")


def is_idx_name(name: str) -> bool:
    """Whether a file is called as the parts of MNIST are: ``train-images-idx3-ubyte.gz``."""
    return _NAME.fullmatch(name) is not None


def read_idx(path: Path) -> NDArray[np.uint8]:
    """The array of unsigned bytes in an IDX file, plain or .gz.

    Raises
    ------
    FormatError
        If it is something else, damaged, cut short, or claims more than a file of its size can hold.
    """
    with open_regular(path) as file:
        start = file.read(2)
        packed_size = file.seek(0, 2)
    ratio = DEFLATE_RATIO if start == b"\x1f\x8b" else 1
    limit = min(packed_size * ratio + 1024, MAX_BYTES)
    content = unpacked(path, limit)
    if len(content) < 4 or content[:2] != b"\0\0":
        raise FormatError(f"{path}: not an IDX file")
    kind, dimensions = content[2], content[3]
    if kind != 8 or not 1 <= dimensions <= 4:
        raise FormatError(f"{path}: IDX of type {kind} with {dimensions} dimensions, only unsigned bytes are pictures")
    header = 4 + 4 * dimensions
    if len(content) < header:
        raise FormatError(f"{path}: cut short within its header")
    shape = tuple(int(side) for side in np.frombuffer(content, ">u4", dimensions, 4))
    claimed, there = int(np.prod(shape, dtype=object)), len(content) - header
    if claimed != there:
        raise FormatError(f"{path}: its header claims {claimed} bytes, {there} are there")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def load_idx(paths: Iterable[Path], name: str, classes: tuple[str, ...] | None = None) -> Dataset:
    """A data set from files of images and labels: ``train-*`` to train on, ``t10k-*`` or ``test-*`` to test on.

    A pair that is alone is what to train on. ``classes`` are called by their numbers if they are not given.

    Raises
    ------
    DataError
        If images and labels do not go together.
    """
    pairs: dict[str, dict[str, Path]] = {}
    for path in sorted(paths):
        found = _NAME.fullmatch(path.name)
        if found:
            pairs.setdefault(found["part"], {}).setdefault(found["kind"], path)
    for pair in pairs.values():
        if len(pair) != 2:
            missing = "labels" if "images" in pair else "images"
            raise DataError(f"{next(iter(pair.values()))}: the file of {missing} that belongs to it is not there")
    splits = {part: _read_pair(**pair) for part, pair in pairs.items()}
    tests = [part for part in splits if part.endswith(("t10k", "test"))]
    trains = [part for part in splits if part not in tests]
    if len(splits) == 1:
        trains, tests = list(splits), []
    if len(trains) != 1 or len(tests) > 1:
        raise DataError(
            f"{name}: expected one pair of files to train on and at most one to test on: {', '.join(pairs)}"
        )
    train, test = splits[trains[0]], splits[tests[0]] if tests else None
    if classes is None:
        highest = max(int(split.labels.max(initial=-1)) for split in splits.values())
        classes = tuple(str(label) for label in range(highest + 1))
    return Dataset(name, classes, train, test)


def partner(path: Path) -> list[Path]:
    """The files of images and labels that one of the two names, plain or packed."""
    found = _NAME.fullmatch(path.name)
    if found is None:
        raise DataError(f"{path}: not called ...-images-idx3-ubyte or ...-labels-idx1-ubyte (.gz), as IDX files are")
    other = [
        file
        for file in path.parent.iterdir()
        if (match := _NAME.fullmatch(file.name)) and match["part"] == found["part"] and match["kind"] != found["kind"]
    ]
    return [path, *sorted(other)[:1]]


def _read_pair(images: Path, labels: Path) -> Split:
    pictures, numbers = read_idx(images), read_idx(labels)
    if pictures.ndim == 3:
        pictures = pictures[..., None]
    if pictures.ndim != 4 or pictures.shape[3] not in (1, 3) or 0 in pictures.shape[1:]:
        raise FormatError(f"{images}: shape {pictures.shape} is not one of pictures")
    if numbers.ndim != 1 or len(numbers) != len(pictures):
        raise FormatError(f"{labels}: shape {numbers.shape}, but there are {len(pictures)} pictures")
    return Split(pictures, numbers.astype(np.int64))
