"""What a compiled function reads from around it, in a form that shows when it has changed.

To look around takes longer than a small step does: everything is walked through and written down. On its way the look
notes in a `Sight` what it read and from where, so that before the next call it is enough to read the same again.
"""

import functools
import os
import sysconfig
import types
import weakref
import zlib
from collections.abc import Callable, Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from nabi.errors import CompileError
from nabi.graph import nest
from nabi.graph.node import Node

LARGEST = 1 << 24
"""Bytes of an array that is still watched, by a checksum taken at every call."""

_FOLDERS = ("stdlib", "platstdlib", "purelib", "platlib")
_LIBRARIES = tuple({sysconfig.get_path(name) + os.sep for name in _FOLDERS} | {str(Path(__file__).parent) + os.sep})
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


class Sight:
    """What a look around has read, and from where: enough to tell that another look would find everything as it was.

    What holds something (a field, an item, a closure's cell) holds one object. As long as it is still the very same
    object in every such place, everything is as it was: by value are compared only the keys and lengths of what can
    grow, and what can be written to in place. Another object may still be equal: that takes another look. Of the array
    of a tensor only dtype and shape matter, and they are asked only where it is not the array of the look: after a run
    of a large network it is far from the cache.

    A place is noted before the look goes on from what it held. If another thread changes it in between, the note is
    out of date, and the next call looks again.
    """

    __slots__ = ("_absent", "_cells", "_items", "_keys", "_lengths", "_objects", "_readings", "_tensors", "_whole")

    def __init__(self) -> None:
        self._keys: list[tuple[dict[Any, Any], list[str]]] = []
        self._lengths: list[tuple[list[Any], int]] = []
        self._items: list[tuple[Any, Any, Any]] = []  # a container, a key or place, what is there
        self._absent: list[tuple[dict[Any, Any], Any]] = []
        self._cells: list[tuple[types.CellType, Any]] = []
        self._objects: list[tuple[Any, type, dict[str, Any]]] = []  # with its type and fields
        self._readings: list[tuple[Callable[[Any], Any], Any, Any]] = []
        self._tensors: list[tuple[Node, bool, Any, Any, Callable[[], Any]]] = []
        self._whole: list[tuple[Callable[[Any], Any], Any, Any]] = []

    def unchanged(self) -> bool:
        """Whether everything is still there and the same."""
        try:
            for known, keys in self._keys:
                if [*known] != keys:
                    return False
            for items, length in self._lengths:
                if len(items) != length:
                    return False
            for container, key, item in self._items:
                if container[key] is not item:
                    return False
            for known, key in self._absent:
                if key in known:
                    return False
            for cell, contents in self._cells:
                if cell.cell_contents is not contents:
                    return False
            for thing, kind, fields in self._objects:
                if type(thing) is not kind or thing.__dict__ is not fields:
                    return False
            for how, thing, read in self._readings:
                if how(thing) is not read:
                    return False
            for tensor, wanted, dtype, shape, array in self._tensors:
                held = tensor.held
                if tensor.requires_grad is not wanted:
                    return False
                if (held is not array() or held is None) and (held.dtype is not dtype or held.shape != shape):
                    return False
            for how, thing, value in self._whole:
                if how(thing) != value:
                    return False
        except (AttributeError, LookupError, ValueError):  # it is gone
            return False
        return True

    def read(self, how: Callable[[Any], Any], thing: Any) -> Any:
        """What is read out of a thing, which may hold another object later."""
        read = how(thing)
        self._readings.append((how, thing, read))
        return read

    def item(self, known: dict[str, Any], key: str) -> Any:
        """What stands in a dict of which nothing else matters; None where the key is not there."""
        if key not in known:
            self._absent.append((known, key))
            return None
        item = known[key]
        self._items.append((known, key, item))
        return item

    def cell(self, cell: types.CellType) -> Any:
        """What a closure's cell contains."""
        contents = cell.cell_contents
        self._cells.append((cell, contents))
        return contents

    def tensor(self, tensor: Node) -> Any:
        """What matters of a tensor of the state, for a key."""
        held = tensor.held  # once: another thread may put another array in its place
        seen = tensor.requires_grad, held.dtype, held.shape
        array = weakref.ref(held) if isinstance(held, np.ndarray) else lambda: None
        self._tensors.append((tensor, *seen, array))
        return Same(tensor), *seen

    def enter(self, thing: Any) -> None:
        """Note everything that a thing holds: a list, tuple, dict or array, or an object with fields."""
        if isinstance(thing, dict):
            if all(type(key) is str for key in thing):
                self._keys.append((thing, list(thing)))
            else:  # 1 and True are equal keys, and yet not the same
                self._whole.append((_keys, thing, _keys(thing)))
            self._items += [(thing, key, item) for key, item in thing.items()]
        elif isinstance(thing, list):
            self._lengths.append((thing, len(thing)))
            self._items += [(thing, place, item) for place, item in enumerate(thing)]
        elif isinstance(thing, np.ndarray | np.void):
            self._whole.append((fingerprint, thing, fingerprint(thing)))
        elif not isinstance(thing, tuple):
            if isinstance(thing, functools.partial):
                for how in _PARTIAL:
                    self.read(how, thing)
            fields = vars(thing)
            self._objects.append((thing, type(thing), fields))
            self.enter(fields)


def tensors(tree: Any) -> Callable[[], list[Any]]:
    """What gives the tensors in a nest as it is by then: it is walked through again only where it has changed."""
    sight: Sight | None = None
    found: list[Any] = []

    def now() -> list[Any]:
        nonlocal sight, found
        if sight is None or not sight.unchanged():
            sight = Sight()
            found = [leaf for _, leaf in _walked({}, tree, "", sight) if isinstance(leaf, Node)]
        return found

    return now


def _keys(known: dict[Any, Any]) -> Any:
    return tuple(map(fingerprint, known))


def fingerprint(value: Any, enter: Callable[[Any], None] = lambda thing: None) -> Any:
    """Something hashable that changes where a plain value changes; other things are told apart by identity.

    ``enter`` is told of everything that may change in place before it is read.
    """
    if isinstance(value, float):
        return float, value.hex()  # tells -0.0 from 0.0, and finds NaN equal to itself
    if isinstance(value, _PLAIN):
        return type(value), value
    if isinstance(value, np.ndarray | np.generic):
        if value.nbytes > LARGEST:
            raise CompileError(
                f"an array of {value.nbytes:,} bytes is read by a compiled function: give it by position"
            )
        if isinstance(value, np.ndarray | np.void):
            enter(value)
        numbers = np.ascontiguousarray(value)
        if numbers.dtype.kind in "mM":  # times, which NumPy shows nobody as they lie there
            numbers = numbers.view(np.int64)
        return value.dtype, value.shape, zlib.crc32(numbers.data)
    if isinstance(value, list | tuple):
        enter(value)
        return type(value), tuple(fingerprint(item, enter) for item in value)
    if isinstance(value, dict):
        enter(value)
        return type(value), tuple((fingerprint(key, enter), fingerprint(item, enter)) for key, item in value.items())
    return Same(value)


_PARTIAL = _arguments, _keywords, _partial_of = attrgetter("args"), attrgetter("keywords"), attrgetter("func")
_wrapped, _called = attrgetter("__wrapped__"), attrgetter("__call__")
_code, _defaults, _keyword_defaults = attrgetter("__code__"), attrgetter("__defaults__"), attrgetter("__kwdefaults__")


def watch(parts: dict[str, Any], function: Any, sight: Sight) -> None:
    """Add to ``parts`` all that a function reads from around it: by name, in a form that can be compared."""
    _function(parts, function, set(), "", sight)


def _function(parts: dict[str, Any], function: Any, seen: set[int], whose: str, sight: Sight) -> None:
    if id(function) in seen:
        return
    seen.add(id(function))
    if isinstance(function, functools.partial):
        arguments = sight.read(_arguments, function), sight.read(_keywords, function)
        _value(parts, f"{whose}partial's arguments", arguments, seen, sight)
        _function(parts, sight.read(_partial_of, function), seen, whose, sight)
        return
    wrapped = getattr(function, "__wrapped__", None)  # a decorator's, or another compiled function's
    if wrapped is not None:
        _function(parts, sight.read(_wrapped, function), seen, whose, sight)
    if isinstance(function, types.MethodType):
        _object(parts, function.__self__, whose, sight)
        function = function.__func__
    elif not hasattr(function, "__code__"):
        if wrapped is None and not isinstance(function, type | types.BuiltinFunctionType):
            _object(parts, function, whose, sight)
            function = sight.read(_called, type(function))
        if not hasattr(function, "__code__"):
            return
    if wrapped is None:
        sight.item(vars(function), "__wrapped__")
    code = sight.read(_code, function)
    for place, value in enumerate(sight.read(_defaults, function) or ()):
        _value(parts, f"{whose}default {place}", value, seen, sight)
    by_keyword = sight.read(_keyword_defaults, function) or {}
    sight.enter(by_keyword)
    for name, value in by_keyword.items():
        _value(parts, f"{whose}default {name}", value, seen, sight)
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        if _is_bound(cell):
            _value(parts, f"{whose}closure {name}", sight.cell(cell), seen, sight)
        else:
            sight.read(_is_bound, cell)
    known = function.__globals__
    for name in _names(code):
        value = sight.item(known, name)
        if name in known:
            _value(parts, f"{whose}global {name}", value, seen, sight)


def _is_bound(cell: types.CellType) -> bool:
    return cell != types.CellType()  # an empty one is a name that is not bound yet


def _names(code: types.CodeType) -> list[str]:
    """The names that a function's code, and that of the functions inside it, may look up among the globals."""
    inside = [name for const in code.co_consts if isinstance(const, types.CodeType) for name in _names(const)]
    return list(dict.fromkeys([*code.co_names, *inside]))


def _value(parts: dict[str, Any], name: str, value: Any, seen: set[int], sight: Sight) -> None:
    _add(parts, name, fingerprint(value, sight.enter))
    called = isinstance(value, functools.partial | types.MethodType) or hasattr(value, "__wrapped__")
    if (called or hasattr(value, "__code__")) and not _installed(value):
        _function(parts, value, seen, "", sight)


def _add(parts: dict[str, Any], name: str, part: Any) -> None:
    while name in parts:
        name += "'"
    parts[name] = part


def _object(parts: dict[str, Any], thing: Any, whose: str, sight: Sight) -> None:
    """The plain fields of an object whose method is called."""
    for path, leaf in _walked(parts, thing, f"{whose}field", sight):
        _add(parts, f"{whose}field {path}", fingerprint(leaf, sight.enter))


def watch_state(parts: dict[str, Any], state: Any, sight: Sight) -> None:
    """Add to ``parts`` all that stands in a nest of lists, tuples, dicts and objects: of tensors, all but values."""
    for path, leaf in _walked(parts, state, "state", sight):
        _add(parts, f"state {path}", sight.tensor(leaf) if isinstance(leaf, Node) else fingerprint(leaf, sight.enter))


def _walked(parts: dict[str, Any], tree: Any, what: str, sight: Sight) -> Iterator[tuple[str, Any]]:
    """The leaves of a nest. Its form becomes part of ``parts``: what holds how much, and what stands in it twice."""
    first: dict[int, str] = {}

    def meet(path: str, thing: Any) -> None:
        before = first.setdefault(id(thing), path)
        if before != path:
            _add(parts, f"{what} {path}", ("as", before))
        elif not isinstance(thing, Node):
            sight.enter(thing)
            names = (
                range(len(thing))
                if isinstance(thing, list | tuple)
                else thing
                if isinstance(thing, dict)
                else vars(thing)
            )
            _add(parts, f"{what} {path}", (Same(type(thing)), *map(fingerprint, names)))

    return nest.fields(tree, meet=meet)


def _installed(function: Any) -> bool:
    """Whether a function belongs to a library: those are taken as constant."""
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    return code is not None and code.co_filename.startswith(_LIBRARIES)
