"""Dropout."""

from typing import Any

import numpy as np

from nabi import ops
from nabi._tensor import Tensor, tensor
from nabi.errors import SettingError
from nabi.nn.layer import Layer


class Dropout(Layer):
    """In training, y = x / (1 - rate), each element zero with probability ``rate``; otherwise y = x

    The mask is a pure function of ``key`` and ``count``, which goes up by one at each call in training. Both are
    state: a run that is taken up again goes on with the same bits, and a compiled step need not be compiled again.
    Source: Srivastava and others, "Dropout" (2014).

    Parameters
    ----------
    rate : float
        In [0, 1).
    key : uint32 array, shape (2,)

    Attributes
    ----------
    key : Tensor, uint32, shape (2,)
    count : Tensor, int64, shape ()
    """

    label = "dropout"

    def __init__(self, rate: float, *, key: Any) -> None:
        if not 0 <= rate < 1:
            raise SettingError(f"Dropout: rate={rate} must lie in [0, 1)")
        self.rate = rate
        self.key = tensor(key, dtype=np.uint32)
        self.count = tensor(0)

    def forward(self, x: Any, training: bool) -> Tensor:
        y: Tensor = x
        if training and self.rate:
            y = ops.dropout(x, ops.fold_in(self.key, self.count), rate=self.rate)
            self.count.assign(self.count + 1)
        return y
