"""What the nodes of a graph are called: as people named them, and else by letters as on a blackboard."""

from collections.abc import Iterator, Sequence
from itertools import count

from nabi.graph.mathematics import write_number
from nabi.graph.node import Node

_BETWEEN = "qrstuvw"
_LEAVES = "abcdegh"


def names(nodes: Sequence[Node], root: Node) -> dict[int, str]:
    """A name for each node, by serial number; no two the same but for constants, which are called by their number.

    Parameters
    ----------
    nodes : sequence of Node
        A whole graph, in the order in which the nodes were made.
    root : Node
        The one that it is for: "f" where it has no name.
    """
    result: dict[int, str] = {}
    taken: set[str] = set()
    unnamed: list[Node] = []
    for node in nodes:
        given = _clean(node.name)
        if given:
            name, times = given, 1
            while name in taken:
                times += 1
                name = f"{given}_{times}"
            taken.add(name)
            result[node.serial] = name
        else:
            unnamed.append(node)
    if root.serial not in result:
        result[root.serial] = next(name for name in _series("fLF", "f", 1) if name not in taken)
        taken.add(result[root.serial])
    between = [n for n in unnamed if n.operation is not None and n is not root]
    leaves = [n for n in unnamed if n.operation is None and n is not root]
    constants = [n for n in leaves if _is_constant(n)]
    for node in constants:
        result[node.serial] = write_number(float(node.held), 6)
    for some, letters, stem in ((between, _BETWEEN, "v"), ([n for n in leaves if not _is_constant(n)], _LEAVES, "a")):
        free = (name for name in _series(letters, stem, len(some)) if name not in taken)
        for node in some:
            result[node.serial] = next(free)
            taken.add(result[node.serial])
    return result


def _is_constant(node: Node) -> bool:
    return not node.requires_grad and node.shape == () and getattr(node, "value", None) is not None


def _series(letters: str, stem: str, wanted: int) -> Iterator[str]:
    """Letters while they suffice, else numbered names for all."""
    if wanted <= len(letters):
        yield from letters
    for number in count(1):
        yield f"{stem}{number}"


def _clean(name: str | None) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in name).split()) if name else ""
