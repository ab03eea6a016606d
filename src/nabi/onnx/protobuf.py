"""The bytes of an ONNX file, which are protocol buffers: messages in and out, by one table.

A message is a sequence of fields, each a number with a wire type and a value [1]_; which field of which message has
which number is ONNX's own table [2]_. Only the part of it that a network of plain operations needs is here: what else a
file holds (training information, functions, subgraphs of loops and branches) is noticed by its field and not looked
into, so that a message cannot be nested deeper than the table.

Read here, and not with the ``onnx`` package, because a file may come from anywhere: everything is bounded by the
file's own length, and what is wrong is said in one line.

References
----------
.. [1] https://protobuf.dev/programming-guides/encoding/
.. [2] https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

import struct
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from nabi.errors import FormatError

MAX_PARTS = 2**18
"""Fields of a file, and integers, that are looked at. A large network has ten thousand; a file made to harm, one in
two bytes."""

Message = dict[str, Any]


class Field(NamedTuple):
    """A field of a message.

    Attributes
    ----------
    name : str
    kind : str
        "int", "float", "double", "text", "bytes", "opaque" (only that it is there), or the name of a message.
    many : bool
        Whether it may stand more than once: then its value is a list.
    """

    name: str
    kind: str
    many: bool = False


TABLE: dict[str, dict[int, Field]] = {
    "Model": {
        1: Field("ir_version", "int"),
        2: Field("producer_name", "text"),
        3: Field("producer_version", "text"),
        7: Field("graph", "Graph"),
        8: Field("opset_import", "OperatorSet", True),
        14: Field("metadata_props", "Entry", True),
        25: Field("functions", "opaque", True),
    },
    "OperatorSet": {1: Field("domain", "text"), 2: Field("version", "int")},
    "Entry": {1: Field("key", "text"), 2: Field("value", "text")},
    "Graph": {
        1: Field("node", "Node", True),
        2: Field("name", "text"),
        5: Field("initializer", "Tensor", True),
        11: Field("input", "Value", True),
        12: Field("output", "Value", True),
        15: Field("sparse_initializer", "opaque", True),
    },
    "Node": {
        1: Field("input", "text", True),
        2: Field("output", "text", True),
        3: Field("name", "text"),
        4: Field("op_type", "text"),
        5: Field("attribute", "Attribute", True),
        7: Field("domain", "text"),
    },
    "Attribute": {
        1: Field("name", "text"),
        2: Field("f", "float"),
        3: Field("i", "int"),
        4: Field("s", "bytes"),
        5: Field("t", "Tensor"),
        6: Field("g", "opaque"),
        7: Field("floats", "float", True),
        8: Field("ints", "int", True),
        9: Field("strings", "bytes", True),
        11: Field("graphs", "opaque", True),
        20: Field("type", "int"),
        21: Field("ref_attr_name", "text"),
    },
    "Tensor": {
        1: Field("dims", "int", True),
        2: Field("data_type", "int"),
        4: Field("float_data", "float", True),
        5: Field("int32_data", "int", True),
        6: Field("string_data", "bytes", True),
        7: Field("int64_data", "int", True),
        8: Field("name", "text"),
        9: Field("raw_data", "bytes"),
        10: Field("double_data", "double", True),
        11: Field("uint64_data", "int", True),
        13: Field("external_data", "opaque", True),
        14: Field("data_location", "int"),
    },
    "Value": {1: Field("name", "text"), 2: Field("type", "Type")},
    "Type": {1: Field("tensor_type", "TensorType")},
    "TensorType": {1: Field("elem_type", "int"), 2: Field("shape", "Shape")},
    "Shape": {1: Field("dim", "Dimension", True)},
    "Dimension": {1: Field("dim_value", "int"), 2: Field("dim_param", "text")},
}

_VARINT, _EIGHT, _LENGTH, _FOUR = 0, 1, 2, 5
_NUMBERS = {"int": _VARINT, "float": _FOUR, "double": _EIGHT}
_CODES = {"float": "<f", "double": "<d"}


# --- out of bytes ---


def decode(content: bytes) -> Message:
    """The model in a file.

    Raises
    ------
    FormatError
        It is not one; the message does not name the file.
    """
    try:
        return _Reader().message(memoryview(content), "Model")
    except FormatError as error:
        raise FormatError(f"not an ONNX file, or damaged: {error}") from None


class _Reader:
    def __init__(self) -> None:
        self.parts = 0

    def message(self, data: memoryview, kind: str) -> Message:
        table = TABLE[kind]
        found: Message = {field.name: [] for field in table.values() if field.many}
        for number, wire, value in self._fields(data):
            field = table.get(number)
            if field is None:
                continue
            if field.kind in _NUMBERS and field.many and wire == _LENGTH:
                found[field.name] += self._packed(value, field.kind)
                continue
            item = self._value(value, wire, field, kind)
            if field.many:
                found[field.name].append(item)
            else:
                found[field.name] = item
        return found

    def _fields(self, data: memoryview) -> Iterator[tuple[int, int, Any]]:
        """Number, wire type and value of each field."""
        place, end = 0, len(data)
        while place < end:
            self._count(1)
            tag, place = _varint(data, place)
            number, wire = tag >> 3, tag & 7
            value: Any
            if wire == _VARINT:
                value, place = _varint(data, place)
            elif wire == _LENGTH:
                length, place = _varint(data, place)
                if length > end - place:
                    raise FormatError("cut short: a part is longer than what holds it")
                value, place = data[place : place + length], place + length
            elif wire in (_FOUR, _EIGHT):
                width = 4 if wire == _FOUR else 8
                if width > end - place:
                    raise FormatError("cut short in a number")
                value, place = data[place : place + width], place + width
            else:
                raise FormatError(f"a part of the unknown wire type {wire}")
            yield number, wire, value

    def _value(self, value: Any, wire: int, field: Field, kind: str) -> Any:
        if wire != _NUMBERS.get(field.kind, _LENGTH) and field.kind != "opaque":
            raise FormatError(f"{field.name} of a {kind} is of the wrong wire type")
        match field.kind:
            case "int":
                return _signed(value)
            case "float" | "double":
                return struct.unpack(_CODES[field.kind], value)[0]
            case "text":
                return _text(value, field.name)
            case "bytes":
                return value
            case "opaque":
                return True
        return self.message(value, field.kind)

    def _packed(self, data: memoryview, kind: str) -> list[Any]:
        if kind == "int":
            found, place = [], 0
            while place < len(data):
                self._count(1)
                value, place = _varint(data, place)
                found.append(_signed(value))
            return found
        code = _CODES[kind]
        if len(data) % struct.calcsize(code):
            raise FormatError("cut short in a row of numbers")
        return [value for (value,) in struct.iter_unpack(code, data)]

    def _count(self, more: int) -> None:
        self.parts += more
        if self.parts > MAX_PARTS:
            raise FormatError(f"more than {MAX_PARTS:,} parts outside of raw data")


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    result = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            raise FormatError("cut short in a number")
        byte = data[place]
        place += 1
        result |= (byte & 127) << shift
        if byte < 128:
            return result & (2**64 - 1), place
    raise FormatError("a number of more than 64 bits")


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _text(value: memoryview, name: str) -> str:
    try:
        return bytes(value).decode()
    except UnicodeDecodeError:
        raise FormatError(f"{name} is not UTF-8") from None


# --- into bytes ---


def encode(message: Mapping[str, Any], kind: str = "Model") -> bytes:
    """The bytes of a message, its fields in the order of their numbers.

    Examples
    --------
    >>> decode(encode({"ir_version": 8, "producer_name": "nabi"}))["producer_name"]
    'nabi'
    """
    out = bytearray()
    for number, field in sorted(TABLE[kind].items()):
        if field.name not in message:
            continue
        values = message[field.name] if field.many else [message[field.name]]
        if field.many and field.kind in _NUMBERS:
            if len(values):
                _put(out, number, _LENGTH, b"".join(_encoded_number(value, field.kind) for value in values))
            continue
        for value in values:
            if field.kind in _NUMBERS:
                _put(out, number, _NUMBERS[field.kind], _encoded_number(value, field.kind))
            elif field.kind == "text":
                _put(out, number, _LENGTH, value.encode())
            elif field.kind == "bytes":
                _put(out, number, _LENGTH, value)
            else:
                _put(out, number, _LENGTH, encode(value, field.kind))
    return bytes(out)


def _put(out: bytearray, number: int, wire: int, value: bytes) -> None:
    out += _encoded_varint(number << 3 | wire)
    if wire == _LENGTH:
        out += _encoded_varint(len(value))
    out += value


def _encoded_number(value: Any, kind: str) -> bytes:
    return _encoded_varint(int(value) & (2**64 - 1)) if kind == "int" else struct.pack(_CODES[kind], value)


def _encoded_varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
