"""What made a loss infinite, or not a number."""

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from nabi.graph import namespace
from nabi.graph.node import describe
from nabi.graph.plan import Plan

Trail = deque[tuple[list[Any], list[Any]]]
"""Inputs and state of the last steps."""


def culprit(plan: Callable[..., Plan], trail: Trail) -> str | None:
    """The first node, in the order of computing, whose value is not finite, in words; None where there is none.

    The loss of a step may be the fault of the update before it: so that one is gone through first.
    """
    for batch, state in trail:
        found = _first_not_finite(plan(*batch), [*batch, *state])
        if found:
            return found
    return None


def _first_not_finite(plan: Plan, inputs: list[Any]) -> str | None:
    values: dict[int, Any] = {}
    for node, value in zip(plan.inputs, inputs, strict=True):
        values[id(node)] = value
        if not np.isfinite(value).all():
            return f"in {describe(node)}"
    values |= {id(node): node.value for node in plan.constants}  # type: ignore[attr-defined]
    with np.errstate(all="ignore"):
        for node in plan.nodes:
            assert node.operation is not None
            sources = [values[id(source)] for source in node.inputs]
            value = values[id(node)] = node.operation.forward(namespace.numpy, *sources, **node.settings)
            for part in value if isinstance(value, tuple) else (value,):
                finite = np.isfinite(part)
                if not finite.all():
                    return f"of {describe(node)}: {np.asarray(part)[~finite][0]}"
    return None
