"""``nabi look --graph``: a formula as a graph, with every value and every gradient, step by step and as a picture."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.text import Text

from nabi import expressions
from nabi._tensor import Tensor
from nabi.cli.characters import json_text, printable
from nabi.cli.terminal import console
from nabi.errors import SettingError
from nabi.graph.mathematics import write_number
from nabi.graph.steps import Step


def look_at_graph(graph: str, bindings: Sequence[str], out: Path | None, as_json: bool) -> None:
    """Print the walk back through a formula, one local gradient at a time, and write the graph as a picture."""
    numbers = _numbers(bindings)
    result = expressions.parse(graph, numbers)
    path = Path("graph.svg") if out is None else out
    view = result.graph(limit=200)
    steps = list(view.steps())
    view.save(path)
    gradients = _gradients(steps, numbers, result)
    if as_json:
        print(json_text(_as_data(graph, numbers, result, steps, gradients, path), indent=2))
        return
    where = console()
    given = ", ".join(f"{name} = {write_number(value)}" for name, value in numbers.items())
    where.print(f"{view.name} = {graph.strip()} = {write_number(result.item())}   at {given}")
    for step in steps:
        where.print()
        for line in step.lines():
            where.print(Text.assemble(line.left, (line.right, "red")))
    where.print()
    where.print("gradient: " + ", ".join(f"d{view.name}/d{name} = {write_number(g)}" for name, g in gradients.items()))
    where.print(f"picture: {printable(str(path))}")


def _numbers(bindings: Sequence[str]) -> dict[str, float]:
    numbers: dict[str, float] = {}
    for binding in bindings:
        name, sign, value = binding.partition("=")
        name = name.strip()
        if not sign or not name.isidentifier():
            raise SettingError(f"{binding!r}: write NAME=NUMBER, as in x=-2")
        if name in numbers:
            raise SettingError(f"{binding!r}: {name} is given twice")
        try:
            numbers[name] = float(value)
        except ValueError:
            raise SettingError(f"{binding!r}: {value.strip()!r} is not a number") from None
        if not math.isfinite(numbers[name]):
            raise SettingError(f"{binding!r}: the number must be finite")
    return numbers


def _gradients(steps: Sequence[Step], numbers: dict[str, float], result: Tensor) -> dict[str, float]:
    """The gradient on each variable: what has flowed to it when the walk is over."""
    totals = {flow.name: float(flow.total) for step in steps for flow in step.flows}
    return {name: totals.get(name, 1.0 if result.operation is None else 0.0) for name in numbers}


def _as_data(
    expression: str,
    numbers: dict[str, float],
    result: Tensor,
    steps: Sequence[Step],
    gradients: dict[str, float],
    path: Path,
) -> dict[str, Any]:
    return {
        "expression": expression,
        "value": _finite(result.item()),
        "variables": {
            name: {"value": _finite(value), "gradient": _finite(gradients[name])} for name, value in numbers.items()
        },
        "steps": [
            {
                "name": step.name,
                "operation": step.operation,
                "mathematics": step.mathematics,
                "formula": step.formula,
                "value": _finite(step.value),
                "upstream": _finite(step.upstream),
                "inputs": [
                    {
                        "name": flow.name,
                        "derivative": flow.derivative,
                        "condition": flow.condition,
                        "local": _finite(flow.local),
                        "downstream": _finite(flow.gradient),
                    }
                    for flow in step.flows
                ],
            }
            for step in steps
        ],
        "picture": str(path),
    }


def _finite(value: Any) -> float | str | None:
    """A number as JSON has it, which knows no infinity: others as text."""
    if value is None:
        return None
    return float(value) if math.isfinite(value) else str(float(value))
