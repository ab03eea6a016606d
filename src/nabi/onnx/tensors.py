"""Arrays as ONNX writes them, and the numbers that it has for their dtypes."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nabi.errors import FormatError
from nabi.onnx.protobuf import Message

FLOAT, STRING, FLOAT16 = 1, 8, 10
CODES: dict[np.dtype[Any], int] = {
    np.dtype(np.float32): FLOAT,
    np.dtype(np.uint8): 2,
    np.dtype(np.int8): 3,
    np.dtype(np.int32): 6,
    np.dtype(np.int64): 7,
    np.dtype(np.bool_): 9,
    np.dtype(np.float64): 11,
    np.dtype(np.uint32): 12,
}
"""ONNX's number of each dtype that a tensor can have, and of int8."""
_OTHERS: dict[int, np.dtype[Any]] = {
    3: np.dtype("<i1"),
    4: np.dtype("<u2"),
    5: np.dtype("<i2"),
    FLOAT16: np.dtype("<f2"),
    13: np.dtype("<u8"),
}
READ: dict[int, np.dtype[Any]] = {code: dtype.newbyteorder("<") for dtype, code in CODES.items()} | _OTHERS
"""The dtype that the bytes of each kind are of."""
_ROWS = {"<f4": "float_data", "<f8": "double_data", "<i8": "int64_data", "<u4": "uint64_data", "<u8": "uint64_data"}

MOST_AXES = 8


def to_message(name: str, array: NDArray[Any]) -> Message:
    """A named array, its numbers as raw bytes."""
    if array.dtype.kind == "U":
        texts = [str(text).encode() for text in array.ravel()]
        return {"dims": list(array.shape), "data_type": STRING, "string_data": texts, "name": name}
    little = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
    return {
        "dims": list(array.shape),
        "data_type": CODES[array.dtype.newbyteorder("=")],
        "name": name,
        "raw_data": little.tobytes(),
    }


def to_array(message: Message, name: str) -> NDArray[Any]:
    """The array in a message, in a dtype that a tensor can have; nothing is allocated that the file does not hold.

    16-bit numbers become the next larger ones, text an array of str.

    Raises
    ------
    FormatError
        Data in another file, or none that fit the shape.
    """
    if message.get("external_data") or message.get("data_location"):
        raise FormatError(f"{shown(name)} lies in another file, and only what is in this one is read")
    shape, kind = tuple(message["dims"]), message.get("data_type", 0)
    if len(shape) > MOST_AXES or any(length < 0 for length in shape):
        raise FormatError(f"{shown(name)} has the impossible shape {str(shape)[:60]}")
    count = math.prod(shape)
    if kind == STRING:
        texts = message["string_data"]
        if len(texts) != count:
            raise FormatError(f"{shown(name)} holds {len(texts):,} texts for the shape {shape}")
        longest = max((len(text) for text in texts), default=0)
        if longest * count > 2**24:
            raise FormatError(f"{shown(name)}: {count:,} texts, as long as the longest, are too much")
        return np.array([bytes(text).decode(errors="replace") for text in texts], str).reshape(shape)
    if kind not in READ:
        raise FormatError(f"{shown(name)} is of the kind {kind}, which is not known here")
    dtype = READ[kind]
    if "raw_data" in message:
        raw = message["raw_data"]
        if len(raw) != count * dtype.itemsize:
            raise FormatError(f"{shown(name)} holds {len(raw):,} bytes for the shape {shape} of {dtype}")
        found: NDArray[Any] = np.frombuffer(raw, dtype)
        if dtype.kind == "b" and found.view(np.uint8).max(initial=0) > 1:
            raise FormatError(f"{shown(name)} holds a truth value that is neither 0 nor 1")
    else:
        numbers = message[_ROWS.get(dtype.str, "int32_data")]
        if len(numbers) != count:
            raise FormatError(f"{shown(name)} holds {len(numbers):,} numbers for the shape {shape}")
        found = _of_numbers(numbers, dtype, name)
    array: NDArray[Any] = found.astype(_native(dtype, name, found), order="C").reshape(shape)
    return array


def _of_numbers(numbers: list[Any], dtype: np.dtype[Any], name: str) -> NDArray[Any]:
    if dtype.kind == "f" and dtype.itemsize > 2:
        return np.array(numbers, dtype)
    values = np.array(numbers, np.int64)
    if dtype.itemsize == 2 and dtype.kind == "f":  # whose bits are given as integers
        return values.astype(np.uint16).view(np.float16)
    wide = np.iinfo(dtype) if dtype.kind in "iu" else np.iinfo(np.uint8)
    if dtype.str != "<u8" and values.size and not wide.min <= values.min() <= values.max() <= wide.max:
        raise FormatError(f"{shown(name)} holds a number that {dtype} has no room for")
    return values.astype(dtype)


def _native(dtype: np.dtype[Any], name: str, found: NDArray[Any]) -> Any:
    if dtype.kind == "f":
        return np.float64 if dtype.itemsize == 8 else np.float32
    if dtype.str in ("<i2", "<u2", "|i1"):
        return np.int32
    if dtype.str == "<u8":
        if found.size and found.max() >= 2**63:
            raise FormatError(f"{shown(name)} holds a number of more than 63 bits")
        return np.int64
    return dtype.newbyteorder("=")


def shown(name: str) -> str:
    """A name out of a file: it may be anything."""
    return repr(name if len(name) <= 60 else name[:59] + "…")
