"""Gradients of functions: `grad`, `value_and_grad`, and `gradients` of one tensor on others.

The walk back through the graph itself is in `nabi.graph.backward`.
"""

import functools
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

from nabi._tensor import Tensor, tensor
from nabi.errors import DTypeError, GraphError
from nabi.graph import nest
from nabi.graph.backward import GRAPH, VALUES, pull_back
from nabi.graph.interpreter import differentiating, stack
from nabi.graph.operation import operations


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
        Where ``output`` is not a single number, or it or an input does not require a gradient.

    Examples
    --------
    >>> import nabi
    >>> x, y = nabi.tensor(3.0, requires_grad=True), nabi.tensor(2.0, requires_grad=True)
    >>> nabi.gradients(x * x * y, [x, y])
    [tensor(12.), tensor(9.)]
    """
    if not output.requires_grad:
        raise GraphError("gradients: nothing that the output was made from requires a gradient, or none is remembered")
    return _gradients(output, inputs, past=True)


def _gradients(output: Tensor, inputs: Sequence[Tensor], past: bool) -> list[Tensor]:
    output.starts("gradients")
    top: Any = stack.top
    versions: list[list[Any]] = [top.versions(i) for i in inputs]
    for nodes in versions:
        if not nodes[-1].requires_grad:
            raise GraphError(f"gradients: {nodes[-1]._called()} does not require a gradient")
    output = top.lift(output, None)
    wanted = [node for nodes in versions for node in nodes]
    if stack.recording or stack.differentiating:
        pairs = pull_back(output, operations.ones(shape=(), dtype=output.dtype), GRAPH, wanted, past)
    else:
        pairs = [(node, Tensor(g)) for node, g in pull_back(output, output.dtype.type(1), VALUES, wanted, past)]
    found = {node.serial: g for node, g in pairs}
    result = []
    for nodes in versions:  # a tensor that was assigned on the way counts with all that it was
        parts = [found[node.serial] for node in nodes if node.serial in found]
        zero = [] if parts else [operations.zeros(shape=nodes[-1].shape, dtype=nodes[-1].dtype)]
        result.append(functools.reduce(operations.add, parts + zero))
    return result


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
        place = argument + len(arguments) if argument < 0 else argument
        leaves, rebuild = nest.flatten(arguments[place])
        # Where the caller's own tensors are differentiated on as well, the gradient must be a graph for them to see.
        again = any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in leaves)
        with differentiating():
            watched = [_watch(leaf) for leaf in leaves]
            output = function(*arguments[:place], rebuild(watched), *arguments[place + 1 :], **keywords)
            if not isinstance(output, Tensor):
                raise GraphError(f"grad: the function must give one number as a tensor, not {type(output).__name__}")
        with differentiating() if again else nullcontext():
            found = _gradients(output, watched, past=False)
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
