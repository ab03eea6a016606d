"""Engines: what runs a plan.

An engine is a module with a function ``prepare(plan, kept, precision, updates)``, which gives a function from the
values of the plan's inputs to the values of its outputs, each in an array of its own. It is loaded when it is first
asked for. An operation needs nothing from an engine: every engine runs the operation's own formula over some ``xp``,
unless it knows a better way, which must give the same.
"""

import importlib
import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nabi.errors import SettingError
from nabi.graph.cost import forward_cost
from nabi.graph.plan import Plan

Run = Callable[[Sequence[Any]], list[Any]]
log = logging.getLogger("nabi.compile")

ENGINES: dict[str, tuple[str, dict[str, bool]]] = {
    "reference": ("nabi.engines.reference", {}),
    "cpu": ("nabi.engines.cpu", {}),
    "cpu-direct": ("nabi.engines.cpu", {"winograd": False}),
}
"""Modules, and what each is told; "cpu-direct" computes every convolution as it is defined."""

PRECISIONS = {
    "float32": "all of it in float32",
    "bf16": "operands of products of matrices, and of convolutions, may be rounded to bfloat16",
    "auto": "as bf16, where the processor computes with bfloat16",
}
"""What may be asked of an engine. Sums, and all that is no product, are in float32 always."""


def _references() -> int:
    """What `sys.getrefcount` says of an array that a list held, and nobody but a name holds now."""
    spare = [object()]
    array = spare.pop(0)
    return sys.getrefcount(array)


UNHELD = _references()
"""By this an engine knows that an array may be used again; Python's versions count differently."""
ENOUGH, ENOUGH_IN_TRAINING = 1 << 17, 1 << 12
"""Multiply-adds of a plan that is worth machine code of its own; and of one that updates state, as a step of training
does, which is taken again and again."""


def owned(values: list[Any], inputs: Sequence[Any]) -> list[Any]:
    """The values, each in an array of its own where it is only a view of another or was given from outside."""
    given = set(map(id, inputs))
    return [
        value.copy(order="K")
        if isinstance(value, np.ndarray) and (value.base is not None or id(value) in given)
        else value
        for value in values
    ]


def suited(plan: Plan, updates: Sequence[int] = ()) -> str:
    """The engine for a plan, by what it computes, and which state it updates: a small one is done before the other is
    ready."""
    enough = ENOUGH_IN_TRAINING if updates else ENOUGH
    return "cpu" if sum(map(forward_cost, plan.nodes)) >= enough else "reference"


def check(engine: str, precision: str) -> None:
    """Raise SettingError unless there is such an engine, and it can compute in this precision on this machine."""
    if engine != "auto" and engine not in ENGINES:
        raise SettingError(f"engine {engine!r} is not one of auto, {', '.join(ENGINES)}")
    if precision not in PRECISIONS:
        raise SettingError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)}")
    if precision == "bf16" and engine != "reference":
        lacking = importlib.import_module(ENGINES["cpu"][0]).lacking()
        if lacking:
            raise SettingError(
                f"precision 'bf16': this processor lacks {lacking}; write precision='auto', which takes it where it is"
            )


def _suited(plan: Plan, kept: int, precision: str, updates: Sequence[int]) -> Run:
    """The suited engine's run, or the reference engine's, where the other cannot make code on this machine."""
    name = suited(plan, updates)
    try:
        return prepare(name, plan, kept, precision, updates)
    except Exception:
        if name == "reference":
            raise
        log.warning("no machine code for a function: the reference engine runs it, in its own time", exc_info=True)
        return prepare("reference", plan, kept, precision, updates)


def prepare(engine: str, plan: Plan, kept: int = 0, precision: str = "float32", updates: Sequence[int] = ()) -> Run:
    """A function that runs the plan on an engine.

    Parameters
    ----------
    engine : str
        A name among `ENGINES`, or "auto": whichever suits the plan by its operations and shapes alone.
    plan : Plan
    kept : int
        How many of the plan's inputs, the last ones, are state: arrays that are replaced, but never changed in place.
    precision : str
        One of `PRECISIONS`.
    updates : sequence of int
        For each of the plan's last outputs, the state that it is the next value of, by its number. The next run may be
        given that, as in training, or any other array.

    Raises
    ------
    SettingError
        There is no such engine, or it cannot compute in this precision on this machine.
    """
    check(engine, precision)
    if engine == "auto":
        return _suited(plan, kept, precision, updates)
    module, how = ENGINES[engine]
    run: Run = importlib.import_module(module).prepare(plan, kept, precision, updates, **how)
    return run
