"""Files of weights made for the tests without PyTorch: both forms of ``torch.save``, their pickles made by hand."""

import io
import json
import struct
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
VERSION = b"\x80\x02M\xe9\x03."
SYSTEM = b"\x80\x02}(X\x10\0\0\0protocol_versionM\xe9\x03X\x0d\0\0\0little_endian\x88u."

STORAGES = {
    "f8": "Double",
    "f4": "Float",
    "f2": "Half",
    "i8": "Long",
    "i4": "Int",
    "i2": "Short",
    "i1": "Char",
    "u1": "Byte",
    "b1": "Bool",
}


# --- pickles


@dataclass(frozen=True)
class Code:
    """A piece of a pickle as it is."""

    code: bytes


def text(value: str) -> bytes:
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def whole(value: int) -> bytes:
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    encoded = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(encoded)]) + encoded


def name(dotted: str) -> Code:
    module, _, thing = dotted.rpartition(".")
    return Code(f"c{module}\n{thing}\n".encode())


def call(dotted: str, *arguments: Any) -> Code:
    return Code(name(dotted).code + code(arguments) + b"R")


def code(value: Any) -> bytes:
    """The instructions that put a value on the stack."""
    match value:
        case Code():
            return value.code
        case None | True | False:
            return {None: b"N", True: b"\x88", False: b"\x89"}[value]
        case int():
            return whole(value)
        case float():
            return b"G" + struct.pack(">d", value)
        case str():
            return text(value)
        case tuple():
            return b"(" + b"".join(map(code, value)) + b"t"
        case list():
            return b"](" + b"".join(map(code, value)) + b"e"
        case dict():
            return b"}(" + b"".join(code(key) + code(item) for key, item in value.items()) + b"u"
    raise TypeError(value)


def program(value: Any) -> bytes:
    return b"\x80\x02" + code(value) + b"."


def ordered(pairs: Mapping[str, Any]) -> Code:
    """An OrderedDict with an attribute, as a module's ``state_dict`` is."""
    filled = code(dict(pairs))[1:]
    state = code({"_metadata": call("collections.OrderedDict")})
    return Code(call("collections.OrderedDict").code + filled + state + b"b")


# --- tensors


def storage(key: str, count: int, kind: str = "Float", device: str = "cpu", *part: Any) -> Code:
    """The identifier of a storage; of the stream form with one ``part`` more."""
    return Code(code(("storage", name(f"torch.{kind}Storage"), key, device, count, *part)) + b"Q")


def tensor(of: Code, offset: Any, shape: Any, strides: Any) -> Code:
    return call("torch._utils._rebuild_tensor_v2", of, offset, shape, strides, False, call("collections.OrderedDict"))


def parameter(of: Code) -> Code:
    return call("torch._utils._rebuild_parameter", of, True, call("collections.OrderedDict"))


@dataclass
class Laid:
    """Tensors over storages: each `lay` gives the code of one more, for either form."""

    stream: bool
    device: str = "cpu"

    def __post_init__(self) -> None:
        self.keys: dict[int, str] = {}
        self.storages: dict[str, np.ndarray] = {}

    def lay(self, base: np.ndarray, view: np.ndarray | None = None, kind: str = "") -> Code:
        """A tensor that lies in ``base``, an array in rows, as ``view`` does, which is all of it unless it is given."""
        view = base if view is None else view
        key = self.keys.setdefault(id(base), str(70_000_000 + len(self.keys) if self.stream else len(self.keys)))
        self.storages[key] = base
        size = base.itemsize
        offset = (view.ctypes.data - base.ctypes.data) // size
        part = (None,) if self.stream else ()
        identified = storage(key, base.size, kind or STORAGES[base.dtype.str[1:]], self.device, *part)
        return tensor(identified, offset, view.shape, tuple(step // size for step in view.strides))

    def file(self, value: Any) -> bytes:
        """A file that holds the value, in which tensors are what `lay` gave."""
        if self.stream:
            return stream_form(program(value), self.storages)
        return zip_form(program(value), {key: base.tobytes() for key, base in self.storages.items()})


def rewrite(path: Path, content: bytes) -> None:
    """Give a file another content. To open it emptied, as is usual, takes some file systems 10 milliseconds."""
    with path.open("r+b" if path.exists() else "wb") as file:
        file.write(content)
        file.truncate()


def zip_form(
    pickled: bytes,
    storages: Mapping[str, bytes],
    more: Iterable[tuple[str, bytes]] = (("byteorder", b"little"), ("version", b"3\n")),
    compression: int = zipfile.ZIP_STORED,
    top: str = "archive",
) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr(f"{top}/data.pkl", pickled)
        for key, content in storages.items():
            archive.writestr(f"{top}/data/{key}", content)
        for called, content in more:
            archive.writestr(f"{top}/{called}", content)
    return buffer.getvalue()


def stream_form(
    pickled: bytes,
    storages: Mapping[str, np.ndarray],
    keys: Any = None,
    before: bytes = MAGIC + VERSION + SYSTEM,
) -> bytes:
    keys = program(sorted(storages)) if keys is None else keys
    contents = [struct.pack("<q", storages[key].size) + storages[key].tobytes() for key in sorted(storages)]
    return before + pickled + keys + b"".join(contents)


def safetensors_form(table: Any, content: bytes = b"", length: int | None = None) -> bytes:
    encoded = table if isinstance(table, bytes) else json.dumps(table).encode()
    return struct.pack("<Q", len(encoded) if length is None else length) + encoded + content
