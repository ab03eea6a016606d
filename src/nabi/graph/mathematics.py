"""Mathematics as ``xp``: a formula as it is written on a blackboard.

The rules that carry gradients are run over it, so that people read the very formulas that are computed. A term knows
its numbers where it is a single number: then ``where`` takes its branch and says on what condition. Constants are
folded (``3·x²``, not ``3·x ** (3 - 1)``), everything else is left as it stands.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nabi.graph.namespace import numpy
from nabi.graph.operation import registry
from nabi.graph.operators import Operators
from nabi.graph.shapes import Spec, shapes

_ATOM = 9
_INFIX = {
    "logical_or": (" or ", 1),
    "logical_and": (" and ", 2),
    "less": (" < ", 3),
    "less_equal": (" ≤ ", 3),
    "greater": (" > ", 3),
    "greater_equal": (" ≥ ", 3),
    "equal": (" = ", 3),
    "not_equal": (" ≠ ", 3),
    "add": (" + ", 4),
    "subtract": (" - ", 4),
    "multiply": ("·", 5),
    "divide": (" / ", 5),
    "remainder": (" mod ", 5),
    "matmul": ("·", 5),
    "precise_matmul": ("·", 5),
}
_OPPOSITES = {"<": "≥", "≤": ">", ">": "≤", "≥": "<", "=": "≠", "≠": "="}
_CALLED = {"log": "ln", "sigmoid": "σ", "sum": "Σ", "maximum": "max", "minimum": "min"}
_SAME_NUMBERS = frozenset("reshape broadcast_to expand_dims squeeze astype identity stop_gradient".split())
_RAISED = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


class Term(Operators):
    """A piece of mathematics.

    Attributes
    ----------
    source : str
        How it is written.
    spec : Spec
        Shape and dtype of what it stands for.
    value : float or None
        Its number, where it is a single one and known.
    constant : bool
        Whether it is a number that may be folded into others.
    conditions : tuple of str
        What had to hold for it to have this form.
    """

    __slots__ = ("conditions", "constant", "precedence", "source", "spec", "value")

    def __init__(
        self,
        source: str,
        spec: Any,
        value: Any = None,
        constant: bool = False,
        precedence: int = _ATOM,
        conditions: tuple[str, ...] = (),
    ) -> None:
        self.source = source
        self.spec = spec
        self.value = value
        self.constant = constant
        self.precedence = precedence
        self.conditions = conditions

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""
        return self.spec.shape  # type: ignore[no-any-return]

    @property
    def dtype(self) -> Any:
        """Type of the elements."""
        return self.spec.dtype

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.spec.size  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return self.source

    def __bool__(self) -> bool:
        raise TypeError("a formula has no truth value")


def number(value: Any, dtype: Any = "float64", constant: bool = False) -> Term:
    """A number put into a formula, negative ones in brackets where they stand beside something.

    Examples
    --------
    >>> number(3.0) * number(-4.0)
    3·(-4)
    """
    source = write_number(float(value))
    precedence = 4 if source.startswith("-") else _ATOM
    return Term(source, Spec((), dtype), value, constant, precedence)


def symbol(name: str, spec: Any, value: Any = None) -> Term:
    """Something with a name."""
    return Term(name, spec, value)


def write_number(value: float, digits: int = 4) -> str:
    """A number in few significant digits; whole ones, and the whole part of large ones, in full below a million.

    Examples
    --------
    >>> write_number(-12.0), write_number(0.7310586), write_number(12345.6, 3), write_number(1e-12)
    ('-12', '0.7311', '12346', '1e-12')
    """
    if value != value:
        return "nan"
    if value in (np.inf, -np.inf):
        return "∞" if value > 0 else "-∞"
    if abs(value) < 1e6 and (value == int(value) or abs(value) >= 10**digits):
        return f"{value:.0f}".replace("-0", "0") if abs(value) < 1 else f"{value:.0f}"
    text = f"{value:.{digits}g}"
    if "e" in text:
        mantissa, power = text.split("e")
        return f"{mantissa}e{int(power)}"
    return text


def _term(value: Any) -> Any:
    if isinstance(value, Term):
        return value
    if isinstance(value, list | tuple):
        return type(value)(_term(item) for item in value)
    if isinstance(value, bool | int | float | np.generic):
        return number(value, np.asarray(value).dtype, constant=True)
    return value


def _spec(value: Any) -> Any:
    """What the shapes namespace is to see: numbers stay weak."""
    if isinstance(value, list | tuple):
        return type(value)(_spec(item) for item in value)
    if isinstance(value, Term):
        if value.constant and value.value is not None and value.shape == ():
            return value.value.item() if isinstance(value.value, np.generic) else value.value
        return value.spec
    return value


def _flat(arguments: Sequence[Any]) -> list[Term]:
    found: list[Term] = []
    for argument in arguments:
        if isinstance(argument, Term):
            found.append(argument)
        elif isinstance(argument, list | tuple):
            found += _flat(argument)
    return found


class _Mathematics:
    """See the module."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        known = getattr(shapes, name)  # raises AttributeError for what no formula may use

        def call(*given: Any, **settings: Any) -> Any:
            arguments = [_term(a) if isinstance(a, Term | bool | int | float | np.generic | list) else a for a in given]
            terms = _flat(arguments)
            if name in registry:
                settings = {**registry[name].defaults, **settings}
            weak = name not in _SAME_NUMBERS
            spec = known(*[_spec(a) if weak or not isinstance(a, Term) else a.spec for a in arguments], **settings)
            if isinstance(spec, tuple):
                return tuple(
                    Term(f"{name}({_list(terms)})[{i}]", one, None, conditions=_conditions(terms))
                    for i, one in enumerate(spec)
                )
            if not isinstance(spec, Spec):  # numbers alone, which the shapes namespace leaves to Python
                spec = Spec((), np.asarray(spec).dtype)
            value = None
            if spec.shape == () and all(t.value is not None for t in terms) and terms and name not in _SAME_NUMBERS:
                with np.errstate(all="ignore"):
                    value = getattr(numpy, name)(*[_values(a) for a in arguments], **settings)
            if value is not None and all(t.constant for t in terms):
                folded = number(value, spec.dtype, constant=True)
                if name == "divide" and value != int(value):  # 1 / 64 says more than 0.01562
                    written = _written(name, terms, spec, value)
                    return Term(written.source, spec, value, True, written.precedence, written.conditions)
                return Term(folded.source, spec, value, True, folded.precedence, _conditions(terms))
            return _written(name, terms, spec, value)

        return call

    def where(self, condition: Any, x: Any, y: Any) -> Term:
        condition, x, y = _term(condition), _term(x), _term(y)
        if condition.value is None:
            spec = shapes.where(_spec(condition), _spec(x), _spec(y))
            return Term(f"where({_list([condition, x, y])})", spec, None, conditions=_conditions([condition, x, y]))
        taken = x if condition.value else y
        said = () if condition.constant else (condition.source if condition.value else _opposite(condition.source),)
        return Term(
            taken.source,
            taken.spec,
            taken.value,
            taken.constant,
            taken.precedence,
            tuple(dict.fromkeys((*taken.conditions, *condition.conditions, *said))),
        )


def _values(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_values(item) for item in value)
    return value.value if isinstance(value, Term) else value


def _opposite(condition: str) -> str:
    words = condition.split(" ")
    if len(words) == 3 and words[1] in _OPPOSITES:
        return f"{words[0]} {_OPPOSITES[words[1]]} {words[2]}"
    return f"not ({condition})"


def _conditions(terms: Sequence[Term]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(c for t in terms for c in t.conditions))


def _list(terms: Sequence[Term]) -> str:
    return ", ".join(t.source for t in terms)


def _write(term: Term, precedence: int) -> str:
    return term.source if term.precedence > precedence else f"({term.source})"


def _written(name: str, terms: list[Term], spec: Spec, value: Any) -> Term:
    """One operation on terms, written down."""
    conditions = _conditions(terms)

    def made(source: str, precedence: int = _ATOM) -> Term:
        return Term(source, spec, value, False, precedence, conditions)

    def same(term: Term) -> Term:
        return Term(term.source, spec, value, term.constant, term.precedence, conditions)

    if name in _SAME_NUMBERS:
        value = terms[0].value
        return same(terms[0])
    if name in _INFIX and len(terms) == 2:
        x, y = terms
        one, zero = [t.constant and t.value == 1 for t in terms], [t.constant and t.value == 0 for t in terms]
        if name in ("multiply", "divide") and one[1]:
            return same(x)
        if name == "multiply":
            if one[0]:
                return same(y)
            for factor, other in ((x, y), (y, x)):
                if factor.constant and factor.value == -1:
                    return made(f"-{_write(other, 4)}", 5)
            if any(zero):
                return Term("0", spec, value, True, _ATOM, conditions)
        if name == "add" and any(zero):
            return same(y if zero[0] else x)
        sign, precedence = _INFIX[name]
        if name == "multiply" and x.shape and y.shape:
            sign = "⊙"  # element by element, unlike a product of matrices
        right = _write(y, precedence)
        if right.startswith("-") and precedence > 3:
            right = f"({right})"
        return made(f"{_write(x, precedence - 1)}{sign}{right}", precedence)
    x = terms[0] if terms else Term("", spec)
    if name == "pow":
        y = terms[1]
        if y.constant and y.value == 1:
            return same(x)
        if y.constant and y.value == int(y.value) and abs(y.value) < 1000:
            return made(_write(x, 7) + str(int(y.value)).translate(_RAISED), 7)
        return made(f"{_write(x, 7)}^{_write(y, 7)}", 7)
    if name == "square":
        return made(f"{_write(x, 7)}²", 7)
    if name == "negative":
        inner = _write(x, 4)
        return made(f"-({inner})" if inner.startswith("-") else f"-{inner}", 5)
    if name == "sqrt":
        return made(f"√{_write(x, 7)}", 8)
    if name == "abs":
        return made(f"|{x.source}|")
    if name == "matrix_transpose":
        return made(f"{_write(x, 8)}ᵀ")
    if name in ("zeros_like", "zeros", "ones_like", "ones"):
        return Term("0" if name.startswith("zeros") else "1", spec, None, True)
    return made(f"{_CALLED.get(name, name)}({_list(terms)})")


mathematics = _Mathematics()
"""Mathematics as ``xp``: writes a formula as people do."""
Term._xp = mathematics
