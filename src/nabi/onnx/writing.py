"""From a plan to nodes: what a function computes, written as ONNX."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from nabi._compile import compile
from nabi.errors import GraphError
from nabi.graph import namespace
from nabi.graph.node import Node, describe
from nabi.graph.plan import Plan
from nabi.onnx.namespace import PICTURES, Value, Writer
from nabi.onnx.to_onnx import UNWRITTEN


def write_function(
    xp: Writer, function: Callable[[Any], Any], state: Any, tensors: Mapping[str, Any], images: Value
) -> list[Value]:
    """Write what a function computes from pictures, and give its results.

    Parameters
    ----------
    xp : Writer
    function : callable
        As `nabi.compile` takes it.
    state : nest
        What it reads: constants of the file.
    tensors : mapping of str to Tensor
        The tensors in ``state``, in the order in which they are found there.
    images : Value
    """
    recorded = compile(function, state=state, engine="reference")
    plan = recorded.plan(np.broadcast_to(np.zeros((), images.dtype), (PICTURES, *images.shape[1:])))
    constants = [xp.constant(tensor.numpy()) for tensor in tensors.values()]
    return write_plan(xp, plan, [images, *constants])


def write_plan(xp: Writer, plan: Plan, inputs: Sequence[Value]) -> list[Value]:
    """Write a plan whose inputs are these, and give its outputs."""
    values: dict[int, Any] = {node.serial: value for node, value in zip(plan.inputs, inputs, strict=True)}
    values |= {node.serial: xp.constant(node.held) for node in plan.constants}
    uses = Counter(source.serial for node in plan.nodes for source in node.inputs)
    uses.update(node.serial for node in plan.outputs)
    for node in plan.nodes:
        assert node.operation is not None
        given = [values[source.serial] for source in node.inputs]
        xp.scope = "/".join(node.scopes)
        made = None
        if node.operation.name in UNWRITTEN:
            raise GraphError(f"{describe(node)} cannot be written as ONNX: it {UNWRITTEN[node.operation.name]}")
        if node.operation.kind == "projection":
            made = given[0][node.settings["index"]]
        elif all(value.held is not None for value in given):
            made = _computed(xp, node, given)
        elif node.operation.name in _TAKEN_IN and _alone(node, values, uses):
            made = xp.takes_in(node.operation.name, *given)
        values[node.serial] = xp.call(node.operation.name, *given, **node.settings) if made is None else made
    return [xp.last(values[output.serial]) for output in plan.outputs]


_TAKEN_IN = ("add", "subtract", "multiply", "divide")


def _alone(node: Node, values: Mapping[int, Any], uses: Mapping[int, int]) -> bool:
    """Whether nobody else uses a product that this node would take in."""
    return all(uses[source.serial] == 1 for source in node.inputs if values[source.serial].pending is not None)


def _computed(xp: Writer, node: Node, given: Sequence[Value]) -> Any:
    """What is made of constants alone, as a constant."""
    assert node.operation is not None
    with np.errstate(all="ignore"):
        made = node.operation.forward(namespace.numpy, *(value.held for value in given), **node.settings)
    return tuple(map(xp.constant, made)) if isinstance(made, tuple) else xp.constant(made)
