"""What a formula costs, counted from shapes: the formula is run over shapes that keep count.

One multiply-add (or any other arithmetic on one element) counts as one: an elementwise operation costs one for each
element of its result, a reduction one for each element it folds, a product of matrices its rows times columns times
shared length. Moving elements costs nothing. A convolution and both its gradients cost what the sum in its definition
has terms, however an engine arranges it.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

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
            result = known(*given, **settings)
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


def _size(value: Any) -> int:
    return value.size if isinstance(value, Spec) else 0


def _window_product(positions: Spec, weight: Spec) -> int:
    kh, kw, depth, _ = weight.shape
    return positions.size * kh * kw * depth


_PRODUCTS: dict[str, Callable[..., int]] = {
    "matmul": lambda z, x, y: z.size * x.shape[-1],
    "conv2d": lambda y, x, weight: _window_product(y, weight),
    "conv2d_input_gradient": lambda dx, g, weight: _window_product(g, weight),
    "conv2d_weight_gradient": lambda dw, x, g: _window_product(g, dw),
}


def forward_cost(operation: Operation, specs: Sequence[Any], settings: dict[str, Any] | None) -> int:
    """Multiply-adds of an operation's formula.

    Examples
    --------
    >>> forward_cost(registry["matmul"], [Spec((2, 3), "float32"), Spec((3, 4), "float32")], {})
    24
    """
    return _counted(operation, None, tuple(map(_key, specs)), _items(settings))


def backward_cost(operation: Operation, index: int, specs: Sequence[Any], settings: dict[str, Any] | None) -> int:
    """Multiply-adds of the rule that carries a gradient back to one input; 0 where there is none."""
    if operation.rule(index) is None:
        return 0
    return _counted(operation, index, tuple(map(_key, specs)), _items(settings))


def _key(spec: Any) -> tuple[tuple[int, ...], Any]:
    return spec.shape, spec.dtype


def _items(settings: dict[str, Any] | None) -> tuple[tuple[str, Any], ...]:
    return tuple((settings or {}).items())


@functools.lru_cache(maxsize=4096)
def _counted(operation: Operation, index: int | None, keys: tuple[Any, ...], items: tuple[tuple[str, Any], ...]) -> int:
    counter = _Counter()
    settings = dict(items)
    inputs = [counter.wrap(Spec(*key)) for key in keys]
    if index is None and operation.kind == "elementwise":
        return math.prod(operation.forward(shapes, *[Spec(*key) for key in keys], **settings).shape)
    if operation.kind == "projection":
        return 0
    if operation.variadic:
        y = operation.forward(counter, *inputs, **settings)
    else:
        y = getattr(counter, operation.name)(*inputs, **settings)
    if index is not None:
        counter.total = 0
        rule = operation.rule(index)
        assert rule is not None
        g = (y[0], *(None for _ in y[1:])) if isinstance(y, tuple) else y
        flow = rule(counter, g, y, *inputs, **settings)
        if flow.shape != inputs[index].shape:
            counter.total += flow.size  # summed back to the shape of what was broadcast
    return counter.total
