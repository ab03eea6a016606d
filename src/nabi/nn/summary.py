"""A model as a table: what comes out of each layer, and what it costs."""

from typing import Any, NamedTuple

import numpy as np

from nabi._compile import compile
from nabi.graph.cost import products
from nabi.graph.shapes import Spec
from nabi.nn.containers import Sequential
from nabi.nn.layer import Layer
from nabi.nn.state import parameters


class Row(NamedTuple):
    """One layer.

    Attributes
    ----------
    name : str
        Its path in the model.
    layer : str
        Its class.
    output_shape : tuple of int
        Without the batch's axis.
    parameters : int
        How many numbers it trains.
    multiply_adds : int
        Products for one example in matrix products and convolutions; what is done element by element is not counted.
    """

    name: str
    layer: str
    output_shape: tuple[int, ...]
    parameters: int
    multiply_adds: int


class Summary(NamedTuple):
    """The table; ``print`` shows it.

    Attributes
    ----------
    rows : list of Row
    parameters, multiply_adds : int
        Totals; parameters that layers share are counted once.
    """

    rows: list[Row]
    parameters: int
    multiply_adds: int

    def __str__(self) -> str:
        table = [("name", "layer", "output shape", "parameters", "multiply-adds")]
        for row in self.rows:
            shape = " × ".join(map(str, row.output_shape))
            table.append((row.name, row.layer, shape, f"{row.parameters:,}", f"{row.multiply_adds:,}"))
        table.append(("total", "", "", f"{self.parameters:,}", f"{self.multiply_adds:,}"))
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = []
        for cells in table:
            left = [cell.ljust(width) for cell, width in zip(cells[:3], widths[:3], strict=True)]
            right = [cell.rjust(width) for cell, width in zip(cells[3:], widths[3:], strict=True)]
            lines.append("  ".join([*left, *right]))
        rule = "─" * len(lines[0])
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])


def summary(model: Layer, input_shape: tuple[int, ...], *, dtype: Any = "float32") -> Summary:
    """Shapes, parameters and multiply-adds of a model, layer by layer; nothing is computed.

    Parameters
    ----------
    model : Layer
    input_shape : tuple of int
        Of one example: (H, W, C) for pictures.
    dtype : optional
        Of the input.

    Raises
    ------
    ShapeError
        Where the model does not take that shape.

    Examples
    --------
    >>> from nabi import models
    >>> print(summary(models.linear((8, 8, 1), 10), (8, 8, 1)))
    name         layer        output shape  parameters  multiply-adds
    ─────────────────────────────────────────────────────────────────
    standardize  Standardize  8 × 8 × 1              0              0
    flatten      Flatten      64                     0              0
    linear       Linear       10                   650            640
    ─────────────────────────────────────────────────────────────────
    total                                          650            640
    """
    rows: list[Row] = []
    _add_rows(rows, model, "", Spec((1, *input_shape), dtype))
    return Summary(rows, _count(model), sum(row.multiply_adds for row in rows))


def _add_rows(rows: list[Row], layer: Layer, name: str, x: Spec) -> Spec:
    """Add the rows of a layer, and give the shape and dtype of what it makes of ``x``."""
    if isinstance(layer, Sequential):
        for part, child in layer.items():
            x = _add_rows(rows, child, f"{name}.{part}" if name else part, x)
        return x
    weightless = np.broadcast_to(np.zeros((), x.dtype), x.shape)  # an array of that shape that takes no memory
    plan = compile(lambda x: layer(x), state=layer, engine="reference").plan(weightless)
    y: Spec = plan.outputs[0].spec
    cost = sum(products(node) for node in plan.nodes)
    rows.append(Row(name or layer.label, type(layer).__name__, y.shape[1:], _count(layer), cost))
    return y


def _count(model: Any) -> int:
    return sum(tensor.size for tensor in parameters(model).values())
