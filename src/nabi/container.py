"""Model files: bytes ↔ {name: array} and a header; and how every file of nabi is written.

A model file is a safetensors file [1]_ that any program which reads that format can open. Beyond the format it keeps
two strings in ``__metadata__``, which stands first::

    8 bytes   length of the JSON that follows, little-endian
    JSON      {"__metadata__":{"nabi.sha256":"9f86d0...","nabi.header":"{...}"},
               "weight":{"dtype":"F32","shape":[64,10],"data_offsets":[0,2560]}, ...}
    rest      the arrays, one after the other, without gaps

``nabi.header`` is the header as JSON, and ``nabi.sha256`` the SHA-256 of the whole file with its own 64 digits as
zeros: no bit of the file can change unseen. The digits stand at a fixed place, so that nothing has to be parsed to
check them. (The digest guards against accidents; whoever changes a file on purpose can compute it anew.)

This module knows arrays and JSON, and no class of nabi. It does not use the ``safetensors`` library, because what a
file from a stranger needs (limits before anything is allocated, one line that says what is wrong) has to be written
around that library anyway, and what then remains of the format is the few lines of `_encode` and `_layout`. They hold
one copy of the arrays in memory where the library holds two, and the bytes do not depend on the library's version.
The tests compare with the library in both directions.

References
----------
.. [1] https://huggingface.co/docs/safetensors/index#format
"""

import codecs
import contextlib
import errno
import hashlib
import itertools
import json
import os
import re
import reprlib
import secrets
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nabi.errors import DTypeError, ModelFileError

FORMAT_VERSION = 1

# What a header may be. A net of 10,000 arrays needs about 1 MB and the class names of the largest public data set
# (ImageNet's 21,841) less than that, while JSON made to harm takes up to 40 times its own size as Python objects.
MAX_HEADER_BYTES = 4 * 2**20
MAX_ARRAYS = 2**14
MAX_DEPTH = 32

DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "U32": np.dtype("<u4"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_CODES = {dtype: code for code, dtype in DTYPES.items()}

_START = b'{"__metadata__":{"nabi.sha256":"'
_UNSIGNED = b"0" * 64
_DIGEST = slice(8 + len(_START), 8 + len(_START) + len(_UNSIGNED))

Arrays = dict[str, NDArray[Any]]
Header = dict[str, Any]


def write(path: str | os.PathLike[str], arrays: Mapping[str, NDArray[Any]], header: Mapping[str, Any]) -> None:
    """Write a model file, whole or not at all.

    The same content gives the same bytes, whatever the order of `arrays` and of the keys in `header`.

    Parameters
    ----------
    path : path-like
        The file to write or replace (see `replace_file`).
    arrays : mapping of str to ndarray
        Arrays of any shape, 0-d and empty ones included, of a dtype in `DTYPES`.
    header : mapping of str to JSON-able
        What JSON can say: dicts with string keys, lists, strings, finite numbers, booleans and None. Tuples come back
        as lists. The keys ``format_version`` and ``sha256`` are set here: what `read` gave can be passed as it is.

    Raises
    ------
    DTypeError
        An array of another dtype.
    ModelFileError
        A header that JSON cannot say, or more arrays or a longer or deeper header than `read` takes.
    OSError
        The file cannot be written; what stood there before is as it was.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> path = Path(tempfile.mkdtemp()) / "model.safetensors"
    >>> write(path, {"bias": np.zeros(2)}, {"name": "linear"})
    >>> arrays, header = read(path)
    >>> arrays["bias"], header["name"], header["format_version"]
    (array([0., 0.]), 'linear', 1)
    """
    path = Path(path)
    start, blocks = _encode(path, arrays, header)
    digest = hashlib.sha256(start)
    for block in blocks:
        digest.update(block)
    start[_DIGEST] = digest.hexdigest().encode()
    with replace_file(path) as file:
        file.write(start)
        for block in blocks:
            file.write(block)


def read(path: str | os.PathLike[str]) -> tuple[Arrays, Header]:
    """Read a model file that `write` wrote.

    Returns
    -------
    arrays : dict of str to ndarray
        Writable arrays, in the file's order.
    header : dict
        The header as it was given, with ``format_version`` and the file's ``sha256``.

    Raises
    ------
    ModelFileError
        A file that is missing, unreadable, something else, damaged, or of a newer nabi.

    Notes
    -----
    Nothing of the file is trusted: memory stays within a small multiple of the file's true length, and that length is
    compared with what the header says before anything is allocated.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise ModelFileError(f"{path}: a folder or device, not a model file")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = bytearray(file.read(_DIGEST.stop))
            if not _is_ours(start):
                raise ModelFileError(f"{path}: {_what_it_is(bytes(start), size)}")
            length = int.from_bytes(start[:8], "little")
            if not len(start) - 8 < length <= min(MAX_HEADER_BYTES, size - 8):
                raise ModelFileError(f"{path}: damaged: a header of {length:,} bytes in a file of {size:,}")
            start += file.read(8 + length - len(start))
            header, entries = _layout(path, bytes(start[8:]), size - len(start))
            data = np.empty(size - len(start), np.uint8)
            file.readinto(data.data)
    except FileNotFoundError:
        raise ModelFileError(f"{path}: no such file") from None
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {error.strerror}") from error
    except MemoryError:
        raise ModelFileError(f"{path}: {size:,} bytes do not fit in memory") from None

    said = bytes(start[_DIGEST]).decode("ascii", "replace")
    start[_DIGEST] = _UNSIGNED
    digest = hashlib.sha256(start)
    digest.update(data.data)
    if digest.hexdigest() != said:
        raise ModelFileError(f"{path}: damaged: its content does not match the SHA-256 in its header")
    version = header.get("format_version")
    if version != FORMAT_VERSION:
        raise ModelFileError(
            f"{path}: format version {reprlib.repr(version)}, and this nabi reads version {FORMAT_VERSION}"
        )
    header["sha256"] = said

    arrays: Arrays = {}
    for name, dtype, shape, offset in entries:
        array = data[offset : offset + prod(shape) * dtype.itemsize].view(dtype).reshape(shape)
        if dtype.kind == "b" and array.view(np.uint8).max(initial=0) > 1:
            raise ModelFileError(f"{path}: damaged: {reprlib.repr(name)} holds a truth value that is neither 0 nor 1")
        arrays[name] = array
    return arrays, header


@contextlib.contextmanager
def replace_file(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Write a file beside `path`, and put it in its place only when it is complete and on the disk.

    Whatever happens on the way (an exception in the body, a full disk, Ctrl-C, a killed process), `path` is either
    the old file or the new one, whole. After everything but a kill, nothing else is left behind.

    Parameters
    ----------
    path : path-like
        The file to write or replace; its folder exists. A link stays and what it points to is replaced; permissions
        of a file that was there are kept.

    Yields
    ------
    file : binary file, open for writing

    Raises
    ------
    OSError
        The file cannot be written; the message names `path`, not the temporary file.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "history.csv"
    >>> with replace_file(path) as file:
    ...     _ = file.write(b"epoch,loss")
    >>> path.read_text(), len(list(path.parent.iterdir()))
    ('epoch,loss', 1)
    """
    target = Path(os.path.realpath(path))
    # Short whatever the target's name is: a name has room for 255 bytes only.
    temporary = target.with_name(f".nabi-{secrets.token_hex(8)}.tmp")
    try:
        try:
            with temporary.open("xb") as file:
                if target.exists():
                    temporary.chmod(target.stat().st_mode & 0o777)
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        _sync_folder(target.parent)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(temporary)):
            raise  # not about this file
        raise OSError(error.errno, error.strerror, str(path)) from error


def _sync_folder(folder: Path) -> None:
    """Bring a rename to the disk, where the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems do not sync folders
            raise
    finally:
        os.close(descriptor)


class _Entry(NamedTuple):
    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int


def _encode(
    path: Path, arrays: Mapping[str, NDArray[Any]], header: Mapping[str, Any]
) -> tuple[bytearray, list[memoryview]]:
    """Everything before the arrays, with the digest still to be put in, and the arrays' bytes."""
    contiguous = {name: _little_endian(name, array) for name, array in arrays.items()}
    # The largest items first, so that each array is aligned to its item size.
    order = sorted(contiguous, key=lambda name: (-contiguous[name].itemsize, name))
    header = {name: value for name, value in header.items() if name != "sha256"} | {"format_version": FORMAT_VERSION}
    try:
        text = json.dumps(header, sort_keys=True, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
        table: Header = {"__metadata__": {"nabi.sha256": _UNSIGNED.decode(), "nabi.header": text}}
        offset = 0
        for name in order:
            if not isinstance(name, str) or name in table:
                raise ValueError(f"an array cannot be named {name!r}")
            array = contiguous[name]
            end = offset + array.nbytes
            table[name] = {"dtype": _CODES[array.dtype], "shape": array.shape, "data_offsets": [offset, end]}
            offset = end
        encoded = json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{path}: the header cannot be written as JSON: {error}") from error
    encoded += b" " * (-len(encoded) % 8)
    if len(arrays) > MAX_ARRAYS or len(encoded) > MAX_HEADER_BYTES or _depth(text) > MAX_DEPTH:
        raise ModelFileError(
            f"{path}: {len(arrays):,} arrays and a header of {len(encoded):,} bytes, {_depth(text)} levels deep; "
            f"a model file has at most {MAX_ARRAYS:,}, {MAX_HEADER_BYTES:,} and {MAX_DEPTH}"
        )
    start = bytearray(len(encoded).to_bytes(8, "little") + encoded)
    return start, [contiguous[name].reshape(-1).view(np.uint8).data for name in order]


def _little_endian(name: str, array: NDArray[Any]) -> NDArray[Any]:
    dtype = array.dtype.newbyteorder("<")
    if dtype not in _CODES:
        known = ", ".join(str(dtype) for dtype in DTYPES.values())
        raise DTypeError(f"{name}: a model file holds arrays of {known}, not {array.dtype}")
    return np.asarray(array, dtype, order="C")


def _layout(path: Path, encoded: bytes, size: int) -> tuple[Header, list[_Entry]]:
    """The header and where each array lies in the `size` bytes after it."""
    try:
        table = _parse(encoded.decode())
        header = _parse(table.pop("__metadata__")["nabi.header"])
        if len(table) > MAX_ARRAYS:
            raise ValueError(f"{len(table):,} arrays, and a model file has at most {MAX_ARRAYS:,}")
        entries = []
        offset = 0
        for name, entry in table.items():
            if entry["dtype"] not in DTYPES:
                raise ValueError(f"{reprlib.repr(name)} is of the unknown dtype {reprlib.repr(entry['dtype'])}")
            dtype = DTYPES[entry["dtype"]]
            shape = tuple(entry["shape"])
            if not _is_possible(shape, dtype):
                raise ValueError(f"{reprlib.repr(name)} has the impossible shape {reprlib.repr(shape)}")
            end = offset + prod(shape) * dtype.itemsize
            if entry["data_offsets"] != [offset, end]:
                raise ValueError(f"{reprlib.repr(name)} does not lie where its shape and its neighbours put it")
            entries.append(_Entry(name, dtype, shape, offset))
            offset = end
        if offset != size:
            raise ValueError(f"cut short or too long: {size:,} bytes of arrays, and the header describes {offset:,}")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ModelFileError(f"{path}: damaged: {reason}") from error
    return header, entries


def _is_possible(shape: tuple[Any, ...], dtype: np.dtype[Any]) -> bool:
    """Whether NumPy can have an array of this shape (an empty one counts its other axes too)."""
    return (
        len(shape) <= 64
        and all(type(length) is int and 0 <= length < 2**63 for length in shape)
        and prod(length or 1 for length in shape) * dtype.itemsize < 2**63
    )


def _parse(text: str) -> Header:
    if _depth(text) > MAX_DEPTH:
        raise ValueError(f"a header nested more than {MAX_DEPTH} levels deep")
    parsed = json.loads(text, object_pairs_hook=without_duplicates)
    if not isinstance(parsed, dict):
        raise ValueError("a header that is not a JSON object")
    return parsed


def _depth(text: str) -> int:
    """How deep JSON is nested, found without recursion: the brackets outside of strings, counted."""
    brackets = re.sub(r'(?s)"(?:[^"\\]|\\.)*+"?|[^"\[\]{}]+', "", text)
    return max(itertools.accumulate(1 if bracket in "[{" else -1 for bracket in brackets), default=0)


def without_duplicates(pairs: list[tuple[str, Any]]) -> Header:
    """A JSON object, for ``json.loads(object_pairs_hook=)``; ValueError where one name stands twice."""
    unique = dict(pairs)
    if len(unique) != len(pairs):
        raise ValueError("a header that names one thing twice")
    return unique


def _is_ours(start: bytes | bytearray) -> bool:
    return len(start) == _DIGEST.stop and start[8 : _DIGEST.start] == _START


_SIGNATURES = {
    b"\x89PNG\r\n": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"GIF8": "a GIF picture",
    b"RIFF": "a WebP picture or another RIFF file",
    b"PK\x03\x04": "a zip archive (PyTorch and Keras write such files)",
    b"\x1f\x8b": "a gzip archive",
    b"\xfd7zXZ": "an xz archive",
    b"\x89HDF\r\n": "an HDF5 file",
    b"\x93NUMPY": "a NumPy array",
    b"\x80\x04": "a pickle",
    b"\x80\x05": "a pickle",
}


def _what_it_is(start: bytes, size: int) -> str:
    """Name a file that nabi did not write by its first bytes."""
    if not start:
        return "an empty file, not a model file"
    if len(start) > 9 and start[8:10] in (b'{"', b"{}") and int.from_bytes(start[:8], "little") <= size - 8:
        return "a safetensors file, but not one that nabi wrote"
    if start[8 : _DIGEST.start] == _START[: len(start) - 8] and len(start) > 9:
        return "damaged: a model file cut short"
    for signature, kind in _SIGNATURES.items():
        if start.startswith(signature):
            return f"{kind}, not a model file"
    with contextlib.suppress(UnicodeDecodeError):
        if "\0" not in codecs.getincrementaldecoder("utf-8")().decode(start):  # the last letter may be cut
            return "a text file, not a model file"
    return "not a model file"
