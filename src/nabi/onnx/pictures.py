"""What is done to a picture before a network sees it, written as ONNX: as `nabi.data` does it, to the bit.

A picture is scaled so that its short side fits, with antialiasing, and its centre cut out. ONNX's own Resize is another
one: onnxruntime's, with ``antialias=1``, gives up to 8 of 255 levels more or less than `nabi.data.resize`, with whose
pictures classifiers are trained. Here is that arithmetic itself, in whole numbers: each row of pixels, and then each
column, is a product with a matrix of weights, which are computed from the picture's height and width when they are
known, in float64, and rounded to multiples of 2⁻²². What such a product sums up is exact in float64.
"""

from typing import Any

import numpy as np

from nabi.data.resize import ONE
from nabi.graph.shapes import Spec
from nabi.onnx.namespace import PICTURES, Value, Writer
from nabi.onnx.tensors import CODES

INPUT = "pictures"
LUMA = (19595 / 2**16, 38470 / 2**16, 7471 / 2**16)
"""Of ITU-R BT.601, as Pillow has it: for models of grey pictures."""


class _Numbers:
    """Nodes that compute with float64 whose shapes are open: sizes of pictures, and weights that follow from them."""

    def __init__(self, xp: Writer) -> None:
        self.xp = xp

    def __getattr__(self, operator: str) -> Any:
        return lambda *inputs, **attributes: self.xp.node(operator, [self._name(one) for one in inputs], **attributes)

    def _name(self, given: Any) -> str:
        if isinstance(given, str):
            return given
        return self.xp.initializer(np.asarray(given, np.float64) if isinstance(given, float) else given)

    def cast(self, x: str, dtype: Any) -> str:
        return self.xp.node("Cast", [x], to=CODES[np.dtype(dtype)])


def sized(xp: Writer, height: int, width: int, channels: int) -> Value:
    """Pictures (N, H, W, 3) of any size, uint8, brought to a model's height, width and channels."""
    xp.scope = "resize"
    on = _Numbers(xp)
    high, wide = (on.cast(on.Shape(INPUT, start=axis, end=axis + 1), np.float64) for axis in (1, 2))
    ratio, wanted = on.Div(wide, high), width / height
    crop_wide = on.Where(on.Greater(ratio, wanted), on.Mul(high, wanted), wide)
    crop_high = on.Where(on.Less(ratio, wanted), on.Div(wide, wanted), high)
    across = _weights(on, wide, crop_wide, np.array([float(width)]))
    down = _weights(on, high, crop_high, np.array([float(height)]))
    x = on.cast(on.Transpose(INPUT, perm=[0, 3, 1, 2]), np.float64)
    x = _as_byte(on, on.MatMul(x, on.Transpose(across, perm=[1, 0])))
    x = _as_byte(on, on.MatMul(down, x))
    if channels == 1:
        weighed = on.Mul(x, np.array(LUMA).reshape(3, 1, 1))
        x = _as_byte(on, on.ReduceSum(weighed, np.array([1]), keepdims=1))
    spec = Spec((PICTURES, height, width, channels), np.uint8)
    return Value(xp, spec, on.cast(x, np.uint8), first=True, many=True)


def _weights(on: _Numbers, length: str, crop: str, size: Any) -> str:
    """How much each pixel of a row (or column) counts in each of ``size`` that are to be made of it: (size, length)."""
    start = on.Mul(on.Sub(length, crop), 0.5)
    end = on.Add(start, crop)
    # The box is in float32, and all that follows in float64.
    start, end = on.cast(start, np.float32), on.cast(end, np.float32)
    scale = on.Div(on.cast(on.Sub(end, start), np.float64), size)
    made = on.Add(on.Range(0.0, on.Squeeze(size, np.array([0])), 1.0), 0.5)
    blur = on.Max(scale, 1.0)
    reach = on.Mul(blur, 2.0)
    centers = on.Add(on.cast(start, np.float64), on.Mul(scale, made))
    centers = on.Unsqueeze(centers, np.array([1]))
    first = on.Floor(on.Add(on.Sub(centers, reach), 0.5))
    after = on.Floor(on.Add(on.Add(centers, reach), 0.5))
    pixels = on.Range(0.0, on.Squeeze(length, np.array([0])), 1.0)
    far = on.Abs(on.Mul(on.Add(on.Sub(pixels, centers), 0.5), on.Div(1.0, blur)))
    # (a + 2)t³ - (a + 3)t² + 1 up to 1, and a·(t³ - 5t² + 8t - 4) from there to 2, with a = -1/2
    near = on.Add(on.Mul(on.Mul(on.Sub(on.Mul(far, 1.5), 2.5), far), far), 1.0)
    outer = on.Mul(on.Sub(on.Mul(on.Add(on.Mul(on.Sub(far, 5.0), far), 8.0), far), 4.0), -0.5)
    weights = on.Where(on.Less(far, 1.0), near, on.Where(on.Less(far, 2.0), outer, 0.0))
    inside = on.And(on.GreaterOrEqual(pixels, first), on.Less(pixels, after))
    weights = on.Where(inside, weights, 0.0)
    weights = on.Div(weights, on.ReduceSum(weights, np.array([1]), keepdims=1))
    whole = on.Floor(on.Add(on.Mul(on.Abs(weights), float(ONE)), 0.5))
    return str(on.Div(on.Mul(on.Sign(weights), whole), float(ONE)))


def _as_byte(on: _Numbers, x: str) -> Any:
    """The nearest whole number from 0 to 255."""
    return on.Clip(on.Floor(on.Add(x, 0.5)), 0.0, 255.0)
