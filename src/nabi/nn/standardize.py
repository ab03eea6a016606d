"""The model's own first step: from pictures as they are to numbers around zero."""

from typing import Any

import numpy as np

from nabi._tensor import Tensor, tensor
from nabi.errors import DTypeError, SettingError, ShapeError
from nabi.nn.layer import Layer


class Standardize(Layer):
    """y = (x - mean) / std, where x is divided by 255 first if it is uint8

    It is computed as (x - mean)·(1 / std): no number but those few is divided.

    It belongs to the model, so that a saved model takes pictures as they come from a file. Mean and standard
    deviation are kept with the weights, but are not trained.

    Parameters
    ----------
    mean, std : array_like
        Of one shape, on the scale where white is 1: shape () for all, (C,) per channel, or the shape of a whole
        example. Where something never varies, give it the standard deviation 1.

    Raises
    ------
    SettingError
        Where a standard deviation is not positive, or a number is not finite.
    DTypeError
        When called on integers other than uint8, for which no scale is known.

    Examples
    --------
    >>> import numpy as np
    >>> Standardize(0.5, 0.5)(np.array([[0, 255]], dtype=np.uint8))
    tensor([[-1.,  1.]])
    """

    label = "standardize"

    def __init__(self, mean: Any, std: Any) -> None:
        self.mean = tensor(np.asarray(mean, dtype=np.float32))
        self.std = tensor(np.asarray(std, dtype=np.float32))
        if self.mean.shape != self.std.shape:
            raise ShapeError(f"Standardize: mean {self.mean.shape} and std {self.std.shape} differ in shape")
        if not (np.isfinite(self.mean.value).all() and np.isfinite(self.std.value).all()):
            raise SettingError("Standardize: mean and std must be finite")
        if not (self.std.value > 0).all():
            raise SettingError("Standardize: std must be positive; give 1 to what never varies")

    @classmethod
    def identity(cls, input_shape: tuple[int, ...]) -> "Standardize":
        """Mean 0 and standard deviation 1 along the last axis, until they are assigned others of that length."""
        return cls(np.zeros(input_shape[-1]), np.ones(input_shape[-1]))

    def forward(self, x: Any, training: bool) -> Tensor:
        x = x if isinstance(x, Tensor) else tensor(x)
        if x.dtype != np.uint8 and x.dtype.kind != "f":
            raise DTypeError(f"Standardize: pictures are uint8 or floating point, not {x.dtype}")
        white = 255 if x.dtype == np.uint8 else 1
        pixels = x.astype(self.mean.dtype)  # the model's own dtype, whatever comes in
        y: Tensor = (pixels - white * self.mean) * (1 / (white * self.std))
        return y
