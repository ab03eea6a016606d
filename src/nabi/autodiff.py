"""Backpropagation: from a graph to its gradients.

One walk serves both ways of running it. Given NumPy as ``xp`` it computes gradients at once; given `nabi.ops` it makes
a graph of them, which can be differentiated again, compiled, or drawn. Source: the lecture, chapter 4; Griewank and
Walther, "Evaluating Derivatives" (2008), chapter 3.
"""

import functools
import operator
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from typing import Any

import numpy as np

from nabi._tensor import Tensor, tensor
from nabi.errors import DTypeError, GraphError
from nabi.graph import namespace, nest
from nabi.graph.interpreter import stack
from nabi.graph.node import Node, ancestors, describe
from nabi.graph.operation import operations


def pull_back(
    root: Node, g: Any, xp: Any, read: Callable[[Any], Any], wanted: Sequence[Node] | None = None, past: bool = True
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
    xp : namespace
        What the rules compute with.
    read : callable
        What the rules see of a node: its value, or the node itself.
    wanted : sequence of Node, optional
        The nodes whose gradients are asked for; by default, all leaves that require one.
    past : bool
        False where no wanted node is made from another, so that the walk may end at them.

    Returns
    -------
    list of (Node, array or Tensor)
        The wanted nodes that the root depends on, each with its gradient.
    """
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
        values = [*map(read, inputs)]
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


_numpy = namespace.numpy
_value = operator.attrgetter("value")
_parts = operator.methodcaller("parts")


def _start(root: Tensor, what: str) -> None:
    if root.shape != ():
        raise GraphError(
            f"{what}: a gradient starts from one number, but this tensor has shape {root.shape}: sum or average it"
        )
    if root.dtype.kind != "f":
        raise DTypeError(f"{what}: gradients flow through floating-point numbers only, not {root.dtype}")


def backward(root: Tensor) -> None:
    """Add the gradient of ``root`` to ``.grad`` of every leaf below it that requires one; see `Tensor.backward`."""
    if stack.recording:
        raise GraphError("backward() keeps gradients on tensors; inside a compiled function use nabi.gradients()")
    _start(root, "backward")
    if not root.requires_grad:
        raise GraphError("backward: nothing that this tensor was made from requires a gradient")
    for leaf, g in pull_back(root, root.dtype.type(1), _numpy, _value):
        leaf.grad = Tensor(np.array(g)[()] if leaf.grad is None else leaf.grad.value + g)


def gradients(output: Tensor, inputs: Sequence[Tensor]) -> list[Tensor]:
    """The gradients of one number on several tensors, as tensors.

    Inside a compiled function, or one that `grad` differentiates, they are part of the graph and can be
    differentiated again; elsewhere they are constants.

    Parameters
    ----------
    output : Tensor
        A floating-point number, shape ().
    inputs : sequence of Tensor
        The tensors that it was made from; one that it does not depend on has gradient zero.

    Raises
    ------
    GraphError
        Where ``output`` is not a single number, or an input does not require a gradient.

    Examples
    --------
    >>> import nabi
    >>> x, y = nabi.tensor(3.0, requires_grad=True), nabi.tensor(2.0, requires_grad=True)
    >>> nabi.gradients(x * x * y, [x, y])
    [tensor(12.), tensor(9.)]
    """
    return _gradients(output, inputs, past=True)


def _gradients(output: Tensor, inputs: Sequence[Tensor], past: bool) -> list[Tensor]:
    _start(output, "gradients")
    nodes: list[Any] = [stack.top.lift(i, None) for i in inputs]  # type: ignore[union-attr]
    for node in nodes:
        if not node.requires_grad:
            raise GraphError(f"gradients: {node._called()} does not require a gradient")
    output = stack.top.lift(output, None)  # type: ignore[union-attr]
    if stack.recording or stack.differentiating:
        one = operations.ones(shape=(), dtype=output.dtype)
        pairs = pull_back(output, one, operations, _parts, nodes, past)
    else:
        pairs = [(n, Tensor(g)) for n, g in pull_back(output, output.dtype.type(1), _numpy, _value, nodes, past)]
    found = {node.serial: g for node, g in pairs}
    return [found[n.serial] if n.serial in found else operations.zeros(shape=n.shape, dtype=n.dtype) for n in nodes]


def value_and_grad(function: Callable[..., Any], argument: int = 0) -> Callable[..., tuple[Tensor, Any]]:
    """A function that gives both the value of ``function`` and its gradient on one argument.

    Parameters
    ----------
    function : callable
        Gives one floating-point number.
    argument : int
        The place of the positional argument to differentiate on: a tensor, a number, or a nest of lists, tuples and
        dicts of them. The gradient has the same form.

    Examples
    --------
    >>> import nabi
    >>> nabi.value_and_grad(lambda x: x * x)(3.0)
    (tensor(9.), tensor(6.))
    """

    @functools.wraps(function)
    def differentiated(*arguments: Any, **keywords: Any) -> tuple[Tensor, Any]:
        leaves, rebuild = nest.flatten(arguments[argument])
        watched = [_watch(leaf) for leaf in leaves]
        again = any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in leaves)
        stack.differentiating += 1
        try:
            given = (*arguments[:argument], rebuild(watched), *arguments[argument + 1 :])
            output = function(*given, **keywords)
            if not isinstance(output, Tensor):
                raise GraphError(f"grad: the function must give one number as a tensor, not {type(output).__name__}")
            if not again:
                stack.differentiating -= 1  # nobody outside differentiates further
            try:
                found = _gradients(output, watched, past=False)
            finally:
                if not again:
                    stack.differentiating += 1
        finally:
            stack.differentiating -= 1
        if not again and not stack.differentiating and not stack.recording:
            output = output.detach()
        return output, rebuild(found)

    return differentiated


def grad(function: Callable[..., Any], argument: int = 0) -> Callable[..., Any]:
    """A function that gives the gradient of ``function`` on one argument; apply it again for higher derivatives.

    Examples
    --------
    >>> import nabi
    >>> cube = lambda x: x**3
    >>> nabi.grad(cube)(2.0), nabi.grad(nabi.grad(cube))(2.0)
    (tensor(12.), tensor(12.))
    """
    both = value_and_grad(function, argument)

    @functools.wraps(function)
    def differentiated(*arguments: Any, **keywords: Any) -> Any:
        return both(*arguments, **keywords)[1]

    return differentiated


def _watch(leaf: Any) -> Tensor:
    """A fresh node for the same value: what is differentiated on, however often the value is used elsewhere."""
    given = leaf if isinstance(leaf, Tensor) else tensor(leaf, requires_grad=True)
    if given.dtype.kind != "f":
        raise DTypeError(f"grad: gradients flow through floating-point numbers only, not {given.dtype}")
    watched: Tensor = operations.identity(given)
    watched.requires_grad = True
    watched.name = given.name
    return watched
