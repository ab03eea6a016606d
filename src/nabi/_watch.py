"""What a compiled function reads from around it, in a form that shows when it has changed."""

import functools
import sysconfig
import types
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from nabi.errors import CompileError
from nabi.graph import nest

LARGEST = 1 << 24
"""Bytes of an array that is still watched, by a checksum taken at every call."""

_LIBRARIES = tuple({*sysconfig.get_paths().values(), str(Path(__file__).parent)})
_PLAIN = (bool, int, complex, str, bytes, type(None), type(Ellipsis), np.dtype)


class Same:
    """Stands for an object in a key: equal where it is the very same, which it keeps from being collected."""

    __slots__ = ("thing",)

    def __init__(self, thing: Any) -> None:
        self.thing = thing

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.thing is other.thing

    def __hash__(self) -> int:
        return id(self.thing)


def fingerprint(value: Any) -> Any:
    """Something hashable that changes where a plain value changes; other things are told apart by identity."""
    if isinstance(value, float):
        return float, value.hex()  # tells -0.0 from 0.0, and finds NaN equal to itself
    if isinstance(value, _PLAIN):
        return type(value), value
    if isinstance(value, np.ndarray | np.generic):
        if value.nbytes > LARGEST:
            raise CompileError(
                f"an array of {value.nbytes:,} bytes is read by a compiled function: give it by position"
            )
        return value.dtype, value.shape, zlib.crc32(np.ascontiguousarray(value).data)
    if isinstance(value, list | tuple):
        return type(value), tuple(map(fingerprint, value))
    if isinstance(value, dict):
        return dict, tuple((fingerprint(key), fingerprint(item)) for key, item in value.items())
    return Same(value)


def watch(parts: dict[str, Any], function: Any) -> None:
    """Add to ``parts`` all that a function reads from around it: by name, in a form that can be compared."""
    _function(parts, function, set(), whose="")


def _function(parts: dict[str, Any], function: Any, seen: set[int], whose: str) -> None:
    if id(function) in seen:
        return
    seen.add(id(function))
    if isinstance(function, functools.partial):
        _value(parts, f"{whose}partial's arguments", (function.args, function.keywords), seen)
        _function(parts, function.func, seen, whose)
        return
    wrapped = getattr(function, "__wrapped__", None)  # a decorator's, or another compiled function's
    if wrapped is not None:
        _function(parts, wrapped, seen, whose)
    if isinstance(function, types.MethodType):
        _object(parts, function.__self__, whose)
        function = function.__func__
    elif not hasattr(function, "__code__"):
        if wrapped is None and not isinstance(function, type | types.BuiltinFunctionType):
            _object(parts, function, whose)
            function = type(function).__call__
        if not hasattr(function, "__code__"):
            return
    for place, value in enumerate(function.__defaults__ or ()):
        _value(parts, f"{whose}default {place}", value, seen)
    for name, value in (function.__kwdefaults__ or {}).items():
        _value(parts, f"{whose}default {name}", value, seen)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        if cell != types.CellType():  # an empty one is a name that is not bound yet
            _value(parts, f"{whose}closure {name}", cell.cell_contents, seen)
    known = function.__globals__
    for name in _names(function.__code__):
        if name in known:
            _value(parts, f"{whose}global {name}", known[name], seen)


def _names(code: types.CodeType) -> list[str]:
    """The names that a function's code, and that of the functions inside it, may look up among the globals."""
    inside = [name for const in code.co_consts if isinstance(const, types.CodeType) for name in _names(const)]
    return list(dict.fromkeys([*code.co_names, *inside]))


def _value(parts: dict[str, Any], name: str, value: Any, seen: set[int]) -> None:
    while name in parts:
        name += "'"
    parts[name] = fingerprint(value)
    called = isinstance(value, functools.partial | types.MethodType) or hasattr(value, "__wrapped__")
    if (called or hasattr(value, "__code__")) and not _installed(value):
        _function(parts, value, seen, whose="")


def _object(parts: dict[str, Any], thing: Any, whose: str) -> None:
    """The plain fields of an object whose method is called."""
    for path, leaf in nest.fields(thing):
        parts[f"{whose}field {path}"] = fingerprint(leaf)


def _installed(function: Any) -> bool:
    """Whether a function belongs to a library: those are taken as constant."""
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    return code is not None and code.co_filename.startswith(_LIBRARIES)
