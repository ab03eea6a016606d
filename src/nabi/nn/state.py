"""What a model holds: its parameters, and all its tensors by name, out and in again."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from nabi._tensor import Tensor
from nabi.errors import DTypeError, ModelFileError, ShapeError
from nabi.graph import nest


def tensors(model: Any) -> dict[str, Tensor]:
    """Every tensor of a model by its path, in definition order: what is saved."""
    return nest.tensors(model)


def parameters(model: Any) -> dict[str, Tensor]:
    """The tensors of a model that are trained, by path, in definition order."""
    return {path: tensor for path, tensor in tensors(model).items() if tensor.requires_grad}


def load_tensors(model: Any, arrays: Mapping[str, Any]) -> None:
    """Set every tensor of a model to the array of its name; nothing is changed unless all of them fit.

    Parameters
    ----------
    model : Layer or nest
    arrays : mapping of str to array
        As `tensors` names them.

    Raises
    ------
    ModelFileError
        Where names are missing or unknown.
    ShapeError, DTypeError
        Where an array has another shape or dtype than its tensor.
    """
    own = tensors(model)
    missing, unknown = [n for n in own if n not in arrays], [n for n in arrays if n not in own]
    if missing:
        raise ModelFileError(f"the arrays lack {_some(missing)}, which the model needs")
    if unknown:
        raise ModelFileError(f"the arrays hold {_some(unknown)}, which the model does not know")
    given = {name: np.asarray(arrays[name]) for name in own}
    for name, tensor in own.items():
        if given[name].shape != tensor.shape:
            raise ShapeError(f"{name}: the array has shape {given[name].shape}, the model {tensor.shape}")
        if given[name].dtype != tensor.dtype:
            raise DTypeError(f"{name}: the array has dtype {given[name].dtype}, the model {tensor.dtype}")
    for name, tensor in own.items():
        tensor.assign(given[name])


def _some(names: list[str]) -> str:
    """Three names at most."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(repr, names[:3])) + more
