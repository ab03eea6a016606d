"""Array libraries as ``xp``: their own functions, thin adapters where a name is missing, and every declared operation.

A formula may use any name of the Array API standard, ``pad``, ``getitem``, ``scatter_add`` and all declared
operations. A namespace looks a name up among its adapters; then among the operations, whose formula is run over this
same namespace, so that ``xp.mean`` rounds as the operation ``mean`` does; and then in the library, which is also where
a formula arrives that calls its own name, such as ``xp.exp``.
"""

import functools
from typing import Any

import numpy as np

from nabi import threads
from nabi.graph import indexing
from nabi.graph.operation import registry


class Namespace:
    """An array library completed to everything that a formula may use.

    Parameters
    ----------
    library : module
        NumPy, ``jax.numpy``, or anything that follows the Array API.
    **adapters
        Functions that the library lacks or calls otherwise.
    """

    def __init__(self, library: Any, **adapters: Any) -> None:
        self._library = library
        self.__dict__.update(adapters)

    def __getattr__(self, name: str) -> Any:
        operation = registry.get(name)
        if operation is not None and not operation.native:
            found: Any = functools.partial(operation.forward, self)
        else:
            found = getattr(self._library, name)
        setattr(self, name, found)
        return found


def _pad(x: Any, widths: tuple[tuple[int, int], ...], value: float = 0.0) -> Any:
    shape = tuple(before + length + after for length, (before, after) in zip(x.shape, widths, strict=True))
    result = np.full(shape, value, x.dtype) if value else np.zeros(shape, x.dtype)
    result[tuple(slice(before, before + n) for n, (before, _) in zip(x.shape, widths, strict=True))] = x
    return result


def _getitem(x: Any, *indices: Any, key: tuple[Any, ...]) -> Any:
    return x[indexing.join(key, indices)]


def _scatter_add(x: Any, updates: Any, *indices: Any, key: tuple[Any, ...]) -> Any:
    result = np.array(x)
    place = indexing.join(key, indices)
    if indices:
        np.add.at(result, place, updates)
    else:
        result[place] += updates
    return result


def _sum(x: Any, *, axis: Any = None, keepdims: bool = False) -> Any:
    # NumPy adds the rows of a float32 array up one after another; in float64 no rounding is left to see.
    if x.dtype == np.float32:
        return np.sum(x, axis=axis, keepdims=keepdims, dtype=np.float64).astype(np.float32)
    return np.sum(x, axis=axis, keepdims=keepdims, dtype=None if x.dtype.kind == "f" else np.int64)


FEW = 1 << 13
"""Multiply-adds of a product for which BLAS takes one thread by itself."""
MANY = 1 << 25
"""Those of one that is cut up for several threads: by its shape alone, since BLAS rounds as it cuts."""


def _matmul(x: Any, y: Any) -> Any:
    work = x.size * (y.shape[-1] if y.ndim > 1 else 1)
    if work < FEW:
        return np.matmul(x, y)
    with threads.one_blas_thread():
        if work < MANY or min(x.ndim, y.ndim) < 2 or x.shape[:-2] != y.shape[:-2]:
            return np.matmul(x, y)
        found = np.empty((*x.shape[:-1], y.shape[-1]), np.result_type(x, y))
        some = -(-len(x) // min(len(x), work // (MANY // 2)))  # rows, or matrices

        def multiply(start: int) -> None:
            part = slice(start, start + some)
            np.matmul(x[part], y[part] if y.ndim > 2 else y, out=found[part])

        for _ in threads.map_in_order(multiply, range(0, len(x), some)):
            pass
        return found


def _erf(x: Any) -> Any:
    from scipy.special import erf

    return erf(x)


numpy = Namespace(
    np, sum=_sum, matmul=_matmul, precise_matmul=_matmul, erf=_erf, pad=_pad, getitem=_getitem, scatter_add=_scatter_add
)
"""NumPy as ``xp``: computes at once."""
