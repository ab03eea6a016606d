"""A single picture cut into strips, so that all threads have something to do.

Rows of a batch are shared out among threads, and a batch of one has one row. But a picture (1, H, W, C) lies in memory
as its strips do, (S, H/S, W, C): so what is computed pixel by pixel is computed strip by strip as well, and only a
window that looks over the edge of a strip needs rows of its neighbours: strips that overlap are laid out for it, where
otherwise the picture's border would be.

A network for small machines makes many channels of few, sees each through a window of its own, and makes few of many
again (Sandler et al., 2018, "MobileNetV2: Inverted residuals and linear bottlenecks", section 3). The many channels of
the whole picture are more than the cache holds, those of a strip are not: so a strip goes through all three while it is
there, and the rows that two strips see are computed for both.
"""

import math
from collections import Counter
from collections.abc import Sequence
from operator import attrgetter

from nabi.engines.cpu.convolve import REACH, TILE, has_few_tiles
from nabi.engines.cpu.segments import multiply_adds
from nabi.engines.cpu.values import Spelled, Value
from nabi.graph.indexing import Slice

ENOUGH_WORK = 1 << 21
"""Multiply-adds of all convolutions that are worth an agreement between threads."""
FITS = 1 << 20
"""Bytes of a whole picture that the cache can bear between two convolutions."""
ROOM = 700 << 10
"""Bytes, at most, of what a depthwise convolution reads of a strip, and of what it makes of that."""
FEWEST = 4
"""Strips of such a picture."""
MOST_REPEATED = 1.4
"""Rows that are computed, at most, for each that there is."""
WIDENS = 3
"""How many times as many channels a convolution must make that is computed twice where strips meet."""
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
    cutter = _Cutter(xp, outputs, everything)
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


def _is_pixelwise(value: Value) -> bool:
    """Whether each pixel is made of those at the same place."""
    if value.kind == "convolution":
        return value.inputs[0].shape[:3] == value.shape[:3] and value.settings["kernel"] == (1, 1)
    return value.kind == "elementwise"


def _rows_seen(value: Value, height: int) -> int:
    """Rows that the windows of so many rows of a convolution lie over."""
    how = value.settings
    (kernel, _), (stride, _), (dilation, _) = how["kernel"], how["stride"], how["dilation"]
    return int((height - 1) * stride + (kernel - 1) * dilation + 1)


def _shape(value: Value, strips: int) -> tuple[int, ...]:
    """That of a picture in so many strips."""
    return strips, value.shape[1] // strips, *value.shape[2:]


class _Cutter:
    """Values as they were, made of what is cut; and cut themselves."""

    def __init__(self, xp: Spelled, outputs: Sequence[Value], everything: Sequence[Value]) -> None:
        self.xp = xp
        self.readers = Counter(x.serial for value in everything for x in value.inputs)
        self.readers.update(value.serial for value in outputs)
        self.whole: dict[int, Value] = {}
        self.strips: dict[int, Value] = {}
        self.cut: dict[tuple[int, int], Value | None] = {}  # by how many strips, what is cut only for some reader

    def take(self, value: Value) -> None:
        """Make a value anew; what it is made from has been taken before."""
        inputs = [self.whole[x.serial] for x in value.inputs]
        found = self._with_its_source(value)
        if found is None and (strips := self._count(value)) > 1:
            found = self._cut(value, strips)
        if found is not None:
            self.strips[value.serial] = found
        if found is not None and value.kind in CONVOLUTIONS:
            self.whole[value.serial] = self._in_memory(value, value.shape)
        elif value.kind == "depthwise" and value.inputs[0].serial in self.strips:
            self.whole[value.serial] = self._by_channel(value, value.shape)
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

    def _in_memory(self, value: Value, shape: Sequence[int]) -> Value:
        """A value as it lies in memory, in another shape."""
        found = self.strips.get(value.serial)
        if found is None or (value.kind == "getitem" and found.shape != tuple(shape)):
            found = self.whole[value.serial]
        return self.xp.value("reshape", (found,), shape, value.dtype) if found.shape != tuple(shape) else found

    def _of(self, value: Value, strips: int) -> Value:
        """A picture in so many strips. What is made of pictures pixel by pixel is made of their strips."""
        needed: dict[int, Value] = {}
        pending = [value]
        while pending:
            x = pending.pop()
            known = x.serial in needed or x.serial in self.strips or (x.serial, strips) in self.cut
            if x.kind == "elementwise" and not known:
                needed[x.serial] = x
                pending += [source for source in x.inputs if source.shape[:2] == value.shape[:2]]
        for serial in sorted(needed):
            self.cut[serial, strips] = self._cut(needed[serial], strips)
        found = self.cut.get((value.serial, strips))
        return self._in_memory(value, _shape(value, strips)) if found is None else found

    def _count(self, value: Value) -> int:
        """Into how many strips a value is cut: as many as what it is made of, pixel by pixel, and was made last."""
        if value.ndim != 4 or value.shape[0] != 1:
            return 1
        sources = [x for x in value.inputs if x.shape[:2] == value.shape[:2]] if _is_pixelwise(value) else []
        found = [x for x in sources if x.serial in self.strips]
        if found:
            return self.strips[max(found, key=attrgetter("serial")).serial].shape[0]
        return 1 if value.kind == "elementwise" else count(value.shape[1])

    def _with_its_source(self, value: Value) -> Value | None:
        """A depthwise convolution, cut together with what makes its channels of few; None where that does not pay."""
        if value.kind != "depthwise" or value.shape[0] != 1:
            return None
        (x, weight), how = value.inputs, value.settings
        across, down = (math.prod(v.shape[2:]) * v.dtype.itemsize for v in (x, value))
        if x.shape[1] * across <= FITS:
            return None
        for strips in range(FEWEST, value.shape[1], 2):
            height = value.shape[1] // strips
            tall = _rows_seen(value, height)
            if height * strips == value.shape[1] and tall * across + height * down <= ROOM:
                break
        else:
            return None
        step = height * how["stride"][0]
        if tall > MOST_REPEATED * step:
            return None
        source = self._widened(x, strips, step, how["corner"][0], tall)
        if source is None:
            return None
        how = {**how, "height": x.shape[1], "apart": True}
        return self.xp.value(value.kind, (source, self.whole[weight.serial]), _shape(value, strips), value.dtype, how)

    def _widened(self, x: Value, strips: int, step: int, top: int, tall: int) -> Value | None:
        """What makes many channels of few, in strips that overlap: a convolution, and what follows pixel by pixel.

        None where that is not all, or is read elsewhere as well.
        """
        chain = self._chain(x)
        if not chain:
            return None
        made: dict[int, Value] = {}
        for value in chain:
            inputs = [made.get(source.serial, self.whole[source.serial]) for source in value.inputs]
            if value.kind == "convolution":
                stride, _ = value.settings["stride"]
                taller = _rows_seen(value, tall)
                inputs[0] = self._overlapping(value.inputs[0], strips, step * stride, taller, top * stride)
            made[value.serial] = self._like(value, inputs, (strips, tall, *value.shape[2:]))
        return made[x.serial]

    def _chain(self, x: Value) -> list[Value]:
        """The values of `_widened`, in the order in which they are made; none where it is not for that."""
        found: dict[int, Value] = {}
        pending = [x]
        while pending:
            value = pending.pop()
            widens = value.kind == "convolution" and value.shape[3] >= WIDENS * value.inputs[0].shape[3]
            if self.readers[value.serial] > 1 or not (widens or value.kind == "elementwise"):
                return []
            found[value.serial] = value
            if not widens:
                if any(source.shape != x.shape and math.prod(source.shape[:-1]) != 1 for source in value.inputs):
                    return []
                pending += [source for source in value.inputs if source.shape == x.shape]
        return [found[serial] for serial in sorted(found)]

    def _cut(self, value: Value, strips: int) -> Value | None:
        """A value strip by strip; None where that is not known."""
        shape = _shape(value, strips)
        height = shape[1]
        if value.kind == "elementwise":
            inputs = []
            for x in value.inputs:
                if x.ndim == 4 and x.shape[:2] == value.shape[:2]:
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
            x, weight = value.inputs
            x = self._overlapping(x, strips, height * value.settings["stride"][0], _rows_seen(value, height))
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
        return self.xp.value("getitem", (source,), _shape(value, strips), value.dtype, {"key": key})

    def _overlapping(self, x: Value, strips: int, step: int, tall: int, above: int = 0) -> Value:
        """Strips ``tall`` rows high, one beginning ``step`` rows below the other; of a padded picture, with borders.

        ``above``: rows that the first begins above the picture.
        """
        if step == tall and strips * step == x.shape[1] and x.kind != "pad" and not above:
            return self._of(x, strips)
        source, top, left, border = x, 0, 0, 0.0
        if x.kind == "pad":
            widths = x.settings["widths"]
            if widths[0] == widths[3] == (0, 0):
                source, top, left, border = x.inputs[0], widths[1][0], widths[2][0], x.settings["value"]
        how = {"step": step, "top": top + above, "left": left, "value": border}
        whole = self._in_memory(source, source.shape)
        return self.xp.value("strips", (whole,), (strips, tall, *x.shape[2:]), x.dtype, how)
