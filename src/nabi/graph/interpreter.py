"""Who carries out an operation: the interpreter on top of the stack.

Calling an operation does not compute anything by itself; it asks the interpreter on top. At the bottom lies the eager
one, which computes at once; ``nabi.compile`` pushes one that records instead. The stack belongs to the thread, so
that one thread can record while another computes.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol


class Interpreter(Protocol):
    """What carries out operations."""

    def apply(self, operation: Any, arguments: tuple[Any, ...], settings: dict[str, Any]) -> Any:
        """Carry out one operation on arguments that may be tensors, arrays or Python numbers."""

    def assign(self, target: Any, value: Any) -> None:
        """Replace the value of a leaf."""

    def made(self, constant: Any) -> None:
        """Take note of a tensor made from data."""

    def versions(self, target: Any) -> list[Any]:
        """Every node that stood for a tensor which may have been assigned, the current one last."""


_base: list[Interpreter] = []


class _Stack(threading.local):
    """One thread's interpreters, the one in charge last; and whether its gradients are being remembered."""

    def __init__(self) -> None:
        self.interpreters: list[Interpreter] = list(_base)
        self.top: Interpreter | None = _base[0] if _base else None
        self.scopes: tuple[str, ...] = ()
        self.remember = True
        self.differentiating = 0  # how many functions being differentiated this thread is inside of

    @property
    def recording(self) -> bool:
        """Whether a compiled function is being recorded."""
        return len(self.interpreters) > 1


stack = _Stack()


def set_base(interpreter: Interpreter) -> None:
    """Lay the interpreter that every thread's stack starts from."""
    _base[:] = [interpreter]
    stack.__init__()  # type: ignore[misc]


@contextmanager
def interpreting(interpreter: Interpreter) -> Iterator[None]:
    """Put an interpreter in charge of this thread for the length of a ``with`` block."""
    stack.interpreters.append(interpreter)
    stack.top = interpreter
    try:
        yield
    finally:
        stack.interpreters.pop()
        stack.top = stack.interpreters[-1]


@contextmanager
def scope(name: str) -> Iterator[None]:
    """Mark the nodes made inside as parts of ``name``: a layer, or a composite operation.

    Drawings collapse what carries the same scope, and an engine can recognise it.
    """
    before = stack.scopes
    stack.scopes = (*before, name)
    try:
        yield
    finally:
        stack.scopes = before


@contextmanager
def differentiating() -> Iterator[None]:
    """Inside this block everything is remembered, and gradients taken are a graph themselves."""
    before = stack.remember
    stack.remember = True
    stack.differentiating += 1
    try:
        yield
    finally:
        stack.differentiating -= 1
        stack.remember = before


@contextmanager
def no_grad() -> Iterator[None]:
    """Inside this block nothing is remembered for a gradient: results are constants.

    Examples
    --------
    >>> import nabi
    >>> x = nabi.tensor(3.0, requires_grad=True)
    >>> with nabi.no_grad():
    ...     y = x * x
    >>> y.requires_grad
    False
    """
    before = stack.remember
    stack.remember = False
    try:
        yield
    finally:
        stack.remember = before
