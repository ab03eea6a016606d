"""A single picture cut into strips, so that all threads have something to do.

Rows of a batch are shared out among threads, and a batch of one has one row. But a picture (1, H, W, C) lies in memory
as its strips do, (S, H/S, W, C): so what is computed pixel by pixel is computed strip by strip as well, and only a
window that looks over the edge of a strip needs rows of its neighbours: strips that overlap are laid out for it, where
otherwise the picture's border would be.
"""

import math
from collections.abc import Sequence

from nabi.engines.cpu.convolve import REACH, TILE, has_few_tiles
from nabi.engines.cpu.segments import multiply_adds
from nabi.engines.cpu.values import Spelled, Value
from nabi.graph.indexing import Slice

ENOUGH_WORK = 1 << 21
"""Multiply-adds of all convolutions that are worth an agreement between threads."""
CONVOLUTIONS = ("convolution", "winograd", "depthwise")


def cut(xp: Spelled, outputs: Sequence[Value], everything: Sequence[Value]) -> list[Value]:
    """The outputs computed strip by strip, where they are made of convolutions of a single picture.

    Parameters
    ----------
    xp : Spelled
        Makes values.
    outputs : sequence of Value
    everything : sequence of Value
        All that they are made from, in the order in which it was made.
    """
    work = sum(multiply_adds(value) for value in everything if value.kind in CONVOLUTIONS and value.shape[0] == 1)
    if work < ENOUGH_WORK:
        return list(outputs)
    cutter = _Cutter(xp)
    for value in everything:
        cutter.take(value)
    return [cutter.whole[value.serial] for value in outputs]


def count(height: int) -> int:
    """Strips of a picture: whole tiles high if that can be; 1 where it is too small.

    Examples
    --------
    >>> [count(height) for height in (112, 56, 28, 14, 7)]
    [4, 2, 4, 2, 1]
    """
    if found := [strips for strips in (4, 2) if height % (TILE * strips) == 0]:
        return found[0]
    return next((strips for strips in (4, 2) if height % strips == 0 and height // strips > 2), 1)


class _Cutter:
    """Values as they were, made of what is cut; and cut themselves."""

    def __init__(self, xp: Spelled) -> None:
        self.xp = xp
        self.whole: dict[int, Value] = {}
        self.strips: dict[int, Value] = {}

    def take(self, value: Value) -> None:
        """Make a value anew; what it is made from has been taken before."""
        inputs = [self.whole[x.serial] for x in value.inputs]
        strips = count(value.shape[1]) if value.ndim == 4 and value.shape[0] == 1 else 1
        found = self._cut(value, strips) if strips > 1 else None
        if found is not None:
            self.strips[value.serial] = found
        if value.kind == "depthwise" and value.inputs[0].serial in self.strips and strips == 1:
            self.whole[value.serial] = self._by_channel(value, value.shape)
        elif found is not None and value.kind in CONVOLUTIONS:
            self.whole[value.serial] = self.xp.value("reshape", (found,), value.shape, value.dtype)
        elif value.kind == "sum" and value.inputs[0].serial in self.strips and value.settings["axes"] == (1, 2):
            # over the rows, too, which are parts of a picture now
            total = self.xp.value("sum", (self.strips[value.inputs[0].serial],), value.shape[1:], value.dtype,
                                  {"axes": (0, 1, 2)})  # fmt: skip
            self.whole[value.serial] = self.xp.value("reshape", (total,), value.shape, value.dtype)
        elif all(a is b for a, b in zip(inputs, value.inputs, strict=True)):
            self.whole[value.serial] = value
        else:
            self.whole[value.serial] = self._like(value, inputs, value.shape)

    def _like(self, value: Value, inputs: Sequence[Value], shape: Sequence[int]) -> Value:
        return self.xp.value(value.kind, inputs, shape, value.dtype, value.settings, value.formula, value.held)

    def _of(self, value: Value, strips: int) -> Value:
        """A picture in so many strips."""
        found = self.strips.get(value.serial)
        if found is not None and found.shape[0] == strips:
            return found
        shape = strips, value.shape[1] // strips, *value.shape[2:]
        return self.xp.value("reshape", (self.whole[value.serial],), shape, value.dtype)

    def _cut(self, value: Value, strips: int) -> Value | None:
        """A value strip by strip; None where that is not known."""
        height = value.shape[1] // strips
        shape = strips, height, *value.shape[2:]
        if value.kind == "elementwise":
            inputs = []
            for x in value.inputs:
                if x.ndim == 4 and x.shape[1] == value.shape[1]:
                    x = self._of(x, strips)
                elif math.prod(x.shape[:-1]) != 1:
                    return None
                else:
                    x = self.whole[x.serial]
                inputs.append(x)
            return self._like(value, inputs, shape) if any(x.ndim == 4 for x in inputs) else None
        if value.kind == "winograd" and has_few_tiles(value):
            return None  # its weights are shared out, which saves more
        if value.kind == "winograd":
            x, weight = value.inputs
            tall = TILE * -(-height // TILE) + REACH - TILE
            return self._like(value, [self._overlapping(x, strips, height, tall), self.whole[weight.serial]], shape)
        if value.kind == "convolution":
            (x, weight), how = value.inputs, value.settings
            (kernel, _), (stride, _), (dilation, _) = how["kernel"], how["stride"], how["dilation"]
            tall = (height - 1) * stride + (kernel - 1) * dilation + 1
            x = self._overlapping(x, strips, height * stride, tall)
            return self._like(value, [x, self.whole[weight.serial]], shape)
        if value.kind == "depthwise":
            return self._by_channel(value, shape)
        if value.kind == "getitem":
            return self._window(value, strips, height)
        return None

    def _by_channel(self, value: Value, shape: Sequence[int]) -> Value:
        """A depthwise convolution, in strips or not, of a picture in strips or not: it reads that wherever it likes."""
        x, weight = value.inputs
        picture = self.strips.get(x.serial, self.whole[x.serial])
        how = {**value.settings, "height": x.shape[1]}
        return self.xp.value(value.kind, (picture, self.whole[weight.serial]), shape, value.dtype, how)

    def _window(self, value: Value, strips: int, height: int) -> Value | None:
        """Places taken in steps, as a window's element is: (1, H, W, C) of (1, ≥ H·step, W', C)."""
        (x,), key = value.inputs, value.settings["key"]
        if x.ndim != 4 or len(key) != 4 or not all(isinstance(item, Slice) for item in key):
            return None
        first, down, across, last = key
        if x.shape[0] != 1 or down.step < 1 or first.step != 1:
            return None
        # As far as the farthest element of the window looks: so that all of them read the same strips.
        tall = x.shape[1] - (value.shape[1] - height) * down.step
        if tall < (height - 1) * down.step + 1:
            return None
        source = self._overlapping(x, strips, height * down.step, tall)
        key = first, Slice(down.start, down.start + (height - 1) * down.step + 1, down.step), across, last
        shape = strips, height, *value.shape[2:]
        return self.xp.value("getitem", (source,), shape, value.dtype, {"key": key})

    def _overlapping(self, x: Value, strips: int, step: int, tall: int) -> Value:
        """Strips ``tall`` rows high, one beginning ``step`` rows below the other; of a padded picture, with borders."""
        if step == tall and strips * step == x.shape[1] and x.kind != "pad":
            return self._of(x, strips)
        source, top, left, border = x, 0, 0, 0.0
        if x.kind == "pad":
            widths = x.settings["widths"]
            if widths[0] == widths[3] == (0, 0):
                source, top, left, border = x.inputs[0], widths[1][0], widths[2][0], x.settings["value"]
        how = {"step": step, "top": top, "left": left, "value": border}
        return self.xp.value("strips", (self.whole[source.serial],), (strips, tall, *x.shape[2:]), x.dtype, how)
