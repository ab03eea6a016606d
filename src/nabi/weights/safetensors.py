"""Safetensors files that others wrote.

The reader of nabi's own model files, :func:`nabi.container.read`, wants more than the format has (a digest, a header)
and takes fewer dtypes. The limits are the same: whatever is read here can be written as a model file.
"""

import json
import os
import reprlib
from math import prod
from typing import IO, Any

from nabi import container
from nabi.errors import FormatError
from nabi.weights.arrays import DTYPES, Arrays, check_name, check_shape, finished, quoted, take


def begins(start: bytes, size: int) -> bool:
    """Whether a file with these first nine bytes can be one."""
    return len(start) >= 9 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= size - 8


def read(file: IO[bytes]) -> Arrays:
    """Every array of the file, in the order of its header."""
    size = os.fstat(file.fileno()).st_size - 8
    length = int.from_bytes(file.read(8), "little")
    if length > min(size, container.MAX_HEADER_BYTES):
        raise FormatError(f"damaged: a header of {length:,} bytes in a file of {size + 8:,}")
    try:
        table = json.loads(file.read(length).decode(), object_pairs_hook=container.without_duplicates)
    except ValueError as error:  # of a JSON or UTF-8 that is none
        raise FormatError(f"damaged: {error}") from None
    except RecursionError:
        raise FormatError("damaged: a header nested too deep") from None
    if not isinstance(table, dict):
        raise FormatError("damaged: a header that describes nothing")
    table.pop("__metadata__", None)
    if len(table) > container.MAX_ARRAYS:
        raise FormatError(f"{len(table):,} arrays, more than {container.MAX_ARRAYS:,}")
    places = {name: _place(name, entry) for name, entry in table.items()}
    end = 0
    for name, (_, _, start, stop) in sorted(places.items(), key=lambda item: item[1][2:]):
        if start != end:
            raise FormatError(f"damaged: {quoted(name)} does not lie where its neighbours put it")
        end = stop
    if end != size - length:
        raise FormatError(f"cut short or too long: {size - length:,} bytes of arrays, and its header describes {end:,}")
    content = take(file, end)
    return {
        name: finished(name, content[start:stop].view(DTYPES[kind].newbyteorder("<")).reshape(shape), kind)
        for name, (kind, shape, start, stop) in places.items()
    }


def _place(name: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    """The dtype's name, the shape, and where the array begins and ends."""
    check_name([name])
    if not isinstance(entry, dict) or not entry.keys() >= {"dtype", "shape", "data_offsets"}:
        raise FormatError(f"damaged: {quoted(name)} is not described")
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(kind, str) or kind not in DTYPES:
        raise FormatError(f"{quoted(name)} is of dtype {reprlib.repr(kind)}, which is not read")
    if not isinstance(shape, list):
        raise FormatError(f"damaged: {quoted(name)} has no shape")
    check_shape(name, tuple(shape), kind)
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(offset) is int for offset in offsets):
        raise FormatError(f"damaged: {quoted(name)} has no place")
    start, stop = offsets
    if not 0 <= start <= stop or stop - start != prod(shape) * DTYPES[kind].itemsize:
        raise FormatError(f"damaged: {quoted(name)} does not lie where its shape puts it")
    return kind, tuple(shape), start, stop
