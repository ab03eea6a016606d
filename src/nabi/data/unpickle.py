"""Reading the pickles that CIFAR comes in, without trusting them.

The names that those pickles call are four. Each is answered with a stand-in, and an array comes into being only after
what it claims has been compared with the bytes that are there.
"""

import reprlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nabi.data import pickles
from nabi.data.pickles import Thing
from nabi.errors import FormatError

MAX_INSTRUCTIONS = pickles.MAX_INSTRUCTIONS


def unpickle(content: bytes, name: str) -> Any:
    """What a pickle of numbers, strings, lists, dictionaries and arrays of bytes or integers says.

    Strings of Python 2 come as bytes.

    Raises
    ------
    FormatError
        If it names anything but ``numpy.core.multiarray._reconstruct`` (or ``numpy._core``), ``numpy.ndarray``,
        ``numpy.dtype`` and ``_codecs.encode`` to latin1, has an array that is not of its size, or is damaged.
    """
    try:
        return _plain(pickles.run(content, _find, limit=MAX_INSTRUCTIONS)[0])
    except FormatError as error:
        raise FormatError(f"{name}: {error}") from None


class _Array(Thing):
    """Stands for an array while it is read; its state is checked before the array is made."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        super().__init__("an array")
        self.value: NDArray[Any] | None = None

    def build(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise FormatError("a pickle with an array of unknown form")
        _, shape, kind, fortran, content = state
        if not isinstance(kind, _Kind) or not isinstance(content, bytes) or not isinstance(shape, tuple):
            raise FormatError("a pickle with an array of objects")
        if not all(isinstance(side, int) and side >= 0 for side in shape) or len(shape) > 4:
            raise FormatError(f"a pickle with an array of shape {reprlib.repr(shape)}")
        claimed = int(np.prod(shape, dtype=object)) * kind.dtype.itemsize
        if claimed != len(content):
            raise FormatError(f"a pickle with an array that claims {claimed} bytes, {len(content)} are there")
        self.value = np.frombuffer(content, kind.dtype).reshape(shape, order="F" if fortran else "C")


class _Kind(Thing):
    """Stands for a dtype: unsigned or signed integers, nothing else."""

    __slots__ = ("dtype",)

    def __init__(self, code: Any) -> None:
        super().__init__("a dtype")
        text = code.decode("latin1") if isinstance(code, bytes) else code
        if text not in ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8"):
            raise FormatError(f"a pickle with an array of {reprlib.repr(text)}, only whole numbers are admitted")
        self.dtype = np.dtype(text)

    def build(self, state: Any) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if order in ("<", ">", b"<", b">"):
            self.dtype = self.dtype.newbyteorder("<" if order in ("<", b"<") else ">")
        elif order not in ("|", "=", b"|", b"="):
            raise FormatError("a pickle with an array of unknown byte order")


class _Function(Thing):
    __slots__ = ()

    def call(self, arguments: tuple[Any, ...]) -> Any:
        if self.name == "_reconstruct" and len(arguments) == 3 and arguments[0] is _NDARRAY:
            return _Array()
        if self.name == "dtype" and arguments:
            return _Kind(arguments[0])
        if self.name == "encode" and len(arguments) == 2 and arguments[1] in ("latin1", b"latin1"):
            return _encoded(arguments[0])
        return super().call(arguments)


def _encoded(text: Any) -> bytes:
    try:
        return text.encode("latin1") if isinstance(text, str) else b""
    except UnicodeEncodeError:
        raise FormatError("damaged pickle (bytes that are none)") from None


_NDARRAY = Thing("ndarray")
_ADMITTED = {
    "numpy.core.multiarray._reconstruct": _Function("_reconstruct"),
    "numpy._core.multiarray._reconstruct": _Function("_reconstruct"),
    "numpy.ndarray": _NDARRAY,
    "numpy.dtype": _Function("dtype"),
    "_codecs.encode": _Function("encode"),
}


def _find(name: str) -> Thing:
    if name not in _ADMITTED:
        raise FormatError(f"a pickle that names {pickles.shown(name)}: refused")
    return _ADMITTED[name]


def _plain(value: Any) -> Any:
    """The dictionary with its arrays in place of what stood for them."""
    if not isinstance(value, dict):
        raise FormatError("a pickle of something other than a dictionary")
    return {key: item.value if isinstance(item, _Array) else item for key, item in value.items()}
