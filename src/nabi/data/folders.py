"""A folder or archive of class folders as a data set: the final order, the cache, and decoding once more.

All pictures are decoded once, to know which there are. What comes out goes to the cache, to be memory-mapped; where it
would not fit on the disk, only what is known of each picture is kept, and the files are decoded again whenever pictures
are asked for. Either way they are the same, to the bit.

Those of a folder are decoded in their final order, so that what is written as they come is the cache's entry. Those of
an archive come as they are stored there: unless that is the same order, they are copied in the end.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from nabi import cache, threads
from nabi.data.dataset import Dataset, Split
from nabi.data.decode import decode
from nabi.data.files import (
    CHANGED,
    LEADS_OUT,
    TO_A_FOLDER,
    Member,
    Progress,
    ReadAgain,
    composed,
    members,
    reading_again,
)
from nabi.data.gather import OUTSIDE, Gathered, gather, has_room
from nabi.data.layout import Layout, Place, layout
from nabi.data.ondemand import OnDemand
from nabi.data.resize import Size
from nabi.errors import DataError, PictureError

MAX_UNCACHED = 1 << 30  # of decoded pictures that are held in memory where the cache cannot take them
FEW = 4  # pictures that a thread decodes again at a time
FORMAT = 5  # of what is cached: to be raised when decoding changes, or what folders mean

Stored = tuple[dict[str, Any], NDArray[np.uint8] | OnDemand]  # what is known of the pictures, and they themselves

_OF_FOLDERS = (LEADS_OUT, TO_A_FOLDER)  # reasons why a class may be missing
_TWICE = "stands in the archive again, further on"


def load_folder(path: Path, name: str, size: Size | None, progress: Progress | None) -> Dataset:
    """A folder or archive of class folders; decoded in parallel, or from the cache.

    Pictures of one size stay as they are if ``size`` is ``None``; of mixed sizes they become 32x32. They come sorted by
    class and name whatever the order in the archive. Pictures that are all grey have one channel.

    Where the cache has no room for them, and for what it takes to fill it, those of a folder, or of a tar that is not
    compressed, are decoded each time they are asked for.

    Raises
    ------
    DataError
        If the layout is not one of class folders, no picture can be decoded, or those of an archive that is compressed
        are many and the cache cannot take them.
    FormatError
        If the archive is damaged.
    """
    listing = list(members(path)) if path.is_dir() else None
    key = cache_key(path, listing, FORMAT, size)
    stored = cache.load(key) or _known(path, key)
    if stored is None:
        ordered = _in_final_order(path, listing) if listing else listing
        stored = _decode_and_store(path, name, key, ordered, size, progress)
    return _dataset(*stored)


def _in_final_order(path: Path, listing: list[Member]) -> list[Member]:
    """A folder's members as `_describe` will have them; those in no class folder, first, are not to be decoded."""
    found = _layout(path, [member.name for member in listing])
    places = {member.name: found.place(member.name) for member in listing}
    ordered = sorted(listing, key=lambda member: _position(found, places[member.name], member.name))
    return [
        dataclasses.replace(member, problem=OUTSIDE)
        if places[member.name] is None and not (member.is_folder or member.problem)
        else member
        for member in ordered
    ]


def _position(found: Layout, place: Place | None, name: str) -> tuple[Any, ...]:
    """What pictures are sorted by: split, class, name."""
    return () if place is None else (found.splits.index(place.split), place.label, composed(name))


def _layout(path: Path, names: list[str]) -> Layout:
    try:
        return layout(names)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _known(path: Path, key: str) -> Stored | None:
    """What was found out about the pictures when there was no room for them, if there still is none."""
    about = cache.load_about(cache.key(key, "about"))
    if about is None or has_room(path, about["room"]):
        return None
    read_again = reading_again(path)
    assert read_again is not None
    return about, _on_demand(path, about, read_again)


def _decode_and_store(
    path: Path, name: str, key: str, listing: list[Member] | None, size: Size | None, progress: Progress | None
) -> Stored:
    """Decode everything; once more without the files outside class folders if only these are of another size.

    And once more where there was no room for the pictures as they are, but is for what they have turned out to become.
    """
    wanted: Callable[[str], bool] = lambda file: True
    with gather(path, listing, size, progress, wanted) as pictures:
        found = _layout(path, pictures.everything())
        shapes = {
            native
            for file, native in zip(pictures.names, pictures.natives, strict=True)
            if found.place(file) is not None
        }
        if size is not None or not pictures.fixed:
            return _store(pictures, name, key)
        if len(shapes) == 1:
            wanted = lambda file: found.place(file) is not None
        elif pictures.kept or not has_room(path, len(pictures.names) * pictures.rows.size):
            return _store(pictures, name, key)
        else:
            size = pictures.rows.shape[:2]
    with gather(path, listing, size, progress, wanted) as pictures:
        return _store(pictures, name, key)


def _store(pictures: Gathered, name: str, key: str) -> Stored:
    about, order = _describe(pictures, name)
    channels = 1 if all(pictures.grey[row] for row in order) else 3
    shape = (len(order), *pictures.rows.shape[:2], channels)
    if pictures.unread:  # perhaps they can be read the next time, when nothing that the key is made from has changed
        key = cache.key(key, pictures.unread)
    try:
        stored = pictures.store(key, about, order, channels) if pictures.kept else None
        if stored is not None:
            return stored
        if pictures.kept and (pictures.read_again is None or math.prod(shape) <= MAX_UNCACHED):
            return about, _in_memory(pictures.path, shape, pictures.blocks(order, channels))
    except DataError as error:  # of the disk
        pictures.give_up(error)
    about |= {
        "shape": list(shape),
        "room": max(math.prod(shape), pictures.wanted),
        "sizes": cache.pack(np.array([pictures.sizes[row] for row in order], np.int64)),
        "marks": cache.pack(np.array([pictures.marks[row] for row in order], np.int64)),
    }
    cache.store_about(cache.key(key, "about"), about)
    assert pictures.read_again is not None
    return about, _on_demand(pictures.path, about, pictures.read_again)


def _on_demand(path: Path, about: dict[str, Any], read_again: ReadAgain) -> OnDemand:
    """The pictures of a set that is not kept: decoded when they are asked for, as they were the first time."""
    sizes, marks = (cache.unpack(about[what], np.int64).tolist() for what in ("sizes", "marks"))
    height, width, channels = about["shape"][1:]
    again = _Again(path, read_again, about["names"], sizes, marks, (height, width), channels)
    return OnDemand(again, tuple(about["shape"]))


@dataclass(frozen=True)
class _Again:
    """Decodes pictures anew; nothing else, so that it can be pickled."""

    path: Path
    read_again: ReadAgain
    names: list[str]
    sizes: list[int]
    marks: list[int]
    size: Size
    channels: int

    def __call__(self, positions: NDArray[np.int64]) -> NDArray[np.uint8]:
        pictures = np.empty((len(positions), *self.size, self.channels), np.uint8)

        def fill(start: int) -> None:
            for place, position in enumerate(positions[start : start + FEW].tolist(), start):
                pictures[place] = self._picture(position)

        for _ in threads.map_in_order(fill, range(0, len(positions), FEW)):
            pass
        return pictures

    def _picture(self, position: int) -> NDArray[np.uint8]:
        name = self.names[position]
        content = self.read_again(name, self.sizes[position], self.marks[position])
        try:
            return decode(content, name, self.size)[..., : self.channels]
        except PictureError:  # it could be decoded before
            raise DataError(f"{self.path / name}: {CHANGED}") from None


def _describe(pictures: Gathered, name: str) -> tuple[dict[str, Any], list[int]]:
    """What the cache keeps beside the pixels, and the pictures' final order: split, class, name."""
    found = _layout(pictures.path, pictures.everything())
    skipped = [
        (file, reason if file.endswith("/") or found.place(file) or reason in _OF_FOLDERS else OUTSIDE)
        for file, reason in pictures.skipped
    ]
    places = [found.place(file) for file in pictures.names]
    skipped += [(file, OUTSIDE) for file, place in zip(pictures.names, places, strict=True) if place is None]
    if all(place is None for place in places):
        first = f", the first of {len(skipped)} skipped files is {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
        raise DataError(f"{pictures.path}: no picture in any class folder{first}")
    last = {file: row for row, file in enumerate(pictures.names)}  # the one that unpacking an archive would leave
    skipped += [(file, _TWICE) for row, file in enumerate(pictures.names) if places[row] and last[file] != row]
    placed = sorted(
        (*_position(found, place, pictures.names[row]), row)
        for row, place in enumerate(places)
        if place is not None and last[pictures.names[row]] == row
    )
    order = [row for *_, row in placed]
    labels = np.array([found.classes.index(label) for _, label, _, _ in placed], np.int64)
    counts = Counter(split for split, *_ in placed)
    about = {
        "source": str(pictures.path),
        "name": name,
        "classes": list(found.classes),
        "splits": {split: counts[number] for number, split in enumerate(found.splits)},
        "names": [pictures.names[row] for row in order],
        "labels": cache.pack(labels),
        "keys": cache.pack(np.array([pictures.keys[row] for row in order], np.uint64)),
        "skipped": sorted(set(skipped)),
    }
    return about, order


def _dataset(about: dict[str, Any], images: NDArray[np.uint8] | OnDemand) -> Dataset:
    labels, keys = cache.unpack(about["labels"], np.int64), cache.unpack(about["keys"], np.uint64)
    splits, start = {}, 0
    for split, count in about["splits"].items():
        part = slice(start, start + count)
        some = images.take(part) if isinstance(images, OnDemand) else images[part]
        splits[split] = Split(cast(NDArray[np.uint8], some), labels[part], about["names"][part], keys[part])
        start += count
    return Dataset(
        about["name"],
        tuple(about["classes"]),
        splits["train"],
        splits.get("test"),
        splits.get("validation"),
        [(file, reason) for file, reason in about["skipped"]],
    )


def _in_memory(path: Path, shape: tuple[int, ...], blocks: Iterable[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    try:
        images = np.empty(shape, np.uint8)
    except MemoryError:
        raise DataError(f"{path}: the decoded pictures fit neither in memory nor in the cache") from None
    start = 0
    for block in blocks:
        images[start : start + len(block)] = block
        start += len(block)
    return images


def cache_key(path: Path, listing: list[Member] | None, *made: Any) -> str:
    """The name in the cache of what is ``made`` of all files of a folder, listed, or of an archive as they are now."""
    from PIL import __version__ as pillow

    real = path.resolve()
    if listing is None:
        status = real.stat()
        files: list[Any] = [status.st_size, status.st_mtime_ns]
    else:
        files = [[member.name, member.size, member.mark, member.problem] for member in listing]
    return cache.key(*made, pillow, simplejpeg.__version__, str(real), files)
