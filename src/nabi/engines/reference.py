"""The reference engine: NumPy, one node after another. What it gives is what is right."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from nabi.engines import Run
from nabi.graph import namespace
from nabi.graph.plan import Plan, last_uses


def prepare(plan: Plan) -> Run:
    """A function that runs the plan; see `nabi.engines`."""
    slots: dict[int, int] = {}
    for node in (*plan.inputs, *plan.constants, *plan.nodes):
        slots.setdefault(id(node), len(slots))
    program = [
        (
            node.operation.forward,  # type: ignore[union-attr]
            [slots[id(source)] for source in node.inputs],
            node.settings,
            slots[id(node)],
            [slots[key] for key in dead],
        )
        for node, dead in zip(plan.nodes, last_uses(plan), strict=True)
    ]
    places = [slots[id(node)] for node in plan.inputs]
    fixed = [(slots[id(node)], node.value) for node in plan.constants]  # type: ignore[attr-defined]
    outputs = [slots[id(node)] for node in plan.outputs]
    xp = namespace.numpy

    def run(inputs: Sequence[Any]) -> list[Any]:
        values: list[Any] = [None] * len(slots)
        for place, value in zip(places, inputs, strict=True):
            values[place] = value
        for place, value in fixed:
            values[place] = value
        with np.errstate(all="ignore"):
            for forward, sources, settings, target, dead in program:
                values[target] = forward(xp, *[values[source] for source in sources], **settings)
                for place in dead:  # its memory goes back to be used again
                    values[place] = None
        return [values[place] for place in outputs]

    return run
