"""Text as ``xp``: an elementwise formula written down as a scalar expression.

For people, who are shown the mathematics with numbers put in; and for engines, which make fused kernels of it.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from nabi.graph.operation import registry
from nabi.graph.operators import Operators

FUNCTIONS = frozenset(
    "erf exp expm1 log log1p sqrt sin cos tanh abs sign floor ceil round where maximum minimum isnan isfinite".split()
)
"""The functions that a scalar expression may call; every other operation is written out in these."""

_SYMBOLS = {  # each with its precedence in Python
    "add": ("+", 4),
    "subtract": ("-", 4),
    "multiply": ("*", 5),
    "divide": ("/", 5),
    "floor_divide": ("//", 5),
    "remainder": ("%", 5),
    "pow": ("**", 7),
    "less": ("<", 1),
    "less_equal": ("<=", 1),
    "greater": (">", 1),
    "greater_equal": (">=", 1),
    "equal": ("==", 1),
    "not_equal": ("!=", 1),
    "logical_and": ("&", 3),
    "logical_or": ("|", 2),
}
_ATOM = 9


class Text(Operators):
    """A scalar expression; operators and `xp` make longer ones out of it.

    Examples
    --------
    >>> Text("x") * (Text("y") + 1)
    x * (y + 1)
    """

    __slots__ = ("dtype", "precedence", "source")
    shape: tuple[int, ...] = ()
    ndim = 0

    def __init__(self, source: str, precedence: int = _ATOM) -> None:
        self.source = source
        self.precedence = precedence
        self.dtype: Any = np.dtype(np.float32)

    def __repr__(self) -> str:
        return self.source

    def __bool__(self) -> bool:
        raise TypeError("the text of a formula has no truth value")


class _TextNamespace:
    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name in _SYMBOLS:
            return lambda x, y: _join(*_SYMBOLS[name], x, y)
        if name in FUNCTIONS:
            return lambda *arguments: Text(f"{name}({', '.join(_write(a, 0) for a in arguments)})")
        if name not in registry:
            raise AttributeError(f"text has no function {name!r}")
        return lambda *arguments, **settings: registry[name].forward(
            self, *arguments, **{**registry[name].defaults, **settings}
        )

    def negative(self, x: Any) -> Text:
        return Text(f"-{_write(x, 6)}", 6)

    def logical_not(self, x: Any) -> Text:
        return Text(f"~{_write(x, 6)}", 6)

    def astype(self, x: Any, dtype: Any) -> Text:
        if dtype in ("bool", bool):
            return _join("!=", 1, x, 0)
        return _as_text(x)

    def zeros_like(self, x: Any) -> Text:
        return Text("0")

    def ones_like(self, x: Any) -> Text:
        return Text("1")


text = _TextNamespace()
"""Text as ``xp``: writes an elementwise formula down."""
Text._xp = text


def number(value: Any) -> Text:
    """A number as it is put into a formula: at most four digits after the point, negative ones in brackets."""
    source = f"{float(value):.4g}"
    return Text(source, 6 if source.startswith("-") else _ATOM)


def _as_text(value: Any) -> Text:
    if isinstance(value, Text):
        return value
    source = repr(value.item() if hasattr(value, "item") else value)
    return Text(source, 6 if source.startswith("-") else _ATOM)


def _write(value: Any, precedence: int) -> str:
    piece = _as_text(value)
    return piece.source if piece.precedence > precedence else f"({piece.source})"


def _join(symbol: str, precedence: int, x: Any, y: Any) -> Text:
    if symbol == "**":
        left, right = _write(x, precedence), _write(y, precedence - 1)
    else:
        left = _write(x, precedence - 1)
        right = _write(y, precedence)
    return Text(f"{left} {symbol} {right}", precedence)
