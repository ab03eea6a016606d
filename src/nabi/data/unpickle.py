"""Reading the pickles that CIFAR comes in, without trusting them.

A pickle is a program. This reader admits the four names that those pickles call, and answers each with a stand-in of
its own: nothing of NumPy runs, and an array comes into being only after what it claims has been compared with the bytes
that are there. The program is read through beforehand, and refused for any instruction that such a file does not need.
"""

import io
import pickle
import pickletools
import struct
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from nabi.errors import FormatError

MAX_INSTRUCTIONS = 2_000_000

_INSTRUCTIONS = frozenset({
    "PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1",
    "BINSTRING", "SHORT_BINSTRING", "BINUNICODE", "SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES",
    "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS",
    "EMPTY_DICT", "SETITEM", "SETITEMS", "BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET",
    "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD",
})  # fmt: skip


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
        _inspect(content)
        return _plain(_Unpickler(io.BytesIO(content), encoding="bytes").load())
    except FormatError as error:
        raise FormatError(f"{name}: {error}") from None
    except (
        pickle.UnpicklingError,
        struct.error,
        ArithmeticError,
        AttributeError,
        DeprecationWarning,  # of a backslash in a name, where warnings are errors
        EOFError,
        LookupError,
        MemoryError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FormatError(f"{name}: damaged pickle ({reason})") from None


def _inspect(content: bytes) -> None:
    """Refuse what would take much memory before :class:`pickle.Unpickler` meets it, such as a memo of 2**31 places."""
    for number, (instruction, argument, _) in enumerate(pickletools.genops(content), 1):
        if instruction.name not in _INSTRUCTIONS:
            raise FormatError(f"a pickle with the instruction {instruction.name}, which no picture needs")
        if number > MAX_INSTRUCTIONS:
            raise FormatError(f"a pickle of more than {MAX_INSTRUCTIONS} instructions")
        if instruction.name == "LONG_BINPUT" and int(argument or 0) > MAX_INSTRUCTIONS:
            raise FormatError("a pickle that numbers what it remembers wildly")


class _Array:
    """Stands for an array while it is read; its state is checked before the array is made."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: NDArray[Any] | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, content = state
        if not isinstance(kind, _Kind) or not isinstance(content, bytes) or not isinstance(shape, tuple):
            raise FormatError("a pickle with an array of objects")
        if not all(isinstance(side, int) and side >= 0 for side in shape) or len(shape) > 4:
            raise FormatError(f"a pickle with an array of shape {shape}")
        claimed = int(np.prod(shape, dtype=object)) * kind.dtype.itemsize
        if claimed != len(content):
            raise FormatError(f"a pickle with an array that claims {claimed} bytes, {len(content)} are there")
        self.value = np.frombuffer(content, kind.dtype).reshape(shape, order="F" if fortran else "C")


class _Kind:
    """Stands for a dtype: unsigned or signed integers, nothing else."""

    __slots__ = ("dtype",)

    def __init__(self, code: Any, *flags: Any) -> None:
        text = code.decode("latin1") if isinstance(code, bytes) else code
        if text not in ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8"):
            raise FormatError(f"a pickle with an array of {str(text)[:20]!r}, only whole numbers are admitted")
        self.dtype = np.dtype(text)

    def __setstate__(self, state: Any) -> None:
        order = state[1].decode("latin1") if isinstance(state[1], bytes) else state[1]
        if order in ("<", ">"):
            self.dtype = self.dtype.newbyteorder("<" if order == "<" else ">")
        elif order not in ("|", "="):
            raise FormatError("a pickle with an array of unknown byte order")


class _Stand:
    """Stands for a function or class that a pickle may name. It has no attributes that a pickle could set."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *arguments: Any) -> Any:
        if self.name == "_reconstruct" and len(arguments) == 3 and arguments[0] is _NDARRAY:
            return _Array()
        if self.name == "dtype":
            return _Kind(*arguments)
        if self.name == "encode" and len(arguments) == 2 and arguments[1] in ("latin1", b"latin1"):
            return arguments[0].encode("latin1")
        raise FormatError(f"a pickle that calls {self.name} in a way that no picture needs")

    def __setstate__(self, state: Any) -> NoReturn:
        raise FormatError(f"a pickle that changes {self.name}")


_NDARRAY = _Stand("ndarray")
_ADMITTED = {
    ("numpy.core.multiarray", "_reconstruct"): _Stand("_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"): _Stand("_reconstruct"),
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _Stand("dtype"),
    ("_codecs", "encode"): _Stand("encode"),
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise FormatError(f"a pickle that names {module}.{name}: refused")
        return _ADMITTED[module, name]


def _plain(value: Any) -> Any:
    """The dictionary with its arrays in place of what stood for them."""
    if not isinstance(value, dict):
        raise FormatError("a pickle of something other than a dictionary")
    return {key: item.value if isinstance(item, _Array) else item for key, item in value.items()}
