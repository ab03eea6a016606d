"""Operations that fold axes away, and those that weigh along them.

``axis`` is an integer, a tuple of them, or None for all; ``keepdims`` leaves folded axes in place with length 1.
"""

import math
from typing import Any

from nabi.errors import ShapeError
from nabi.graph.operation import Operation, operation, real
from nabi.graph.shapes import Axis, axes, explain


def _spread(xp: Any, g: Any, x: Any, axis: Axis) -> Any:
    """A folded array laid out over ``x`` again, whether or not it kept its axes."""
    folded = axes(axis, x.ndim)
    kept = tuple(1 if i in folded else n for i, n in enumerate(x.shape))
    return xp.broadcast_to(xp.reshape(g, kept), x.shape)


def _count(x: Any, axis: Axis) -> int:
    return math.prod(x.shape[i] for i in axes(axis, x.ndim))


@operation("reduction", example=[real(2, 3)], axis=1)
def sum_(xp: Any, x: Any, *, axis: Axis = None, keepdims: bool = False) -> Any:
    """y = Σ x"""
    return xp.sum(x, axis=axis, keepdims=keepdims)


sum_.vjp(x=lambda xp, g, y, x, axis, keepdims: _spread(xp, g, x, axis))


@operation("reduction", floating=True, example=[real(2, 3)], axis=1)
def mean(xp: Any, x: Any, *, axis: Axis = None, keepdims: bool = False) -> Any:
    """y = Σ x / n"""
    return xp.sum(x, axis=axis, keepdims=keepdims) / _count(x, axis)


mean.vjp(x=lambda xp, g, y, x, axis, keepdims: _spread(xp, g / _count(x, axis), x, axis))


@operation("reduction", floating=True, example=[real(2, 3)], axis=0)
def var(xp: Any, x: Any, *, axis: Axis = None, correction: float = 0.0, keepdims: bool = False) -> Any:
    """y = Σ (x - mean x)² / (n - correction)"""
    deviation = x - xp.sum(x, axis=axis, keepdims=True) / _count(x, axis)
    return xp.sum(deviation * deviation, axis=axis, keepdims=keepdims) / (_count(x, axis) - correction)


@var.vjp("x")
def _(xp: Any, g: Any, y: Any, x: Any, axis: Axis, correction: float, keepdims: bool) -> Any:
    deviation = x - xp.sum(x, axis=axis, keepdims=True) / _count(x, axis)
    return _spread(xp, g * 2 / (_count(x, axis) - correction), x, axis) * deviation


@operation("reduction", example=[real(2, 3)], axis=1)
def max_(xp: Any, x: Any, *, axis: Axis = None, keepdims: bool = False) -> Any:
    """y = max x, equal ones share the gradient"""
    return xp.max(x, axis=axis, keepdims=keepdims)


@operation("reduction", example=[real(2, 3)], axis=1)
def min_(xp: Any, x: Any, *, axis: Axis = None, keepdims: bool = False) -> Any:
    """y = min x, equal ones share the gradient"""
    return xp.min(x, axis=axis, keepdims=keepdims)


@max_.vjp("x")
@min_.vjp("x")
def _(xp: Any, g: Any, y: Any, x: Any, axis: Axis, keepdims: bool) -> Any:
    extreme = xp.astype(x == _spread(xp, y, x, axis), x.dtype)
    return _spread(xp, g, x, axis) * (extreme / xp.sum(extreme, axis=axis, keepdims=True))


@operation("reduction", differentiable=False, example=[real(2, 3)], axis=1)
def argmax(xp: Any, x: Any, *, axis: int | None = None, keepdims: bool = False) -> Any:
    """y = where x is largest, the first of equals"""
    return xp.argmax(x, axis=axis, keepdims=keepdims)


@operation("reduction", differentiable=False, example=[real(2, 3)], axis=1)
def argmin(xp: Any, x: Any, *, axis: int | None = None, keepdims: bool = False) -> Any:
    """y = where x is smallest, the first of equals"""
    return xp.argmin(x, axis=axis, keepdims=keepdims)


@operation("reduction", differentiable=False, example=[real(2, 3)], axis=1)
def any_(xp: Any, x: Any, *, axis: Axis = None, keepdims: bool = False) -> Any:
    """y = whether any x is not zero"""
    return xp.any(x, axis=axis, keepdims=keepdims)


@operation("reduction", differentiable=False, example=[real(2, 3)], axis=1)
def all_(xp: Any, x: Any, *, axis: Axis = None, keepdims: bool = False) -> Any:
    """y = whether every x is not zero"""
    return xp.all(x, axis=axis, keepdims=keepdims)


@operation("reduction", floating=True, example=[real(2, 3)], axis=1)
def logsumexp(xp: Any, x: Any, *, axis: Axis = None, keepdims: bool = False) -> Any:
    """y = ln Σ eˣ"""
    top = xp.max(x, axis=axis, keepdims=True)
    top = xp.where(xp.isfinite(top), top, 0)
    total = top + xp.log(xp.sum(xp.exp(x - top), axis=axis, keepdims=True))
    return total if keepdims else xp.reshape(total, _kept(x, axis))


logsumexp.vjp(
    x=lambda xp, g, y, x, axis, keepdims: _spread(xp, g, x, axis) * xp.exp(x - _spread(xp, y, x, axis)),
)


def _kept(x: Any, axis: Axis) -> tuple[int, ...]:
    folded = axes(axis, x.ndim)
    return tuple(n for i, n in enumerate(x.shape) if i not in folded)


@operation("normalization", floating=True, example=[real(2, 3)])
def softmax(xp: Any, x: Any, *, axis: Axis = -1) -> Any:
    """y = eˣ / Σ eˣ"""
    e = xp.exp(x - xp.max(x, axis=axis, keepdims=True))
    return e / xp.sum(e, axis=axis, keepdims=True)


softmax.vjp(x=lambda xp, g, y, x, axis: y * (g - xp.sum(g * y, axis=axis, keepdims=True)))


@operation("normalization", floating=True, example=[real(2, 3)])
def log_softmax(xp: Any, x: Any, *, axis: Axis = -1) -> Any:
    """y = x - ln Σ eˣ"""
    shifted = x - xp.max(x, axis=axis, keepdims=True)
    return shifted - xp.log(xp.sum(xp.exp(shifted), axis=axis, keepdims=True))


log_softmax.vjp(x=lambda xp, g, y, x, axis: g - xp.exp(y) * xp.sum(g, axis=axis, keepdims=True))


def _refuses_other_axes(operation: Operation) -> None:
    """A number has no axis, though NumPy folds its axis 0 and -1 as if it had one."""

    @operation.check
    def _(x: Any, *, axis: Axis, **settings: Any) -> None:
        try:
            axes(axis, x.ndim)
        except ShapeError as error:
            raise explain(operation, [x], error) from None


for _each in (sum_, mean, var, max_, min_, argmax, argmin, any_, all_, logsumexp, softmax, log_softmax):
    _refuses_other_axes(_each)
