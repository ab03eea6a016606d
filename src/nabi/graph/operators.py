"""Python's operators, written once for everything that a formula can be given: tensors, shapes and text."""

from typing import Any

from nabi.graph import indexing


class Operators:
    """Gives ``+``, ``@``, ``x[...]`` and the common methods to a class, by way of the functions in its ``_xp``."""

    __slots__ = ()
    __array_ufunc__ = None  # NumPy arrays on the left give way: array + tensor is ours
    __hash__ = object.__hash__
    _xp: Any

    def __add__(self, other: Any) -> Any:
        return self._xp.add(self, other)

    def __radd__(self, other: Any) -> Any:
        return self._xp.add(other, self)

    def __sub__(self, other: Any) -> Any:
        return self._xp.subtract(self, other)

    def __rsub__(self, other: Any) -> Any:
        return self._xp.subtract(other, self)

    def __mul__(self, other: Any) -> Any:
        return self._xp.multiply(self, other)

    def __rmul__(self, other: Any) -> Any:
        return self._xp.multiply(other, self)

    def __truediv__(self, other: Any) -> Any:
        return self._xp.divide(self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return self._xp.divide(other, self)

    def __floordiv__(self, other: Any) -> Any:
        return self._xp.floor_divide(self, other)

    def __rfloordiv__(self, other: Any) -> Any:
        return self._xp.floor_divide(other, self)

    def __rmod__(self, other: Any) -> Any:
        return self._xp.remainder(other, self)

    def __mod__(self, other: Any) -> Any:
        return self._xp.remainder(self, other)

    def __pow__(self, other: Any) -> Any:
        return self._xp.pow(self, other)

    def __rpow__(self, other: Any) -> Any:
        return self._xp.pow(other, self)

    def __matmul__(self, other: Any) -> Any:
        return self._xp.matmul(self, other)

    def __rmatmul__(self, other: Any) -> Any:
        return self._xp.matmul(other, self)

    def __neg__(self) -> Any:
        return self._xp.negative(self)

    def __pos__(self) -> Any:
        return self

    def __abs__(self) -> Any:
        return self._xp.abs(self)

    def __lt__(self, other: Any) -> Any:
        return self._xp.less(self, other)

    def __le__(self, other: Any) -> Any:
        return self._xp.less_equal(self, other)

    def __gt__(self, other: Any) -> Any:
        return self._xp.greater(self, other)

    def __ge__(self, other: Any) -> Any:
        return self._xp.greater_equal(self, other)

    def __eq__(self, other: object) -> Any:
        return self._xp.equal(self, other)

    def __ne__(self, other: object) -> Any:
        return self._xp.not_equal(self, other)

    def __invert__(self) -> Any:
        return self._xp.logical_not(self)

    def __and__(self, other: Any) -> Any:
        return self._xp.logical_and(self, other)

    def __or__(self, other: Any) -> Any:
        return self._xp.logical_or(self, other)

    __rand__ = __and__
    __ror__ = __or__

    def __getitem__(self, key: Any) -> Any:
        static, arrays = indexing.split(key)
        return self._xp.getitem(self, *arrays, key=static)
