"""All or nothing: a fit that fails leaves its classifier as it was."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from nabi.graph import nest


@dataclass
class Attempt:
    """What is tried; ``succeeded`` from when on there is something worth keeping, whatever comes after."""

    succeeded: bool = False


@contextmanager
def attempt(classifier: Any) -> Iterator[Attempt]:
    """Put back every attribute, and the values of all tensors in the model, on an exception.

    Examples
    --------
    >>> class Thing:
    ...     value = 1
    >>> thing = Thing()
    >>> try:
    ...     with attempt(thing):
    ...         thing.value = 2
    ...         raise ValueError
    ... except ValueError:
    ...     thing.value
    1
    """
    before = dict(vars(classifier))
    values = [(tensor, tensor.value) for tensor in nest.tensors(before.get("model_", [])).values()]
    tried = Attempt()
    try:
        yield tried
    except (Exception, KeyboardInterrupt):
        if not tried.succeeded:
            vars(classifier).clear()
            vars(classifier).update(before)
            for tensor, value in values:
                tensor.assign(value)
        raise
