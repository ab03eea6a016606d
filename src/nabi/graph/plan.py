"""A plan: a recorded graph made ready for an engine, and the passes that tidy it.

A pass takes a plan and gives a plan. After every pass `verify` goes over the whole of it: an error in a pass is found
where it was made, by the name of the node, and not three passes later as a wrong number.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np

from nabi.errors import GraphError
from nabi.graph.node import Node, ancestors, describe
from nabi.graph.shapes import infer


class Plan(NamedTuple):
    """A graph with an order to run it in.

    Attributes
    ----------
    inputs : tuple of Node
        Leaves whose values are given at every run.
    constants : tuple of Node
        Leaves that hold their value.
    nodes : tuple of Node
        What is to be computed, inputs before what uses them.
    outputs : tuple of Node
        What a run gives.
    """

    inputs: tuple[Node, ...]
    constants: tuple[Node, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Node, ...]


def make_plan(inputs: Sequence[Node], outputs: Sequence[Node]) -> Plan:
    """Plan to compute the outputs from the inputs: only what the outputs need, verified and tidied."""
    plan = gather(inputs, outputs)
    verify(plan)
    for tidy in PASSES:
        plan = tidy(plan)
        verify(plan)
    return plan


def gather(inputs: Sequence[Node], outputs: Sequence[Node]) -> Plan:
    """Everything that the outputs are made from, and nothing else."""
    order = ancestors(outputs)
    given = {node.serial for node in inputs}
    return Plan(
        tuple(inputs),
        tuple(node for node in order if node.operation is None and node.serial not in given),
        tuple(node for node in order if node.operation is not None),
        tuple(outputs),
    )


def verify(plan: Plan) -> None:
    """Check that every node has its inputs before it and is what its operation says.

    Raises
    ------
    GraphError
        Naming the first node that is not.
    """
    ready: dict[int, Node] = {node.serial: node for node in (*plan.inputs, *plan.constants)}
    for constant in plan.constants:
        if constant.held is None:
            raise GraphError(f"{describe(constant)} is neither an input nor a constant: it has no value")
    for node in plan.nodes:
        assert node.operation is not None
        for source in node.inputs:
            if source.serial not in ready:
                raise GraphError(f"{describe(node)} uses {describe(source)}, which is not computed before it")
        found = expected(node)
        if _as_tuple(node.spec) != _as_tuple(found):
            raise GraphError(f"{describe(node)} is stated as {node.spec}, but its operation gives {found}")
        ready[node.serial] = node
    for output in plan.outputs:
        if output.serial not in ready:
            raise GraphError(f"the output {describe(output)} is never computed")


def expected(node: Node) -> Any:
    """The `Spec` that a node's operation gives for its inputs, or a tuple of them."""
    assert node.operation is not None
    return infer(node.operation, [source.spec for source in node.inputs], node.settings)


def _as_tuple(spec: Any) -> Any:
    return tuple(map(_as_tuple, spec)) if isinstance(spec, tuple) else (spec.shape, spec.dtype)


def rewrite(plan: Plan, replace: Callable[[Node], Node]) -> Plan:
    """A plan in which what ``replace`` gives for a node stands in its place."""
    for node in plan.nodes:
        node.inputs = tuple(replace(source) for source in node.inputs)
    return gather(plan.inputs, [replace(output) for output in plan.outputs])


def drop_identities(plan: Plan) -> Plan:
    """Let what uses a mere name for a node use the node."""
    same: dict[int, Node] = {}
    for node in plan.nodes:
        if node.operation is not None and node.operation.name in ("identity", "stop_gradient"):
            source = node.inputs[0]
            same[node.serial] = same.get(source.serial, source)
    return rewrite(plan, lambda node: same.get(node.serial, node))


def merge_duplicates(plan: Plan) -> Plan:
    """Compute once what is asked for twice: the same operation on the same inputs with the same settings."""
    first: dict[Any, Node] = {}
    same: dict[int, Node] = {}
    for node in plan.nodes:
        inputs = tuple(same.get(source.serial, source).serial for source in node.inputs)
        found = first.setdefault((id(node.operation), inputs, _settings(node)), node)
        if found is not node:
            same[node.serial] = found
    return rewrite(plan, lambda node: same.get(node.serial, node))


def likeness(plan: Plan) -> Hashable:
    """Something that is equal for two plans that compute the same, whatever their nodes and inputs are called.

    Constants are compared by their values, everything else by operation, settings, shapes and dtypes.
    """
    leaves = (*plan.inputs, *plan.constants)
    place = {node.serial: number for number, node in enumerate((*leaves, *plan.nodes))}
    return (
        tuple((node.shape, node.dtype) for node in plan.inputs),
        tuple((np.shape(node.held), node.dtype, np.asarray(node.held).tobytes()) for node in plan.constants),
        tuple(
            # Settings as they are, too, which live as long as this: of what is gone another might be written as it was.
            (node.operation, tuple(place[s.serial] for s in node.inputs), _settings(node), (*node.settings.values(),))
            for node in plan.nodes
        ),
        tuple(place[output.serial] for output in plan.outputs),
    )


def _settings(node: Node) -> str:
    return repr(sorted(node.settings.items()))  # written out, -0.0 and 0.0 differ as they must


PASSES: tuple[Callable[[Plan], Plan], ...] = (drop_identities, merge_duplicates)


def last_uses(plan: Plan) -> list[list[int]]:
    """For each node in order, the serial numbers of the nodes whose values nobody needs after it."""
    seen = {output.serial for output in plan.outputs}
    result: list[list[int]] = []
    for node in reversed(plan.nodes):
        dead = []
        for serial in [node.serial, *(source.serial for source in node.inputs)]:
            if serial not in seen:
                seen.add(serial)
                dead.append(serial)
        result.append(dead)
    return result[::-1]
