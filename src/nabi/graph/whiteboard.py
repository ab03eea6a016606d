"""A tensor's graph as people look at it: drawn with values and gradients, priced, and walked back step by step."""

import time
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nabi.container import replace_file
from nabi.errors import GraphError, SettingError
from nabi.graph import draw, namespace, steps
from nabi.graph.backward import VALUES, check_inputs, pull_back
from nabi.graph.cost import node_cost
from nabi.graph.draw import Item, Picture
from nabi.graph.groups import Group, group
from nabi.graph.mathematics import write_number
from nabi.graph.names import names
from nabi.graph.node import ancestors

_SYMBOLS = {
    "add": "+",
    "subtract": "−",
    "multiply": "×",
    "divide": "÷",
    "negative": "×−1",
    "pow": "xʸ",
    "square": "x²",
    "sqrt": "√",
    "exp": "eˣ",
    "log": "ln",
    "abs": "|x|",
    "sigmoid": "σ",
    "sum": "Σ",
    "maximum": "max",
    "minimum": "min",
    "less": "<",
    "less_equal": "≤",
    "greater": ">",
    "greater_equal": "≥",
    "equal": "=",
    "not_equal": "≠",
}


class Cost(NamedTuple):
    """What one node costs, forward and backward; see `nabi.graph.cost` for what is counted.

    Attributes
    ----------
    name, operation : str
    forward, backward : int
        Multiply-adds.
    forward_seconds, backward_seconds : float or None
        Measured, if asked for: the fastest of three runs of the node's own formula and rules.
    """

    name: str
    operation: str
    forward: int
    backward: int
    forward_seconds: float | None = None
    backward_seconds: float | None = None


class Graph:
    """The graph that a tensor was made by; `Tensor.graph` makes it, and notebooks show it.

    Parameters
    ----------
    root : Tensor
        The gradients shown are those of this number; there are none where it is an array or requires none.
    depth : int, optional
        How many levels of layers to open: 0 draws each outermost layer as one box. By default as many as fit.
    limit : int
        How many boxes to draw at most; what is farthest from the root becomes one.
    timed : bool
        Run every node's formula and rules again and write the times beside the multiply-adds.
    """

    def __init__(self, root: Any, depth: int | None = None, limit: int = 30, timed: bool = False) -> None:
        if depth is not None and depth < 0:
            raise SettingError(f"graph: depth={depth} must be 0 or more, or None for as much as fits")
        if limit < 2:
            raise SettingError(f"graph: limit={limit} must be at least 2")
        if timed and root.held is None:
            raise GraphError("graph: inside a compiled function there are no values, so nothing can be timed")
        self._root = root
        self._depth = depth
        self._limit = limit
        self._nodes: list[Any] = ancestors((root,))
        for node in self._nodes:
            check_inputs(node)
        self._names = names(self._nodes, root)
        self._gradients = _gradients(root, self._nodes)
        self._seconds = _measure(self._nodes, self._gradients) if timed else {}

    def __repr__(self) -> str:
        return f"<graph of {self.name}: {len(self._nodes)} nodes; a notebook draws it, save() writes it to a file>"

    @property
    def name(self) -> str:
        """What the tensor is called in it: its own name, or "f"."""
        return self._names[self._root.serial]

    def svg(self) -> str:
        """The picture as SVG."""
        return draw.svg(self.picture())

    def dot(self) -> str:
        """The picture in the language of Graphviz."""
        return draw.dot(self.picture())

    def _repr_svg_(self) -> str:
        return self.svg()

    def save(self, path: str | PathLike[str]) -> None:
        """Write the picture into a file, as its suffix says: ``.svg`` or ``.dot``.

        Raises
        ------
        SettingError
            For another suffix.
        OSError
            Where the file cannot be written; nothing half-written is left.
        """
        suffix = Path(path).suffix.lower()
        if suffix not in (".svg", ".dot"):
            raise SettingError(f"graph: {path} must end in .svg or .dot")
        text = self.svg() if suffix == ".svg" else self.dot()
        with replace_file(path) as file:
            file.write(text.encode())

    def steps(self) -> Iterator[steps.Step]:
        """The walk back, one local gradient at a time, from this tensor to the leaves.

        Raises
        ------
        GraphError
            Where the tensor is not a single number or nothing below it requires a gradient.

        Examples
        --------
        >>> import nabi
        >>> x, y, z = (nabi.tensor(v, n, requires_grad=True) for n, v in (("x", -2.0), ("y", 5.0), ("z", -4.0)))
        >>> for step in ((x + y) * z).graph().steps():
        ...     print(step)
        f = q·z = 3·(-4) = -12    upstream df/df = 1
            ∂f/∂q = z = -4        df/dq = 1·(-4) = -4
            ∂f/∂z = q = 3         df/dz = 1·3 = 3
        q = x + y = -2 + 5 = 3    upstream df/dq = -4
            ∂q/∂x = 1             df/dx = (-4)·1 = -4
            ∂q/∂y = 1             df/dy = (-4)·1 = -4
        """
        if self._root.shape != ():
            shape = self._root.shape
            raise GraphError(f"steps: the walk starts from one number, but this has shape {shape}: sum or average it")
        if self._root.held is None:
            raise GraphError("steps: inside a compiled function there are no values to walk back with")
        if not self._gradients:
            raise GraphError("steps: nothing that this tensor was made from requires a gradient")
        return steps.walk(self._nodes, self._gradients, self._names, self._root)

    def costs(self) -> list[Cost]:
        """What each node costs, forward and backward, in the order of computation."""
        return [
            Cost(
                self._names[node.serial],
                node.operation.name,
                *node_cost(node),
                *self._seconds.get(node.serial, (None, None)),
            )
            for node in self._nodes
            if node.operation is not None and node.operation.kind != "projection"
        ]

    # --- the picture ---

    def picture(self) -> Picture:
        """What is drawn, as plain data."""
        groups = group(self._nodes, self._depth, self._limit)
        costs = {node.serial: node_cost(node) for node in self._nodes if node.operation is not None}
        heavy = any(sum(pair) >= 1000 for pair in costs.values()) or bool(self._seconds)
        items = tuple(self._item(one, costs, heavy) for one in groups)
        return Picture(f"The graph of {self._names[self._root.serial]}", items, tuple(self._notes(costs)))

    def _notes(self, costs: dict[int, tuple[int, int]]) -> list[str]:
        told = f"multiply-adds: forward → {_amount(sum(f for f, _ in costs.values()))}"
        told += f", backward ← {_amount(sum(b for _, b in costs.values()))}" if self._gradients else ""
        if self._seconds:
            forward, backward = (sum(pair[i] for pair in self._seconds.values()) for i in (0, 1))
            told += f"; time, node by node: → {_duration(forward)}, ← {_duration(backward)}"
        notes = [told]
        if any(node.shape for node in self._nodes if not _is_tuple(node)):
            notes.append("arrays: (shape), smallest ≤ mean ≤ largest")
        if self._root.held is None:
            notes.append("recorded, not computed: there are shapes, but no values")
        elif not self._gradients:
            notes.append(
                "no gradients: a gradient starts from one floating-point number, and something must require it"
            )
        return notes

    def _item(self, one: Group, costs: dict[int, tuple[int, int]], heavy: bool) -> Item:
        node: Any = one.nodes[-1]
        if one.rest:
            count = f"{len(one.nodes):,}"
            hint = f"{count} nodes that there was no room for; graph(limit=...) makes room"
            return Item("rest", f"… {count} more nodes", hint=hint)
        above: tuple[str, ...] = ()
        if _is_tuple(node):
            above = (f"{len(node.spec if node.held is None else node.held)} parts",)
        elif node.held is None:  # recorded, not computed
            above = (str(node.shape),) if node.shape else ("number",)
        else:
            above = _lines(node.held, True)
        gradient = self._gradients.get(node.serial)
        below = () if gradient is None or isinstance(gradient, list) else _lines(gradient, False)
        name = self._names[node.serial]
        if node.operation is None:
            constant = not node.requires_grad and not node.name and node.shape == ()
            return Item("leaf", name, above=() if constant else above, below=below, hint=self._hint(one))
        inside: list[Any] = [n for n in one.nodes if n.operation is not None and n.operation.kind != "projection"]
        forward, backward = (sum(costs[n.serial][i] for n in inside) for i in (0, 1))
        told: tuple[str, ...] = ()
        if heavy and forward + backward:
            told = (f"→ {_amount(forward)}  ← {_amount(backward)}",)
        if self._seconds:
            times = [sum(self._seconds[n.serial][i] for n in inside) for i in (0, 1)]
            told += (f"→ {_duration(times[0])}  ← {_duration(times[1])}",)
        operation = inside[0].operation.name
        if one.scope and (len(inside) > 1 or one.scope[-1] != operation):
            kind, title = "group", f"{one.scope[-1]}\n{self._inside(one, inside)}"
            name = node.name or ""
        else:
            kind, title = "operation", _SYMBOLS.get(operation, operation)
        return Item(kind, title, one.inputs, name, above, below, told, self._hint(one))

    def _inside(self, one: Group, inside: list[Any]) -> str:
        parameters = sum(n.size for n in one.nodes if n.operation is None and n.requires_grad)
        told = inside[0].operation.name if len(inside) == 1 else f"{len(inside)} operations"
        return f"{told}, {_amount(parameters)} parameters" if parameters else told

    def _hint(self, one: Group) -> str:
        node: Any = one.nodes[-1]
        lines = ["/".join(node.scopes)] if node.scopes else []
        for each in one.nodes[:12]:
            if each.operation is None:
                kind = f"{each.dtype}{each.shape}" if each.shape else str(each.dtype)
                lines.append(f"{self._names[each.serial]}: {kind}")
            elif each.operation.kind != "projection":
                lines.append(f"{self._names[each.serial]}: {each.operation.name}, {each.operation.mathematics}")
        if len(one.nodes) > 12:
            lines.append(f"… {len(one.nodes) - 12} more")
        return "\n".join(lines)


def _gradients(root: Any, nodes: list[Any]) -> dict[int, Any]:
    """The gradient of the root on every node that it flows through."""
    if root.shape != () or not root.requires_grad or root.held is None:
        return {}
    with np.errstate(all="ignore"):
        wanted = [node for node in nodes if node.requires_grad]
        found = pull_back(root, root.dtype.type(1), VALUES, wanted)
    return {node.serial: g for node, g in found}


def _is_tuple(node: Any) -> bool:
    return isinstance(node.spec if node.held is None else node.held, tuple)


def _measure(nodes: list[Any], gradients: dict[int, Any]) -> dict[int, tuple[float, float]]:
    """Seconds forward and backward of every node, by its serial number."""
    xp = namespace.numpy
    result = {}
    for node in nodes:
        if node.operation is None or node.operation.kind == "projection":
            continue
        values, settings = [source.held for source in node.inputs], node.settings or {}
        forward = _fastest(lambda o=node.operation, v=values, s=settings: o.forward(xp, *v, **s))
        backward = 0.0
        if node.serial in gradients:
            g, y = gradients[node.serial], node.held
            for place, source in enumerate(node.inputs):
                rule = node.operation.rule(place)
                if source.requires_grad and rule is not None:
                    backward += _fastest(lambda r=rule, g=g, y=y, v=values, s=settings: r(xp, g, y, *v, **s))
        result[node.serial] = (forward, backward)
    return result


def _fastest(run: Any) -> float:
    times = []
    with np.errstate(all="ignore"):
        for _ in range(3):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
    return min(times)


def _lines(value: Any, with_shape: bool) -> tuple[str, ...]:
    """A value or gradient as it is written at a line."""
    array = np.asarray(value)
    if array.ndim == 0:
        return (_minus(write_number(float(array), 3)),)
    if array.ndim == 1 and 0 < array.size <= 3:
        return (_minus("[" + ", ".join(write_number(float(v), 3) for v in array) + "]"),)
    told = _minus(steps.statistics(array, 2))
    return tuple(filter(None, (str(array.shape), told) if with_shape else (told,)))


def _minus(text: str) -> str:
    return text.replace("-", "−")


def _amount(count: int) -> str:
    for size, letter in ((10**9, " G"), (10**6, " M"), (10**3, " k")):
        if count >= size:
            return f"{count / size:.3g}{letter}"
    return str(count)


def _duration(seconds: float) -> str:
    for size, unit in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"
