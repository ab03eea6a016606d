"""A graph out of an ONNX file as a layer: run by our operations, drawn and looked into like any other."""

import math
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nabi._tensor import Tensor, tensor
from nabi.errors import FormatError
from nabi.graph.interpreter import scope
from nabi.nn import Layer
from nabi.onnx.from_onnx import Call, compute
from nabi.onnx.reading import Graph, Operator

MAX_NUMBERS = 2**28
"""That a network may make of one input, all its nodes together."""
LARGE = 1 << 20
"""Bytes of a constant of other numbers that is a weight like others."""
_HWIO, _TRANSPOSED = (2, 3, 1, 0), (1, 0)


class GraphNetwork(Layer):
    """y = what the graph makes of x

    Parameters
    ----------
    graph : Graph
        With one input.

    Attributes
    ----------
    graph : Graph
        Without its constants.
    weights : dict of str to Tensor
        Its float32 constants of more than one number, and large ones of pixels and the like. What only convolutions and
        products use lies as our operations take it.
    known : dict of str to ndarray
        The other constants, of which shapes may be made.
    """

    label = "graph"

    def __init__(self, graph: Graph) -> None:
        graph = _laid_out(graph)
        if len(graph.inputs) != 1:
            raise FormatError(f"{len(graph.inputs)} inputs, and a classifier has one")
        self.graph = graph._replace(constants={})
        self.weights = {name: tensor(array, name) for name, array in graph.constants.items() if _is_weight(array)}
        self.known = {name: array for name, array in graph.constants.items() if name not in self.weights}

    def forward(self, x: Any, training: bool) -> Any:
        return self.values(x)[0]

    def values(self, x: Any) -> list[Any]:
        """Every output of the graph."""
        graph, numbers = self.graph, 0
        computed = [-4 * sum(array.size for array in self.known.values())]  # what a file holds, it may use
        found: dict[str, Any] = {"": None, graph.inputs[0].name: x, **self.weights, **self.known}
        last = {name: place for place, node in enumerate(graph.nodes) for name in node.inputs}
        for place, node in enumerate(graph.nodes):
            with scope(node.name or node.kind):
                made = compute(node, _without_trailing([found[name] for name in node.inputs]), graph.opset, computed)
            numbers += sum(math.prod(one.shape) for one in made)
            if numbers > MAX_NUMBERS * max(1, x.shape[0]):  # before any engine plans for it
                raise FormatError(f"{node}: here the network has made more than {MAX_NUMBERS:,} numbers of an input")
            found.update(zip(node.outputs, made, strict=False))
            for name in node.inputs:
                if last[name] == place and name and name not in graph.outputs:
                    found.pop(name, None)
        call = Call(Operator("output", "", (), (), {}), graph.opset, computed)
        return [_as_tensor(call.plain(found[name])) for name in graph.outputs]


def _is_weight(array: NDArray[Any]) -> bool:
    """Whether a constant is a tensor: numbers to compute with, and not places, which are checked while recording."""
    return (array.dtype == np.float32 and array.size > 1) or (array.dtype.kind not in "iU" and array.nbytes > LARGE)


def _as_tensor(value: Any) -> Any:
    return value if isinstance(value, Tensor) else tensor(np.asarray(value))


def _without_trailing(values: list[Any]) -> list[Any]:
    """Inputs without those that are left out at the end."""
    while values and values[-1] is None:
        values.pop()
    return values


def _laid_out(graph: Graph) -> Graph:
    """The graph with weights that only one kind of node uses as our operations take them, once and not at every run."""
    uses: Counter[str] = Counter(name for node in graph.nodes for name in node.inputs)
    uses.update(graph.outputs)
    constants, nodes = dict(graph.constants), []
    for node in graph.nodes:
        weight = node.inputs[1] if len(node.inputs) > 1 else ""
        array: NDArray[Any] | None = constants.get(weight) if uses[weight] == 1 else None
        if array is not None and node.kind == "Conv" and array.ndim == 4 and not node.attributes.get("turned"):
            constants[weight] = np.ascontiguousarray(array.transpose(_HWIO))
            node = node._replace(attributes=node.attributes | {"turned": 1})
        elif array is not None and node.kind == "Gemm" and array.ndim == 2 and node.attributes.get("transB"):
            constants[weight] = np.ascontiguousarray(array.transpose(_TRANSPOSED))
            node = node._replace(attributes=node.attributes | {"transB": 0})
        nodes.append(node)
    return graph._replace(constants=constants, nodes=tuple(nodes))


def arrays(network: GraphNetwork) -> dict[str, NDArray[Any]]:
    """The constants, as a model file holds them."""
    held = {name: weight.numpy() for name, weight in network.weights.items()}
    return {name: np.asarray(array) for name, array in (held | network.known).items()}
