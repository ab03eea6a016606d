"""Backpropagation: from a graph to its gradients.

One walk serves both ways of running it. Given NumPy as ``xp`` it computes gradients at once; given `nabi.ops` it makes
a graph of them, which can be differentiated again, compiled, or drawn. Source: the lecture, chapter 4; Griewank and
Walther, "Evaluating Derivatives" (2008), chapter 3.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nabi._tensor import Tensor, tensor
from nabi.errors import DTypeError, GraphError
from nabi.graph import namespace, nest
from nabi.graph.interpreter import stack
from nabi.graph.node import Node, ancestors, describe
from nabi.graph.operation import operations


def pull_back(
    root: Node, g: Any, xp: Any, read: Callable[[Any], Any], wanted: set[int] | None = None, past: bool = True
) -> dict[int, Any]:
    """Carry the gradient ``g`` on ``root`` back through the graph.

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
    wanted : set of int, optional
        The ids of the nodes whose gradients are asked for; by default, all leaves that require one.
    past : bool
        False where no wanted node is made from another, so that the walk may end at them.

    Returns
    -------
    dict of int to array or Tensor
        The gradient on each wanted node that the root depends on.
    """
    order = ancestors((root,), needed=True, stop=frozenset() if past or wanted is None else wanted)
    leads: set[int] | None = None  # the nodes that depend on a wanted one: only along these is there anything to do
    if wanted is not None:
        leads = set()
        for node in order:
            if id(node) in wanted or any(id(source) in leads for source in node.inputs):
                leads.add(id(node))
    gradients: dict[int, Any] = {id(root): g}
    for node in reversed(order):
        operation = node.operation
        if operation is None or id(node) not in gradients or (wanted is not None and not past and id(node) in wanted):
            continue
        g = gradients[id(node)] if wanted is not None and id(node) in wanted else gradients.pop(id(node))
        inputs = node.inputs
        if operation.kind == "projection":
            whole = inputs[0]
            parts = gradients.setdefault(id(whole), [None] * len(read(whole)))
            place = node.settings["index"]
            parts[place] = g if parts[place] is None else parts[place] + g
            continue
        values = [read(source) for source in inputs]
        y = read(node)
        for index, source in enumerate(inputs):
            if not source.requires_grad or (leads is not None and id(source) not in leads):
                continue
            rule = operation.rules.get(index) or operation.rule(index)
            if rule is None:
                raise GraphError(f"{describe(node)} declares no gradient for its argument {index}")
            flow = rule(xp, g, y, *values, **node.settings) if node.settings else rule(xp, g, y, *values)
            if flow is None:
                continue
            if flow.shape != source.shape:
                flow = _sum_to(xp, flow, source.shape)
            key = id(source)
            gradients[key] = gradients[key] + flow if key in gradients else flow
    if wanted is None:
        return gradients
    return {key: gradients[key] for key in wanted if key in gradients}


def _sum_to(xp: Any, g: Any, shape: tuple[int, ...]) -> Any:
    """A gradient summed back to the shape of an input that was broadcast."""
    extra = g.ndim - len(shape)
    axes = (*range(extra), *(i + extra for i, n in enumerate(shape) if n == 1 and g.shape[i + extra] != 1))
    return xp.reshape(xp.sum(g, axis=axes) if axes else g, shape)


def _value(node: Any) -> Any:
    return node.value


def _parts(node: Any) -> Any:
    return node.parts()


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
    found = pull_back(root, root.dtype.type(1), namespace.numpy, _value)
    leaf: Any
    for leaf in ancestors((root,), needed=True):
        if leaf.operation is None and id(leaf) in found:
            g = found[id(leaf)]
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
    wanted = {id(node) for node in nodes}
    found: dict[int, Any] = {}
    if not output.requires_grad:
        pass
    elif stack.recording or stack.differentiating:
        one = operations.ones(shape=(), dtype=output.dtype)
        found = pull_back(stack.top.lift(output, None), one, operations, _parts, wanted, past)  # type: ignore[union-attr]
    else:
        values = pull_back(output, output.dtype.type(1), namespace.numpy, _value, wanted, past)
        found = {key: Tensor(g) for key, g in values.items()}
    return [found[id(n)] if id(n) in found else operations.zeros(shape=n.shape, dtype=n.dtype) for n in nodes]


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
