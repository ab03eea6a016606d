"""A plan as segments of machine code in memory that is laid out beforehand, and how a run goes through them."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from nabi import machine
from nabi.engines.cpu import (
    bfloat16,
    blas,
    carried,
    contract,
    convolve,
    depthwise,
    folds,
    kernels,
    narrow,
    panels,
    strips,
)
from nabi.engines.cpu.code import ZERO, Code
from nabi.engines.cpu.folds import FOLDS
from nabi.engines.cpu.kernels import Rows
from nabi.engines.cpu.memory import aligned, share_out
from nabi.engines.cpu.profile import About, about
from nabi.engines.cpu.reading import Place, Reader
from nabi.engines.cpu.recall import Kernel, recalled, remember
from nabi.engines.cpu.segments import Layout, Root, Segment, bounds, folds_rows, lay_out, partial_size, walk
from nabi.engines.cpu.values import Value, is_by_panels, is_in_panels, spell
from nabi.graph.plan import Plan
from nabi.waiting import saying_that_code_is_made, tell

ELSEWHERE = ("input", "constant", "array", "external", "external_part")
"""Kinds of values that no kernel writes."""


class Task(NamedTuple):
    """A piece of work that depends on no other of its stage: the rows of one strand."""

    call: Callable[..., None]
    start: int
    stop: int
    strand: int
    about: About
    share: float


class Prepared(NamedTuple):
    """A piece of work that need not be done again while the inputs that it reads are the same arrays.

    Attributes
    ----------
    asks : int
        The place in the table that says whether it must be.
    carried : int or None
        The output that a run does it for, too: for a next run that is given this output as its input.
    """

    task: Task
    inputs: tuple[int, ...]
    asks: int
    carried: int | None


class External(NamedTuple):
    """What NumPy computes between two stages."""

    value: Value
    about: About


Step = Task | Prepared | External


class Program:
    """What is to be run for a plan, made once.

    Attributes
    ----------
    slots : dict of int to int
        For each value that is an array, its place in the table of addresses.
    kept : int
        How many of the inputs, the last, are never changed in place.
    updates : bool
        Whether the last outputs are what some of these are next.
    carried : dict of int to int
        For panels of an input that a run writes for the next one, too, the output that this must be given for it.
    kernels : list of Kernel
        What was made of each segment, in their order.
    """

    def __init__(
        self,
        plan: Plan,
        kept: int = 0,
        winograd: bool = True,
        rounded: bool = False,
        updates: Sequence[int] = (),
        name: str | None = None,
    ) -> None:
        begun = time.monotonic()
        self.kept, self.updates = kept, bool(updates)
        xp, self.inputs, self.outputs = spell(plan, winograd, rounded, machine.processor().matrix_registers)
        self.outputs = strips.cut(xp, self.outputs, walk(self.outputs))
        state = self.inputs[len(self.inputs) - kept :]
        new = self.outputs[len(self.outputs) - len(updates) :]
        following = {state[number].serial: v.serial for number, v in zip(updates, new, strict=True)}
        layout = lay_out(self.outputs, {v.serial for v in state}, following)
        self.carried = {panels.serial: root.value.serial for root in layout.roots for panels in root.carried}
        self.library = blas.find()
        self.slots: dict[int, int] = {}
        self.partials: dict[int, int] = {}
        self.count = 2  # the first two are BLAS's functions
        self.places: dict[int, Place] = {}
        self.arrays: list[tuple[int, Any]] = []  # constants that are arrays
        for value in self._leaves(layout):  # the inputs first
            self._give_slot(value)
        for value in self.outputs:
            if value.kind not in ELSEWHERE and value.serial not in self.slots:
                self._give_slot(value)
        local = _local(layout, {v.serial for v in self.outputs})
        for stage in layout.stages:
            for segment in stage:
                for root in segment.roots:
                    if root.how == "fold":
                        self.partials[root.value.serial] = self.count
                        self.count += 1
                    if root.value.serial not in local and root.value.serial not in self.slots:
                        self._give_slot(root.value)
        self.passing = _passing(layout, self.outputs) if machine.processor().passes_by else {}
        self.passing |= {panels: machine.CACHE_LINE for panels, new in self.carried.items() if new in self.passing}
        self.homes = {
            root.value.serial: segment
            for stage in layout.stages
            for segment in stage
            for root in segment.roots
            if root.how == "fold"
        }
        self.kernels: list[Kernel] = []
        known = recalled(name)
        self.stages: list[list[Step]] = []
        done, total = 0, sum(map(len, layout.stages))
        with saying_that_code_is_made():
            for stage in layout.stages:
                tasks: list[Step] = []
                for segment in stage:
                    tasks += self._tasks(segment, local, layout, known)
                    done += 1
                    if time.monotonic() - begun > 1:
                        tell(done, total)
                self.stages.append(tasks)
        if self.kernels != known:
            remember(name, self.kernels)
        self.scratch = max((kernel.scratch for kernel in self.kernels), default=0)
        self.calls_blas = any(kernel.calls_blas for kernel in self.kernels)
        self.size, self.offsets = self._memory(layout, local)
        machine.spent += time.monotonic() - begun

    def _leaves(self, layout: Layout) -> list[Value]:
        found = {v.serial: v for v in self.inputs}
        pending = [*self.outputs, *layout.stored.values()]
        seen: set[int] = set()
        while pending:
            value = pending.pop()
            if value.serial in seen:
                continue
            seen.add(value.serial)
            if value.kind in ("array", "input"):
                found[value.serial] = value
            pending += value.inputs
        return list(found.values())

    def _give_slot(self, value: Value) -> None:
        self.slots[value.serial] = self.count
        self.places[value.serial] = Place(self.count)
        if value.kind == "array":
            self.arrays.append((self.count, value.held))
        self.count += 1

    # --- code ---

    def _tasks(self, segment: Segment, local: set[int], layout: Layout, known: Sequence[Kernel]) -> list[Step]:
        first = segment.roots[0].value
        told = about(segment, local, layout.stored, self.inputs, self.updates)
        if first.kind in ("external", "external_part"):
            return [External(root.value, told) for root in segment.roots]
        number = len(self.kernels)
        kernel = known[number] if number < len(known) else None
        call = None if kernel is None else machine.kept(kernel.name)
        if kernel is None or call is None:
            text, scratch, calls_blas = self._write(segment, local)
            kernel, call = Kernel(machine.name_of(text), scratch, calls_blas), machine.compile(text)
        self.kernels.append(kernel)
        if segment.prepared:
            numbers = {v.serial: number for number, v in enumerate(self.inputs)}
            read = {numbers[serial] for root in segment.roots for serial in root.reads if serial in numbers}
            asks = self.count
            self.count += 1
            new = self.carried.get(first.serial)
            return [Prepared(task, tuple(sorted(read)), asks, new) for task in _strands(segment, call, told)]
        return [*_strands(segment, call, told)]

    def _write(self, segment: Segment, local: set[int]) -> tuple[str, int, bool]:
        """The text of a segment's function, the bytes of scratch memory that it needs, and whether it calls BLAS."""
        processor = machine.processor()
        code = Code(processor.vector, processor.rounds_once, processor.matrix_registers)
        groups = _alike(segment.roots)
        used, offsets = _passing_through(groups, segment, local - _unwritten(groups))
        places = self.places | {serial: Place(-1, offset) for serial, offset in offsets.items()}
        sums: dict[int, str] = {}
        for root in segment.roots:
            if root.value.kind == "winograd_gradient" and root.how == "fold":
                place = code.let(f"getelementptr i8, ptr %scratch, i64 {used}", "sums")
                sums[root.value.serial] = place
                used += aligned(convolve.sums_size(root.value))
        work_at = used
        used += max((aligned(_workspace(root, segment)) for root in segment.roots), default=0)
        work = code.let(f"getelementptr i8, ptr %scratch, i64 {work_at}", "work")
        partial: dict[int, str] = {}
        for root in segment.roots:
            if root.how == "fold":
                pointer = code.pointer(self.partials[root.value.serial])
                size = partial_size(root.value)
                offset = code.let(f"mul i64 %strand, {size}")
                partial[root.value.serial] = code.let(f"getelementptr i8, ptr {pointer}, i64 {offset}", "part")
                _clear(code, partial[root.value.serial], size)
        if not segment.rows:
            reader = Reader(code, places, ZERO, 0)
            for roots in groups:
                self._kernel(reader, None, roots, partial, sums, work, segment)
            return code.text(), used, _calls_blas(code)
        with code.loop("%start", "%stop", segment.block) as start:
            left = code.let(f"sub i64 %stop, {code.integer(start)}")
            short = code.let(f"icmp slt i64 {left}, {segment.block}")
            count = code.let(f"select i1 {short}, i64 {left}, i64 {segment.block}", "rows")
            reader = Reader(code, places, start, segment.rows, self.passing)
            for roots in groups:
                self._kernel(reader, Rows(start, count), roots, partial, sums, work, segment)
        for root in segment.roots:
            serial = root.value.serial
            if serial in sums:
                reader = Reader(code, places, ZERO, 0)
                convolve.winograd_gradient_back(reader, root.value, sums[serial], partial[serial])
        return code.text(), used, _calls_blas(code)

    def _kernel(
        self, reader: Reader, rows: Rows | None, roots: list[Root], partial: dict[int, str], sums: dict[int, str],
        work: str, segment: Segment,
    ) -> None:  # fmt: skip
        code, root = reader.code, roots[0]
        value = root.value
        if root.how == "combine":
            home = self.homes[value.serial]
            counts = [stop - start for start, stop in bounds(home)] if home.rows else [root.value.inputs[0].shape[0]]
            folds.combine(reader, value, code.pointer(self.partials[value.serial]), counts)
            return
        if rows is None:
            rows = Rows(ZERO, root.rows)
        block = segment.block or (rows.length if isinstance(rows.length, int) else 0)
        if root.how == "fold":
            if value.kind == "sum":
                folds.fold_rows(reader, rows, [r.value for r in roots], partial)
            elif value.kind == "moments":
                before = "0" if not segment.rows else code.let(f"sub i64 {code.integer(rows.first)}, %start")
                folds.moments(reader, rows, value, partial[value.serial], before)
            elif value.kind == "winograd_gradient":
                place = sums[value.serial]
                add = code.let(f"icmp ne i64 {code.integer(rows.first)}, %start") if segment.rows else False
                convolve.winograd_gradient(reader, rows, value, place, self.library, work, block, add)
                if not segment.rows:
                    convolve.winograd_gradient_back(reader, value, place, partial[value.serial])
            else:
                convolve.convolution_gradient(reader, rows, value, partial[value.serial], self.library, work, block)
        elif root.how == "columns" and value.kind == "winograd":
            convolve.winograd_columns(reader, rows, value, self.library, work)
        elif root.how == "columns" and root.made.kind == "convolution":
            convolve.convolution_columns(reader, rows, root.made, value, work)
        elif root.how == "columns" and root.made.kind == "depthwise":
            depthwise.depthwise_columns(reader, rows, root.made, value)
        elif root.how == "columns":
            contract.columns(reader, rows, value, self.library, work)
        elif is_by_panels(value):
            if segment.even:
                rows = rows._replace(length=block)
            panels.matmul(reader, rows, block, [(r.value, r.carried) for r in roots], work)
        elif value.kind == "matmul" and narrow.suits(value, segment.block or value.shape[0]):
            narrow.matmul(reader, rows, value, work)
        elif value.kind == "matmul":
            contract.matmul(reader, rows, value, self.library, work)
        elif value.kind == "rounded_rows":
            bfloat16.round_rows(reader, rows, value)
        elif value.kind == "rounded_panels":
            bfloat16.round_panels(reader, rows, value)
        elif is_in_panels(value):
            panels.lay_out(reader, rows, value)
        elif value.kind == "rounded_matmul":
            bfloat16.matmul(reader, rows, value)
        elif root.made.kind == "convolution":
            convolve.convolution(reader, rows, root.made, value, self.library, work)
        elif root.made.kind == "depthwise":
            depthwise.depthwise(reader, rows, root.made, value)
        elif value.kind == "winograd":
            convolve.winograd(reader, rows, value, self.library, work, block)
        elif value.kind == "winograd_weight":
            convolve.winograd_weight(reader, value)
        elif value.kind in FOLDS or value.kind in ("argmax", "argmin"):
            if folds_rows(value):
                rows = Rows(ZERO, value.inputs[0].shape[0])
            folds.fold(reader, rows, value)
        elif any(r.carried for r in roots):
            carried.write(reader, rows, [(r.value, r.carried) for r in roots])
        else:
            kernels.write(reader, rows, [r.value for r in roots])

    # --- memory ---

    def _memory(self, layout: Layout, local: set[int]) -> tuple[int, dict[int, int]]:
        """Bytes of all arrays between stages, and where each lies."""
        given = {v.serial for v in (*self.inputs, *self.outputs)}
        born: dict[int, int] = {}
        dies: dict[int, int] = {}
        sizes: dict[int, int] = {}
        for number, stage in enumerate(layout.stages):
            for segment in stage:
                for root in segment.roots:
                    value = root.value
                    if root.how == "fold":
                        slot = self.partials[value.serial]
                        born[slot], sizes[slot] = number, partial_size(value) * segment.strands
                        dies[slot] = number
                    elif value.serial not in local and value.serial not in given and value.kind[:8] != "external":
                        slot = self.slots[value.serial]
                        born.setdefault(slot, number)
                        dies.setdefault(slot, len(layout.stages) if segment.prepared else number)
                        sizes[slot] = max(1, value.size) * value.dtype.itemsize
                    if root.how == "combine":
                        dies[self.partials[value.serial]] = number
                    for serial in root.reads:
                        slot = self.slots.get(serial, -1)
                        if slot in sizes:
                            dies[slot] = max(dies[slot], number)
        return share_out(sizes, born, dies)


def _strands(segment: Segment, call: Callable[..., None], told: About) -> Iterator[Task]:
    """The work of a segment, strand by strand."""
    if not segment.rows:
        yield Task(call, 0, 0, 0, told, 1.0)
        return
    for strand, (start, stop) in enumerate(bounds(segment)):
        if stop > start:
            yield Task(call, start, stop, strand, told, (stop - start) / segment.rows)


def _passing_through(groups: list[list[Root]], segment: Segment, local: set[int]) -> tuple[int, dict[int, int]]:
    """Bytes of what a block's kernels leave to each other, and where each value lies, as long as it is needed."""
    born: dict[int, int] = {}
    dies: dict[int, int] = {}
    sizes: dict[int, int] = {}
    for number, roots in enumerate(groups):
        for root in roots:
            value = root.value
            if value.serial in local:
                born[value.serial] = dies[value.serial] = number
                sizes[value.serial] = segment.block * value.size // value.shape[0] * value.dtype.itemsize
            dies.update((serial, number) for serial in root.reads if serial in born)
    return share_out(sizes, born, dies)


def _calls_blas(code: Code) -> bool:
    """The first two words of a table are its functions."""
    return not code.pointers.keys().isdisjoint((0, 1))


def _clear(code: Code, pointer: str, size: int) -> None:
    name = code.declare("@llvm.memset.p0.i64", "declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)")
    code.emit(f"call void {name}(ptr {pointer}, i8 0, i64 {size}, i1 false)")


def _workspace(root: Root, segment: Segment) -> int:
    """Bytes of work memory that a root's kernel needs."""
    value = root.made
    if root.how == "combine":
        return 0
    if root.how == "columns" and value.kind == "winograd":
        return value.shape[0] * convolve.winograd_size(value)
    if root.how == "columns" and value.kind == "convolution":
        return convolve.patches_size(value, 1)
    rows = segment.block or (value.inputs[0].shape[0] if value.inputs and value.inputs[0].shape else 1)
    if value.kind == "matmul":
        if is_by_panels(value):
            return panels.workspace(value, rows)
        suits = narrow.suits(value, segment.block or value.shape[0])
        return narrow.workspace(value) if suits else contract.workspace(value)
    if value.kind in ("convolution", "convolution_gradient"):
        return convolve.patches_size(value, rows)
    if value.kind in ("winograd", "winograd_gradient"):
        return rows * convolve.winograd_size(value)
    return 0


def _alike(roots: Sequence[Root]) -> list[list[Root]]:
    """Roots in order; neighbours that one loop can serve are put together."""
    groups: list[list[Root]] = []
    for root in roots:
        if groups and _same_loop(groups[-1], root):
            groups[-1].append(root)
        else:
            groups.append([root])
    return groups


def _same_loop(group: list[Root], root: Root) -> bool:
    first = group[0]
    if any(r.made is not r.value for r in (first, root)):
        return False
    if len(group) >= 4 or first.how != root.how:
        return False
    if not _reads_in_place(root, {r.value.serial for r in group}):
        return False
    if _is_in_tiles(first):
        return any(r.value.serial in root.reads for r in group)
    if root.how == "fold":
        same = root.value.kind == first.value.kind == "sum"
        return (
            same
            and root.value.inputs[0].shape == first.value.inputs[0].shape
            and (
                root.value.settings == first.value.settings
                and len(root.value.settings["axes"]) < root.value.inputs[0].ndim
            )
        )
    plain = all(v.kind not in FOLDS and v.kind in ("elementwise", "getitem", "broadcast_to", "reshape", "permute_dims")
                for v in (root.value, first.value))  # fmt: skip
    return root.how == "write" and plain and root.value.shape == first.value.shape


def _reads_in_place(root: Root, made: set[int]) -> bool:
    """Whether it reads these values, if at all, element by element, each at its own place."""
    shape = root.value.shape
    pending, seen = [(root.value, True)], set()
    while pending:
        value, in_place = pending.pop()
        if (value.serial, in_place) in seen:
            continue
        seen.add((value.serial, in_place))
        for x in value.inputs:
            still = in_place and value.kind == "elementwise" and x.shape == shape
            if x.serial in made and not still:
                return False
            if x.serial not in root.reads:
                pending.append((x, still))
    return True


def _is_in_tiles(root: Root) -> bool:
    """Whether it is a product in tiles of registers, where others can be made of it element by element."""
    return root.how == "write" and is_by_panels(root.value)


def _unwritten(groups: list[list[Root]]) -> set[int]:
    """What nobody reads but those that are made of it in registers."""
    found: set[int] = set()
    for group in groups:
        if _is_in_tiles(group[0]):
            elsewhere = {serial for other in groups if other is not group for root in other for serial in root.reads}
            found |= {root.value.serial for root in group} - elsewhere
            if panels.is_cut(group[0].value):
                found.discard(group[0].value.serial)
    return found


OUT_OF_CACHE = 16 << 20
"""Bytes of results that do not stay in the cache to the next run."""
LARGE = 1 << 20
"""Bytes of one of them, at least."""


def _passing(layout: Layout, outputs: Sequence[Value]) -> dict[int, int]:
    """Results that nobody reads in this run, and that are so large that the next finds nothing of them in the cache;
    and the bytes that their vectors lie at multiples of.

    Weights after a step, say: written by the cache, they need not be fetched before they are written over. A vector
    must then lie at a multiple of 16 bytes, which those of a single axis, cut anywhere, do not; best of a cache line.
    """
    groups = [group for stage in layout.stages for segment in stage for group in _alike(segment.roots)]
    written: dict[int, int] = {}  # and what bytes of a row must be a multiple of
    read: set[int] = set()
    for group in groups:
        own = {root.value.serial for root in group}  # which are read from registers
        read |= {serial for root in group for serial in root.reads} - own
        if group[0].how == "write":  # tiles end in the midst of a row, and must not end in the midst of a line
            written |= dict.fromkeys(own, machine.CACHE_LINE if _is_in_tiles(group[0]) else 16)
    found = {
        v.serial: v.size * v.dtype.itemsize
        for v in outputs
        if v.serial in written.keys() - read and len(v.shape) > 1
        if v.shape[-1] * v.dtype.itemsize % written[v.serial] == 0
        if v.kind != "pad"  # whose inside begins anywhere
    }
    large = {serial: size for serial, size in found.items() if size >= LARGE}
    if sum(large.values()) < OUT_OF_CACHE:
        return {}
    return {
        v.serial: math.gcd(machine.CACHE_LINE, v.shape[-1] * v.dtype.itemsize) for v in outputs if v.serial in large
    }


def _local(layout: Layout, outputs: set[int]) -> set[int]:
    """Stored values whose rows nobody needs but the segment that they are made in."""
    made: dict[int, Segment] = {}
    kept: set[int] = set(outputs)
    for stage in layout.stages:
        for segment in stage:
            for root in segment.roots:
                if root.how == "write" and segment.rows:
                    made[root.value.serial] = segment
                for serial, row in root.reads.items():
                    if made.get(serial) is not segment or not row:
                        kept.add(serial)
    return {serial for serial in made if serial not in kept}
