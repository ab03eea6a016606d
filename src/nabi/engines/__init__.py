"""Engines: what runs a plan.

An engine is a module with one function, ``prepare(plan)``, which gives a function from the values of the plan's inputs
to the values of its outputs. It is loaded when it is first asked for. An operation needs nothing from an engine: every
engine runs the operation's own formula over some ``xp``, unless it knows a better way, which must give the same.
"""

import importlib
from collections.abc import Callable, Sequence
from typing import Any

from nabi.errors import SettingError
from nabi.graph.plan import Plan

Run = Callable[[Sequence[Any]], list[Any]]

ENGINES = {"reference": "nabi.engines.reference", "cpu": "nabi.engines.cpu"}


def prepare(engine: str, plan: Plan) -> Run:
    """A function that runs the plan on an engine.

    Parameters
    ----------
    engine : str
        A name among `ENGINES`, or "auto": whichever suits the plan by its operations and shapes alone.
    """
    name = "reference" if engine == "auto" else engine
    if name not in ENGINES:
        raise SettingError(f"engine {engine!r} is not one of auto, {', '.join(ENGINES)}")
    run: Run = importlib.import_module(ENGINES[name]).prepare(plan)
    return run
