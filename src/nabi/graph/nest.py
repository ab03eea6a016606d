"""Nests of lists, tuples, dicts and objects: taken apart into leaves and put together again, in definition order."""

import functools
import itertools
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from nabi.errors import SettingError
from nabi.graph.node import Node

Rebuild = Callable[[Sequence[Any]], Any]


def flatten(tree: Any) -> tuple[list[Any], Rebuild]:
    """Take a nest of lists, tuples and dicts apart.

    Returns
    -------
    leaves : list
        Everything in it that is not a list, tuple or dict.
    rebuild : callable
        Puts other leaves into the same nest.

    Examples
    --------
    >>> leaves, rebuild = flatten({"a": 1, "b": [2, 3]})
    >>> rebuild([10, 20, 30])
    {'a': 10, 'b': [20, 30]}
    """
    if isinstance(tree, dict):
        keys, children = list(tree), list(tree.values())
        make: Rebuild = lambda items: dict(zip(keys, items, strict=True))
    elif isinstance(tree, list):
        children, make = tree, list
    elif isinstance(tree, tuple):
        children = list(tree)
        make = (lambda items: type(tree)(*items)) if hasattr(tree, "_fields") else tuple
    else:
        return [tree], operator.itemgetter(0)
    if not any(map(isinstance, children, itertools.repeat((dict, list, tuple)))):  # nothing further in: the commonest
        return children, make
    flat = [flatten(child) for child in children]
    leaves = [leaf for some, _ in flat for leaf in some]

    def rebuild(items: Sequence[Any]) -> Any:
        parts, start = [], 0
        for some, again in flat:
            parts.append(again(items[start : start + len(some)]))
            start += len(some)
        return make(parts)

    return leaves, rebuild


Meet = Callable[[str, Any], None]


def fields(tree: Any, path: str = "", meet: Meet = lambda path, thing: None) -> Iterator[tuple[str, Any]]:
    """Every leaf of a nest of lists, tuples, dicts and objects, with its path, in definition order.

    What has a ``__dict__`` is walked through its attributes, after its type; what stands in it twice comes once.
    ``meet`` is told of everything that has parts, before they are read, and of every tensor; the second time, too.
    """
    yield from _fields(tree, path, set(), meet)


def _fields(tree: Any, path: str, seen: set[int], meet: Meet) -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Node) or not (isinstance(tree, dict | list | tuple) or hasattr(tree, "__dict__")):
        if isinstance(tree, Node):
            meet(path, tree)
        if not isinstance(tree, Node) or id(tree) not in seen:
            seen.add(id(tree))
            yield path, tree
        return
    if callable(tree) and hasattr(tree, "__code__"):  # a function is a leaf, not an object with parts
        yield path, tree
        return
    if not isinstance(tree, type):
        meet(path, tree)
    if id(tree) in seen:
        return
    seen.add(id(tree))
    if isinstance(tree, type):
        yield path, tree
        return
    if isinstance(tree, dict):
        items: Any = tree.items()
    elif isinstance(tree, list | tuple):
        items = enumerate(tree)
    else:
        yield f"{path}.type" if path else "type", type(tree)
        partial = (
            {"func": tree.func, "args": tree.args, "keywords": tree.keywords}
            if isinstance(tree, functools.partial)
            else {}
        )
        items = {**partial, **vars(tree)}.items()
    for name, child in items:
        yield from _fields(child, f"{path}.{name}" if path else str(name), seen, meet)


def tensors(tree: Any) -> dict[str, Any]:
    """Every tensor in a nest of lists, tuples, dicts and objects, by its path.

    Examples
    --------
    >>> import nabi
    >>> list(tensors({"weight": nabi.tensor([1.0]), "layers": [nabi.tensor([2.0])]}))
    ['weight', 'layers.0']
    """
    found: dict[str, Any] = {}
    for path, leaf in fields(tree):
        if isinstance(leaf, Node):
            if path in found:
                raise SettingError(f"two tensors are called {path!r}: give them names that differ as text, too")
            found[path] = leaf
    return found
