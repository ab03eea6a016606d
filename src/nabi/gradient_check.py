"""Gradients held against central differences, to second order."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from nabi import autodiff, ops
from nabi._tensor import Tensor, tensor
from nabi.errors import GradientError, GraphError


@dataclass(frozen=True)
class Worst:
    """The entry on which a gradient and central differences differ most.

    Attributes
    ----------
    order : int
        1 or 2: of which derivative.
    name : str
        The argument's name, or its number.
    index : tuple of int
        The place in that argument.
    analytic, numeric : float
        What the rules give, and what differences give.
    error : float
        Their difference, relative to the larger of 1 and the largest magnitude of the argument's gradient.
    """

    order: int
    name: str
    index: tuple[int, ...]
    analytic: float
    numeric: float
    error: float

    def __str__(self) -> str:
        return (
            f"order {self.order}, argument {self.name}{list(self.index)}: "
            f"analytic {self.analytic:.10g}, numeric {self.numeric:.10g}, error {self.error:.2g}"
        )


def check_gradients(
    f: Callable[..., Any],
    *args: Any,
    order: int = 2,
    step: float = 1e-5,
    tolerance: float = 1e-6,
    seed: int = 0,
) -> Worst:
    """Compare the gradients of a function with central differences in float64.

    Parameters
    ----------
    f : callable
        From tensors to a tensor of any shape, or a tuple of them. Its outputs are weighed by fixed random numbers and
        summed, so that one comparison covers every output.
    *args : array_like
        Where to compare. Floating-point ones are differentiated on; others are given as they are.
    order : int
        1, or 2 to compare the gradient's own gradient as well.
    step : float
        How far to either side differences are taken.
    tolerance : float
        The largest error allowed, relative to the larger of 1 and the gradient's largest magnitude.
    seed : int
        Of the random weights.

    Returns
    -------
    Worst
        The entry with the largest error.

    Raises
    ------
    GradientError
        Naming that entry, where its error is above the tolerance.

    Examples
    --------
    >>> import nabi
    >>> nabi.check_gradients(lambda x: nabi.ops.tanh(x) * x, [0.5, -1.0]).error < 1e-8
    True
    """
    values = [np.array(a) for a in args]
    moving = [i for i, v in enumerate(values) if v.dtype.kind == "f"]
    if not moving:
        raise GraphError("check_gradients: no argument holds floating-point numbers")
    names = {i: (args[i].name if isinstance(args[i], Tensor) and args[i].name else str(i)) for i in moving}
    start = [values[i].astype(np.float64) for i in moving]
    rng = np.random.default_rng(seed)

    def total(tree: Any, weights: list[Any]) -> Any:
        parts = tree if isinstance(tree, tuple | list) else (tree,)
        floats = [part for part in parts if part.dtype.kind == "f"]
        while len(weights) < len(floats):
            weights.append(rng.standard_normal(floats[len(weights)].shape))
        terms = [ops.sum(part * tensor(w)) for part, w in zip(floats, weights, strict=True)]
        result = terms[0]
        for term in terms[1:]:
            result = result + term
        return result

    weights: list[Any] = []
    again: list[Any] = []

    def value(inputs: list[Any]) -> Any:
        given = [tensor(v) for v in values]
        for place, i in enumerate(moving):
            given[i] = inputs[place]
        return total(f(*given), weights)

    def slope(inputs: list[Any]) -> Any:
        return total(autodiff.grad(value)(inputs), again)

    worst = Worst(1, "none", (), 0.0, 0.0, 0.0)
    for which, function in enumerate((value, slope)[:order], start=1):
        found = [np.asarray(g) for g in autodiff.grad(function)([tensor(v) for v in start])]
        for place, analytic in enumerate(found):
            numeric = _differences(lambda inputs: float(function([tensor(v) for v in inputs])), start, place, step)  # noqa: B023
            if not numeric.size:
                continue
            scale = max(1.0, float(np.abs(numeric).max()))
            errors = np.abs(analytic - numeric) / scale
            index = np.unravel_index(int(np.argmax(np.where(np.isnan(errors), np.inf, errors))), errors.shape)
            error = float(errors[index])
            if error > worst.error or np.isnan(error):
                where = tuple(int(i) for i in index)
                worst = Worst(which, names[moving[place]], where, float(analytic[index]), float(numeric[index]), error)
    if not worst.error <= tolerance:
        raise GradientError(f"the gradient differs from central differences: {worst}")
    return worst


def _differences(function: Callable[[list[Any]], float], start: list[Any], place: int, step: float) -> Any:
    result = np.zeros(start[place].shape)
    for index in np.ndindex(result.shape):
        ends = []
        for sign in (1, -1):
            moved = [v.copy() for v in start]
            moved[place][index] += sign * step
            ends.append(function(moved))
        result[index] = (ends[0] - ends[1]) / (2 * step)
    return result
