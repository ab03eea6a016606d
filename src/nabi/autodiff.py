"""Gradients of functions: `grad`, `value_and_grad`, and `gradients` of one tensor on others.

The walk back through the graph itself is in `nabi.graph.backward`.
"""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

from nabi._tensor import Tensor, tensor
from nabi.errors import DTypeError, GraphError
from nabi.graph import namespace, nest
from nabi.graph.backward import pull_back
from nabi.graph.interpreter import stack
from nabi.graph.operation import operations

_numpy = namespace.numpy
_value = operator.attrgetter("value")
_parts = operator.methodcaller("parts")


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
    output.starts("gradients")
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
