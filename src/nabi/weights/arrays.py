"""What every form of file has in common: the dtypes, which shapes can be, bytes as arrays, the arrays' names."""

import reprlib
from collections.abc import Sequence
from math import prod
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from nabi.data.pickles import shown
from nabi.errors import FormatError

Arrays = dict[str, NDArray[Any]]

MAX_NAME = 1024

# By safetensors' names. A bfloat16 is the upper half of a float32, and becomes one.
DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("f8"),
    "F32": np.dtype("f4"),
    "F16": np.dtype("f2"),
    "BF16": np.dtype("u2"),
    "I64": np.dtype("i8"),
    "I32": np.dtype("i4"),
    "I16": np.dtype("i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("u8"),
    "U32": np.dtype("u4"),
    "U16": np.dtype("u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}


def quoted(name: str) -> str:
    """A name as a message shows it."""
    return f"'{shown(name)}'"


def check_name(parts: Sequence[str]) -> None:
    """Refuse a name that is too long once its parts are joined; before they are, as they may be one and the same."""
    if sum(map(len, parts)) > MAX_NAME:
        raise FormatError(f"an array with a name of {sum(map(len, parts)):,} characters")


def check_shape(name: str, shape: tuple[Any, ...], kind: str) -> None:
    """Refuse a shape that NumPy cannot have (an empty array counts its other axes too)."""
    if (
        len(shape) > 64
        or not all(type(length) is int and 0 <= length < 2**63 for length in shape)
        or prod(length or 1 for length in shape) * DTYPES[kind].itemsize >= 2**63
    ):
        raise FormatError(f"{quoted(name)} has the impossible shape {reprlib.repr(shape)}")


def take(file: IO[bytes], size: int) -> NDArray[np.uint8]:
    """The next bytes of the file, which has been found to have them."""
    content = np.empty(size, np.uint8)
    if file.readinto(content.data) != size:  # type: ignore[attr-defined]
        raise FormatError("cut short while it was read")
    return content


def finished(name: str, array: NDArray[Any], kind: str) -> NDArray[Any]:
    """An array as a person expects it: in rows, aligned, in this machine's byte order, bfloat16 as float32."""
    if kind == "BOOL" and array.view(np.uint8).max(initial=0) > 1:
        raise FormatError(f"{quoted(name)} holds a truth value that is neither 0 nor 1")
    array = np.require(array, array.dtype.newbyteorder("="), ["C", "A", "W"])
    if kind != "BF16":
        return array
    widened = array.astype(np.uint32)
    widened <<= 16
    return widened.view(np.float32)
