"""Nodes drawn as one: what a layer or a composite operation computed, and what does not fit into a picture.

Merging nodes must not make a circle (a layer that is used, left and used again is two boxes). Each node gets a rank:
the number of borders between layers on the longest way to it. Inside one layer a way that leaves and comes back has
crossed borders, so nodes of one layer *and one rank* can be merged without a circle; those connected are.
"""

from collections.abc import Sequence
from typing import NamedTuple

from nabi.graph.node import Node

OPEN = 20
"""How many boxes a picture may have with all layers open: about what fits on a slide."""


class Group(NamedTuple):
    """Nodes drawn as one.

    Attributes
    ----------
    nodes : list of Node
        In the order in which they were made; the last is what the others are for.
    scope : tuple of str
        What they are part of; () for a node on its own.
    inputs : tuple of int
        The groups that they are made from, all before this one; in the order of the arguments, repeated for a node on
        its own that takes the same input twice.
    rest : bool
        Whether these are the nodes for which there was no room.
    """

    nodes: list[Node]
    scope: tuple[str, ...]
    inputs: tuple[int, ...]
    rest: bool = False


def group(nodes: Sequence[Node], depth: int | None, limit: int) -> list[Group]:
    """Group the nodes of a graph, groups before those that use them.

    Parameters
    ----------
    nodes : sequence of Node
        A whole graph, in the order in which the nodes were made.
    depth : int or None
        How many levels of layers to open: 0 draws each outermost layer as one. None opens as many as fit.
    limit : int
        How many groups to give; what is farthest from the end becomes one group, the rest.
    """
    deepest = max((len(node.scopes) for node in nodes), default=0)
    if depth is not None:
        return _limited(_merged(nodes, depth + 1), limit)
    groups = _merged(nodes, None)
    fits = min(limit, OPEN)
    level = min(deepest, 8)  # nobody nests layers deeper, and each level is a walk over the whole graph
    while len(groups) > fits and level > 0:
        groups = _merged(nodes, level)
        fits = limit
        level -= 1
    return _limited(groups, limit)


def _merged(nodes: Sequence[Node], level: int | None) -> list[Group]:
    """Merge what has the first ``level`` scopes in common; None merges only the parts of tuples with the whole."""
    wholes = {node.inputs[0].serial for node in nodes if _is_part(node)}
    keys: dict[int, tuple[object, ...] | None] = {}
    ranks: dict[int, int] = {}
    leaders: dict[int, int] = {}

    def leader(serial: int) -> int:
        while leaders[serial] != serial:
            leaders[serial] = leaders[leaders[serial]]
            serial = leaders[serial]
        return serial

    for node in nodes:
        key: tuple[object, ...] | None = None
        if node.operation is not None:
            key = node.scopes[:level] if level is not None and node.scopes else None
            if key is None and _is_part(node):
                key = keys[node.inputs[0].serial]
            elif key is None and node.serial in wholes:
                key = ("a tuple", node.serial)
        rank = 0
        for source in node.inputs:
            same = key is not None and keys[source.serial] == key
            rank = max(rank, ranks[source.serial] + (0 if same else 1))
        keys[node.serial], ranks[node.serial], leaders[node.serial] = key, rank, node.serial
        for source in node.inputs:
            if key is not None and keys[source.serial] == key and ranks[source.serial] == rank:
                leaders[leader(source.serial)] = leader(node.serial)
    homes = {node.serial: leader(node.serial) for node in nodes}
    if level is not None:
        _absorb_parameters(nodes, keys, homes)
    members: dict[int, list[Node]] = {}
    for node in nodes:
        members.setdefault(homes[node.serial], []).append(node)
    order = sorted(members.values(), key=lambda group: (max(ranks[n.serial] for n in group), group[-1].serial))
    places = {node.serial: place for place, group in enumerate(order) for node in group}
    groups = []
    for place, group in enumerate(order):
        sources = [places[source.serial] for node in group for source in node.inputs]
        outside = [source for source in sources if source != place]
        scoped = level is not None and bool(group[-1].scopes) and group[-1].operation is not None
        inputs = tuple(outside) if len(group) == 1 else tuple(dict.fromkeys(outside))
        groups.append(Group(group, group[-1].scopes[:level] if scoped else (), inputs))
    return groups


def _is_part(node: Node) -> bool:
    return node.operation is not None and node.operation.kind == "projection"


def _absorb_parameters(
    nodes: Sequence[Node], keys: dict[int, tuple[object, ...] | None], homes: dict[int, int]
) -> None:
    """Let parameters and constants go into the box of the only layer that uses them.

    What stands first in an operation is its data (``x @ w + b``, ``conv2d(x, w)``) and stays outside.
    """
    users: dict[int, set[int]] = {}
    is_data: set[int] = set()
    for node in nodes:
        for place, source in enumerate(node.inputs):
            if source.operation is None:
                users.setdefault(source.serial, set()).add(homes[node.serial] if keys[node.serial] else -1)
                if place == 0:
                    is_data.add(source.serial)
    for node in nodes:
        homes_of_users = users.get(node.serial, {-1})
        small = node.operation is None and not node.requires_grad and node.shape == () and not node.name
        takes = small or (node.requires_grad and node.serial not in is_data)
        if takes and len(homes_of_users) == 1 and -1 not in homes_of_users:
            homes[node.serial] = next(iter(homes_of_users))


def _limited(groups: list[Group], limit: int) -> list[Group]:
    """At most ``limit`` groups: those nearest the end, and before them one for the rest."""
    if len(groups) <= limit:
        return groups
    distance = [0] * len(groups)
    for place in reversed(range(len(groups))):
        for source in groups[place].inputs:
            distance[source] = max(distance[source], distance[place] + 1)
    nearest = sorted(range(len(groups)), key=lambda place: (distance[place], -place))
    kept = sorted(nearest[: max(1, limit - 1)])
    new = {old: place + 1 for place, old in enumerate(kept)}
    rest = [node for place, group in enumerate(groups) if place not in new for node in group.nodes]
    result = [Group(rest, (), (), True)]
    for old in kept:
        whole = groups[old]
        inputs = [new.get(source, 0) for source in whole.inputs]
        result.append(whole._replace(inputs=tuple(i for n, i in enumerate(inputs) if i or 0 not in inputs[:n])))
    return result
