"""Backpropagation: from a graph to its gradients.

One walk serves both ways of running it. Given NumPy as ``xp`` it computes gradients at once; given `nabi.ops` it makes
a graph of them, which can be differentiated again, compiled, or drawn. Source: the lecture, chapter 4; Griewank and
Walther, "Evaluating Derivatives" (2008), chapter 3.
"""

import operator
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from typing import Any, NamedTuple

from nabi.errors import GraphError
from nabi.graph import namespace
from nabi.graph.node import Node, ancestors, describe
from nabi.graph.operation import operations


class View(NamedTuple):
    """What the rules compute with, and what they see of a node."""

    xp: Any
    output: Callable[[Any], Any]
    inputs: Callable[[Any], list[Any]]


def check_inputs(node: Any) -> None:
    """Raise GraphError where a leaf no longer holds what the node was computed from."""
    for i, source in enumerate(node.inputs):
        if source.operation is None and node.operands is not None and node.operands[i] is not source.held:
            raise GraphError(f"{describe(source)} was assigned after {describe(node)} had used it")


def _inputs(node: Any) -> list[Any]:
    check_inputs(node)
    return [source.parts() for source in node.inputs]


VALUES = View(namespace.numpy, operator.attrgetter("held"), lambda node: node.operands or [])
"""Gradients computed at once."""
GRAPH = View(operations, operator.methodcaller("parts"), _inputs)
"""Gradients as a graph."""


def pull_back(
    root: Node, g: Any, view: View, wanted: Sequence[Node] | None = None, past: bool = True
) -> list[tuple[Any, Any]]:
    """Carry the gradient ``g`` on ``root`` back through the graph.

    Nodes are numbered as they are made, so the one made last among those with a gradient has all of it: nothing that
    was made before can add to it.

    Parameters
    ----------
    root : Node
        Where to start.
    g : array or Tensor
        The gradient on it, of its shape.
    view : View
        `VALUES` to compute gradients, `GRAPH` to make a graph of them.
    wanted : sequence of Node, optional
        The nodes whose gradients are asked for; by default, all leaves that require one.
    past : bool
        False where no wanted node is made from another, so that the walk may end at them.

    Returns
    -------
    list of (Node, array or Tensor)
        The wanted nodes that the root depends on, each with its gradient.
    """
    xp, read, read_inputs = view
    ends = {node.serial for node in wanted or ()}
    leads = None if wanted is None else _leading_to(ends, root, past)
    if not root.requires_grad or (leads is not None and root.serial not in leads):
        return []
    found: list[tuple[Any, Any]] = []
    nodes, gradients, queue = {root.serial: root}, {root.serial: g}, [-root.serial]
    while queue:
        serial = -heappop(queue)
        node, g = nodes.pop(serial), gradients.pop(serial)
        operation = node.operation
        if serial in ends or (operation is None and wanted is None):
            found.append((node, g))
        if operation is None or (serial in ends and not past):
            continue
        inputs, settings = node.inputs, node.settings
        if operation.kind == "projection":
            whole = inputs[0]
            if whole.serial not in nodes:
                nodes[whole.serial], gradients[whole.serial] = whole, [None] * len(read(whole))
                heappush(queue, -whole.serial)
            parts, place = gradients[whole.serial], settings["index"]
            parts[place] = g if parts[place] is None else parts[place] + g
            continue
        values = read_inputs(node)
        y = read(node)
        rules = operation.rules
        for index, source in enumerate(inputs):
            serial = source.serial
            if not source.requires_grad or (leads is not None and serial not in leads):
                continue
            rule = rules.get(index) or operation.rule(index)
            if rule is None:
                raise GraphError(f"{describe(node)} declares no gradient for its argument {index}")
            flow = rule(xp, g, y, *values, **settings) if settings else rule(xp, g, y, *values)
            if flow is None:
                continue
            if flow.shape != values[index].shape:
                flow = _sum_to(xp, flow, source.shape)
            if serial in gradients:
                gradients[serial] = gradients[serial] + flow
            else:
                gradients[serial], nodes[serial] = flow, source
                heappush(queue, -serial)
    return found


def _leading_to(ends: set[int], root: Node, past: bool) -> set[int]:
    """The serial numbers of the nodes below the root that are made from one of the ends: where there is work to do."""
    leads: set[int] = set()
    for node in ancestors((root,), needed=True, stop=frozenset() if past else ends):
        if node.serial in ends or any(source.serial in leads for source in node.inputs):
            leads.add(node.serial)
    return leads


def _sum_to(xp: Any, g: Any, shape: tuple[int, ...]) -> Any:
    """A gradient summed back to the shape of an input that was broadcast."""
    extra = g.ndim - len(shape)
    axes = (*range(extra), *(i + extra for i, n in enumerate(shape) if n == 1 and g.shape[i + extra] != 1))
    return xp.reshape(xp.sum(g, axis=axes) if axes else g, shape)
