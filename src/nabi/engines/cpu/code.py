"""A kernel being written: loops, places in memory, and loads and stores of several numbers at once.

What is written is LLVM's assembly language. An `Index` is kept as a sum of loop variables with whole factors for as
long as possible: so it is known while writing that ``2·i + 1`` is odd, or that two reads are of the same place.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

TYPES = {
    np.dtype("bool"): "i8",
    np.dtype("uint8"): "i8",
    np.dtype("uint32"): "i32",
    np.dtype("int32"): "i32",
    np.dtype("int64"): "i64",
    np.dtype("float32"): "float",
    np.dtype("float64"): "double",
}
"""The types of numbers in memory; in registers, a truth value is a single bit."""


def in_register(dtype: np.dtype[Any]) -> str:
    """The type of a number in a register."""
    return "i1" if dtype.kind == "b" else TYPES[dtype]


def suffix(kind: str, width: int = 1) -> str:
    """How LLVM's own functions end that take so many numbers of a type."""
    one = {"float": "f32", "double": "f64"}.get(kind, kind)
    return one if width == 1 else f"v{width}{one}"


def lane_numbers(width: int, step: int = 1) -> str:
    """0, step, 2·step, …: as the text of a vector of int64."""
    return "<" + ", ".join(f"i64 {lane * step}" for lane in range(width)) + ">"


class Index(NamedTuple):
    """A place along an axis: a sum of loop variables, each times a whole number, and a constant.

    Attributes
    ----------
    terms : tuple of (str, int)
        Loop variables and their factors.
    constant : int
    lanes : int
        How much farther the place of each next lane is: 0 where all lanes are at one place.
    """

    terms: tuple[tuple[str, int], ...] = ()
    constant: int = 0
    lanes: int = 0

    def plus(self, other: "Index | int") -> "Index":
        if isinstance(other, int):
            return self._replace(constant=self.constant + other)
        factors = dict(self.terms)
        for name, factor in other.terms:
            factors[name] = factors.get(name, 0) + factor
        kept = tuple(sorted((name, factor) for name, factor in factors.items() if factor))
        return Index(kept, self.constant + other.constant, self.lanes + other.lanes)

    def times(self, factor: int) -> "Index":
        if not factor:
            return Index()
        return Index(tuple((n, f * factor) for n, f in self.terms), self.constant * factor, self.lanes * factor)

    def minus(self, other: "Index") -> "Index":
        return self.plus(other.times(-1))

    def divided(self, divisor: int) -> "Index | None":
        """The place divided by a whole number, where it is known that nothing remains."""
        parts = (*(factor for _, factor in self.terms), self.constant, self.lanes)
        if any(part % divisor for part in parts):
            return None
        return Index(tuple((n, f // divisor) for n, f in self.terms), self.constant // divisor, self.lanes // divisor)


ZERO = Index()


class Code:
    """The text of one function, ``void kernel(ptr table, i64 start, i64 stop, i64 strand, ptr scratch)``.

    Attributes
    ----------
    mask : str or None
        The lanes that are inside: the rest is neither read nor written.
    width : int
        Lanes of the vectors that are being worked on.
    rounds_once : bool
        Whether the processor multiplies and adds in one instruction.
    matrix_registers : bool
        Whether it multiplies matrices in registers.
    """

    def __init__(self, vector: int, rounds_once: bool = True, matrix_registers: bool = False) -> None:
        self.vector = vector
        self.rounds_once = rounds_once
        self.matrix_registers = matrix_registers
        self.width = 1
        self.mask: str | None = None
        self.lines: list[str] = []
        self.top: list[str] = []  # what stands at the function's beginning
        self.declarations: dict[str, str] = {}
        self.numbers = 0
        self.block = "entry"
        self.memory: list[dict[Any, Any]] = [{}]  # what was read or computed, by scope
        self.bounds: dict[str, tuple[int, int | None]] = {}  # of loop variables, both inclusive
        self.pointers: dict[int, str] = {}
        self.passes_by = False

    # --- text ---

    def emit(self, line: str) -> None:
        self.lines.append("  " + line)

    def name(self, hint: str = "v") -> str:
        self.numbers += 1
        return f"%{hint}{self.numbers}"

    def let(self, line: str, hint: str = "v") -> str:
        """The name of what an instruction gives."""
        name = self.name(hint)
        self.emit(f"{name} = {line}")
        return name

    def declare(self, function: str, signature: str) -> str:
        self.declarations[function] = signature
        return function

    def text(self) -> str:
        if self.passes_by:  # what passed by the cache is there for the other threads, too
            fence = self.declare("@llvm.x86.sse.sfence", "declare void @llvm.x86.sse.sfence()")
            self.emit(f"call void {fence}()")
            self.passes_by = False
        declared = "\n".join(sorted(self.declarations.values()))
        body = "\n".join([*self.top, *self.lines])
        return (
            f"{declared}\n\ndefine void @kernel(ptr noalias %table, i64 %start, i64 %stop, i64 %strand, "
            f"ptr noalias %scratch) nounwind {{\nentry:\n{body}\n  ret void\n}}\n\n!0 = !{{i32 1}}\n"
        )

    # --- loops ---

    @contextmanager
    def loop(self, start: str | int, stop: str | int, step: int = 1) -> Iterator[Index]:
        """A loop; gives its variable."""
        if isinstance(start, int) and isinstance(stop, int) and 0 <= stop - start <= step:
            if stop > start:
                yield Index((), start)
            else:  # nothing is left to be done: what is written here is dropped
                before = len(self.lines), self.block
                self.memory.append({})
                yield Index((), start)
                self.memory.pop()
                del self.lines[before[0] :]
                self.block = before[1]
            return
        variable, after = self.name("i"), self.name("n")
        number = self.numbers
        label = f"b{number}"
        self.emit(f"br label %{label}h")
        self.lines.append(f"{label}h:")
        self.emit(f"{variable} = phi i64 [{start}, %{self.block}], [{after}, %{label}l]")
        self.emit(f"%c{number} = icmp slt i64 {variable}, {stop}")
        self.emit(f"br i1 %c{number}, label %{label}b, label %{label}x")
        self.lines.append(f"{label}b:")
        self.block = f"{label}b"
        low = start if isinstance(start, int) else 0
        high = stop - 1 if isinstance(stop, int) else None
        self.bounds[variable] = (low, high if high is None else high - (high - low) % step)
        self.memory.append({})
        yield Index(((variable, 1),))
        self.memory.pop()
        self.emit(f"br label %{label}l")
        self.lines.append(f"{label}l:")
        self.emit(f"{after} = add nuw nsw i64 {variable}, {step}")
        self.emit(f"br label %{label}h")
        self.lines.append(f"{label}x:")
        self.block = f"{label}x"

    def variable(self, kind: str, first: str) -> str:
        """A place for a value that changes; LLVM makes a register of it."""
        name = self.name("a")
        self.top.append(f"  {name} = alloca {kind}, align {self.vector}")
        self.emit(f"store {kind} {first}, ptr {name}")
        return name

    def add_to(self, variable: str, kind: str, number: str, by: str = "add") -> None:
        """Add a number of a kind to such a value."""
        before = self.let(f"load {kind}, ptr {variable}")
        after = self.let(f"{by} {kind} {before}, {number}")
        self.emit(f"store {kind} {after}, ptr {variable}")

    # --- numbers and places ---

    def known(self, key: Any) -> Any:
        """What was computed under this key, in this scope or around it."""
        for scope in reversed(self.memory):
            if key in scope:
                return scope[key]
        return None

    def remember(self, key: Any, value: Any) -> Any:
        self.memory[-1][key] = value
        return value

    def integer(self, index: Index) -> str:
        """An index as a number of the code, that of its first lane."""
        result: str | None = None
        for variable, factor in index.terms:
            term = variable if factor == 1 else self.let(f"mul nsw i64 {variable}, {factor}", "t")
            result = term if result is None else self.let(f"add nsw i64 {result}, {term}", "t")
        if result is None:
            return str(index.constant)
        return self.let(f"add nsw i64 {result}, {index.constant}", "t") if index.constant else result

    def range(self, index: Index) -> tuple[int | None, int | None]:
        """The least and the most that an index can be, lanes left aside; None where that is not known."""
        low: int | None = index.constant
        high: int | None = index.constant
        for variable, factor in index.terms:
            least, most = self.bounds.get(variable, (0, None))
            ends = (least, most) if factor > 0 else (most, least)
            low = None if low is None or ends[0] is None else low + factor * ends[0]
            high = None if high is None or ends[1] is None else high + factor * ends[1]
        return low, high

    def address(self, pointer: str, offset: Index, kind: str) -> str:
        return self.let(f"getelementptr {kind}, ptr {pointer}, i64 {self.integer(offset)}", "p")

    def pointer(self, slot: int) -> str:
        """The array at a place in the table."""
        if slot not in self.pointers:
            name = self.name("array")
            self.top.append(f"  {name}p = getelementptr ptr, ptr %table, i64 {slot}")
            self.top.append(f"  {name} = load ptr, ptr {name}p")
            self.pointers[slot] = name
        return self.pointers[slot]

    def at(self, pointer: str, kind: str, place: str) -> str:
        """Where the number at a place is, counted in numbers of a kind."""
        return self.let(f"getelementptr {kind}, ptr {pointer}, i64 {place}", "p")

    def word(self, slot: int) -> str:
        """The whole number at a place in the table."""
        return self.let(f"load i64, ptr {self.at('%table', 'i64', str(slot))}")

    def load(self, pointer: str, offset: Index, dtype: np.dtype[Any], width: int) -> str:
        """Numbers from memory: one where all lanes are at one place, otherwise ``width`` of them."""
        kind = TYPES[dtype]
        size = dtype.itemsize
        if width == 1 or not offset.lanes:
            found = self.let(f"load {kind}, ptr {self.address(pointer, offset, kind)}, align {size}", "x")
            return self.let(f"trunc i8 {found} to i1") if dtype.kind == "b" else found
        vector = f"<{width} x {kind}>"
        if offset.lanes == 1:
            place = self.address(pointer, offset, kind)
            if self.mask is None:
                found = self.let(f"load {vector}, ptr {place}, align {size}", "x")
            else:
                called = f"@llvm.masked.load.{suffix(kind, width)}.p0"
                self.declare(called, f"declare {vector} {called}(ptr, i32, <{width} x i1>, {vector})")
                found = self.let(
                    f"call {vector} {called}(ptr {place}, i32 {size}, <{width} x i1> {self.mask}, "
                    f"{vector} zeroinitializer)",
                    "x",
                )
        else:
            first = self.integer(offset)
            spread = self.splat("i64", first, width)
            places = self.let(f"add <{width} x i64> {spread}, {lane_numbers(width, offset.lanes)}")
            pointers = self.let(f"getelementptr {kind}, ptr {pointer}, <{width} x i64> {places}")
            called = f"@llvm.masked.gather.{suffix(kind, width)}.v{width}p0"
            self.declare(called, f"declare {vector} {called}(<{width} x ptr>, i32, <{width} x i1>, {vector})")
            mask = self.mask or "splat (i1 true)"
            found = self.let(
                f"call {vector} {called}(<{width} x ptr> {pointers}, i32 {size}, <{width} x i1> {mask}, "
                f"{vector} zeroinitializer)",
                "x",
            )
        return self.let(f"trunc {vector} {found} to <{width} x i1>") if dtype.kind == "b" else found

    def store(
        self, pointer: str, offset: Index, dtype: np.dtype[Any], width: int, value: str, passes_by: int = 0
    ) -> None:
        """Numbers to memory; ``passes_by``: whole vectors by the cache, to places that are multiples of so many bytes,
        or of a vector's if these are fewer."""
        kind = TYPES[dtype]
        size = dtype.itemsize
        if dtype.kind == "b":
            bits, whole = ("i1", "i8") if width == 1 else (f"<{width} x i1>", f"<{width} x i8>")
            value = self.let(f"zext {bits} {value} to {whole}")
        place = self.address(pointer, offset, kind)
        if width == 1:
            self.emit(f"store {kind} {value}, ptr {place}, align {size}")
        elif self.mask is None and min(passes_by, width * size) >= 16:
            self.passes_by = True
            align = min(passes_by, width * size)
            self.emit(f"store <{width} x {kind}> {value}, ptr {place}, align {align}, !nontemporal !0")
        elif self.mask is None:
            self.emit(f"store <{width} x {kind}> {value}, ptr {place}, align {size}")
        else:
            called = f"@llvm.masked.store.{suffix(kind, width)}.p0"
            vector = f"<{width} x {kind}>"
            self.declare(called, f"declare void {called}({vector}, ptr, i32, <{width} x i1>)")
            self.emit(f"call void {called}({vector} {value}, ptr {place}, i32 {size}, <{width} x i1> {self.mask})")

    def whole_steps(self, length: int | str, step: int, begin: int | str = 0) -> int | str:
        """How far whole steps go from the beginning."""
        if isinstance(length, int) and isinstance(begin, int):
            return begin + (length - begin) // step * step
        if step == 1:
            return length
        left = length if begin == 0 else self.let(f"sub i64 {length}, {begin}")
        whole = self.let(f"mul i64 {self.let(f'udiv i64 {left}, {step}')}, {step}")
        return whole if begin == 0 else self.let(f"add i64 {begin}, {whole}")

    def splat(self, kind: str, value: str, width: int) -> str:
        """The same number in every lane."""
        if width == 1:
            return value
        if not value.startswith("%"):
            return f"splat ({kind} {value})"
        one = self.let(f"insertelement <{width} x {kind}> poison, {kind} {value}, i64 0")
        return self.let(
            f"shufflevector <{width} x {kind}> {one}, <{width} x {kind}> poison, <{width} x i32> zeroinitializer"
        )

    def first_lanes(self, count: str | int, width: int) -> str:
        """A mask of the first ``count`` lanes."""
        if isinstance(count, int):
            return "<" + ", ".join(f"i1 {'true' if lane < count else 'false'}" for lane in range(width)) + ">"
        return self.let(f"icmp slt <{width} x i64> {lane_numbers(width)}, {self.splat('i64', count, width)}")

    def lanes_left(self, count: int, width: int) -> str | None:
        """A mask of the first ``count`` lanes, where not all of them are there."""
        return None if count >= width else self.first_lanes(count, width)

    def least(self, x: int | str, y: int | str) -> str:
        """The smaller of two integers."""
        called = self.declare("@llvm.smin.i64", "declare i64 @llvm.smin.i64(i64, i64)")
        return self.let(f"call i64 {called}(i64 {x}, i64 {y})")

    def most(self, x: int | str, y: int | str) -> str:
        """The larger of two integers."""
        called = self.declare("@llvm.smax.i64", "declare i64 @llvm.smax.i64(i64, i64)")
        return self.let(f"call i64 {called}(i64 {x}, i64 {y})")

    def fetch(self, pointer: str, offset: Index, dtype: np.dtype[Any], near: int) -> None:
        """Have memory that is read soon brought into a cache: 3 is the nearest, 2 the next."""
        called = self.declare("@llvm.prefetch.p0", "declare void @llvm.prefetch.p0(ptr, i32, i32, i32)")
        place = self.address(pointer, offset, TYPES[dtype])
        self.emit(f"call void {called}(ptr {place}, i32 0, i32 {near}, i32 1)")

    @contextmanager
    def masked(self, mask: str | None) -> Iterator[None]:
        before, self.mask = self.mask, mask
        yield
        self.mask = before

    @contextmanager
    def of_width(self, width: int) -> Iterator[None]:
        before, self.width = self.width, width
        yield
        self.width = before
