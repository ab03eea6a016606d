"""Reading files that others made: folders and archives as streams of regular files, with a cap on everything.

Nothing is ever extracted to disk. A name is only a label here, so a member called ``../../etc/passwd`` is as harmless
as any other. What is not a regular file (links that lead out, devices, FIFOs, encrypted members) is handed on with the
reason why it has no content, so that whoever reads can name it as skipped.
"""

import copy
import gzip
import io
import lzma
import os
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Self

from nabi.errors import DataError, FormatError

Progress = Callable[[int, int], None]
"""What hears how much is done, and of how much."""

MEBIBYTE = 1 << 20

# The caps. A small file can be honest and unpack to 64 MiB; beyond that it must have earned it by its own size.
MAX_RATIO = 200
MAX_UNPACKED_ANYWAY = 64 * MEBIBYTE
MAX_FILE = 256 * MEBIBYTE
MAX_MEMBERS = 5_000_000
MAX_HEADER = 8 << 10  # a name has at most 4 KiB; tarfile's search of a header takes the square of its length
MAX_GLOBAL_RECORDS = 1000  # in all: tarfile copies them for every member that follows
MAX_XZ_MEMORY = 256 * MEBIBYTE

LEADS_OUT = "a link that leads outside the folder"
TO_A_FOLDER = "a link to a folder"
CHANGED = "has changed since the pictures were loaded: load them again"

ReadAgain = Callable[[str, int, int], bytes]  # name, size and mark of a member: its content

_ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06")

# What the libraries raise about a damaged file.
_BROKEN = (
    struct.error,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    ValueError,
    OverflowError,
    RecursionError,
    NotImplementedError,
    MemoryError,
)


@dataclass(frozen=True)
class Member:
    """A file found in a folder or an archive.

    ``name`` is relative, with ``/``. ``read()`` gives the content, from any thread; it raises :class:`DataError` where
    the content cannot be had. ``problem`` says why not, where that is known beforehand. A folder ends with ``/``.
    ``mark`` is by what :func:`reading_again` finds the content: of a file in a folder when it was changed last, in
    nanoseconds, of one in a tar that is not compressed where it begins there.
    """

    name: str
    size: int = 0
    mark: int = 0
    problem: str = ""
    read: Callable[[], bytes] = lambda: b""

    @property
    def is_folder(self) -> bool:
        return self.name.endswith("/")


def is_archive(path: Path) -> bool:
    """Whether the file is (or was compressed from) a tar, or is a zip; told by content, not by name."""
    with open_regular(path) as file, _reported(path):
        start = _inflating(file, path).read(512)
    return start.startswith(_ZIP_STARTS) or start[257:262] == b"ustar"


def members(
    path: Path,
    wanted: Callable[[str], bool] = lambda name: True,
    report: Progress = lambda done, total: None,
) -> Iterator[Member]:
    """Every member of a folder, tar (also .gz, .xz) or zip that is not hidden, one after another.

    A folder's come sorted; an archive's in the order they are stored. Only members whose names are ``wanted`` are read
    from an archive, all others cost no memory. ``report`` hears how many bytes of an archive have been read, of all.

    Raises
    ------
    FormatError
        If the archive is damaged, cut short, or holds more than its size allows.
    DataError
        If there is no such file or folder.
    """
    if path.is_dir():
        yield from _folder_members(path)
        return
    with open_regular(path) as file:
        start, size = file.read(4), os.fstat(file.fileno()).st_size
        file.seek(0)
        stream = (_zip_members if start.startswith(_ZIP_STARTS) else _tar_members)(file, path, wanted)
        while True:
            with _reported(path):  # no `yield` in here: only the archive's errors are meant, never the caller's
                member, done = next(stream, (None, size))
            report(min(done, size), size)
            if member is None:
                return
            if not is_hidden(member.name):
                yield member
            del member  # its content would stay while the next is read


def reading_again(path: Path) -> ReadAgain | None:
    """How to read the content of one member of a folder or archive, at any later time, from any thread.

    Returns
    -------
    callable or None
        Takes ``name``, ``size`` and ``mark`` of a :class:`Member` and gives its content; it raises :class:`DataError`
        that names the file where it is gone, or is not what it was when this function was called (in a folder: when
        the member was found). It can be pickled. ``None`` where only reading everything before it would do: of a
        compressed archive.
    """
    if path.is_dir():
        top = path.resolve()
        return partial(_read_unchanged, path, top)
    with open_regular(path) as file:
        if file.read(6).startswith((*_ZIP_STARTS, b"\x1f\x8b", b"\xfd7zXZ\0")):
            return None
        return partial(_read_part, path, _state(file))


def _read_part(path: Path, before: tuple[int, int], name: str, size: int, mark: int) -> bytes:
    with open_regular(path) as file:
        try:
            file.seek(mark)
            content = file.read(size)
            same = _state(file) == before and len(content) == size
        except OSError as error:
            raise DataError(f"{path}: {name}: {reason(error)}") from None
    if not same:
        raise DataError(f"{path}: {CHANGED}")
    return content


def _read_unchanged(root: Path, top: Path, name: str, size: int, mark: int) -> bytes:
    path = top / name
    member = _file_member(str(path), name, top) if path.is_relative_to(top) else Member(name, problem=LEADS_OUT)
    if member.problem:
        raise DataError(f"{root / name}: {member.problem}")
    if (member.size, member.mark) != (size, mark):
        raise DataError(f"{root / name}: {CHANGED}")
    try:
        return member.read()
    except DataError as error:
        raise DataError(f"{root / name}: {str(error).removeprefix(f'{name}: ')}") from None


def _state(file: IO[bytes]) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns


def is_hidden(name: str) -> bool:
    """Whether any part of the name begins with a dot, or it is the folder that macOS adds to archives."""
    parts = name.rstrip("/").split("/")
    return parts[0] in ("", "__MACOSX") or any(part.startswith(".") for part in parts)


def composed(name: str) -> str:
    """A name in Unicode's composed form (NFC): macOS stores Hangul and accents decomposed."""
    return unicodedata.normalize("NFC", name)


def expanded(path: str | os.PathLike[str]) -> Path:
    """A path in which ~ stands for a home, if there is such a person; otherwise it is a name like any other."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def open_regular(path: str | Path, called: str = "", follow: bool = True, buffering: int = -1) -> IO[bytes]:
    """Open a regular file to read, ``called`` so in messages. A FIFO or a device is refused, without waiting for it.

    Without ``follow``, so is a link, which it may have become since somebody looked. ``buffering`` is as for `open`.

    Raises
    ------
    DataError
        If it is not there, not readable or not a regular file.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    if not follow:
        flags |= getattr(os, "O_NOFOLLOW", 0)
    try:
        descriptor = os.open(path, flags)
    except (OSError, ValueError) as error:
        raise DataError(f"{called or path}: {reason(error)}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DataError(f"{called or path}: not a regular file")
    return os.fdopen(descriptor, "rb", buffering)


def read_regular(path: str | Path, called: str = "", follow: bool = True) -> bytes:
    """The content of a regular file of at most 256 MiB; raises as :func:`open_regular` does."""
    with open_regular(path, called, follow, buffering=0) as file:
        try:
            size = os.fstat(file.fileno()).st_size
            content = b"" if size > MAX_FILE else _read_up_to(file, MAX_FILE + 1, size + 1)
        except OSError as error:
            raise DataError(f"{called or path}: {reason(error)}") from None
    if max(size, len(content)) > MAX_FILE:
        raise DataError(f"{called or path}: larger than {MAX_FILE // MEBIBYTE} MiB")
    return content


def unpacked(path: Path, limit: int) -> bytes:
    """The content of a file, unpacked if it is .gz or .xz; at most ``limit`` bytes.

    Raises
    ------
    FormatError
        If it is damaged, cut short, or unpacks to more.
    """
    with open_regular(path) as file, _reported(path):
        content = _read_up_to(_inflating(file, path), limit + 1)
    if len(content) > limit:
        raise FormatError(f"{path}: unpacks to more than {limit} bytes")
    return content


def _read_up_to(stream: IO[bytes], limit: int, some: int = MEBIBYTE) -> bytes:
    """At most ``limit`` bytes. Asked for all of them at once, a stream would make room for them before it has any.

    It is asked for ``some`` first, and for twice as many each time: room that is made for more takes time, too.
    """
    content = io.BytesIO()  # whose value is had without a copy
    while limit > 0 and (piece := stream.read(min(limit, some, MEBIBYTE))):
        limit -= content.write(piece)
        some *= 2
    return content.getvalue()


# --- folders


def _folder_members(root: Path) -> Iterator[Member]:
    """Walk with a stack of our own: no depth of folders exhausts Python's."""
    top = root.resolve()
    waiting = [(top, "")]
    while waiting:
        folder, prefix = waiting.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: composed(entry.name))
        except OSError as error:
            if folder == top:
                raise DataError(f"{root}: {reason(error)}") from None
            yield Member(prefix, problem=reason(error))
            continue
        below = []
        for entry in entries:
            name = prefix + entry.name
            if entry.name.startswith("."):
                continue
            if not entry.is_symlink() and entry.is_dir():
                below.append((Path(entry.path), name + "/"))
                yield Member(name + "/")
            else:
                yield _file_member(entry.path, name, top)
        waiting.extend(reversed(below))


def _file_member(path: str, name: str, top: Path) -> Member:
    """What lies at a path, of which all but the last part is known to lie within ``top``."""
    try:
        status = os.lstat(path)
        if stat.S_ISLNK(status.st_mode):
            real = Path(path).resolve(strict=True)
            if not real.is_relative_to(top):
                return Member(name, problem=LEADS_OUT)
            path, status = str(real), real.lstat()
    except (OSError, RuntimeError) as error:
        return Member(name, problem=reason(error))
    if stat.S_ISDIR(status.st_mode):
        return Member(name, problem=TO_A_FOLDER)
    if not stat.S_ISREG(status.st_mode):
        return Member(name, problem="not a regular file")
    return Member(name, status.st_size, status.st_mtime_ns, read=partial(read_regular, path, name, follow=False))


# --- archives


class _Capped(io.RawIOBase):
    """A stream of unpacked bytes that refuses to give more than the packed file's size allows."""

    def __init__(self, stream: io.RawIOBase, path: Path, packed_size: int) -> None:
        self.stream, self.path = stream, path
        self.left = max(MAX_UNPACKED_ANYWAY, MAX_RATIO * packed_size)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        content = self.stream.read(len(buffer)) or b""
        self.left -= len(content)
        if self.left < 0:
            raise FormatError(f"{self.path}: unpacks to more than {MAX_RATIO} times its size")
        buffer[: len(content)] = content
        return len(content)


class _Unxz(io.RawIOBase):
    """The bytes in an .xz file. Unlike ``lzma.LZMAFile`` it limits the memory that the file may ask for."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.decompressor: lzma.LZMADecompressor | None = None
        self.packed = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        while True:
            if not self.packed and (self.decompressor is None or self.decompressor.needs_input):
                self.packed = self.file.read(MEBIBYTE)
                if not self.packed:
                    if self.decompressor is None:
                        return 0
                    raise EOFError("the file ends too early")
            if self.decompressor is None:
                self.packed = self.packed.lstrip(b"\0")  # padding between two streams
                if not self.packed:
                    continue
                self.decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, MAX_XZ_MEMORY)
            content = self.decompressor.decompress(self.packed, len(buffer))
            self.packed = b""
            if self.decompressor.eof:
                self.packed, self.decompressor = self.decompressor.unused_data, None
            if content:
                buffer[: len(content)] = content
                return len(content)


def _inflating(file: IO[bytes], path: Path) -> IO[bytes]:
    """The file's bytes, unpacked if it begins as .gz or .xz does, capped."""
    start = file.read(6)
    file.seek(0)
    if start.startswith(b"\x1f\x8b"):
        stream: Any = gzip.GzipFile(fileobj=file)
    elif start == b"\xfd7zXZ\0":
        stream = _Unxz(file)
    else:
        return file
    return io.BufferedReader(_Capped(stream, path, os.fstat(file.fileno()).st_size), MEBIBYTE)  # type: ignore[type-var]


class _UntilEnd:
    """A stream that cannot be read past its end twice: tarfile would go on for as many bytes as a member claims."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream, self.ended = stream, False

    def read(self, size: int) -> bytes:
        content = self.stream.read(size)
        if not content and self.ended:
            raise EOFError("the archive ends within a member")
        self.ended = not content
        return content


class _TarMember(tarfile.TarInfo):
    """Checks each header before tarfile acts on it.

    tarfile reads a header's extension whole, however large it says it is, and takes a damaged header in the middle
    for the end of the archive, in silence.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str | None, errors: str) -> "_TarMember":
        try:
            member = super().frombuf(buf, encoding, errors)  # type: ignore[arg-type]
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise FormatError(str(error) if buf else "cut short: the archive's end mark is missing") from None
        extension = member.type in (
            tarfile.XHDTYPE,
            tarfile.XGLTYPE,
            tarfile.SOLARIS_XHDTYPE,
            tarfile.GNUTYPE_LONGNAME,
            tarfile.GNUTYPE_LONGLINK,
        )
        if member.size < 0 or (extension and member.size > MAX_HEADER):
            raise FormatError(f"a header of {member.size} bytes")
        return member

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> Self:
        if len(tarfile.pax_headers) > MAX_GLOBAL_RECORDS:
            raise FormatError(f"more than {MAX_GLOBAL_RECORDS} records in its global headers")
        return super().fromtarfile(tarfile)


def _tar_members(file: IO[bytes], path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[Member, int]]:
    """Each member, with how far in the file it ends."""
    stream = _inflating(file, path)
    source: Any = _UntilEnd(stream)
    with tarfile.open(fileobj=source, mode="r|", tarinfo=_TarMember) as archive:
        for number, entry in enumerate(archive):
            archive.members = []  # type: ignore[attr-defined]  # it would keep every header
            _check_count(number)
            yield _tar_member(archive, entry, wanted), file.tell()
    while stream.read(MEBIBYTE):
        pass  # to the checksum behind the last byte


def _tar_member(archive: tarfile.TarFile, entry: tarfile.TarInfo, wanted: Callable[[str], bool]) -> Member:
    name = _tidy(entry.name)
    if entry.isdir():
        return Member(name + "/")
    if not entry.isreg() or entry.issparse():
        return Member(name, problem="not a regular file")
    if entry.size > MAX_FILE:
        return Member(name, problem=f"larger than {MAX_FILE // MEBIBYTE} MiB")
    if is_hidden(name) or not wanted(name):
        return Member(name, entry.size)
    opened = archive.extractfile(entry)
    content = _read_up_to(opened, entry.size) if opened else b""
    return Member(name, len(content), entry.offset_data, read=lambda: content)


def _zip_members(file: IO[bytes], path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[Member, int]]:
    """Each member, with the part of the file that corresponds to its number."""
    size = os.fstat(file.fileno()).st_size
    left = max(MAX_UNPACKED_ANYWAY, MAX_RATIO * size)
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        for number, entry in enumerate(entries):
            _check_count(number)
            if entry.compress_size > size:  # zipfile would make room for it all before it reads
                raise FormatError(f"a member that claims {entry.compress_size} bytes in a file of {size}")
            member = _zip_member(archive, entry, wanted, left)
            left -= member.size
            yield member, size * number // len(entries)
            del member


def _zip_member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, wanted: Callable[[str], bool], left: int) -> Member:
    given = entry.filename.replace("\\", "/")
    name = _tidy(given)
    if given.endswith("/"):  # ZipInfo.is_dir fails where the name is empty
        return Member(name + "/")
    if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
        return Member(name, problem="not a regular file")
    if entry.flag_bits & 1:
        return Member(name, problem="encrypted")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return Member(name, problem="packed in a way other than zip's usual one")
    if entry.file_size > MAX_FILE:
        return Member(name, problem=f"larger than {MAX_FILE // MEBIBYTE} MiB")
    if is_hidden(name) or not wanted(name):
        return Member(name)
    if entry.file_size > left:
        raise FormatError(f"unpacks to more than {MAX_RATIO} times its size")
    content = _zip_content(archive, entry)
    return Member(name, len(content), read=lambda: content)


def _zip_content(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """In pieces, and one byte more than it claims: zipfile would unpack all there is, then cut it in silence."""
    more = copy.copy(entry)
    more.file_size += 1
    with archive.open(more) as opened:
        content = _read_up_to(opened, more.file_size)
    if len(content) > entry.file_size:
        raise FormatError(f"a member has more than the {entry.file_size} bytes that it claims")
    return content


def _tidy(name: str) -> str:
    """The name without empty parts, ``.`` and ``..``."""
    return "/".join(part for part in name.split("/") if part not in ("", ".", ".."))


def _check_count(number: int) -> None:
    if number >= MAX_MEMBERS:
        raise FormatError(f"more than {MAX_MEMBERS} members")


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    """Turn what the libraries raise about a damaged file into one error that names the file."""
    try:
        yield
    except DataError as error:
        message = str(error)
        raise FormatError(message if message.startswith(str(path)) else f"{path}: {message}") from None
    except _BROKEN as error:
        raise FormatError(f"{path}: damaged or cut short ({reason(error)})") from None


def reason(error: BaseException) -> str:
    """What went wrong, in the words of the system if it has some."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return " ".join(str(error).split()) or type(error).__name__
