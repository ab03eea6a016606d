"""All pictures of a folder or archive, decoded side by side and gathered: in memory, or in the cache if they are many.

They come in the order of their files. Where no size is asked for, all become 32x32 as soon as two differ; those
that are all grey have one channel.
"""

import contextlib
import functools
import io
import itertools
import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from nabi import cache, threads
from nabi.data.decode import decode_and_fit, is_grey
from nabi.data.files import Member, Progress, members, reading_again, reason
from nabi.data.resize import Size, fit
from nabi.data.splits import content_key
from nabi.errors import DataError, PictureError

Item = TypeVar("Item")
Result = TypeVar("Result")

DEFAULT_SIZE: Size = (32, 32)
MAX_IN_MEMORY = 128 << 20  # of decoded pictures, before they go to the disk
MAX_AHEAD = 128 << 20  # of decoded pictures that wait for their turn, and of files that wait to be decoded
GROUP = 512 << 10  # of decoded pictures that are handed on together
SMALL = 4 << 10  # of files: below, most of the time is Python's, and threads only take its lock from each other

OUTSIDE = "not in a class folder"


def has_room(path: Path, size: int, written: int = 0) -> bool:
    """Whether so many bytes may be written, where some are already; of an archive, they are perhaps copied after."""
    return size <= cache.MAX_TOTAL and cache.has_room(size * (1 if path.is_dir() else 2) - written)


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


class Gathered:
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

    def __enter__(self) -> "Gathered":
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

    def everything(self) -> list[str]:
        """The names of all files and folders, those that were skipped, too."""
        return [*self.folders, *self.names, *(name for name, _ in self.skipped)]

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
        whole = end if self.read_again is None else max(end, self.expected() * rows.size)
        to_disk = rows.draft is None and end > MAX_IN_MEMORY
        if to_disk or (end > MAX_IN_MEMORY and end % cache.BLOCK < rows.size):
            if not has_room(self.path, whole, rows.written):
                self.wanted = whole + beside
                return self.give_up(self._not_kept("no room"))
        elif not rows.count and self.fixed and whole > MAX_IN_MEMORY and self.path.is_dir():  # where that is known
            to_disk = has_room(self.path, whole)
        try:
            with self._on_disk():
                if to_disk:
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
    try:
        picture, fitted = decode_and_fit(member.read(), member.name, common.of)
    except DataError as error:
        problem = str(error).removeprefix(f"{member.name}: ")
        return _Found(member.name, problem, read=isinstance(error, PictureError))
    native = (picture.shape[0], picture.shape[1])
    key, grey = content_key(picture), is_grey(picture)
    return _Found(member.name, "", True, fitted, native, key, grey, member.size, member.mark)


def gather(
    path: Path,
    listing: list[Member] | None,
    size: Size | None,
    progress: Progress | None,
    wanted: Callable[[str], bool],
) -> Gathered:
    """Decode all pictures that are ``wanted``: of a folder its ``listing``, of an archive what it holds."""
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
            _look_at(member, common) if wanted(member.name) else _Found(member.name, member.problem or OUTSIDE)
            for member in group
        ]

    pictures, done, before = Gathered(path, size, expected), 0, -1
    try:
        while done > before:
            before = done
            ahead = min(4 * threads.get_num_threads(), max(1, MAX_AHEAD // max(GROUP, common.cost())))
            for results in side_by_side(look_at_all, _grouped(found, common), are_small, ahead=ahead):
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


def side_by_side(
    function: Callable[[Item], Result], files: Iterable[Item], small: Callable[[Item], bool], ahead: int | None = None
) -> Iterator[Result]:
    """What a function gives of each file, or group of files, in order; by the threads where they are not ``small``."""
    for are_small, run in itertools.groupby(files, small):
        each = map if are_small else functools.partial(threads.map_in_order, ahead=ahead)
        yield from each(function, run)


def are_small(group: Sequence[Member]) -> bool:
    """Whether files are so small that threads would not be quicker; of none that is not known."""
    sizes = [member.size for member in group if member.size]
    return bool(sizes) and sum(sizes) <= SMALL * len(sizes)


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
