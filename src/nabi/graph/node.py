"""A node of the graph: an operation, what it was applied to, and with which settings."""

import itertools
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np

from nabi.graph.operation import Operation, operations
from nabi.graph.operators import Operators
from nabi.graph.shapes import Spec


class Node(Operators):
    """One place in a graph.

    A leaf (a parameter, an input, a constant) has no operation. Where the operation gives a tuple, the node stands
    for the whole tuple, and nodes of kind "projection" pick its parts.

    Attributes
    ----------
    operation : Operation or None
    inputs : tuple of Node
    settings : dict
    scopes : tuple of str
        The layers and composite operations that it was made inside of, the outermost first.
    requires_grad : bool
        Whether gradients flow through it.
    name : str or None
        What people call it.
    serial : int
        Nodes are numbered as they are made.
    held : ndarray, NumPy scalar, tuple of them, or None
        Its value; None where it is only recorded.
    operands : list or None
        The inputs' values that it was computed from.
    """

    __slots__ = ("__weakref__", "inputs", "name", "operation", "requires_grad", "scopes", "serial", "settings")
    _xp = operations

    operation: Operation | None
    inputs: tuple["Node", ...]
    settings: dict[str, Any]
    scopes: tuple[str, ...]
    requires_grad: bool
    name: str | None
    serial: int
    held: Any
    operands: list[Any] | None

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""
        raise NotImplementedError

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the elements."""
        raise NotImplementedError

    @property
    def spec(self) -> Any:
        """Shape and dtype together: a `Spec`, or a tuple of them."""
        return Spec(self.shape, self.dtype)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        size = 1
        for length in self.shape:
            size *= length
        return size


def ancestors(roots: Iterable[Node], *, needed: bool = False, stop: AbstractSet[int] = frozenset()) -> list[Node]:
    """Every node that the roots are made from, the roots themselves included, in the order in which they were made.

    Nodes are numbered as they are made, so inputs stand before what uses them; and a chain of any length can be walked.

    Parameters
    ----------
    roots : iterable of Node
    needed : bool
        Leave out the nodes through which no gradient flows.
    stop : set of int
        Serial numbers of nodes past which not to walk.
    """
    pending = list(roots)
    found = {node.serial: node for node in pending}
    while pending:
        node = pending.pop()
        if node.serial in stop:
            continue
        for source in node.inputs:
            if (source.requires_grad or not needed) and source.serial not in found:
                found[source.serial] = source
                pending.append(source)
    return [found[serial] for serial in sorted(found)]


numbers = itertools.count()
"""Where nodes take their serial numbers from."""


def describe(node: Node) -> str:
    """A node in a few words, as messages name it."""
    what = f"{node.name!r}" if node.name else "a leaf"
    if node.operation is not None:
        what = node.operation.name + (f" {node.name!r}" if node.name else "")
        if node.scopes:
            what += f" in {'/'.join(node.scopes)}"
    return what
