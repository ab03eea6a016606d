"""What is stored, and what runs together.

A *root* is a value that is stored; all others are computed where they are read. Roots are gathered in *segments*: a
segment goes through its rows (pictures, or rows of a weight) block by block, and each block passes through all its
kernels while it is in the cache. What a block's rows depend on beyond themselves (a whole matrix of weights, a mean
over the batch) must be there before: so segments stand in *stages*, one after another, and those of one stage are
independent.

Everything here follows from shapes alone: how rows are cut into strands and blocks never depends on how many threads
there are, so that sums are added in one order.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from types import MappingProxyType

from nabi.engines.cpu import convolve, depthwise
from nabi.engines.cpu.folds import FOLDS
from nabi.engines.cpu.lanes import Unwritten
from nabi.engines.cpu.reading import only_unit_axes
from nabi.engines.cpu.values import (
    COLUMNS,
    FAR_WEIGHTS,
    MANY_WEIGHTS,
    STRAND_ROWS,
    VIEWS,
    Value,
    is_awkward,
    is_by_rows,
    is_in_panels,
    panel,
)

TINY = 1 << 13
"""Elements of a root that is not worth a strand of its own."""
FEW_OPERATIONS = 1 << 22
"""Operations of a plan that one thread does faster than two can agree on it."""
STRANDS = 16
"""Rows are cut into so many strands at most; sums are added strand by strand, in their order."""
COLUMN_STRANDS = 4
"""Strands that each transform all tiles, and multiply them with a part of the weights."""
ROUNDED_ROWS = 48
"""Rows of a strand, and of a block, whose product is in bfloat16: enough for each number of the other matrix."""
FEWEST_ROUNDED = 16
"""Rows of one of two strands, which is better than to leave the other thread without work."""
PANELS = 4
"""Panels of 64 columns, at least, of a strand that lays a matrix out: what lies side by side is read at once."""
PARTIALS = 24 << 20
"""Bytes of sums that the strands of one segment may go through, each through its own."""
BLOCK = 1 << 20
"""Bytes that a block may take in the cache."""

DEAR = 120
"""Instructions an element that are not repeated in another kernel: storing and loading costs less."""
PREPARED = "prepared"
ONE_BY_ONE = "one by one"
DEEP = 40
"""Formulas within formulas, at most."""
TILES = 64
"""Tiles of a block that is convolved by Winograd's way: rows of its products."""
FEWEST_TILES = 16
"""Where pictures of several sizes pass through a block, tiles of the smallest."""

STORED = ("sum", "max", "min", "any", "all", "argmax", "argmin", "matmul", "convolution", "convolution_gradient",
          "winograd", "winograd_weight", "winograd_gradient", "moments", "external", "external_part", "rounded_rows",
          "rounded_panels", "rounded_matmul", "strips", "depthwise", "panels")  # fmt: skip
OPERANDS_STORED = ("matmul", "convolution", "convolution_gradient", "winograd", "winograd_gradient", "external",
                   "external_part", "moments", "depthwise")  # fmt: skip
LEAVES = ("input", "array", "constant")
COSTS = {"exp": 20, "log": 25, "sigmoid": 25, "tanh": 60, "erf": 60, "gelu": 100, "pow": 80, "softplus": 80, "silu": 30,
         "expm1": 60, "log1p": 60, "sin": 60, "cos": 60, "sqrt": 6, "divide": 4, "elu": 60}  # fmt: skip


@dataclass(eq=False)
class Root:
    """A value to be stored, and how.

    Attributes
    ----------
    value : Value
    how : str
        "write" its rows; "columns", where they are few, some of a product's columns instead, or channels of a
        convolution; "fold" the rows of its source into partial sums; "combine" those into the value.
    reads : dict of int to bool
        The stored values that it reads, and whether row by row.
    made : Value
        What its kernel computes: the value itself, or what the value is made of, element by element.
    carried : list of Value
        Panels of an input that the next run is likely to be given this value for: they are written along with it.
    """

    value: Value
    how: str
    reads: dict[int, bool] = field(default_factory=dict)
    made: Value = field(kw_only=True)
    carried: list[Value] = field(default_factory=list)

    @property
    def rows(self) -> int:
        if self.how == "columns" and self.made.kind == "convolution":
            return self.made.inputs[1].shape[0]
        if self.how == "columns" and self.made.kind == "depthwise":
            return self.made.shape[3] // depthwise.PART
        if self.how == "columns" and self.value.kind == "winograd":
            return self.value.shape[3] // panel(self.value.shape[3])
        if self.how == "columns":
            return self.value.shape[1]
        shape = self.value.inputs[0].shape if self.how == "fold" else self.value.shape
        return shape[0] if shape else 1


@dataclass(eq=False)
class Segment:
    """Roots whose rows go together.

    Attributes
    ----------
    rows : int
        0 where all is done at once, by one thread.
    prepared : bool
        Whether it is made of state alone, and worth being kept while that is the same.
    together : int
        So many rows are never cut apart.
    """

    rows: int
    stage: int
    prepared: bool = False
    roots: list[Root] = field(default_factory=list)
    strands: int = 1
    block: int = 1
    together: int = 1

    @property
    def even(self) -> bool:
        """Whether all blocks have as many rows."""
        return self.rows > 0 and all((stop - start) % self.block == 0 for start, stop in bounds(self))


@dataclass(eq=False)
class Layout:
    """Segments in stages, and the values that are stored."""

    stages: list[list[Segment]]
    stored: dict[int, Value]

    @property
    def roots(self) -> Iterator[Root]:
        return (root for stage in self.stages for segment in stage for root in segment.roots)


def lay_out(outputs: Sequence[Value], kept: Set[int], following: Mapping[int, int] = MappingProxyType({})) -> Layout:
    """Decide what is stored, and in which segment of which stage.

    Parameters
    ----------
    kept : set of int
        Inputs that are never changed in place.
    following : mapping of int to int
        For some of these, the output that the next run is likely to be given in their place.
    """
    everything = walk(outputs)
    stored = _choose(everything, outputs)
    finished = _finished(stored, {v.serial for v in outputs})
    for made in finished.values():
        del stored[made.serial]
    roots = [root for value in everything if value.serial in stored for root in _roots(value, stored, finished)]
    serial = sum(_work(root.made) for root in roots) < FEW_OPERATIONS
    stages = _place(roots, kept, serial)
    _carry(stages, following)
    for stage in stages:
        for segment in stage:
            _cut(segment)
    return Layout(stages, stored)


def walk(outputs: Iterable[Value]) -> list[Value]:
    """All values that the outputs are made from, in the order in which they were made."""
    found: dict[int, Value] = {}
    pending = list(outputs)
    while pending:
        value = pending.pop()
        if value.serial not in found:
            found[value.serial] = value
            pending += value.inputs
    return [found[serial] for serial in sorted(found)]


def keeps_rows(value: Value) -> bool:
    """Whether it is another's rows in another shape: a matrix that lies in memory already."""
    return value.kind == "reshape" and value.ndim == 2 and value.inputs[0].shape[:1] == value.shape[:1]


def is_fold(value: Value) -> bool:
    """Whether a value adds up over rows."""
    if value.kind in ("moments", "convolution_gradient", "winograd_gradient"):
        return True
    return value.kind == "sum" and folds_rows(value)


def folds_rows(value: Value) -> bool:
    """Whether a fold goes over axis 0, so that it needs all rows at once."""
    return value.kind in FOLDS and 0 in value.settings["axes"]


def _folds_by_strand(value: Value) -> bool:
    """Whether it can be added up strand by strand: over all axes, or all but the last."""
    if value.kind != "sum":
        return is_fold(value)
    x, folded = value.inputs[0], value.settings["axes"]
    return 0 in folded and len(folded) >= x.ndim - 1 and (len(folded) == x.ndim or x.ndim - 1 not in folded)


def _choose(everything: Sequence[Value], outputs: Sequence[Value]) -> dict[int, Value]:
    """The values to store."""
    stored = {v.serial: v for v in outputs if v.kind not in LEAVES}
    for rule in (_needed_in_memory, _read_again_and_again, _deep):
        for value in rule(everything, stored):
            if value.kind not in LEAVES:
                stored.setdefault(value.serial, value)
    while (dear := _dear(everything, stored)) is not None:
        stored[dear.serial] = dear
    return stored


def _needed_in_memory(everything: Sequence[Value], stored: dict[int, Value]) -> Iterator[Value]:
    """What has a kernel of its own, and what such kernels take as it lies in memory."""
    for value in everything:
        if value.kind in STORED:
            yield value
        if value.kind in OPERANDS_STORED:
            for x in value.inputs:
                if value.kind == "matmul":  # it takes matrices as they lie in memory
                    x = x.inputs[0] if x.kind == "permute_dims" else x
                    x = x.inputs[0] if keeps_rows(x) else x
                yield x
        if value.kind == "winograd_weight":
            yield value.inputs[0]
        if value.kind == "reshape" and not only_unit_axes(value) and value.inputs[0].size != 1:
            yield value.inputs[0]
        if value.kind == "scatter_add" and is_awkward(value):
            yield value
        if value.kind == "permute_dims" and any(v.kind == "scatter_add" for v in _inlined(value, stored)):
            yield value.inputs[0]


def _read_again_and_again(everything: Sequence[Value], stored: dict[int, Value]) -> Iterator[Value]:
    """What would be computed for windows that overlap, or for a channel at every pixel."""
    taken: dict[int, int] = {}
    for value in everything:
        for x in value.inputs:
            if value.kind == "getitem":
                taken[x.serial] = taken.get(x.serial, 0) + value.size
            spread = value.kind in ("elementwise", "broadcast_to") and value.size >= 8 * x.size
            if spread and x.kind == "elementwise" and _cost(x, stored) >= 3:
                yield x
    for value in everything:
        if taken.get(value.serial, 0) > 1.5 * value.size and value.kind in ("elementwise", "pad", "scatter_add"):
            yield value


def _deep(everything: Sequence[Value], stored: dict[int, Value]) -> Iterator[Value]:
    """Now and then one of a long chain: a formula within a formula is a call within a call when code is written."""
    depths: dict[int, int] = {}
    for value in everything:
        deepest = max((depths[x.serial] for x in value.inputs if x.serial not in stored), default=0)
        depths[value.serial] = 0 if value.kind in LEAVES else deepest + 1
        if depths[value.serial] >= DEEP:
            yield value


def _dear(everything: Sequence[Value], stored: dict[int, Value]) -> Value | None:
    """The last of what costs much and is read in several kernels."""
    readers: dict[int, set[int]] = {}
    for root in stored.values():
        for value in _inlined(root, stored):
            readers.setdefault(value.serial, set()).add(root.serial)
    for value in reversed(everything):
        shared = len(readers.get(value.serial, ())) > 1 and value.kind == "elementwise"
        if shared and _cost(value, stored) > DEAR:
            return value
    return None


def _goes_on(value: Value) -> bool:
    """Whether a kernel can go on with what it has computed while that is in registers."""
    return value.kind == "depthwise" or (value.kind == "convolution" and value.inputs[1].kind == "panels")


def _is_of_a_whole(value: Value) -> bool:
    """Whether it is computed in strips, of a picture that must be there as a whole."""
    return value.kind == "depthwise" and depthwise.is_of_a_whole(value)


def _finished(stored: dict[int, Value], outputs: Set[int]) -> dict[int, Value]:
    """For each value that is made of what a kernel computes while that is in registers, what the kernel computes."""
    readers: dict[int, list[Value]] = {}
    for root in stored.values():
        for x in {x.serial: x for value in (root, *_inlined(root, stored)) for x in value.inputs}.values():
            if _goes_on(x) and x.serial not in outputs:
                readers.setdefault(x.serial, []).append(root)
    finished: dict[int, Value] = {}
    for serial, roots in readers.items():
        made = stored[serial]
        if len(roots) == 1 and roots[0].serial not in finished and _goes_along(roots[0], made, stored):
            finished[roots[0].serial] = made
    return finished


def _goes_along(root: Value, made: Value, stored: dict[int, Value]) -> bool:
    """Whether each element of a value is made of one element of another, those at the same place, and its channel's."""

    def is_for_channels(value: Value) -> bool:
        return value.shape[-1:] in ((), (1,), made.shape[-1:]) and all(n == 1 for n in value.shape[:-1])

    for value in (root, *_inlined(root, stored)):
        through = value.kind == "elementwise" and value.shape == made.shape
        if not through and (not is_for_channels(value) or any(x is made for x in value.inputs)):
            return False
        if through and not all(x.shape == made.shape or is_for_channels(x) for x in value.inputs):
            return False
    return root.shape == made.shape


def _inlined(root: Value, stored: dict[int, Value]) -> Iterator[Value]:
    """The values that are computed where a root is written."""
    pending, seen = list(root.inputs), set()
    while pending:
        value = pending.pop()
        if value.serial in seen or value.serial in stored or value.kind in LEAVES:
            continue
        seen.add(value.serial)
        yield value
        pending += value.inputs


def _cost(value: Value, stored: dict[int, Value]) -> int:
    """Roughly how many instructions an element takes."""
    return sum(_own_cost(v) for v in (value, *_inlined(value, stored)))


def _own_cost(value: Value) -> int:
    if value.kind != "elementwise":
        return 0
    assert value.formula is not None
    return COSTS.get(value.formula.__name__.rstrip("_"), 1)


def multiply_adds(value: Value) -> int:
    """Multiply-adds of a stored value that is a product of matrices, or a convolution, by its definition."""
    if value.kind == "matmul":
        return value.size * value.inputs[0].shape[1]
    if value.kind == "rounded_matmul":
        return value.size * int(value.settings["depth"])
    if value.kind == "depthwise":
        return value.size * math.prod(_window(value))
    if value.kind in ("convolution", "winograd"):
        return value.size * math.prod(_window(value)) * value.inputs[0].shape[3]
    if value.kind in ("convolution_gradient", "winograd_gradient"):
        x, g = value.inputs
        steps: Sequence[int] = value.settings.get("steps", g.shape[1:3])
        window: Sequence[int] = value.settings.get("kernel", (3, 3))
        return math.prod((*window, x.shape[3], g.shape[3], g.shape[0], *steps))
    return 0


def _window(value: Value) -> tuple[int, ...]:
    return (3, 3) if value.kind == "winograd" else value.settings["kernel"]


def _work(value: Value) -> int:
    """Roughly how many operations a stored value takes."""
    products = 2 * multiply_adds(value)
    return products or 4 * max(1, value.size, *(x.size for x in value.inputs))


# --- reading row by row ---


def _roots(value: Value, stored: dict[int, Value], finished: dict[int, Value]) -> list[Root]:
    if is_fold(value) and _folds_by_strand(value):
        fold, combine = Root(value, "fold", made=value), Root(value, "combine", made=value)
        for x in value.inputs:
            _reads(x, True, x.shape[0], stored, fold.reads)
        return [fold, combine]
    few = value.kind == "matmul" and value.shape[0] < STRAND_ROWS and value.inputs[1].size >= MANY_WEIGHTS
    few = few and not is_in_panels(value.inputs[1])
    few = few or (value.kind == "winograd" and convolve.has_few_tiles(value))
    made = finished.get(value.serial, value)
    few = few or (made.kind == "convolution" and convolve.is_by_columns(made))
    few = few or (made.kind == "depthwise" and depthwise.is_by_columns(made))
    root = Root(value, "columns" if few else "write", made=made)
    whole = is_fold(value) or folds_rows(value)
    rowwise = dict.fromkeys(("matmul", "rounded_matmul", "convolution", "winograd"), (True, False))
    rowwise["depthwise"] = (not _is_of_a_whole(value), False)
    rows = value.shape[0] if value.shape else 1
    if value.kind in rowwise:
        for x, row in zip(value.inputs, rowwise[value.kind], strict=True):
            row = row and not few
            if value.kind == "matmul" and x.kind == "permute_dims" and x.serial not in stored:
                _reads(x.inputs[0], False, rows, stored, root.reads)
            else:
                _reads(x, row, rows, stored, root.reads)
    elif value.kind in STORED:
        aligned = value.kind in (*FOLDS, "argmax", "argmin") and not whole and value.ndim > 0
        aligned = aligned or (value.kind == "rounded_rows" and not value.settings["turned"])
        for x in value.inputs:
            _reads(x, aligned, rows, stored, root.reads)
    else:
        for x, row in _parts(value, value.ndim > 0 and not few, rows):
            _reads(x, row, rows, stored, root.reads)
    return [root]


def _reads(value: Value, row: bool, rows: int, stored: dict[int, Value], reads: dict[int, bool]) -> None:
    """Note what is read through a value: ``row``, if its own axis 0 is the rows."""
    pending, seen = [(value, row)], set()
    while pending:
        value, row = pending.pop()
        row = row and value.ndim > 0 and value.shape[0] == rows
        if value.kind == "constant" or (value.serial, row) in seen:
            continue
        seen.add((value.serial, row))
        if value.serial in stored or value.kind in LEAVES:
            reads[value.serial] = reads.get(value.serial, True) and row
        else:
            pending += _parts(value, row, rows)


def _parts(value: Value, row: bool, rows: int) -> list[tuple[Value, bool]]:
    """What a value is read from where it is not stored, and whether the rows are still axis 0 there."""
    if value.kind in ("elementwise", "broadcast_to"):
        return [(x, row and x.ndim == value.ndim and x.shape[0] == rows) for x in value.inputs]
    if value.kind == "reshape":
        (x,) = value.inputs
        return [(x, row and x.ndim > 0 and x.shape[0] == rows)]
    if value.kind == "permute_dims":
        return [(value.inputs[0], row and value.settings["axes"][0] == 0)]
    if value.kind in ("getitem", "scatter_add") and not value.settings["key"]:
        return [(x, False) for x in value.inputs]
    if value.kind == "getitem":
        item = value.settings["key"][0]
        whole = not isinstance(item, int | None) and (item.start, item.step) == (0, 1)
        return [(value.inputs[0], row and whole and value.inputs[0].shape[0] == rows)]
    if value.kind == "scatter_add":
        item = value.settings["key"][0]
        whole = (item.start, item.step) == (0, 1) and value.inputs[1].shape[0] == rows
        return [(value.inputs[0], row), (value.inputs[1], row and whole)]
    if value.kind == "pad":
        return [(value.inputs[0], row and value.settings["widths"][0] == (0, 0))]
    if value.kind == "flip":
        return [(value.inputs[0], row and 0 not in value.settings["axis"])]
    if value.kind == "concat":
        return [(x, row and value.settings["axis"] != 0) for x in value.inputs]
    if _goes_on(value):
        x, weight = value.inputs
        return [(x, row and not _is_of_a_whole(value)), (weight, False)]
    if value.kind in VIEWS:
        return []
    raise Unwritten(f"{value.kind} is read but not stored")


# --- stages ---


def _place(roots: Sequence[Root], kept: Set[int], serial: bool) -> list[list[Segment]]:
    stages: list[dict[int | str, Segment]] = []
    home: dict[int, Segment] = {}  # where a value is ready, or its rows are
    folding: dict[int, Segment] = {}  # where a value's partial sums are made

    def at(stage: int, key: int | str, rows: int = 0) -> Segment:
        while len(stages) <= stage:
            stages.append({})
        if key not in stages[stage]:
            rows = rows if isinstance(key, str) else key
            stages[stage][key] = Segment(rows, stage, str(key).startswith(PREPARED))
        return stages[stage][key]

    placed: list[Segment] = []
    for root in roots:
        value = root.value
        if root.how == "combine":
            segment = at(folding[value.serial].stage + (0 if serial else 1), ONE_BY_ONE)
        elif value.kind in ("external", "external_part"):
            stage = max((home[s].stage + 1 for s in root.reads if s in home), default=0)
            segment = at(stage, f"external {value.serial}")
        else:
            alone, together = 0, 0
            joined = False
            for s, row in root.reads.items():
                if s not in home:
                    continue
                there = home[s]
                alone = max(alone, there.stage + (there is not stages[there.stage].get(ONE_BY_ONE)))
                if row and there is stages[there.stage].get(root.rows):  # whose rows are the same, and not columns
                    together, joined = max(together, there.stage), True
                else:
                    together = max(together, there.stage + 1)
            whole = root.how == "write" and (
                value.kind == "winograd_weight"
                or (value.kind == "scatter_add" and is_awkward(value) and not is_by_rows(value))
                or not value.shape
                or folds_rows(value)
            )
            tiny = _work(root.made) <= 4 * TINY and not joined
            if value.kind == "winograd_weight" and root.reads.keys() <= kept:
                segment = at(0, f"{PREPARED} {value.serial}")
            elif value.kind == "panels" and not is_in_panels(value) and root.reads.keys() <= kept:
                segment = at(0, f"{PREPARED} panels")
            elif serial or whole or tiny:
                segment = at(alone, ONE_BY_ONE)
            elif root.how == "columns":
                segment = at(together, f"columns {root.rows}", root.rows)
            elif is_in_panels(value):
                prepared = root.reads.keys() <= kept
                key = f"{PREPARED} {value.serial}" if prepared else f"panels {value.serial}"
                segment = at(0 if prepared else together, key, root.rows)
            else:
                segment = at(together, root.rows)
        placed.append(segment)
        if root.how == "fold":
            folding[value.serial] = segment
        home[value.serial] = segment
    _wait(roots, placed, stages)
    for root, segment in zip(roots, placed, strict=True):
        segment.roots.append(root)
    _verify(roots, placed)
    filled = ([segment for segment in stage.values() if segment.roots] for stage in stages)
    return [stage for stage in filled if stage]


def _verify(roots: Sequence[Root], placed: Sequence[Segment]) -> None:
    """Raise unless all that a root reads is there when it is read: since an earlier stage, or earlier in its rows."""
    made = {root.value.serial for root in roots}
    ready: dict[int, Segment] = {}
    folded: dict[int, Segment] = {}
    for root, segment in zip(roots, placed, strict=True):
        needed = [(ready.get(serial), row) for serial, row in root.reads.items() if serial in made]
        if root.how == "combine":
            needed.append((folded.get(root.value.serial), False))
        for home, row in needed:
            within = home is segment and (row or segment.rows == 0)
            if home is None or not (home.stage < segment.stage or within):
                raise AssertionError(f"{root.value.kind} {root.value.shape} is in a stage before what it reads is made")
        (folded if root.how == "fold" else ready)[root.value.serial] = segment


def _wait(roots: Sequence[Root], placed: list[Segment], stages: Sequence[Mapping[int | str, Segment]]) -> None:
    """Move rows to the first stage that reads them, where all its readers go through the same rows in one segment.

    They are in the cache then when they are read: so a product waits for the random numbers of what drops some of it.
    """
    readers: dict[int, list[int]] = {}
    for number in reversed(range(len(roots))):
        root, segment = roots[number], placed[number]
        reading = readers.get(root.value.serial, [])
        first = min((placed[reader].stage for reader in reading), default=segment.stage)
        target = stages[first].get(root.rows)
        by_rows = all(
            placed[reader] is target and roots[reader].reads[root.value.serial]
            for reader in reading
            if placed[reader].stage == first
        )
        if root.how == "write" and segment is stages[segment.stage].get(root.rows) and target is not None and by_rows:
            placed[number] = target
        for serial in root.reads:
            readers.setdefault(serial, []).append(number)


def _carry(stages: Sequence[Sequence[Segment]], following: Mapping[int, int]) -> None:
    """Have panels of weights written along with the weights' new values, which need not be read again for it then.

    They come to lie where the panels of this run do, once nobody reads those any longer.
    """
    found = [(n, segment, root) for n, stage in enumerate(stages) for segment in stage for root in segment.roots]
    places = {root.value.serial: (n, segment, root) for n, segment, root in found}
    last = {serial: n for n, _, root in found for serial in root.reads}
    for _, segment, root in found:
        panels = root.value
        if not segment.prepared or not is_in_panels(panels) or panels.settings["turned"]:
            continue
        new = following.get(panels.inputs[0].serial)
        if new not in places:
            continue
        n, home, update = places[new]
        by_rows = update.how == "write" and update.value.kind == "elementwise" and home.rows == update.rows
        if by_rows and update.made is update.value and last[panels.serial] < n:
            update.carried.append(panels)
            home.together = max(home.together, 2 if panels.kind == "rounded_panels" else 1)


def _cut(segment: Segment) -> None:
    """Cut rows into strands, and strands into blocks that fit into the cache."""
    if not segment.rows:
        segment.block = 0
        return
    segment.strands = _strands(segment)
    longest = max(stop - start for start, stop in bounds(segment))
    segment.block = min(_block(segment, longest), longest)
    segment.block = -(-segment.block // segment.together) * segment.together


def bounds(segment: Segment) -> list[tuple[int, int]]:
    """The rows of each strand."""
    rows, strands, together = segment.rows, segment.strands, segment.together
    groups = -(-rows // together)
    return [*itertools.pairwise(min(rows, n * groups // strands * together) for n in range(strands + 1))]


def _far(segment: Segment) -> bool:
    """Whether much of its work is products with a matrix that is far away."""
    return _is_much(segment, lambda value: value.kind == "matmul" and value.inputs[1].size >= FAR_WEIGHTS)


def _rounded(segment: Segment) -> bool:
    """Whether much of its work is products in bfloat16."""
    return _is_much(segment, lambda value: value.kind == "rounded_matmul")


def _is_much(segment: Segment, chosen: Callable[[Value], bool]) -> bool:
    """Whether values that are chosen are at least a quarter of the work."""
    made = [root.made for root in segment.roots]
    return 4 * sum(_work(value) for value in made if chosen(value)) > sum(map(_work, made))


def _lays_panels(segment: Segment) -> bool:
    return is_in_panels(segment.roots[0].value)


def _strands(segment: Segment) -> int:
    """As many as there is work for; fewer, but two if they can be, where rows should stay together."""
    rows, work = segment.rows, sum(_work(root.made) for root in segment.roots)
    strands = min(STRANDS, rows, max(1, work >> 18))
    if any(root.how == "columns" and root.value.kind == "winograd" for root in segment.roots):
        strands = min(strands, COLUMN_STRANDS)
    if _far(segment):
        strands = min(strands, max(rows // STRAND_ROWS, 2 if rows >= 2 * ROUNDED_ROWS else 1))
    if _rounded(segment):
        even = 1 << max(1, rows // ROUNDED_ROWS).bit_length() - 1
        strands = min(strands, max(even, 2 if rows >= 2 * FEWEST_ROUNDED else 1))
    if _lays_panels(segment):
        columns = rows * segment.roots[0].value.shape[-1]
        strands = min(strands, max(2, columns // (PANELS * COLUMNS)))
    passed = sum(_sums_size(root.value) for root in segment.roots if root.how == "fold")
    if passed:
        strands = min(strands, max(2, 1 << (max(1, PARTIALS // passed).bit_length() - 1)))
    return max(1, strands)


def _block(segment: Segment, longest: int) -> int:
    """Rows that are gone through together, of a strand of at most so many."""
    each = sum(_block_bytes(root) for root in segment.roots)
    most, least = 0, 0
    enough: list[int] = []
    for root in segment.roots:
        if root.how == "columns":
            continue
        if root.value.kind in ("winograd", "winograd_gradient"):
            most = max(most, convolve.winograd_size(root.value))
            tiles = convolve.tiles_each(root.value)
            enough.append(-(-TILES // tiles))
            least = max(least, -(-FEWEST_TILES // tiles))
        elif root.made.kind in ("convolution", "convolution_gradient") and not convolve.is_one_by_one(root.made):
            most = max(most, convolve.patches_size(root.made, 1))
            least = max(least, convolve.enough_pictures(root.made))
    block = max(1, least, min(enough, default=0), BLOCK // max(each + most, 1))
    if _lays_panels(segment):
        return longest
    if _far(segment):
        block = max(block, min(longest, STRAND_ROWS))
        block = -(-longest // max(1, longest // block))  # the last as large as the others, where that can be
    if _rounded(segment):
        blocks = max(1, longest // max(ROUNDED_ROWS, min(block, STRAND_ROWS)))
        block = -(-longest // (6 * blocks)) * 6  # in whole tiles of vectors, the last as large as the others
    return block


def _block_bytes(root: Root) -> int:
    value = root.value.inputs[0] if root.how == "fold" else root.value
    return value.size // max(1, value.shape[0] if value.shape else 1) * value.dtype.itemsize


def _sums_size(value: Value) -> int:
    """Bytes of the sums that a strand goes through on the way to its partial sum."""
    if value.kind == "winograd_gradient":
        return convolve.sums_size(value)
    return partial_size(value)


def partial_size(value: Value) -> int:
    """Bytes of one strand's partial sum."""
    if value.kind == "moments":
        return 8 * value.size
    if value.kind == "sum":
        return 8 * max(1, value.size)
    return 4 * value.size
