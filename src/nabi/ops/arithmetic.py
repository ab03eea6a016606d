"""Elementwise operations: a page of formulas.

Every rule has one signature: ``(xp, g, y, *inputs)``, from the gradient ``g`` on the output ``y`` to the gradient on
one input. Inputs that were broadcast are summed back to their shape by the walk, not here.
"""

import math
from typing import Any

from nabi.errors import SettingError
from nabi.graph.operation import AsIs, Boolean, boolean, operation, positive, real

# --- arithmetic ---


@operation("elementwise", example=[real(2, 3), real(3)])
def add(xp: Any, x: Any, y: Any) -> Any:
    """z = x + y"""
    return x + y


add.vjp(
    x=lambda xp, g, z, x, y: g,
    y=lambda xp, g, z, x, y: g,
)


@operation("elementwise", example=[real(2, 3), real(2, 1)])
def subtract(xp: Any, x: Any, y: Any) -> Any:
    """z = x - y"""
    return x - y


subtract.vjp(
    x=lambda xp, g, z, x, y: g,
    y=lambda xp, g, z, x, y: -g,
)


@operation("elementwise", example=[real(2, 3), real(3)])
def multiply(xp: Any, x: Any, y: Any) -> Any:
    """z = x·y"""
    return x * y


multiply.vjp(
    x=lambda xp, g, z, x, y: g * y,
    y=lambda xp, g, z, x, y: g * x,
)


@operation("elementwise", floating=True, example=[real(2, 3), positive(3)])
def divide(xp: Any, x: Any, y: Any) -> Any:
    """z = x / y"""
    return x / y


divide.vjp(
    x=lambda xp, g, z, x, y: g / y,
    y=lambda xp, g, z, x, y: -g * z / y,
)


@operation("elementwise", differentiable=False, example=[real(2, 3), positive(3)])
def floor_divide(xp: Any, x: Any, y: Any) -> Any:
    """z = ⌊x / y⌋"""
    return x // y


@operation("elementwise", example=[real(2, 3), positive(3)])
def remainder(xp: Any, x: Any, y: Any) -> Any:
    """z = x - y·⌊x / y⌋"""
    return x % y


remainder.vjp(
    x=lambda xp, g, z, x, y: g,
    y=lambda xp, g, z, x, y: -g * xp.floor(x / y),
)


@operation("elementwise", example=[positive(2, 3), real(3)])
def pow_(xp: Any, x: Any, y: Any) -> Any:
    """z = xʸ"""
    return x**y


pow_.vjp(
    x=lambda xp, g, z, x, y: g * y * x ** xp.where(y == 0, 1, y - 1),
    y=lambda xp, g, z, x, y: g * z * xp.log(xp.where(x > 0, x, 1)),
)


@operation("elementwise", example=[real(2, 3)])
def negative(xp: Any, x: Any) -> Any:
    """y = -x"""
    return -x


negative.vjp(x=lambda xp, g, y, x: -g)


@operation("elementwise", example=[real(2, 3)])
def abs_(xp: Any, x: Any) -> Any:
    """y = |x|"""
    return xp.abs(x)


abs_.vjp(x=lambda xp, g, y, x: g * xp.sign(x))


@operation("elementwise", example=[real(2, 3)])
def square(xp: Any, x: Any) -> Any:
    """y = x²"""
    return x * x


square.vjp(x=lambda xp, g, y, x: g * (2 * x))


@operation("elementwise", example=[real(2, 3), real(3)])
def maximum(xp: Any, x: Any, y: Any) -> Any:
    """z = max(x, y), where they are equal the gradient is shared"""
    return xp.maximum(x, y)


maximum.vjp(
    x=lambda xp, g, z, x, y: xp.where(x > y, g, xp.where(x == y, g / 2, 0)),
    y=lambda xp, g, z, x, y: xp.where(y > x, g, xp.where(x == y, g / 2, 0)),
)


@operation("elementwise", example=[real(2, 3), real(3)])
def minimum(xp: Any, x: Any, y: Any) -> Any:
    """z = min(x, y), where they are equal the gradient is shared"""
    return xp.minimum(x, y)


minimum.vjp(
    x=lambda xp, g, z, x, y: xp.where(x < y, g, xp.where(x == y, g / 2, 0)),
    y=lambda xp, g, z, x, y: xp.where(y < x, g, xp.where(x == y, g / 2, 0)),
)


@operation("elementwise", example=[real(2, 3)], min=-0.5, max=0.5)
def clip(xp: Any, x: Any, *, min: float | None = None, max: float | None = None) -> Any:
    """y = min(max(x, low), high)"""
    if x.dtype.kind in "iu" and not all(isinstance(bound, int) for bound in (min or 0, max or 0)):
        raise SettingError(f"clip: min={min} and max={max} must be integers, as x is")
    if min is not None:
        x = xp.maximum(x, min)
    return x if max is None else xp.minimum(x, max)


clip.vjp(x=lambda xp, g, y, x, min, max: xp.where(y == x, g, 0))


@operation("elementwise", example=[boolean(2, 3), real(3), real(2, 1)])
def where(xp: Any, condition: Boolean, x: Any, y: Any) -> Any:
    """z = x where the condition holds, y elsewhere"""
    return xp.where(condition, x, y)


where.vjp(
    x=lambda xp, g, z, condition, x, y: xp.where(condition, g, 0),
    y=lambda xp, g, z, condition, x, y: xp.where(condition, 0, g),
)


@operation("elementwise", example=[real(2, 3)], dtype="float64")
def astype(xp: Any, x: AsIs, *, dtype: Any) -> Any:
    """y = x in another dtype"""
    return xp.astype(x, dtype)


astype.vjp(x=lambda xp, g, y, x, dtype: xp.astype(g, x.dtype) if x.dtype.kind == y.dtype.kind == "f" else None)


@operation("elementwise", example=[real(2, 3)])
def identity(xp: Any, x: Any) -> Any:
    """y = x"""
    return x


identity.vjp(x=lambda xp, g, y, x: g)


@operation("elementwise", differentiable=False, example=[real(2, 3)])
def stop_gradient(xp: Any, x: Any) -> Any:
    """y = x, through which no gradient flows"""
    return x


# --- exponentials ---


@operation("elementwise", floating=True, example=[real(2, 3)])
def exp(xp: Any, x: Any) -> Any:
    """y = eˣ"""
    return xp.exp(x)


exp.vjp(x=lambda xp, g, y, x: g * y)


@operation("elementwise", floating=True, example=[real(2, 3)])
def expm1(xp: Any, x: Any) -> Any:
    """y = eˣ - 1"""
    return xp.expm1(x)


expm1.vjp(x=lambda xp, g, y, x: g * (y + 1))


@operation("elementwise", floating=True, example=[positive(2, 3)])
def log(xp: Any, x: Any) -> Any:
    """y = ln x"""
    return xp.log(x)


log.vjp(x=lambda xp, g, y, x: g / x)


@operation("elementwise", floating=True, example=[positive(2, 3)])
def log1p(xp: Any, x: Any) -> Any:
    """y = ln(1 + x)"""
    return xp.log1p(x)


log1p.vjp(x=lambda xp, g, y, x: g / (1 + x))


@operation("elementwise", floating=True, example=[positive(2, 3)])
def sqrt(xp: Any, x: Any) -> Any:
    """y = √x"""
    return xp.sqrt(x)


sqrt.vjp(x=lambda xp, g, y, x: g / (2 * y))


@operation("elementwise", floating=True, example=[real(2, 3)])
def sin(xp: Any, x: Any) -> Any:
    """y = sin x"""
    return xp.sin(x)


sin.vjp(x=lambda xp, g, y, x: g * xp.cos(x))


@operation("elementwise", floating=True, example=[real(2, 3)])
def cos(xp: Any, x: Any) -> Any:
    """y = cos x"""
    return xp.cos(x)


cos.vjp(x=lambda xp, g, y, x: -g * xp.sin(x))


@operation("elementwise", floating=True, example=[real(2, 3)])
def erf(xp: Any, x: Any) -> Any:
    """y = erf x = 2/√π ∫₀ˣ exp(-t²) dt"""
    return xp.erf(x)


erf.vjp(x=lambda xp, g, y, x: g * (2 / math.sqrt(math.pi)) * xp.exp(-x * x))

# --- activations ---


@operation("elementwise", floating=True, example=[real(2, 3)])
def sigmoid(xp: Any, x: Any) -> Any:
    """y = 1 / (1 + e⁻ˣ)"""
    e = xp.exp(-xp.abs(x))  # at most 1, so that no exponential overflows
    return xp.where(x >= 0, 1, e) / (1 + e)


sigmoid.vjp(x=lambda xp, g, y, x: g * (y * (1 - y)))


@operation("elementwise", floating=True, example=[real(2, 3)])
def tanh(xp: Any, x: Any) -> Any:
    """y = tanh x"""
    return xp.tanh(x)


tanh.vjp(x=lambda xp, g, y, x: g * (1 - y * y))


@operation("elementwise", example=[real(2, 3)])
def relu(xp: Any, x: Any) -> Any:
    """y = max(0, x)"""
    return xp.maximum(x, 0)


relu.vjp(x=lambda xp, g, y, x: xp.where(x > 0, g, 0))


@operation("elementwise", example=[real(2, 3)])
def relu6(xp: Any, x: Any) -> Any:
    """y = min(max(0, x), 6)"""
    return xp.minimum(xp.maximum(x, 0), 6)


relu6.vjp(x=lambda xp, g, y, x: xp.where((x > 0) & (x < 6), g, 0))


@operation("elementwise", floating=True, example=[real(2, 3)])
def leaky_relu(xp: Any, x: Any, *, negative_slope: float = 0.01) -> Any:
    """y = x where x > 0, slope·x elsewhere"""
    return xp.where(x > 0, x, negative_slope * x)


leaky_relu.vjp(x=lambda xp, g, y, x, negative_slope: xp.where(x > 0, g, negative_slope * g))


@operation("elementwise", floating=True, example=[real(2, 3)])
def elu(xp: Any, x: Any, *, alpha: float = 1.0) -> Any:
    """y = x where x > 0, α·(eˣ - 1) elsewhere"""
    return xp.where(x > 0, x, alpha * xp.expm1(xp.minimum(x, 0)))


elu.vjp(x=lambda xp, g, y, x, alpha: xp.where(x > 0, g, g * (alpha * xp.exp(xp.minimum(x, 0)))))


@operation("elementwise", floating=True, example=[real(2, 3)])
def gelu(xp: Any, x: Any) -> Any:
    """y = x·Φ(x), Φ the normal distribution function"""
    return x * (0.5 * (1 + xp.erf(x * math.sqrt(0.5))))


gelu.vjp(
    x=lambda xp, g, y, x: (
        g * (0.5 * (1 + xp.erf(x * math.sqrt(0.5))) + x * (xp.exp(-0.5 * (x * x)) * (1 / math.sqrt(2 * math.pi))))
    )
)


@operation("elementwise", floating=True, example=[real(2, 3)])
def silu(xp: Any, x: Any) -> Any:
    """y = x·σ(x)"""
    return x * xp.sigmoid(x)


@silu.vjp("x")
def _(xp: Any, g: Any, y: Any, x: Any) -> Any:
    s = xp.sigmoid(x)
    return g * (s + y * (1 - s))


@operation("elementwise", floating=True, example=[real(2, 3)])
def hard_swish(xp: Any, x: Any) -> Any:
    """y = x·min(max(0, x + 3), 6) / 6"""
    return x * (xp.minimum(xp.maximum(x + 3, 0), 6) / 6)


hard_swish.vjp(
    x=lambda xp, g, y, x: xp.where(x > 3, g, xp.where(x >= -3, g * (x / 3 + 0.5), 0)),
)


@operation("elementwise", floating=True, example=[real(2, 3)])
def softplus(xp: Any, x: Any) -> Any:
    """y = ln(1 + eˣ)"""
    return xp.maximum(x, 0) + xp.log1p(xp.exp(-xp.abs(x)))


softplus.vjp(x=lambda xp, g, y, x: g * xp.sigmoid(x))

# --- comparisons and steps: no gradient flows through them ---


@operation("elementwise", differentiable=False, example=[real(2, 3), real(3)])
def less(xp: Any, x: Any, y: Any) -> Any:
    """z = x < y"""
    return x < y


@operation("elementwise", differentiable=False, example=[real(2, 3), real(3)])
def less_equal(xp: Any, x: Any, y: Any) -> Any:
    """z = x ≤ y"""
    return x <= y


@operation("elementwise", differentiable=False, example=[real(2, 3), real(3)])
def greater(xp: Any, x: Any, y: Any) -> Any:
    """z = x > y"""
    return x > y


@operation("elementwise", differentiable=False, example=[real(2, 3), real(3)])
def greater_equal(xp: Any, x: Any, y: Any) -> Any:
    """z = x ≥ y"""
    return x >= y


@operation("elementwise", differentiable=False, example=[real(2, 3), real(3)])
def equal(xp: Any, x: Any, y: Any) -> Any:
    """z = (x = y)"""
    return x == y


@operation("elementwise", differentiable=False, example=[real(2, 3), real(3)])
def not_equal(xp: Any, x: Any, y: Any) -> Any:
    """z = (x ≠ y)"""
    return x != y


@operation("elementwise", differentiable=False, example=[boolean(2, 3), boolean(3)])
def logical_and(xp: Any, x: Boolean, y: Boolean) -> Any:
    """z = x and y"""
    return xp.logical_and(x, y)


@operation("elementwise", differentiable=False, example=[boolean(2, 3), boolean(3)])
def logical_or(xp: Any, x: Boolean, y: Boolean) -> Any:
    """z = x or y"""
    return xp.logical_or(x, y)


@operation("elementwise", differentiable=False, example=[boolean(2, 3)])
def logical_not(xp: Any, x: Boolean) -> Any:
    """y = not x"""
    return xp.logical_not(x)


@operation("elementwise", differentiable=False, example=[real(2, 3)])
def sign(xp: Any, x: Any) -> Any:
    """y = x / |x|, 0 at 0"""
    return xp.sign(x)


@operation("elementwise", differentiable=False, example=[real(2, 3)])
def floor(xp: Any, x: Any) -> Any:
    """y = ⌊x⌋"""
    return xp.floor(x)


@operation("elementwise", differentiable=False, example=[real(2, 3)])
def ceil(xp: Any, x: Any) -> Any:
    """y = ⌈x⌉"""
    return xp.ceil(x)


@operation("elementwise", differentiable=False, example=[real(2, 3)])
def round_(xp: Any, x: Any) -> Any:
    """y = the nearest integer, a half to the even one"""
    return xp.round(x)


@operation("elementwise", differentiable=False, example=[real(2, 3)])
def isfinite(xp: Any, x: Any) -> Any:
    """y = whether x is a number and not infinite"""
    return xp.isfinite(x)


@operation("elementwise", differentiable=False, example=[real(2, 3)])
def isnan(xp: Any, x: Any) -> Any:
    """y = whether x is not a number"""
    return xp.isnan(x)
