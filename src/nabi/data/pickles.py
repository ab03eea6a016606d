"""Reading pickles without trusting them: a small machine for the instructions that only make data.

A pickle is a program for a machine with a stack, and Python's own machine lets it call whatever can be imported. This
one knows numbers, strings, tuples, lists and dictionaries. Whatever a program asks for by name is answered by the
reader with a :class:`Thing` of its own, or refused: no class or function of Python, NumPy or PyTorch is looked up, let
alone called. Nothing here recurses, and a program takes time and memory in proportion to its length:

* at most so many instructions, each of which makes at most one small object or a piece of the file;
* keys of dictionaries are strings, bytes or numbers of 32 bits: the hashes of larger ones can be made to collide;
* a list that a program remembers could be copied by each of a million calls, so that what calls are given is counted.
"""

import pickle
import pickletools
import struct
from collections.abc import Callable
from typing import Any, NoReturn

from nabi.errors import FormatError

MAX_INSTRUCTIONS = 2_000_000
MAX_NAME = 256

_CALLED = {opcode.code: opcode.name for opcode in pickletools.opcodes}


class Thing:
    """Stands for a class, a function or an object that a pickle asks for."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def call(self, arguments: tuple[Any, ...]) -> Any:
        """What calling it gives."""
        raise FormatError(f"a pickle that calls {self.name}")

    def build(self, state: Any) -> None:
        """Take a state."""
        raise FormatError(f"a pickle that changes {self.name}")


def shown(name: str) -> str:
    """A name out of a file as a message may show it: of one line, printable, short."""
    name = name if name.isprintable() else repr(name)
    return name if len(name) <= 80 else f"{name[:77]}..."


def run(
    content: bytes,
    find: Callable[[str], Any],
    persistent: Callable[[Any], Any] | None = None,
    *,
    at: int = 0,
    encoding: str | None = None,
    limit: int | None = None,
) -> tuple[Any, int]:
    """Run one pickle.

    Parameters
    ----------
    content : bytes
        What holds it.
    find : callable
        Answers a name, such as ``collections.OrderedDict``, or refuses it with a :class:`FormatError`.
    persistent : callable, optional
        Answers an identifier of something outside of the pickle. Without it those are refused.
    at : int
        Where it begins.
    encoding : str, optional
        Of the strings of Python 2, which come as bytes without it.
    limit : int, optional
        The most instructions; by default ``MAX_INSTRUCTIONS``.

    Returns
    -------
    value
        Out of None, truth values, numbers, strings, bytes, tuples, lists, dictionaries, and what `find`, `persistent`
        and the :class:`Thing` objects' calls gave.
    end : int
        Where the pickle ends.

    Raises
    ------
    FormatError
        A pickle that is damaged, too long, or has an instruction that data do not need. The message names no file.

    Examples
    --------
    >>> run(pickle.dumps({"epoch": 3}, 2), Thing)[0]
    {'epoch': 3}
    """
    machine = _Machine(content, at, find, persistent, encoding)
    limit = MAX_INSTRUCTIONS if limit is None else limit
    for _ in range(limit):
        instruction = machine.take(1)
        if instruction == pickle.STOP:
            return machine.pop(), machine.at
        step = _STEPS.get(instruction)
        if step is None:
            _refuse(instruction)
        step(machine)
    raise FormatError(f"a pickle of more than {limit} instructions")


def _refuse(instruction: bytes) -> NoReturn:
    name = _CALLED.get(instruction.decode("latin1"))
    if name is None:
        raise _damaged(f"no instruction is written as byte {instruction[0]}")
    raise FormatError(f"a pickle with the instruction {name}, which data do not need")


def _damaged(reason: str) -> FormatError:
    return FormatError(f"damaged pickle ({reason})")


class _Machine:
    __slots__ = ("at", "content", "encoding", "find", "given", "marks", "memo", "persistent", "stack")

    def __init__(
        self,
        content: bytes,
        at: int,
        find: Callable[[str], Any],
        persistent: Callable[[Any], Any] | None,
        encoding: str | None,
    ) -> None:
        self.content, self.at, self.find, self.persistent, self.encoding = content, at, find, persistent, encoding
        self.stack: list[Any] = []
        self.marks: list[int] = []  # how high the stack was at each
        self.memo: dict[int, Any] = {}  # not a list: a program may number what it remembers wildly
        self.given = 4 * len(content) + 1024  # how much may still be given to calls

    def take(self, count: int) -> bytes:
        """The next bytes of the program."""
        end = self.at + count
        if end > len(self.content):
            raise _damaged("it ends too early")
        taken = self.content[self.at : end]
        self.at = end
        return taken

    def skip(self, count: int) -> None:
        self.take(count)

    def line(self) -> str:
        """The next line of the program."""
        end = self.content.find(b"\n", self.at, self.at + MAX_NAME)
        if end < 0:
            raise _damaged("a name without an end")
        return _decoded(self.take(end + 1 - self.at)[:-1], "utf-8")

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise _damaged("nothing is on its stack")
        return self.stack.pop()

    def top(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise _damaged("nothing is on its stack")
        return self.stack[-1]

    def pop_to_mark(self) -> list[Any]:
        if not self.marks:
            raise _damaged("no mark is on its stack")
        mark = self.marks.pop()
        taken = self.stack[mark:]
        del self.stack[mark:]
        return taken

    def put(self, value: Any) -> None:
        self.stack.append(value)

    def set_items(self, pairs: list[Any]) -> None:
        target = self.top()
        if not isinstance(target, dict) or len(pairs) % 2:
            raise _damaged("keys and values for something other than a dictionary")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            check_key(key)
            target[key] = value

    def extend(self, items: list[Any]) -> None:
        target = self.top()
        if not isinstance(target, list):
            raise _damaged("items for something other than a list")
        target.extend(items)

    def name(self, module: Any, name: Any) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise _damaged("a name that is no string")
        self.put(self.find(f"{module}.{name}"))

    def reduce(self) -> None:
        arguments, called = self.pop(), self.pop()
        if not isinstance(arguments, tuple) or not isinstance(called, Thing):
            raise _damaged("a call of something that cannot be called")
        sizes = [len(a) for a in (arguments, *arguments) if isinstance(a, str | bytes | tuple | list | dict)]
        self.given -= sum(sizes)
        if self.given < 0:
            raise FormatError("a pickle that gives the same to many calls")
        self.put(called.call(arguments))

    def build(self) -> None:
        state, built = self.pop(), self.top()
        if isinstance(built, Thing):
            built.build(state)
        elif not (isinstance(built, dict) and isinstance(state, dict)):  # attributes of an OrderedDict say no more
            raise _damaged("a state for something that has none")

    def identify(self) -> None:
        if self.persistent is None:
            raise FormatError("a pickle with the instruction BINPERSID, which data do not need")
        self.put(self.persistent(self.pop()))


def check_key(key: Any) -> None:
    """Refuse a key of a dictionary that is not a string, bytes, None, or a number of at most 32 bits."""
    if isinstance(key, int) and abs(key) < 2**32:
        return
    if not (key is None or isinstance(key, str | bytes)):
        raise FormatError(f"a pickle with a dictionary whose keys are not names ({type(key).__name__})")


def _decoded(text: bytes, encoding: str) -> str:
    try:
        return text.decode(encoding)
    except UnicodeDecodeError:
        raise _damaged(f"a string that is not {encoding}") from None


def _number(layout: str) -> Callable[[_Machine], None]:
    form = struct.Struct(layout)
    return lambda machine: machine.put(form.unpack(machine.take(form.size))[0])


def _piece(width: int, made: Callable[[_Machine, bytes], Any]) -> Callable[[_Machine], None]:
    """An instruction that gives a piece of the file, whose length stands before it in so many bytes."""
    return lambda machine: machine.put(made(machine, machine.take(int.from_bytes(machine.take(width), "little"))))


def _old_string(machine: _Machine, content: bytes) -> str | bytes:
    return content if machine.encoding is None else _decoded(content, machine.encoding)


def _tuple(count: int) -> Callable[[_Machine], None]:
    return lambda machine: machine.put(tuple([machine.pop() for _ in range(count)][::-1]))


def _remember(width: int) -> Callable[[_Machine], None]:
    def step(machine: _Machine) -> None:
        machine.memo[int.from_bytes(machine.take(width), "little")] = machine.top()

    return step


def _recall(width: int) -> Callable[[_Machine], None]:
    def step(machine: _Machine) -> None:
        number = int.from_bytes(machine.take(width), "little")
        if number not in machine.memo:
            raise _damaged(f"it remembers nothing as {number}")
        machine.put(machine.memo[number])

    return step


def _set_item(machine: _Machine) -> None:
    value, key = machine.pop(), machine.pop()
    machine.set_items([key, value])


def _stack_global(machine: _Machine) -> None:
    name, module = machine.pop(), machine.pop()
    machine.name(module, name)


def _instance(machine: _Machine) -> NoReturn:
    name = shown(f"{machine.line()}.{machine.line()}")
    raise FormatError(f"a pickle that makes an object of `{name}` (instruction INST)")


def _protocol(machine: _Machine) -> None:
    if machine.take(1)[0] > pickle.HIGHEST_PROTOCOL:
        raise _damaged("of a protocol to come")


_unicode = lambda machine, content: _decoded(content, "utf-8")
_bytes = lambda machine, content: content

_STEPS: dict[bytes, Callable[[_Machine], None]] = {
    pickle.BINGET: _recall(1),
    pickle.LONG_BINGET: _recall(4),
    pickle.BINPUT: _remember(1),
    pickle.LONG_BINPUT: _remember(4),
    pickle.MEMOIZE: lambda machine: machine.memo.update({len(machine.memo): machine.top()}),
    pickle.MARK: lambda machine: machine.marks.append(len(machine.stack)),
    pickle.NONE: lambda machine: machine.put(None),
    pickle.NEWTRUE: lambda machine: machine.put(True),
    pickle.NEWFALSE: lambda machine: machine.put(False),
    pickle.BININT: _number("<i"),
    pickle.BININT1: _number("<B"),
    pickle.BININT2: _number("<H"),
    pickle.BINFLOAT: _number(">d"),
    pickle.LONG1: _piece(1, lambda machine, content: int.from_bytes(content, "little", signed=True)),
    pickle.SHORT_BINUNICODE: _piece(1, _unicode),
    pickle.BINUNICODE: _piece(4, _unicode),
    pickle.SHORT_BINBYTES: _piece(1, _bytes),
    pickle.BINBYTES: _piece(4, _bytes),
    pickle.SHORT_BINSTRING: _piece(1, _old_string),
    pickle.BINSTRING: _piece(4, _old_string),
    pickle.EMPTY_TUPLE: _tuple(0),
    pickle.TUPLE1: _tuple(1),
    pickle.TUPLE2: _tuple(2),
    pickle.TUPLE3: _tuple(3),
    pickle.TUPLE: lambda machine: machine.put(tuple(machine.pop_to_mark())),
    pickle.EMPTY_LIST: lambda machine: machine.put([]),
    pickle.APPEND: lambda machine: machine.extend([machine.pop()]),
    pickle.APPENDS: lambda machine: machine.extend(machine.pop_to_mark()),
    pickle.EMPTY_DICT: lambda machine: machine.put({}),
    pickle.SETITEM: _set_item,
    pickle.SETITEMS: lambda machine: machine.set_items(machine.pop_to_mark()),
    pickle.GLOBAL: lambda machine: machine.name(machine.line(), machine.line()),
    pickle.STACK_GLOBAL: _stack_global,
    pickle.INST: _instance,
    pickle.REDUCE: _Machine.reduce,
    pickle.BUILD: _Machine.build,
    pickle.BINPERSID: _Machine.identify,
    pickle.PROTO: _protocol,
    pickle.FRAME: lambda machine: machine.skip(8),
}
