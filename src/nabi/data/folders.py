"""A folder or archive of class folders as a data set: decoding, the final order, the cache.

All pictures are decoded once, to know which there are. What comes out goes to the cache, to be memory-mapped; where it
would not fit on the disk, only what is known of each picture is kept, and the files are decoded again whenever pictures
are asked for. Either way they are the same, to the bit.

Those of a folder are decoded in their final order, so that what is written as they come is the cache's entry. Those of
an archive come as they are stored there: unless that is the same order, they are copied in the end.
"""

import contextlib
import dataclasses
import io
import math
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from nabi import cache, threads
from nabi.data.dataset import Dataset, Split
from nabi.data.decode import decode, decode_and_fit, is_grey
from nabi.data.files import CHANGED, LEADS_OUT, TO_A_FOLDER, Member, ReadAgain, composed, members, reading_again, reason
from nabi.data.layout import Layout, Place, layout
from nabi.data.ondemand import OnDemand
from nabi.data.resize import Size, fit
from nabi.data.splits import content_key
from nabi.errors import DataError, PictureError

DEFAULT_SIZE: Size = (32, 32)
MAX_IN_MEMORY = 128 << 20  # of decoded pictures, before they go to the disk
MAX_UNCACHED = 1 << 30  # of decoded pictures that are held in memory where the cache cannot take them
MAX_AHEAD = 128 << 20  # of decoded pictures that wait for their turn, and of files that wait to be decoded
GROUP = 512 << 10  # of decoded pictures that are handed on together
FEW = 4  # pictures that a thread decodes again at a time
FORMAT = 5  # of what is cached: to be raised when decoding changes, or what folders mean

Progress = Callable[[int, int], None]
Stored = tuple[dict[str, Any], NDArray[np.uint8] | OnDemand]  # what is known of the pictures, and they themselves

_OUTSIDE = "not in a class folder"
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
        dataclasses.replace(member, problem=_OUTSIDE)
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
    if about is None or _has_room(path, about["room"]):
        return None
    read_again = reading_again(path)
    assert read_again is not None
    return about, _on_demand(path, about, read_again)


def _has_room(path: Path, size: int, written: int = 0) -> bool:
    """Whether so many bytes may be written, where some are already; of an archive, they are perhaps copied after."""
    return size <= cache.MAX_TOTAL and cache.has_room(size * (1 if path.is_dir() else 2) - written)


def _decode_and_store(
    path: Path, name: str, key: str, listing: list[Member] | None, size: Size | None, progress: Progress | None
) -> Stored:
    """Decode everything; once more without the files outside class folders if only these are of another size.

    And once more where there was no room for the pictures as they are, but is for what they have turned out to become.
    """
    wanted: Callable[[str], bool] = lambda file: True
    with _decode_all(path, listing, size, progress, wanted) as pictures:
        found = pictures.layout()
        shapes = {
            native
            for file, native in zip(pictures.names, pictures.natives, strict=True)
            if found.place(file) is not None
        }
        if size is not None or not pictures.fixed:
            return _store(pictures, name, key)
        if len(shapes) == 1:
            wanted = lambda file: found.place(file) is not None
        elif pictures.kept or not _has_room(path, len(pictures.names) * pictures.rows.size):
            return _store(pictures, name, key)
        else:
            size = pictures.rows.shape[:2]
    with _decode_all(path, listing, size, progress, wanted) as pictures:
        return _store(pictures, name, key)


def _store(pictures: "_Pictures", name: str, key: str) -> Stored:
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


class _Rows:
    """Pictures of one shape (H, W, C), one behind another: in memory; once they are many, in the cache."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.shape, self.size, self.count = shape, math.prod(shape), 0
        self.memory = io.BytesIO()
        self.draft: cache.Draft | None = None

    @property
    def written(self) -> int:
        """Bytes on the disk."""
        return 0 if self.draft is None else self.count * self.size

    def to_disk(self) -> None:
        draft = cache.Draft(self.shape)
        try:
            draft.write(np.frombuffer(self.memory.getvalue(), np.uint8))
        except BaseException:
            draft.close()
            raise
        self.draft, self.memory = draft, io.BytesIO()

    def write(self, picture: NDArray[np.uint8]) -> None:
        if self.draft is not None:
            self.draft.write(picture)
        else:
            self.memory.write(np.ascontiguousarray(picture).data)
        self.count += 1

    def read(self, row: int, picture: NDArray[np.uint8]) -> None:
        if self.draft is not None:
            self.draft.read(row, picture)
        else:
            self.memory.seek(row * self.size)
            self.memory.readinto(picture.data.cast("B"))

    def close(self) -> None:
        """Forget the pictures; what a full disk kept from being written is not missed any more."""
        self.memory = io.BytesIO()
        if self.draft is not None:
            with contextlib.suppress(OSError):
                self.draft.close()


class _Pictures:
    """Decoded pictures in the order they came, with what is known of each.

    While ``size`` is not given they are kept as they are until the first that differs in size, then all (those that
    are there already, too) are brought to 32x32; and in one channel until the first that is not grey. Where there is no
    room for them they are not ``kept``, if they can be read again: that is found out before anything goes to the disk,
    where ``expected`` tells how many there will be.
    """

    def __init__(self, path: Path, size: Size | None, expected: Callable[[], int]) -> None:
        self.path = path
        self.fixed = size is not None
        self.expected = expected
        self.names: list[str] = []
        self.folders: list[str] = []
        self.natives: list[Size] = []
        self.keys: list[int] = []
        self.grey: list[bool] = []
        self.sizes: list[int] = []
        self.marks: list[int] = []
        self.skipped: list[tuple[str, str]] = []
        self.unread: list[str] = []
        self.kept = True
        self.wanted = 0  # bytes for which there was no room
        self.read_again = reading_again(path)
        self.rows = _Rows((*(size or DEFAULT_SIZE), 1))

    def __enter__(self) -> "_Pictures":
        return self

    def __exit__(self, *error: object) -> None:
        self.rows.close()

    def add(self, found: "_Found") -> None:
        """Take one result of decoding."""
        if found.picture is None:
            if found.problem:
                self.skipped.append((found.name, found.problem))
                self.unread += [] if found.read else [found.name]
            else:
                self.folders.append(found.name)
            return
        height, width, channels = self.rows.shape
        if not self.fixed:
            as_it_was = found.picture.shape[:2] == found.native
            if as_it_was and not self.names:
                height, width = found.native
            elif not as_it_was or found.native != (height, width):
                (height, width), self.fixed = DEFAULT_SIZE, True
        self._bring_to((height, width, channels if found.grey else 3))
        if self.kept:
            self.kept = self._write(found.picture)
        self.names.append(found.name)
        self.natives.append(found.native)
        self.keys.append(found.key)
        self.grey.append(found.grey)
        self.sizes.append(found.size)
        self.marks.append(found.mark)

    def layout(self) -> Layout:
        """The layout of all files and folders; raises :class:`DataError` where there is none."""
        return _layout(self.path, [*self.folders, *self.names, *(name for name, _ in self.skipped)])

    def store(
        self, key: str, about: dict[str, Any], order: list[int], channels: int
    ) -> tuple[dict[str, Any], NDArray[np.uint8]] | None:
        """Make those at these positions, in this order, the cache's entry; ``None`` where it cannot take them."""
        draft = self.rows.draft
        if draft is not None and channels == self.rows.shape[2] and order == list(range(len(self.names))):
            with contextlib.suppress(OSError):
                return draft.keep(key, about)
        return cache.store(key, about, (len(order), *self.rows.shape[:2], channels), self.blocks(order, channels))

    def blocks(self, order: list[int], channels: int) -> Iterator[NDArray[np.uint8]]:
        """The pictures at these positions, in this order, many at a time: each block is overwritten by the next."""
        together = max(1, min(len(order), cache.BLOCK // self.rows.size))
        block = np.empty((together, *self.rows.shape), np.uint8)
        for start in range(0, len(order), together):
            some = order[start : start + together]
            for place, row in enumerate(some):
                self._read(self.rows, row, block[place])
            yield block[: len(some), ..., :channels]

    def _bring_to(self, shape: tuple[int, int, int]) -> None:
        """Make all pictures that are there, and the rows for those that will be, as large."""
        if shape == self.rows.shape:
            return
        before, self.rows = self.rows, _Rows(shape)
        picture = np.empty(before.shape, np.uint8)
        try:
            for row in range(before.count):
                if self.kept:
                    self._read(before, row, picture)
                    self.kept = self._write(picture, before.written)
        except DataError as error:  # of the disk
            self.kept = self.give_up(error)
        finally:
            before.close()

    def _read(self, rows: _Rows, row: int, picture: NDArray[np.uint8]) -> None:
        with self._on_disk():
            rows.read(row, picture)

    def _write(self, picture: NDArray[np.uint8], beside: int = 0) -> bool:
        """Whether there was room: for this one; and for all that will come before the first goes to the disk.

        There are other bytes ``beside`` it, which will be gone.
        """
        rows = self.rows
        end = (rows.count + 1) * rows.size
        many = end > MAX_IN_MEMORY
        if many and (rows.draft is None or end % cache.BLOCK < rows.size):
            whole = end if self.read_again is None else max(end, self.expected() * rows.size)
            if not _has_room(self.path, whole, rows.written):
                self.wanted = whole + beside
                return self.give_up(self._not_kept("no room"))
        try:
            with self._on_disk():
                if many and rows.draft is None:
                    rows.to_disk()
                rows.write(np.broadcast_to(fit(picture, rows.shape[:2])[..., : rows.shape[2]], rows.shape))
        except DataError as error:
            return self.give_up(error)
        return True

    def give_up(self, error: DataError) -> bool:
        """Keep no pictures, if they can be read again; else the error is raised."""
        if self.read_again is None:
            raise error
        self.rows.close()
        return False

    @contextlib.contextmanager
    def _on_disk(self) -> Iterator[None]:
        """Where the disk is met."""
        try:
            yield
        except OSError as error:
            raise self._not_kept(reason(error)) from None

    def _not_kept(self, problem: str) -> DataError:
        return DataError(
            f"{self.path}: cannot keep the decoded pictures in {cache.folder()} ({problem}): "
            "choose a smaller size, or another folder with NABI_CACHE, or unpack the archive"
        )


@dataclass(frozen=True)
class _Found:
    """What became of one member: a picture, a problem, or (neither) a folder."""

    name: str
    problem: str = ""
    read: bool = True
    picture: NDArray[np.uint8] | None = None
    native: Size = (0, 0)
    key: int = 0
    grey: bool = False
    size: int = 0
    mark: int = 0


class _Common:
    """The size that all pictures become, as far as it is known yet; shared by the threads.

    As soon as two differ, the thread that decodes a picture makes it small: so only pictures that stay as they are wait
    for their turn at full size.
    """

    def __init__(self, size: Size | None) -> None:
        self.size, self.fixed = size, size is not None
        self.lock = threading.Lock()

    def of(self, native: Size) -> Size:
        """What a picture of this size becomes."""
        with self.lock:
            if self.size is None:
                self.size = native
            elif not self.fixed and native != self.size:
                self.size, self.fixed = DEFAULT_SIZE, True
            return self.size

    def cost(self) -> int:
        """How many bytes one picture becomes; 0 until one has been seen."""
        size = self.size
        return 0 if size is None else size[0] * size[1] * 3


def _look_at(member: Member, common: _Common) -> _Found:
    if member.is_folder or member.problem:
        return _Found(member.name, member.problem)
    read = False
    try:
        content = member.read()
        read = True
        picture, fitted = decode_and_fit(content, member.name, common.of)
    except DataError as error:
        return _Found(member.name, str(error).removeprefix(f"{member.name}: "), read=read)
    native = (picture.shape[0], picture.shape[1])
    key, grey = content_key(picture), is_grey(picture)
    return _Found(member.name, "", True, fitted, native, key, grey, member.size, member.mark)


def _decode_all(
    path: Path,
    listing: list[Member] | None,
    size: Size | None,
    progress: Progress | None,
    wanted: Callable[[str], bool],
) -> _Pictures:
    report = _throttled(progress)
    common = _Common(size)
    ends: deque[float] = deque()  # how far in an archive each member ends that was read and not yet decoded
    reached = read = 0.0

    def report_reading(done: int, total: int) -> None:
        nonlocal read
        read = done / max(total, 1)
        report(done, total)

    def reading() -> Iterator[Member]:
        for member in members(path, wanted, report_reading):
            ends.append(read)
            yield member
            del member  # its content would stay while the next is read

    found = reading() if listing is None else iter(listing)
    files = sum(wanted(member.name) and not (member.is_folder or member.problem) for member in listing or ())

    def expected() -> int:
        return files if listing is not None else round(len(pictures.names) / reached) if reached else 0

    def look_at_all(group: list[Member]) -> list[_Found]:
        return [
            _look_at(member, common) if wanted(member.name) else _Found(member.name, member.problem or _OUTSIDE)
            for member in group
        ]

    pictures, done, before = _Pictures(path, size, expected), 0, -1
    try:
        while done > before:
            before = done
            ahead = min(4 * threads.get_num_threads(), max(1, MAX_AHEAD // max(GROUP, common.cost())))
            for results in threads.map_in_order(look_at_all, _grouped(found, common), ahead=ahead):
                for result in results:
                    reached = ends.popleft() if ends else 1.0
                    pictures.add(result)
                done += len(results)
                if listing is not None:
                    report(done, len(listing))
    except BaseException:
        pictures.rows.close()
        raise
    return pictures


def _grouped(found: Iterator[Member], common: _Common) -> Iterator[list[Member]]:
    """Small files together, so that handing them to a thread costs less than decoding them.

    Ends early where more files would take too much memory at once, or what a picture takes has turned out to be
    something else: whoever asks then waits for the results and asks again.
    """
    each = common.cost()
    most = min(64, max(1, GROUP // each)) if each else 1
    group: list[Member] = []
    size = total = 0
    for member in found:
        group.append(member)
        size += member.size
        total += member.size
        if len(group) >= most or size >= 1 << 18:
            yield group
            if total >= MAX_AHEAD or not each or common.cost() != each:
                return
            group, size = [], 0
    if group:
        yield group


def _throttled(progress: Progress | None) -> Progress:
    """Report a thousand times at most: a callback may well redraw a terminal."""
    last = -1

    def report(done: int, total: int) -> None:
        nonlocal last
        step = 1000 * done // max(total, 1)
        if progress is not None and step != last:
            last = step
            progress(done, total)

    return report


def _describe(pictures: _Pictures, name: str) -> tuple[dict[str, Any], list[int]]:
    """What the cache keeps beside the pixels, and the pictures' final order: split, class, name."""
    found = pictures.layout()
    skipped = [
        (file, reason if file.endswith("/") or found.place(file) or reason in _OF_FOLDERS else _OUTSIDE)
        for file, reason in pictures.skipped
    ]
    places = [found.place(file) for file in pictures.names]
    skipped += [(file, _OUTSIDE) for file, place in zip(pictures.names, places, strict=True) if place is None]
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
    return cache.key(*made, pillow, str(real), files)
