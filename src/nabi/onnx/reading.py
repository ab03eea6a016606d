"""From the bytes of an ONNX file to its graph as plain data, with limits, before anything is computed."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from numpy.typing import NDArray

from nabi.errors import FormatError
from nabi.onnx.protobuf import Message, decode
from nabi.onnx.tensors import READ, shown, to_array

MAX_NODES = 20_000
OPSETS = range(7, 29)
"""Those whose operators are known here; in the first, broadcasting became what it is."""


class Operator(NamedTuple):
    """A node: what it does, to which values, and what it makes of them; an input that is left out is ""."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.kind[:40]} {shown(self.name or next(iter(self.outputs), ''))}"


class Input(NamedTuple):
    """What is given to a graph: its name, ONNX's number of its dtype, and its shape, None where that is left open."""

    name: str
    kind: int
    shape: tuple[int | None, ...]


class Graph(NamedTuple):
    """A graph whose nodes stand in an order in which they can be computed.

    Attributes
    ----------
    inputs : tuple of Input
    constants : dict of str to array
    nodes : tuple of Operator
    outputs : tuple of str
    opset : int
    metadata : dict of str to str
    """

    inputs: tuple[Input, ...]
    constants: dict[str, NDArray[Any]]
    nodes: tuple[Operator, ...]
    outputs: tuple[str, ...]
    opset: int
    metadata: dict[str, str]


def read(content: bytes) -> Graph:
    """The graph in a file.

    Nothing outside of the file is read, and nothing is allocated that the file does not hold.

    Raises
    ------
    FormatError
        It is no ONNX file, damaged, or holds more than plain operations on tensors: functions, loops, branches,
        data in other files. The message does not name the file.
    """
    model = decode(content)
    graph = model.get("graph")
    if graph is None or "ir_version" not in model:
        raise FormatError("not an ONNX model: it holds no graph")
    if model["functions"]:
        raise FormatError("holds functions of its own, which are not read")
    if graph["sparse_initializer"]:
        raise FormatError("holds sparse tensors, which are not read")
    opset = next((one.get("version", 0) for one in model["opset_import"] if one.get("domain", "") in _DOMAINS), 0)
    if opset not in OPSETS:
        raise FormatError(f"of opset {opset}, and those from {OPSETS[0]} to {OPSETS[-1]} are read")
    if len(graph["node"]) > MAX_NODES:
        raise FormatError(f"{len(graph['node']):,} nodes, and at most {MAX_NODES:,} are read")
    constants: dict[str, NDArray[Any]] = {}
    for tensor in graph["initializer"]:
        name = tensor.get("name", "")
        if name in constants:
            raise FormatError(f"two tensors are called {shown(name)}")
        constants[name] = to_array(tensor, name)
    inputs = tuple(_input(value) for value in graph["input"] if value.get("name", "") not in constants)
    every = [_operator(node) for node in graph["node"]]
    nodes = tuple(node for node in every if not _is_constant(node))
    for node in every:
        if _is_constant(node):
            if node.outputs[0] in constants:
                raise FormatError(f"two tensors are called {shown(node.outputs[0])}")
            constants[node.outputs[0]] = node.attributes["value"]
    outputs = tuple(value.get("name", "") for value in graph["output"])
    metadata = {entry.get("key", ""): entry.get("value", "") for entry in model["metadata_props"]}
    found = Graph(inputs, constants, nodes, outputs, opset, metadata)
    check(found)
    return found


_DOMAINS = ("", "ai.onnx")


def _is_constant(node: Operator) -> bool:
    return node.kind == "Constant" and len(node.outputs) == 1 and hasattr(node.attributes.get("value"), "dtype")


def _input(value: Message) -> Input:
    name = value.get("name", "")
    kind = value.get("type", {}).get("tensor_type")
    if kind is None or "shape" not in kind:
        raise FormatError(f"the input {shown(name)} is not said to be a tensor with a number of axes")
    if kind.get("elem_type") not in READ:
        raise FormatError(f"the input {shown(name)} is of the kind {kind.get('elem_type')}, which is not known here")
    lengths = [dim.get("dim_value") for dim in kind["shape"]["dim"]]
    if len(lengths) > 8 or any(length is not None and length < 0 for length in lengths):
        raise FormatError(f"the input {shown(name)} has an impossible shape")
    return Input(name, kind["elem_type"], tuple(lengths))


def _operator(node: Message) -> Operator:
    kind, name = node.get("op_type", ""), node.get("name", "")
    made = Operator(kind, name, tuple(node["input"]), tuple(node["output"]), {})
    if node.get("domain", "") not in _DOMAINS:
        raise FormatError(f"{made} is of the domain {shown(node['domain'])}, whose operations nabi lacks")
    for attribute in node["attribute"]:
        made.attributes[attribute.get("name", "")] = _value(attribute, made)
    return made


def _value(attribute: Message, node: Operator) -> Any:
    where = f"{node}: {shown(attribute.get('name', ''))}"
    if "g" in attribute or attribute["graphs"]:
        raise FormatError(f"{node} holds a graph of its own: nabi has no loops and branches")
    if attribute.get("ref_attr_name"):
        raise FormatError(f"{where} refers to a function, and none is read")
    match attribute.get("type"):
        case 1:
            return attribute.get("f", 0.0)
        case 2:
            return attribute.get("i", 0)
        case 3:
            return bytes(attribute.get("s", b"")).decode(errors="replace")
        case 4:
            if "t" in attribute:
                return to_array(attribute["t"], f"{node.kind}'s tensor")
        case 6:
            return tuple(attribute["floats"])
        case 7:
            return tuple(attribute["ints"])
        case 8:
            return tuple(bytes(text).decode(errors="replace") for text in attribute["strings"])
    raise FormatError(f"{where} is of a kind that is not known here")


def check(graph: Graph) -> None:
    """Raise FormatError unless every node stands after what it uses, and nothing is made twice."""
    inputs, constants, nodes, outputs = graph.inputs, graph.constants, graph.nodes, graph.outputs
    ready = {"", *constants, *(one.name for one in inputs)}
    for node in nodes:
        for name in node.inputs:
            if name not in ready:
                raise FormatError(f"{node} uses {shown(name)}, which is not computed before it")
        for name in node.outputs:
            if name and name in ready:
                raise FormatError(f"{node} makes {shown(name)}, which is there already")
            ready.add(name)
    for name in outputs:
        if name not in ready:
            raise FormatError(f"the output {shown(name)} is never computed")


def needed(graph: Graph, wanted: tuple[str, ...]) -> Graph:
    """The part of a graph that these values are made from."""
    waiting = set(wanted)
    kept: list[Operator] = []
    for node in reversed(graph.nodes):
        if waiting.intersection(node.outputs):
            kept.append(node)
            waiting.update(node.inputs)
    constants = {name: array for name, array in graph.constants.items() if name in waiting}
    inputs = tuple(one for one in graph.inputs if one.name in waiting)
    return graph._replace(inputs=inputs, constants=constants, nodes=tuple(reversed(kept)), outputs=wanted)


def described(graph: Graph) -> Iterator[dict[str, Any]]:
    """The nodes as JSON has them."""
    for node in graph.nodes:
        attributes = {
            name: {"array": value.tolist(), "dtype": value.dtype.name} if hasattr(value, "dtype") else value
            for name, value in node.attributes.items()
        }
        yield {
            "kind": node.kind,
            "name": node.name,
            "inputs": node.inputs,
            "outputs": node.outputs,
            "attributes": attributes,
        }
