"""Products summed over shared axes."""

from typing import Any

from nabi.graph.operation import operation, real


@operation("contraction")
def matmul(xp: Any, x: Any, y: Any) -> Any:
    """z = x·y, z[i, k] = Σⱼ x[i, j]·y[j, k]"""
    return xp.matmul(x, y)


matmul.example(real(2, 3), real(3, 4))
matmul.example(real(5, 1, 2, 3), real(2, 3, 1))
matmul.example(real(3), real(3))
matmul.example(real(2, 3), real(3))
matmul.example(real(3), real(4, 3, 2))


@matmul.vjp("x")
def _(xp: Any, g: Any, z: Any, x: Any, y: Any) -> Any:
    return _on_x(xp, xp.matmul, g, x, y)


@matmul.vjp("y")
def _(xp: Any, g: Any, z: Any, x: Any, y: Any) -> Any:
    return _on_y(xp, xp.matmul, g, x, y)


@operation("contraction")
def precise_matmul(xp: Any, x: Any, y: Any) -> Any:
    """z = x·y, z[i, k] = Σⱼ x[i, j]·y[j, k], of numbers that are not rounded to bfloat16 where other products' are.

    For products of products, in which what rounding adds grows.
    """
    return xp.precise_matmul(x, y)


precise_matmul.example(real(2, 3), real(3, 4))
precise_matmul.example(real(3), real(4, 3, 2))
precise_matmul.example(real(2, 3), real(3))


@precise_matmul.vjp("x")
def _(xp: Any, g: Any, z: Any, x: Any, y: Any) -> Any:
    return _on_x(xp, xp.precise_matmul, g, x, y)


@precise_matmul.vjp("y")
def _(xp: Any, g: Any, z: Any, x: Any, y: Any) -> Any:
    return _on_y(xp, xp.precise_matmul, g, x, y)


def _on_x(xp: Any, product: Any, g: Any, x: Any, y: Any) -> Any:
    if y.ndim == 1:  # z[i] = Σⱼ x[i, j]·y[j]
        return xp.expand_dims(g, axis=-1) * y
    if x.ndim == 1:  # z[k] = Σⱼ x[j]·y[j, k]
        return product(y, xp.expand_dims(g, axis=-1))[..., 0]
    return product(g, xp.matrix_transpose(y))


def _on_y(xp: Any, product: Any, g: Any, x: Any, y: Any) -> Any:
    if x.ndim == 1:
        outer = xp.expand_dims(g, axis=-2) if y.ndim > 1 else g
        return (xp.expand_dims(x, axis=-1) if y.ndim > 1 else x) * outer
    if y.ndim == 1:
        return product(xp.matrix_transpose(x), xp.expand_dims(g, axis=-1))[..., 0]
    return product(xp.matrix_transpose(x), g)
