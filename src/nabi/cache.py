"""Decoded pictures kept on disk, so that the second start is quick.

An entry is a folder with two files: ``images.npy``, which is memory-mapped, and ``about``, which says what is in it and
has a checksum for every 16 MiB of it. Where the pictures are too many to be kept, there is ``about`` alone. An entry is
made beside and renamed (with images, a `Draft`), and checked whole whenever it is opened: one that is damaged counts as
absent. The cache folder is ``NABI_CACHE`` or the platform's place for caches; it belongs to the user alone (mode 0700),
has a capped size, and leaves some of the disk free.
"""

import base64
import contextlib
import errno
import hashlib
import io
import json
import mmap
import os
import shutil
import stat
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from nabi import threads

GIBIBYTE = 1 << 30
MAX_TOTAL = 32 * GIBIBYTE
CAPPED = ("pictures", "features")
"""What of the cache grows with what is looked at: together within `MAX_TOTAL`."""
KEEP_FREE = 1 * GIBIBYTE
BLOCK = 16 << 20
NEW = ".new-"  # begins the name of an entry that is not finished
DAY = 24 * 60 * 60
TAG = "CACHEDIR.TAG"
SIGNATURE = b"Signature: 8a477f597d28d172789f06886806bc55\n# This folder is a cache of nabi: it can be removed.\n"

Found = TypeVar("Found")


@dataclass(frozen=True)
class Entry:
    """Something in the cache: ``kind`` (``"pictures"``, ``"downloads"``, ...), what it was made from, bytes, time."""

    kind: str
    source: str
    size: int
    used: float
    path: Path


def folder() -> Path:
    """Where the cache is; it need not exist."""
    named = os.environ.get("NABI_CACHE", "")
    if named:
        return Path(named).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("nabi", appauthor=False))


def private_folder(kind: str) -> Path:
    """The cache's subfolder for one kind of things, made if it is missing, open to the user alone.

    It is marked with a ``CACHEDIR.TAG`` (https://bford.info/cachedir/), so that backups pass it over, and so that
    :func:`clear` removes only what is in folders that were made here, wherever ``NABI_CACHE`` points.

    Raises
    ------
    OSError
        If it cannot be made, belongs to somebody else, or is something else.
    """
    root = folder()
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = root / kind
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    if _is_new(path):
        (path / TAG).write_bytes(SIGNATURE)
    status = path.lstat()
    if not _is_ours(path):
        raise NotADirectoryError(f"{path} is not a cache folder")
    if hasattr(os, "getuid"):
        if status.st_uid != os.getuid():
            raise PermissionError(f"{path} belongs to somebody else")
        if status.st_mode & 0o077:
            path.chmod(0o700)
    return path


def entries() -> list[Entry]:
    """Everything in the cache, the most recently used first."""
    found = []
    for kind in _inside(folder()):
        for path in _inside(kind) if _is_ours(kind) else ():
            with contextlib.suppress(OSError):  # another process removed it
                if path.name != TAG:
                    found.append(_describe(kind.name, path))
    return sorted(found, key=lambda entry: -entry.used)


def clear(kind: str | None = None) -> int:
    """Remove everything in the cache, or everything of one kind; returns the number of bytes."""
    removed = 0
    for entry in entries():
        if kind in (None, entry.kind):
            _remove(entry.path)
            removed += entry.size
    return removed


def key(*parts: Any) -> str:
    """The name of an entry: a hash of all that its content depends on."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def load(name: str) -> tuple[dict[str, Any], NDArray[np.uint8]] | None:
    """What an entry says about itself and its images (a read-only memory map); ``None`` if it is absent or damaged."""

    def read(path: Path) -> tuple[dict[str, Any], NDArray[np.uint8]]:
        about = _read_about(path)
        images = _images(path)
        if images.dtype != np.uint8 or list(images.shape) != about["shape"] or not images.flags.c_contiguous:
            raise ValueError("the images are not those that were stored")
        if _checksums(images) != about["checksums"]:
            raise ValueError("a checksum differs")
        return about, images

    return _whole(name, read)


def load_about(name: str) -> dict[str, Any] | None:
    """What an entry without images says about them; ``None`` if it is absent or damaged."""
    return _whole(name, _read_about)


def release(images: Any) -> None:
    """Give back the memory of what was read of a memory map; what is wanted again is read again. Other arrays stay.

    A process that reads a map from end to end has all of it in its memory, as long as nobody else needs that. Of a map
    whose changes are nobody else's (mode "c") they would be lost: it stays as it is.
    """
    shared = False
    while isinstance(images, np.ndarray):
        shared = shared or (isinstance(images, np.memmap) and images.mode != "c")
        images = images.base
    if shared and isinstance(images, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        images.madvise(mmap.MADV_DONTNEED)


def store(
    name: str, about: dict[str, Any], shape: tuple[int, ...], rows: Iterable[NDArray[np.uint8]]
) -> tuple[dict[str, Any], NDArray[np.uint8]] | None:
    """Write an entry and open it: ``rows`` are blocks of pictures, in order, that together have ``shape``.

    Returns ``None``, with nothing left behind, where the cache cannot take it: too large, disk too full, not writable.
    """
    size = int(np.prod(shape, dtype=object))
    if size > MAX_TOTAL or not has_room(size):
        return None

    try:
        with Draft(shape[1:]) as draft:
            for row in rows:
                draft.write(row)
            assert draft.count == shape[0], f"{draft.count} pictures of {shape[0]}"
            return draft.keep(name, about)
    except OSError:
        return None


def store_about(name: str, about: dict[str, Any]) -> None:
    """Write an entry without images, if the cache can take it."""
    if has_room(0):
        with contextlib.suppress(OSError), _beside() as path:
            _write_about(path, about)
            _place(path, name)


class Draft:
    """An entry that is being written, one picture behind another: it is kept in the end, or nothing is left of it.

    They go through an ordinary file, not a memory map: a full disk must be an error and not a signal that kills. What
    was written can be read, whatever failed since.

    Parameters
    ----------
    shape : tuple of int
        Of one picture: (H, W, C).

    Raises
    ------
    OSError
        If the cache cannot be written to; so do all methods.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape, self.size, self.count = shape, int(np.prod(shape)), 0
        with contextlib.ExitStack() as held:
            self.path = held.enter_context(_beside())
            self.file = (self.path / "images.npy").open("x+b", buffering=0)
            held.callback(lambda: self.file.close())
            self.start = self._begin()
            self.held = held.pop_all()

    def __enter__(self) -> "Draft":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove what was not kept."""
        self.held.close()

    def write(self, pictures: NDArray[np.uint8]) -> None:
        """Add one picture, or some."""
        content = np.ascontiguousarray(pictures).reshape(-1).data
        self._go_to(self.count)
        self._put(content)
        self.count += len(content) // self.size

    def read(self, row: int, picture: NDArray[np.uint8]) -> None:
        """Fill an array with a picture that was written."""
        if self.file.closed:
            self.file = (self.path / "images.npy").open("r+b", buffering=0)
        self._go_to(row)
        left = picture.reshape(-1).data
        while left:
            done = self.file.readinto(left)
            if not done:
                raise OSError(errno.EIO, "the file is cut off")
            left = left[done:]

    def keep(self, name: str, about: dict[str, Any]) -> tuple[dict[str, Any], NDArray[np.uint8]] | None:
        """Make all that was written the entry of this name and open it; another's, if somebody was quicker."""
        self.file.seek(0)
        assert self._begin() == self.start, "NumPy made another header of the same shape"
        _sync(self.file)
        about = {**about, "shape": [self.count, *self.shape], "checksums": _checksums(_images(self.path))}
        _write_about(self.path, about)
        self.file.close()  # some systems rename no folder whose files are open
        placed = _place(self.path, name)
        return (about, _images(placed)) if placed else load(name)

    def _begin(self) -> int:
        """Write the header, which NumPy makes as long for no picture as for many; returns how long."""
        dtype = np.lib.format.dtype_to_descr(np.dtype(np.uint8))
        header = io.BytesIO()
        fields = {"descr": dtype, "fortran_order": False, "shape": (self.count, *self.shape)}
        np.lib.format.write_array_header_2_0(header, fields)
        self._put(header.getbuffer())
        return self.file.tell()

    def _go_to(self, row: int) -> None:
        place = self.start + row * self.size
        if self.file.tell() != place:
            self.file.seek(place)

    def _put(self, content: memoryview) -> None:
        while content:
            content = content[self.file.write(content) :]


def has_room(size: int) -> bool:
    """Whether the disk would keep some space free after ``size`` more bytes."""
    place = folder()
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        if shutil.disk_usage(place).free >= size + KEEP_FREE:
            return True
        _remove_unfinished(entries())
        return shutil.disk_usage(place).free >= size + KEEP_FREE
    except OSError:
        return False


def pack(values: NDArray[Any]) -> str:
    """A one-dimensional array of 64-bit integers as text for ``about``."""
    return base64.b85encode(values.astype(values.dtype.newbyteorder("<")).tobytes()).decode()


def unpack(text: str, dtype: type[Any]) -> NDArray[Any]:
    """The array that :func:`pack` was given."""
    return np.frombuffer(base64.b85decode(text), np.dtype(dtype).newbyteorder("<")).astype(dtype)


def _is_new(path: Path) -> bool:
    """Whether it is empty and as it is made here: maybe long ago, by a process that was killed before it wrote the tag.

    A folder that somebody made by other means is hardly ever closed to all others.
    """
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode):
        return False
    with os.scandir(path) as entries:  # of which there may be thousands
        if next(entries, None) is not None:
            return False
    return not hasattr(os, "getuid") or (status.st_uid == os.getuid() and not status.st_mode & 0o077)


def _is_ours(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and (path / TAG).is_file()


def _images(path: Path) -> NDArray[np.uint8]:
    images: NDArray[np.uint8] = np.load(path / "images.npy", mmap_mode="r", allow_pickle=False)
    return images


def _checksums(images: NDArray[np.uint8]) -> list[int]:
    flat = images.reshape(-1)
    checksums = []
    for checksum in threads.map_in_order(lambda at: zlib.crc32(flat[at : at + BLOCK].data), range(0, flat.size, BLOCK)):
        checksums.append(checksum)
        release(images)
    return checksums


def _whole(name: str, read: Callable[[Path], Found]) -> Found | None:
    """What is read of an entry, which is then marked as used; one that cannot be read as it was written is removed."""
    try:
        path = private_folder("pictures") / name
    except OSError:
        return None
    try:
        found = read(path)
        with contextlib.suppress(OSError):  # a cache that can only be read
            os.utime(path)
    except (FileNotFoundError, ValueError, KeyError, TypeError, EOFError):
        _remove(path)
        return None
    except OSError:  # which says nothing against the entry
        return None
    return found


@contextlib.contextmanager
def _beside() -> Iterator[Path]:
    """A new folder for an entry that has no name yet; what is there in the end is removed."""
    path = Path(tempfile.mkdtemp(prefix=NEW, dir=private_folder("pictures")))
    try:
        yield path
    finally:
        _remove(path)


def _place(beside: Path, name: str) -> Path | None:
    """Where an entry that is written is from now on; ``None`` where there is one already, or none can be."""
    path = beside.with_name(name)
    try:
        beside.rename(path)
    except OSError:
        return None
    make_room(keep=name)
    return path


def _read_about(path: Path) -> dict[str, Any]:
    digest, _, body = (path / "about").read_bytes().partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise ValueError("the digest differs")
    about: dict[str, Any] = json.loads(body)
    return about


def _write_about(path: Path, about: dict[str, Any]) -> None:
    body = json.dumps(about).encode()
    _write_synced(path / "about", hashlib.sha256(body).hexdigest().encode() + b"\n" + body)


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        _sync(file)


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _describe(kind: str, path: Path) -> Entry:
    files = [file for file in _files(path) if file.is_file()]
    source = path.name
    if kind == "pictures":
        try:
            source = str(_read_about(path)["source"])
        except (OSError, ValueError, KeyError):
            source = f"{path.name} (unfinished or damaged)"
    return Entry(kind, source, sum(file.stat().st_size for file in files), path.stat().st_mtime, path)


def _inside(path: Path) -> list[Path]:
    try:
        return sorted(path.iterdir())
    except OSError:
        return []


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir() and not path.is_symlink():
        yield from path.rglob("*")
    else:
        yield path


def make_room(keep: str) -> None:
    """Remove what killed processes left unfinished; then what was not used for longest, until all is within the cap."""
    there = entries()
    _remove_unfinished(there)
    counted = [entry for entry in there if entry.kind in CAPPED and not _is_unfinished(entry)]
    total = sum(entry.size for entry in counted)
    for entry in reversed(counted):
        if total > MAX_TOTAL and entry.path.name != keep:
            _remove(entry.path)
            total -= entry.size


def _is_unfinished(entry: Entry) -> bool:
    return entry.kind == "pictures" and entry.path.name.startswith(NEW)


def _remove_unfinished(there: list[Entry]) -> None:
    """Remove what processes that were killed left: nobody has written to it for a day."""
    for entry in filter(_is_unfinished, there):
        with contextlib.suppress(OSError):  # it was finished, or removed
            if max(file.stat().st_mtime for file in (entry.path, *entry.path.iterdir())) < time.time() - DAY:
                _remove(entry.path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
