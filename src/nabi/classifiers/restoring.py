"""A model out of a file, which may come from anywhere."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nabi import nn
from nabi.errors import ModelFileError

MAX_NUMBERS = 2**27  # that a layer may make of one picture


def restored_model(
    description: Mapping[str, Any],
    arrays: Mapping[str, NDArray[Any]],
    input_shape: tuple[int, ...],
    input_dtype: np.dtype[Any],
    n_classes: int,
) -> nn.Sequential:
    """The model that `nabi.nn.describe` described, with its tensors.

    Raises
    ------
    ModelFileError, ShapeError, DTypeError
        It is no model from such inputs to that many scores, or one that a small file makes large.
    """
    model = nn.build(description, sum(array.size for array in arrays.values()))
    if not isinstance(model, nn.Sequential):
        raise ModelFileError(f"its model is a {type(model).__name__}, not a Sequential")
    check_model(model, input_shape, input_dtype, n_classes)
    nn.load_tensors(model, arrays)
    return model


def check_model(model: nn.Sequential, input_shape: tuple[int, ...], input_dtype: np.dtype[Any], n_classes: int) -> None:
    """Raise ModelFileError or ShapeError unless the model makes scores of such inputs, in bounded memory."""
    furthest = 4 * max(input_shape) + 16
    for name, number in _windows(model):
        if not 0 <= number <= furthest:
            raise ModelFileError(f"a {name} of {number:,} is too far for inputs {input_shape}")
    rows = nn.summary(model, input_shape, dtype=input_dtype).rows
    if not rows or rows[-1].output_shape != (n_classes,):
        made = rows[-1].output_shape if rows else input_shape
        raise ModelFileError(f"the network makes {made} of an input, and not {n_classes} scores")
    if max(math.prod(row.output_shape) for row in rows) > MAX_NUMBERS:
        raise ModelFileError(f"the network makes more than {MAX_NUMBERS:,} numbers of an input")


def _windows(layer: nn.Layer) -> Iterator[tuple[str, int]]:
    """How far the windows of all layers reach, and what is put around pictures for them: it takes memory and time."""
    fields = vars(layer)
    for field in fields.values():
        if isinstance(field, nn.Layer):
            yield from _windows(field)
    sizes = {name: fields[name] for name in ("kernel_size", "dilation", "padding", "size") if name in fields}
    for name, value in sizes.items():
        if not isinstance(value, str):
            yield from ((name, number) for number in np.asarray(value, np.int64).ravel().tolist())
    if isinstance(layer, nn.Conv2d):
        reach = np.multiply(layer.dilation, np.array(layer.weight.shape[:2]) - 1)
        yield from (("window", number) for number in reach.ravel().tolist())
