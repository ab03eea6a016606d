"""Finding the official files of a data set: on this machine or, with their published checksums, from the network."""

import errno
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from nabi import cache
from nabi.data.files import Progress, open_regular, unpacked
from nabi.errors import ChecksumError, DataError, DownloadError, FormatError

MAX_REPACKED = 64 << 20
CHUNK = 1 << 18


@dataclass(frozen=True)
class File:
    """A file as its authors published it: name, MD5, size, and the addresses of its folder, best first.

    ``unpacked`` is the SHA-256 of what is in a .gz: distributions repack files to be rid of the name and time in the
    header (``gzip -n``), which changes the MD5 and nothing else.
    """

    name: str
    md5: str
    size: int
    addresses: tuple[str, ...]
    unpacked: str = ""


def find(set_name: str, files: tuple[File, ...], others: frozenset[str] = frozenset()) -> tuple[Path, ...] | None:
    """The files' places on this machine, their checksums verified; ``None`` if they are not all in one place.

    Looked through are the folders that ``NABI_DATA`` names (separated as in ``PATH``), in each the subfolder called
    like the data set, and the cache. A file whose MD5 is among ``others`` belongs to another set with the same file
    names and is passed over.

    Raises
    ------
    ChecksumError
        If the files are there but are not the official ones, and no other place has them.
    """
    wrong = ""
    for folder in _places(set_name):
        paths = tuple(folder / file.name for file in files)
        if not all(path.is_file() for path in paths):
            continue
        digests = [_md5(path) for path in paths]
        differing = [
            path
            for path, file, digest in zip(paths, files, digests, strict=True)
            if digest != file.md5 and not _is_repacked(path, file)
        ]
        if not differing:
            return paths
        if not others.intersection(digests):
            wrong = wrong or f"{differing[0]}: not the official file (its MD5 differs): a copy is loaded by its path"
    if wrong:
        raise ChecksumError(wrong)
    return None


def download(set_name: str, files: tuple[File, ...], progress: Progress | None = None) -> tuple[Path, ...]:
    """Fetch the files into the cache, each written beside, verified and renamed.

    Raises
    ------
    DownloadError
        If none of the addresses gives it.
    ChecksumError
        If none does, and what came from one of them is something else.
    """
    try:
        folder = cache.private_folder("downloads") / set_name
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise DownloadError(f"{set_name}: no folder to download to in {cache.folder()} ({error.strerror})") from None
    return tuple(_fetch(file, folder, progress) for file in files)


def _fetch(file: File, folder: Path, progress: Progress | None) -> Path:
    import requests
    from pooch.core import retrieve
    from pooch.downloaders import HTTPDownloader
    from pooch.utils import get_logger

    get_logger().setLevel("CRITICAL")
    if not cache.has_room(file.size):
        raise DownloadError(f"{file.name}: no room for {file.size >> 20} MiB in {folder}")
    over_http: Any = HTTPDownloader(chunk_size=CHUNK, timeout=30)  # type: ignore[no-untyped-call]

    # pooch's own type for it is that of a method with other names
    def fetch(url: str, place: str, pooch: Any) -> None:
        with Path(place).open("wb") as opened:
            over_http(url, _Metered(opened, file, progress), pooch)

    problem = wrong = ""
    for address in file.addresses:
        try:
            got = retrieve(address + file.name, f"md5:{file.md5}", file.name, folder, downloader=fetch)  # type: ignore[arg-type]
            return Path(got)
        except ValueError:
            wrong = wrong or address
        except (requests.RequestException, OSError) as error:
            problem = problem or error.strerror or type(error).__name__
    if wrong:
        raise ChecksumError(f"{wrong}{file.name}: what came is not the official file (its MD5 differs)")
    raise DownloadError(
        f"{file.addresses[0]}{file.name} could not be downloaded ({problem}): "
        "fetch it by other means and name its folder in NABI_DATA"
    )


class _Metered:
    """A file to write to that tells ``progress`` the bytes so far and refuses more than there should be.

    pooch's progress bar would not do: it counts in chunks, however small those are that come.
    """

    def __init__(self, opened: IO[bytes], file: File, progress: Progress | None) -> None:
        self.opened, self.file, self.progress, self.done = opened, file, progress, 0

    def write(self, content: bytes) -> int:
        self.done += len(content)
        if self.done > self.file.size:
            raise OSError(errno.EFBIG, "more bytes came than the file has")
        if self.progress is not None:
            self.progress(self.done, self.file.size)
        return self.opened.write(content)

    def flush(self) -> None:
        self.opened.flush()


def _places(set_name: str) -> list[Path]:
    named = [Path(folder).expanduser() for folder in os.environ.get("NABI_DATA", "").split(os.pathsep) if folder]
    return [place for folder in named for place in (folder / set_name, folder)] + [
        cache.folder() / "downloads" / set_name
    ]


def _is_repacked(path: Path, file: File) -> bool:
    if not file.unpacked:
        return False
    try:
        return hashlib.sha256(unpacked(path, MAX_REPACKED)).hexdigest() == file.unpacked
    except FormatError:
        return False


def _md5(path: Path) -> str:
    """MD5 because that is what the authors published; it is no shield against an attacker who has the network."""
    md5 = hashlib.md5(usedforsecurity=False)
    with open_regular(path) as file:
        try:
            while block := file.read(1 << 20):
                md5.update(block)
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}") from None
    return md5.hexdigest()
