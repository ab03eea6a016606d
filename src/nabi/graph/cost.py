"""What a formula costs, counted from shapes: the formula is run over shapes that keep count.

One multiply-add (or any other arithmetic on one element) counts as one: an elementwise operation costs one for each
element of its result, a reduction one for each element it folds, a product of matrices its rows times columns times
shared length. Moving elements costs nothing. A convolution and both its gradients cost what the sum in its definition
has terms, however an engine arranges it.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from nabi.graph.node import Node
from nabi.graph.operation import Operation, registry
from nabi.graph.shapes import Spec, shapes

_REDUCTIONS = frozenset("sum max min any all argmax argmin argsort".split())
_OPENED = frozenset("composite normalization window random reduction".split())  # counted by their own formulas
_ELEMENTWISE = frozenset("where bitwise_and bitwise_or bitwise_xor bitwise_left_shift bitwise_right_shift".split())


class _Counted(Spec):
    """A shape whose operators keep count."""

    __slots__ = ("_xp",)

    def __init__(self, spec: Spec, counter: "_Counter") -> None:
        super().__init__(spec.shape, spec.dtype)
        self._xp = counter


class _Counter:
    """Shapes as ``xp``, with a count of what is computed."""

    def __init__(self) -> None:
        self.total = 0

    def wrap(self, value: Any) -> Any:
        """A shape, or a tuple of them, whose operators are counted here."""
        if isinstance(value, tuple):
            return tuple(self.wrap(item) for item in value)
        return _Counted(value, self) if isinstance(value, Spec) else value

    def __getattr__(self, name: str) -> Callable[..., Any]:
        known = getattr(shapes, name)
        if not callable(known):
            return known  # type: ignore[no-any-return]
        declared = registry.get(name)
        if declared is not None and declared.kind in _OPENED and name not in _PRODUCTS and name not in _REDUCTIONS:
            return lambda *given, **settings: declared.forward(self, *given, **{**declared.defaults, **settings})

        def call(*given: Any, **settings: Any) -> Any:
            result = known(*map(_bare, given), **settings)
            if name in _PRODUCTS:
                self.total += _PRODUCTS[name](result, *given)
            elif name in _REDUCTIONS:
                self.total += given[0].size
            elif name in _ELEMENTWISE or (declared is not None and declared.kind == "elementwise"):
                self.total += _size(result) if name not in ("astype", "identity", "stop_gradient") else 0
            elif name == "scatter_add":
                self.total += _size(given[1])
            return self.wrap(result)

        return call


def _bare(value: Any) -> Any:
    """Without the counting: an operation that counts as one must not be counted inside as well."""
    if isinstance(value, list | tuple):
        return type(value)(_bare(item) for item in value)
    return Spec(value.shape, value.dtype) if isinstance(value, _Counted) else value


def _size(value: Any) -> int:
    return value.size if isinstance(value, Spec) else 0


def _window_product(positions: Spec, weight: Spec) -> int:
    kh, kw, depth, _ = weight.shape
    return positions.size * kh * kw * depth


_PRODUCTS: dict[str, Callable[..., int]] = {
    "matmul": lambda z, x, y: z.size * x.shape[-1],
    "precise_matmul": lambda z, x, y: z.size * x.shape[-1],
    "conv2d": lambda y, x, weight: _window_product(y, weight),
    "conv2d_input_gradient": lambda dx, g, weight: _window_product(g, weight),
    "conv2d_weight_gradient": lambda dw, x, g: _window_product(g, dw),
}


def cost(
    operation: Operation, specs: Sequence[Any], settings: dict[str, Any] | None = None, flows: Sequence[int] = ()
) -> tuple[int, int]:
    """Multiply-adds of an operation's formula, and of the rules that carry a gradient back.

    Parameters
    ----------
    operation : Operation
    specs : sequence of Spec
        The shapes and dtypes of its inputs.
    settings : dict, optional
    flows : sequence of int
        The places of the inputs that a gradient is wanted on.

    Examples
    --------
    >>> cost(registry["matmul"], [Spec((2, 3), "float32"), Spec((3, 4), "float32")], flows=(0, 1))
    (24, 48)
    """
    keys = tuple((spec.shape, spec.dtype) for spec in specs)
    return _counted(operation, keys, tuple((settings or {}).items()), tuple(flows))


def forward_cost(node: Node) -> int:
    """Multiply-adds of the formula that a node was made by; none for a leaf."""
    return _of_node(node, ())[0]


def products(node: Node) -> int:
    """How many products a node adds up: those of a matrix product or a convolution, none for everything else."""
    if node.operation is None or node.operation.name not in _PRODUCTS:
        return 0
    return _PRODUCTS[node.operation.name](node.spec, *(source.spec for source in node.inputs))


def node_cost(node: Node) -> tuple[int, int]:
    """Multiply-adds of a node's formula, and of the rules for those of its inputs that a gradient flows to."""
    return _of_node(node, [i for i, source in enumerate(node.inputs) if source.requires_grad and node.requires_grad])


def _of_node(node: Node, flows: Sequence[int]) -> tuple[int, int]:
    if node.operation is None or node.operation.kind == "projection":
        return 0, 0
    return cost(node.operation, [source.spec for source in node.inputs], node.settings, flows)


@functools.lru_cache(maxsize=4096)
def _counted(
    operation: Operation, keys: tuple[Any, ...], items: tuple[tuple[str, Any], ...], flows: tuple[int, ...]
) -> tuple[int, int]:
    counter = _Counter()
    inputs = [counter.wrap(Spec(*key)) for key in keys]
    settings = dict(items)
    if operation.variadic:
        y = operation.forward(counter, *inputs, **settings)
    else:
        y = getattr(counter, operation.name)(*inputs, **settings)
    forward, counter.total = counter.total, 0
    g = (y[0], *(None for _ in y[1:])) if isinstance(y, tuple) else y
    for index in flows:
        rule = operation.rule(index)
        flow = rule(counter, g, y, *inputs, **settings) if rule is not None else None
        if flow is not None and flow.shape != inputs[index].shape:
            counter.total += flow.size  # summed back to the shape of what was broadcast
    return forward, counter.total
