"""What ``torch.save`` writes, read without PyTorch and without running any of it.

Both forms hold a pickle that describes the tensors, and the bytes of the storages they lie in::

    zip (since 1.6)     NAME/data.pkl, NAME/data/KEY for each storage, NAME/byteorder, NAME/version; nothing is packed
    stream (before)     five pickles: a magic number, a version, of which system, the tensors, the storages' keys;
                        then each storage: how many numbers, in 8 bytes, and the numbers

So each is read in three steps: run the pickle on `nabi.data.pickles`, where a tensor is answered by a note of where it
lies; compare what the notes claim with the bytes that are there; read the storages that are needed.
"""

import itertools
import os
import reprlib
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from nabi.container import MAX_ARRAYS, MAX_DEPTH
from nabi.data import pickles
from nabi.data.files import MEBIBYTE
from nabi.data.pickles import Thing
from nabi.errors import FormatError
from nabi.weights.arrays import DTYPES, Arrays, check_name, check_shape, finished, take

MAGIC = 0x1950A86A20F9469CFC6C
STREAM_VERSION = 1001
NEWEST_ZIP = 10

MAX_PICKLE = 16 * MEBIBYTE  # a net of 10,000 arrays needs about 2
MAX_DIRECTORY = 4 * MEBIBYTE  # of a zip: Python makes an object of a kilobyte of each of its entries, of 50 bytes or so

# Tensors may overlap, as the tied weights of two layers do, or repeat one number along an axis: a small file can claim
# arrays of any size. Beyond 16 MiB it must have earned it by its own.
MAX_TIMES = 4
MAX_CLAIMED_ANYWAY = 16 * MEBIBYTE

_ONLY = "a file of weights may only hold tensors and plain containers"

_STORAGES = {
    "Double": "F64",
    "Float": "F32",
    "Half": "F16",
    "BFloat16": "BF16",
    "Long": "I64",
    "Int": "I32",
    "Short": "I16",
    "Char": "I8",
    "Byte": "U8",
    "Bool": "BOOL",
}
_DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
}


def read_zip(file: IO[bytes]) -> Arrays:
    """The arrays in a file of the zip form."""
    size = os.fstat(file.fileno()).st_size
    members = _Members(file)
    order = _byte_order(members)
    notes = _Notes()
    content = _small(members, "data.pkl", MAX_PICKLE)
    found, _ = pickles.run(content, notes.find, notes.identify, encoding="utf-8")
    tensors = _named(found, len(content))
    _check_claims(tensors, size)
    contents = {}
    for key in {tensor.storage.key: None for tensor in tensors.values()}:
        there = members.size(f"data/{key}")
        if there != notes.sizes[key]:
            raise FormatError(
                f"storage '{pickles.shown(key)}' claims {notes.sizes[key]:,} bytes, "
                + (f"{there:,} are there" if there >= 0 else "and is not there")
            )
        contents[key] = members.read(f"data/{key}")
    return {name: _array(name, tensor, contents[tensor.storage.key], order) for name, tensor in tensors.items()}


def read_stream(file: IO[bytes]) -> Arrays:
    """The arrays in a file of the stream form."""
    size = os.fstat(file.fileno()).st_size
    content = file.read(min(size, MAX_PICKLE))  # room is made for what is asked for, not for what is there
    notes = _Notes()
    at = 0
    values = []
    for number in range(5):
        value, at = pickles.run(content, notes.find, notes.identify if number == 3 else None, at=at, encoding="utf-8")
        if number == 0 and value != MAGIC:
            raise FormatError("a pickle that torch.save did not write")
        if number == 1 and value != STREAM_VERSION:
            raise FormatError(f"version {reprlib.repr(value)} of the stream form, which is not read")
        values.append(value)
    *_, found, keys = values
    tensors = _named(found, len(content))
    del content
    _check_claims(tensors, size)
    needed = {tensor.storage.key for tensor in tensors.values()}
    file.seek(at)
    contents = {}
    for key in _distinct(keys, notes):
        claimed = notes.sizes[key]
        if size - at < 8 + claimed:
            raise FormatError(f"cut short: a storage claims {claimed:,} bytes, {max(size - at - 8, 0):,} are there")
        count = int.from_bytes(file.read(8), "little")
        if count * notes.widths[key] != claimed:
            raise FormatError(f"damaged: a storage of {count:,} numbers, described as one of {claimed:,} bytes")
        at += 8 + claimed
        if key in needed:
            contents[key] = take(file, claimed)
        else:
            file.seek(at)
    if at != size:
        raise FormatError(f"{size - at:,} bytes too long")
    if missing := needed - contents.keys():
        raise FormatError(f"damaged: {len(missing):,} of the storages are not there")
    return {name: _array(name, tensor, contents[tensor.storage.key], "<") for name, tensor in tensors.items()}


def _distinct(keys: Any, notes: "_Notes") -> list[str]:
    """The keys of the storages that follow."""
    if not isinstance(keys, list) or not all(isinstance(key, str) and key in notes.sizes for key in keys):
        raise FormatError("damaged: storages that no tensor lies in")
    if len(set(keys)) != len(keys):
        raise FormatError("damaged: a storage that is there twice")
    return keys


# --- what the pickle says


@dataclass(frozen=True, slots=True)
class _Storage:
    """Numbers in a row, or a part of them; ``kind`` is None where only the tensor knows of which dtype they are."""

    key: str
    kind: str | None
    start: int
    count: int


@dataclass(frozen=True, slots=True)
class _Tensor:
    """Where a tensor lies: how far from the storage's start, and from one element to the next, in elements."""

    kind: str
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def size(self) -> int:
        return prod(self.shape) * DTYPES[self.kind].itemsize


class _Kind(Thing):
    """Stands for a dtype or a class of storages."""

    __slots__ = ("kind",)

    def __init__(self, name: str, kind: str | None) -> None:
        super().__init__(name)
        self.kind = kind


class _Function(Thing):
    __slots__ = ("answer",)

    def __init__(self, name: str, answer: Callable[[tuple[Any, ...]], Any]) -> None:
        super().__init__(name)
        self.answer = answer

    def call(self, arguments: tuple[Any, ...]) -> Any:
        return self.answer(arguments)


class _Notes:
    """Answers what a pickle asks for, and notes how many bytes each storage claims."""

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}
        self.widths: dict[str, int] = {}

    def find(self, name: str) -> Thing:
        if name in _ADMITTED:
            return _ADMITTED[name]
        if name.startswith("torch.") and name.endswith("Storage"):
            raise FormatError(f"holds numbers of a kind that is not read, a `{pickles.shown(name)}`")
        raise FormatError(f"asks for `{pickles.shown(name)}`: {_ONLY}")

    def identify(self, identifier: Any) -> _Storage:
        """The storage that ``("storage", class, key, device, count)`` names; the stream form adds which part of it."""
        if not isinstance(identifier, tuple) or len(identifier) not in (5, 6) or identifier[0] != "storage":
            raise FormatError("damaged: asks for something outside of it that is no storage")
        _, kind, key, _, count, *part = identifier
        if not isinstance(kind, _Kind) or not isinstance(key, str) or not _is_count(count):
            raise FormatError("damaged: a storage that is not described")
        width = 1 if kind.kind is None else DTYPES[kind.kind].itemsize
        if self.sizes.setdefault(key, count * width) != count * width or self.widths.setdefault(key, width) != width:
            raise FormatError("damaged: a storage that is described in two ways")
        if not part or part[0] is None:
            return _Storage(key, kind.kind, 0, count)
        match part[0]:
            case (_, start, length) if _is_count(start) and _is_count(length) and start + length <= count:
                return _Storage(key, kind.kind, start, length)
        raise FormatError("damaged: a part of a storage that reaches beyond it")


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _rebuild(arguments: tuple[Any, ...]) -> _Tensor:
    """``torch._utils._rebuild_tensor`` and ``_rebuild_tensor_v2``: they have the first four in common."""
    return _placed(arguments, None, arguments[6:])


def _rebuild_of_dtype(arguments: tuple[Any, ...]) -> _Tensor:
    """``torch._utils._rebuild_tensor_v3``, whose storage has no dtype."""
    if len(arguments) < 7 or not isinstance(arguments[6], _Kind):
        raise FormatError("damaged: a tensor without a dtype")
    return _placed(arguments, arguments[6].kind, arguments[7:])


def _placed(arguments: tuple[Any, ...], kind: str | None, flags: tuple[Any, ...]) -> _Tensor:
    if len(arguments) < 4 or not isinstance(arguments[0], _Storage):
        raise FormatError("damaged: a tensor that lies in no storage")
    storage, offset, shape, strides = arguments[:4]
    kind = kind or storage.kind
    if kind is None:
        raise FormatError("damaged: a tensor without a dtype")
    if any(flags):
        raise FormatError("holds a tensor that is to be negated or conjugated, which is not done")
    if not (isinstance(shape, tuple) and isinstance(strides, tuple) and len(shape) == len(strides)):
        raise FormatError("damaged: a tensor without a shape")
    check_shape("a tensor", shape, kind)
    if not _is_count(offset) or not all(map(_is_count, strides)):
        raise FormatError("damaged: a tensor that lies nowhere")
    unit = 1 if storage.kind else DTYPES[kind].itemsize  # a storage without a dtype counts bytes
    last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
    if 0 not in shape and last >= storage.count // unit:
        raise FormatError(f"damaged: a tensor that reaches to number {last:,} of {storage.count // unit:,}")
    return _Tensor(kind, storage, offset, shape, strides)


def _parameter(arguments: tuple[Any, ...]) -> Any:
    if not arguments or not isinstance(arguments[0], _Tensor):
        raise FormatError("damaged: a parameter that is no tensor")
    return arguments[0]


def _dictionary(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    """An OrderedDict: Python 3 fills it afterwards, Python 2 gave its pairs."""
    made = {}
    pairs = arguments[0] if arguments else []
    if len(arguments) > 1 or not isinstance(pairs, list):
        raise FormatError("damaged: a dictionary of something else than pairs")
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise FormatError("damaged: a dictionary of something else than pairs")
        pickles.check_key(pair[0])
        made[pair[0]] = pair[1]
    return made


def _only(kind: type, arguments: tuple[Any, ...]) -> Any:
    """What a container that is made of another one, is made of."""
    if not arguments:
        return kind()
    if len(arguments) != 1 or not isinstance(arguments[0], kind):
        raise FormatError("damaged: a container made of something else")
    return arguments[0]


_ADMITTED: dict[str, Thing] = {
    thing.name: thing
    for thing in (
        _Function("torch._utils._rebuild_tensor", _rebuild),
        _Function("torch._utils._rebuild_tensor_v2", _rebuild),
        _Function("torch._utils._rebuild_tensor_v3", _rebuild_of_dtype),
        _Function("torch._utils._rebuild_parameter", _parameter),
        _Function("torch.Size", lambda arguments: _only(tuple, arguments)),
        _Function("collections.OrderedDict", _dictionary),
        _Function("collections.Counter", lambda arguments: _only(dict, arguments)),
        _Kind("torch.storage.UntypedStorage", None),
        *(_Kind(f"torch.{name}Storage", kind) for name, kind in _STORAGES.items()),
        *(_Kind(f"torch.cuda.{name}Storage", kind) for name, kind in _STORAGES.items()),
        *(_Kind(f"torch.{name}", kind) for name, kind in _DTYPES.items()),
    )
}


# --- what is in it, by names


def _named(found: Any, length: int) -> dict[str, _Tensor]:
    """The tensors in a nest of containers by dotted names, without what all of those begin with.

    ``length`` is that of the pickle in bytes: no more items are in it, but for those that are there by several names.
    """
    if isinstance(found, _Tensor):
        raise FormatError("holds a tensor without a name")
    if not isinstance(found, dict | list | tuple):
        raise FormatError("holds no tensors")
    paths = list(itertools.islice(_tensors(found, (), iter(range(MAX_TIMES * length))), MAX_ARRAYS + 1))
    if not paths:
        raise FormatError("holds no tensors")
    if len(paths) > MAX_ARRAYS:
        raise FormatError(f"more than {MAX_ARRAYS:,} arrays")
    first = paths[0][0]
    common = 0
    while all(len(path) > common + 1 and path[common] == first[common] for path, _ in paths):
        common += 1
    named: dict[str, _Tensor] = {}
    for path, tensor in paths:
        check_name(path[common:])
        name = ".".join(path[common:])
        if name in named:
            raise FormatError(f"two tensors are called '{pickles.shown(name)}'")
        named[name] = tensor
    return named


def _tensors(value: Any, path: tuple[str, ...], visits: Iterator[int]) -> Iterator[tuple[tuple[str, ...], _Tensor]]:
    """Each tensor with the keys that lead to it.

    The visits are counted: a list that holds another one ten times, which holds a third one ten times, and so on, is
    short to write.
    """
    if isinstance(value, _Tensor):
        yield path, value
        return
    if len(path) >= MAX_DEPTH:
        raise FormatError(f"nested more than {MAX_DEPTH} levels deep")
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        if next(visits, None) is None:
            raise FormatError("holds containers within containers without end")
        if isinstance(item, _Tensor | dict | list | tuple):
            if not isinstance(key, str | int):
                raise FormatError(f"holds tensors by keys that are not names ({type(key).__name__})")
            yield from _tensors(item, (*path, str(key)), visits)


def _check_claims(tensors: dict[str, _Tensor], size: int) -> None:
    claimed = sum(tensor.size for tensor in tensors.values())
    if claimed > max(MAX_TIMES * size, MAX_CLAIMED_ANYWAY):
        raise FormatError(f"its tensors claim {claimed:,} bytes, in a file of {size:,}")


def _array(name: str, tensor: _Tensor, content: NDArray[np.uint8], order: Literal["<", ">"]) -> NDArray[Any]:
    """A tensor's numbers, in their storage's memory where they lie there one after another."""
    dtype = DTYPES[tensor.kind].newbyteorder(order)
    if 0 in tensor.shape:
        return finished(name, np.empty(tensor.shape, dtype), tensor.kind)
    unit = DTYPES[tensor.storage.kind].itemsize if tensor.storage.kind else 1
    # A step along an axis of one element is never taken: it may be of any length.
    steps = [
        stride * dtype.itemsize if length > 1 else 0
        for length, stride in zip(tensor.shape, tensor.strides, strict=True)
    ]
    offset = tensor.storage.start * unit + tensor.offset * dtype.itemsize
    return finished(name, np.ndarray(tensor.shape, dtype, content.data, offset, steps), tensor.kind)


# --- the zip


class _Narrow:
    """A file that does not give much at once: zipfile reads an archive's directory whole, however long it is."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.size = file, os.fstat(file.fileno()).st_size
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, count: int = -1) -> bytes:
        left = self.size - self.file.tell()
        count = left if count < 0 else min(count, left)
        if count > MAX_DIRECTORY:
            raise FormatError(f"a zip with a directory of more than {MAX_DIRECTORY // MEBIBYTE} MiB")
        return self.file.read(max(count, 0))


class _Members:
    """The members of a zip that ``torch.save`` wrote, by their names without the folder that they are all in.

    `nabi.data.files` unpacks members, each of at most 256 MiB, which one layer of VGG exceeds. Here nothing is packed,
    so that all members together are no larger than the file, and each goes straight to where it stays.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.left = os.fstat(file.fileno()).st_size
        with _reported():
            self.archive = zipfile.ZipFile(_Narrow(file))
        names = self.archive.namelist()
        if len(set(names)) != len(names):
            raise FormatError("a zip with two members of one name")
        tops = [name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(tops) != 1:
            raise FormatError("a zip archive that torch.save did not write")
        self.entries = {
            entry.filename.removeprefix(tops[0]): entry
            for entry in self.archive.infolist()
            if entry.filename.startswith(tops[0])
        }
        if "constants.pkl" in self.entries:
            raise FormatError(
                "a TorchScript program, not weights: it can be saved anew as torch.save(m.state_dict(), ...)"
            )

    def size(self, name: str) -> int:
        """How many bytes a member has; -1 where there is none."""
        return self.entries[name].file_size if name in self.entries else -1

    def read(self, name: str) -> NDArray[np.uint8]:
        entry = self.entries[name]
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size or entry.flag_bits & 1:
            raise FormatError(f"{pickles.shown(name)} is packed, which torch.save does not do")
        self.left -= entry.file_size
        if self.left < 0:
            raise FormatError("damaged: its members are larger than it")
        content = np.empty(entry.file_size, np.uint8)
        with _reported(), self.archive.open(entry) as opened:
            at = 0
            while at < len(content):  # in pieces, of which zipfile makes copies
                count = opened.readinto(content[at : at + MEBIBYTE].data)  # type: ignore[attr-defined]
                if not count:
                    raise FormatError(f"{pickles.shown(name)} is cut short")
                at += count
        return content


def _small(members: _Members, name: str, limit: int) -> bytes:
    size = members.size(name)
    if size > limit:
        raise FormatError(f"{name} has {size:,} bytes, more than {limit:,}")
    return members.read(name).tobytes()


def _byte_order(members: _Members) -> Literal["<", ">"]:
    if members.size("version") >= 0:
        version = _small(members, "version", 20).strip()
        if not version.isdigit() or not 0 < int(version) <= NEWEST_ZIP:
            raise FormatError(f"version {reprlib.repr(version)} of the zip form, which is not read")
    order = _small(members, "byteorder", 20) if members.size("byteorder") >= 0 else b"little"
    if order not in (b"little", b"big"):
        raise FormatError(f"the unknown byte order {reprlib.repr(order)}")
    return "<" if order == b"little" else ">"


@contextmanager
def _reported() -> Iterator[None]:
    """Turn what zipfile raises about a damaged archive into one error."""
    try:
        yield
    except FormatError:
        raise
    except (zipfile.BadZipFile, struct.error, EOFError, NotImplementedError, ValueError, OverflowError) as error:
        raise FormatError(f"damaged or cut short ({' '.join(str(error).split())[:200]})") from None
