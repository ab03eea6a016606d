"""The reference engine: NumPy, one node after another. What it gives is what is right.

Neighbouring elementwise nodes of one large shape are run together, a block of rows at a time, so that what passes
between them stays in the processor's cache. Each element sees the same arithmetic in the same order either way, so the
numbers are the same to the bit; only the walks through memory are fewer.

In the precision "bf16" the operands of products of matrices, of which convolutions are made, are rounded to bfloat16,
and then multiplied in float32.
"""

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from nabi.engines import UNHELD, Run, owned
from nabi.graph import namespace
from nabi.graph.node import Node
from nabi.graph.plan import Plan, last_uses

BLOCK = 1 << 15
"""Elements in a block: a few blocks of float32 fit into a core's second-level cache."""

Values = list[Any]


def to_bfloat16(x: Any) -> Any:
    """float32 numbers, each rounded to the nearest that bfloat16 has: of two, to the even one.

    bfloat16 is the upper half of float32: its sign, its exponent, and 7 of its 23 bits behind the point.

    Examples
    --------
    >>> to_bfloat16(np.array([1.0, 1.00390625, 1.01171875, 3.2], np.float32)).tolist()
    [1.0, 1.0, 1.015625, 3.203125]
    """
    bits = np.asarray(x).view(np.uint32)
    nearest = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
    return np.where(np.isnan(x), x, nearest.view(np.float32))


def _rounded_matmul(x: Any, y: Any) -> Any:
    if x.dtype == y.dtype == np.float32:
        x, y = to_bfloat16(x), to_bfloat16(y)
    return namespace.numpy.matmul(x, y)


rounding = namespace.Namespace(namespace.numpy, matmul=_rounded_matmul)
"""NumPy as ``xp``, with products whose operands are rounded to bfloat16."""


class Step(NamedTuple):
    """Something to do: ``act`` reads and writes the values by slot, then those in ``dead`` are let go."""

    act: Callable[[Values], None]
    dead: list[int]


def prepare(plan: Plan, kept: int, precision: str = "float32", updates: Sequence[int] = ()) -> Run:
    """A function that runs the plan; see `nabi.engines`. With the precision "auto" it computes in float32."""
    xp = rounding if precision == "bf16" else namespace.numpy
    slots: dict[int, int] = {}
    for node in (*plan.inputs, *plan.constants, *plan.nodes):
        slots.setdefault(node.serial, len(slots))
    groups = cluster(plan.nodes)
    ordered = Plan(plan.inputs, plan.constants, tuple(node for group in groups for node in group), plan.outputs)
    dead = [[slots[serial] for serial in serials] for serials in last_uses(ordered)]
    wanted = {output.serial for output in plan.outputs}
    program: list[Step] = []
    done = 0
    for group in groups:
        gone = [slot for slots_of_node in dead[done : done + len(group)] for slot in slots_of_node]
        done += len(group)
        if len(group) == 1:
            program.append(Step(_one(group[0], slots, xp), gone))
        else:
            inside = {node.serial for node in group}
            used = {s.serial for node in ordered.nodes if node.serial not in inside for s in node.inputs} | wanted
            program.append(Step(_together(group, slots, used), gone))
    places = [slots[node.serial] for node in plan.inputs]
    fixed = [(slots[node.serial], node.held) for node in plan.constants]
    outputs = [slots[node.serial] for node in plan.outputs]

    def run(inputs: Sequence[Any]) -> list[Any]:
        values: Values = [None] * len(slots)
        for place, value in zip(places, inputs, strict=True):
            values[place] = value
        for place, value in fixed:
            values[place] = value
        with np.errstate(all="ignore"):
            for act, dead in program:
                act(values)
                for place in dead:  # its memory goes back to be used again
                    values[place] = None
        return owned([values[place] for place in outputs], inputs)

    return run


def _one(node: Node, slots: dict[int, int], xp: Any) -> Callable[[Values], None]:
    assert node.operation is not None
    forward, settings, target = node.operation.forward, node.settings, slots[node.serial]
    sources = [slots[source.serial] for source in node.inputs]

    def act(values: Values) -> None:
        values[target] = forward(xp, *[values[source] for source in sources], **settings)

    return act


def _together(group: Sequence[Node], slots: dict[int, int], used: set[int]) -> Callable[[Values], None]:
    """Run elementwise nodes of one shape a block of rows at a time."""
    shape = group[0].shape
    rows = max(1, BLOCK // math.prod(shape[1:]))
    inside = {node.serial for node in group}
    outside = {s.serial: s for node in group for s in node.inputs if s.serial not in inside}
    cut = [slots[n.serial] for n in outside.values() if n.ndim == len(shape) and n.shape[0] == shape[0]]
    whole = [slots[n.serial] for n in outside.values() if not (n.ndim == len(shape) and n.shape[0] == shape[0])]
    steps = [
        (n.operation.forward, [slots[s.serial] for s in n.inputs], n.settings, slots[n.serial])  # type: ignore[union-attr]
        for n in group
    ]
    results = [(slots[n.serial], n.dtype) for n in group if n.serial in used]
    spare: dict[int, list[Any]] = {target: [] for target, _ in results}

    def act(values: Values) -> None:
        block: dict[int, Any] = {slot: values[slot] for slot in (*whole, *cut)}
        if not all(value.flags.c_contiguous for value in block.values() if value.ndim > 1):
            # The order that the results have in memory follows from the inputs', and sums follow from it.
            for forward, sources, settings, target in steps:
                block[target] = forward(namespace.numpy, *[block[source] for source in sources], **settings)
            for target, _ in results:
                values[target] = block[target]
            return
        arrays = [(target, _take(spare[target], shape, dtype)) for target, dtype in results]
        for start in range(0, shape[0], rows):
            stop = start + rows
            for slot in cut:
                block[slot] = values[slot][start:stop]
            for forward, sources, settings, target in steps:
                block[target] = forward(namespace.numpy, *[block[source] for source in sources], **settings)
            for target, array in arrays:
                array[start:stop] = block[target]
        for target, array in arrays:
            values[target] = array
            spare[target].append(array)

    return act


def _take(spare: list[Any], shape: tuple[int, ...], dtype: Any) -> Any:
    """An array that nobody holds any more of those made for this purpose, or a new one.

    What was handed out is never written to: whoever still has it, or a view of it, shows in its reference count. One
    that was taken out of the list cannot be taken by another thread.
    """
    for _ in range(len(spare)):
        try:
            array = spare.pop(0)
        except IndexError:  # another thread took the last
            break
        if sys.getrefcount(array) == UNHELD:
            return array
        if len(spare) < 2:
            spare.append(array)
    return np.empty(shape, dtype)


def cluster(nodes: Sequence[Node]) -> list[list[Node]]:
    """Group neighbouring elementwise nodes of one large shape; what stands between them and needs none goes first."""
    groups: list[list[Node]] = []
    current: list[Node] = []
    inside: set[int] = set()
    for node in nodes:
        if _blockwise(node):
            if current and node.shape != current[0].shape:
                groups.append(current)
                current, inside = [], set()
            current.append(node)
            inside.add(node.serial)
        elif any(source.serial in inside for source in node.inputs):
            groups += [current, [node]]
            current, inside = [], set()
        else:
            groups.append([node])
    return [*groups, current] if current else groups


def _blockwise(node: Node) -> bool:
    """Whether running a node a block of rows at a time is worth it."""
    if node.operation is None or node.operation.kind != "elementwise":
        return False
    return node.ndim > 0 and node.size > BLOCK and node.shape[0] > 1
