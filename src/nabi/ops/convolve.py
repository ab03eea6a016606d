"""Windows that slide over height and width: convolution, pooling; and normalisation over a batch or over channels.

Pictures are (N, H, W, C) and convolution weights (kh, kw, C_in / groups, C_out), so that a first-layer filter *is* a
picture. ``padding`` is an integer, a pair (height, width), a pair of pairs ((top, bottom), (left, right)), "same"
(the output is the input's size divided by the stride, rounded up; an odd border goes below and to the right) or
"valid" (none). What is nonlinear in the padding is padded with zeros, but a maximum with minus infinity.
"""

import functools
import math
from typing import Any

from nabi.errors import SettingError, ShapeError
from nabi.graph import indexing
from nabi.graph.operation import operation, positive, real

Pair = int | tuple[int, int]
Padding = int | str | tuple[int, int] | tuple[tuple[int, int], tuple[int, int]]
Borders = tuple[tuple[int, int], tuple[int, int]]


def pair(value: Pair, name: str, least: int = 1) -> tuple[int, int]:
    """A setting for height and width from one number or two."""
    both = (value, value) if isinstance(value, int) else tuple(value)
    if len(both) != 2 or any(not isinstance(n, int) or n < least for n in both):
        raise SettingError(f"{name} is an integer of at least {least}, or a pair of them, not {value!r}")
    return both


def borders(
    padding: Padding, size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]
) -> Borders:
    """The rows and columns to add: ((top, bottom), (left, right))."""
    if padding == "valid":
        return (0, 0), (0, 0)
    if padding == "same":
        total = [
            max(0, (math.ceil(n / s) - 1) * s + (k - 1) * d + 1 - n)
            for n, k, s, d in zip(size, kernel, stride, dilation, strict=True)
        ]
        return (total[0] // 2, total[0] - total[0] // 2), (total[1] // 2, total[1] - total[1] // 2)
    if isinstance(padding, str):
        raise SettingError(f'padding is an integer, a pair, "same" or "valid", not {padding!r}')
    if isinstance(padding, tuple) and any(isinstance(item, tuple) for item in padding):
        rows, columns = padding
        return pair(rows, "padding", 0), pair(columns, "padding", 0)
    rows, columns = pair(padding, "padding", 0)  # type: ignore[arg-type]
    return (rows, rows), (columns, columns)


class Window:
    """How a window slides: its size, its steps, and how often it fits."""

    def __init__(self, size: tuple[int, int], kernel: Pair, stride: Pair, padding: Padding, dilation: Pair) -> None:
        self.size = size
        self.kernel = pair(kernel, "kernel_size")
        self.stride = pair(stride, "stride")
        self.dilation = pair(dilation, "dilation")
        self.borders = borders(padding, size, self.kernel, self.stride, self.dilation)
        self.reach = tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True))
        self.padded = tuple(n + sum(border) for n, border in zip(size, self.borders, strict=True))
        self.steps = tuple((n - r) // s + 1 for n, r, s in zip(self.padded, self.reach, self.stride, strict=True))

    def fits(self, operation: str, x: Any) -> None:
        """Raise ShapeError unless the window fits into the padded picture at least once."""
        if min(self.steps) < 1:
            raise ShapeError(
                f"{operation}: a window reaching over {self.reach} does not fit into x {x.shape}, "
                f"padded to {self.padded}"
            )

    def pad(self, xp: Any, x: Any, value: float = 0.0) -> Any:
        """The picture with its border."""
        if self.borders == ((0, 0), (0, 0)):
            return x
        return xp.pad(x, ((0, 0), *self.borders, (0, 0)), value)

    def crop(self, x: Any) -> Any:
        """The picture without its border: what `pad` added is cut away."""
        if self.borders == ((0, 0), (0, 0)):
            return x
        (top, _), (left, _) = self.borders
        return x[:, top : top + self.size[0], left : left + self.size[1], :]

    def taps(self) -> list[tuple[slice, slice, slice]]:
        """For each place in the window, row by row, where it lies in the padded picture at every step."""
        (kh, kw), (sh, sw), (dh, dw), (oh, ow) = self.kernel, self.stride, self.dilation, self.steps
        return [
            (
                slice(None),
                slice(i * dh, i * dh + (oh - 1) * sh + 1, sh),
                slice(j * dw, j * dw + (ow - 1) * sw + 1, sw),
            )
            for i in range(kh)
            for j in range(kw)
        ]


def _patches(xp: Any, x: Any, window: Window, groups: int) -> Any:
    """Every window's contents as a row: (groups, N·oh·ow, kh·kw·C/groups)."""
    padded = window.pad(xp, x)
    taps = [padded[tap] for tap in window.taps()]
    n, (oh, ow), channels = x.shape[0], window.steps, x.shape[3]
    if groups == 1:
        rows = taps[0] if len(taps) == 1 else xp.concat(taps, axis=3)
        return xp.reshape(rows, (1, n * oh * ow, len(taps) * channels))
    rows = xp.reshape(xp.stack(taps, axis=3), (n * oh * ow, len(taps), groups, channels // groups))
    return xp.reshape(xp.permute_dims(rows, (2, 0, 1, 3)), (groups, n * oh * ow, len(taps) * channels // groups))


def _by_group(xp: Any, y: Any, groups: int) -> Any:
    """(N, oh, ow, C) as (groups, N·oh·ow, C/groups)."""
    n, oh, ow, channels = y.shape
    if groups == 1:
        return xp.reshape(y, (1, n * oh * ow, channels))
    return xp.permute_dims(xp.reshape(y, (n * oh * ow, groups, channels // groups)), (1, 0, 2))


def _weight_by_group(xp: Any, weight: Any, groups: int) -> Any:
    """(kh, kw, C_in/groups, C_out) as (groups, kh·kw·C_in/groups, C_out/groups)."""
    kh, kw, depth, out = weight.shape
    if groups == 1:
        return xp.reshape(weight, (1, kh * kw * depth, out))
    return xp.permute_dims(xp.reshape(weight, (kh * kw * depth, groups, out // groups)), (1, 0, 2))


@operation("window")
def conv2d(
    xp: Any,
    x: Any,
    weight: Any,
    *,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Any:
    """y[n, p, q, o] = Σ x[n, s·p + d·i, s·q + d·j, c]·w[i, j, c, o], over i, j and c"""
    window = Window(x.shape[1:3], weight.shape[:2], stride, padding, dilation)
    y = xp.matmul(_patches(xp, x, window, groups), _weight_by_group(xp, weight, groups))
    n, (oh, ow), out = x.shape[0], window.steps, weight.shape[3]
    if groups > 1:
        y = xp.permute_dims(y, (1, 0, 2))
    return xp.reshape(y, (n, oh, ow, out))


conv2d.example(real(2, 5, 4, 3), real(3, 2, 3, 4))
conv2d.example(real(1, 6, 5, 4), real(3, 3, 2, 6), stride=2, padding="same", groups=2)
conv2d.example(real(2, 5, 6, 3), real(2, 3, 1, 6), stride=(2, 1), padding=(1, 2), dilation=(2, 1), groups=3)


@conv2d.check
def _(x: Any, weight: Any, *, stride: Pair, padding: Padding, dilation: Pair, groups: int) -> None:
    if x.ndim != 4 or weight.ndim != 4:
        raise ShapeError(
            f"conv2d: x is (N, H, W, C) and weight (kh, kw, C / groups, out), not {x.shape} and {weight.shape}"
        )
    if groups < 1 or x.shape[3] != weight.shape[2] * groups or weight.shape[3] % groups:
        raise ShapeError(
            f"conv2d: x {x.shape} has {x.shape[3]} channels, but weight {weight.shape} in {groups} groups takes "
            f"{weight.shape[2] * groups} of them to {weight.shape[3]}"
        )
    Window(x.shape[1:3], weight.shape[:2], stride, padding, dilation).fits("conv2d", x)


@operation("window")
def conv2d_input_gradient(
    xp: Any,
    g: Any,
    weight: Any,
    *,
    size: tuple[int, int],
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
) -> Any:
    """∂x[n, r, c, i] = Σ g·w: the output's gradient, spread out by the stride, convolved with the turned weights"""
    window = Window(size, weight.shape[:2], stride, padding, dilation)
    (sh, sw), (n, oh, ow, out) = window.stride, g.shape
    spread = xp.pad(xp.reshape(g, (n, oh, 1, ow, 1, out)), ((0, 0), (0, 0), (0, sh - 1), (0, 0), (0, sw - 1), (0, 0)))
    spread = xp.reshape(spread, (n, oh * sh, ow * sw, out))[:, : (oh - 1) * sh + 1, : (ow - 1) * sw + 1, :]
    cut = [slice(None)]
    add = [(0, 0)]
    for axis in (0, 1):
        low = window.reach[axis] - 1 - window.borders[axis][0]
        high = size[axis] + window.reach[axis] - 1 - spread.shape[axis + 1] - low
        cut.append(slice(max(0, -low), spread.shape[axis + 1] - max(0, -high)))
        add.append((max(0, low), max(0, high)))
    spread = xp.pad(spread[tuple(cut)], (*add, (0, 0)))
    kh, kw, depth, _ = weight.shape
    turned = xp.reshape(xp.flip(weight, axis=(0, 1)), (kh, kw, depth, groups, out // groups))
    turned = xp.reshape(xp.permute_dims(turned, (0, 1, 4, 3, 2)), (kh, kw, out // groups, groups * depth))
    return xp.conv2d(spread, turned, stride=1, padding=0, dilation=dilation, groups=groups)


conv2d_input_gradient.example(
    real(1, 3, 3, 4), real(3, 2, 2, 4), size=(6, 5), stride=2, padding="same", dilation=1, groups=1
)


@operation("window")
def conv2d_weight_gradient(
    xp: Any,
    x: Any,
    g: Any,
    *,
    kernel_size: tuple[int, int],
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
) -> Any:
    """∂w[i, j, c, o] = Σ x[n, s·p + d·i, s·q + d·j, c]·g[n, p, q, o], over n, p and q"""
    window = Window(x.shape[1:3], kernel_size, stride, padding, dilation)
    patches = xp.matrix_transpose(_patches(xp, x, window, groups))
    product = xp.matmul(patches, _by_group(xp, g, groups))
    depth, out = x.shape[3] // groups, g.shape[3]
    if groups > 1:
        product = xp.permute_dims(product, (1, 0, 2))
    return xp.reshape(product, (*window.kernel, depth, out))


conv2d_weight_gradient.example(
    real(2, 5, 4, 2), real(2, 3, 3, 4), kernel_size=(3, 2), stride=1, padding=0, dilation=1, groups=2
)

# The three are linear in each argument, and each one's gradients are the other two.
conv2d.vjp(
    x=lambda xp, g, y, x, weight, **how: xp.conv2d_input_gradient(g, weight, size=tuple(x.shape[1:3]), **how),
    weight=lambda xp, g, y, x, weight, **how: xp.conv2d_weight_gradient(
        x, g, kernel_size=tuple(weight.shape[:2]), **how
    ),
)
conv2d_input_gradient.vjp(
    g=lambda xp, h, y, g, weight, size, **how: xp.conv2d(h, weight, **how),
    weight=lambda xp, h, y, g, weight, size, **how: xp.conv2d_weight_gradient(
        h, g, kernel_size=tuple(weight.shape[:2]), **how
    ),
)
conv2d_weight_gradient.vjp(
    x=lambda xp, h, y, x, g, kernel_size, **how: xp.conv2d_input_gradient(g, h, size=tuple(x.shape[1:3]), **how),
    g=lambda xp, h, y, x, g, kernel_size, **how: xp.conv2d(x, h, **how),
)

# --- pooling ---


def _check_pool(name: str, x: Any, kernel_size: Pair, stride: Pair | None, padding: Padding) -> None:
    if x.ndim != 4:
        raise ShapeError(f"{name}: x is (N, H, W, C), not {x.shape}")
    Window(x.shape[1:3], kernel_size, _step(kernel_size, stride), padding, 1).fits(name, x)


def _step(kernel_size: Pair, stride: Pair | None) -> Pair:
    return kernel_size if stride is None else stride


def _pool_window(x: Any, kernel_size: Pair, stride: Pair | None, padding: Padding) -> Window:
    return Window(x.shape[1:3], kernel_size, _step(kernel_size, stride), padding, 1)


@operation("window", floating=True)
def max_pool2d(xp: Any, x: Any, *, kernel_size: Pair, stride: Pair | None = None, padding: Padding = 0) -> Any:
    """y = the largest x in each window; the first of equals takes the gradient"""
    window = _pool_window(x, kernel_size, stride, padding)
    padded = window.pad(xp, x, -math.inf)
    return functools.reduce(xp.maximum, [padded[tap] for tap in window.taps()])


max_pool2d.example(real(2, 4, 6, 3), kernel_size=2)
max_pool2d.example(real(1, 5, 5, 2), kernel_size=3, stride=2, padding=1)


@max_pool2d.check
def _(x: Any, *, kernel_size: Pair, stride: Pair | None, padding: Padding) -> None:
    _check_pool("max_pool2d", x, kernel_size, stride, padding)
    window = _pool_window(x, kernel_size, stride, padding)
    if any(max(border) > k // 2 for border, k in zip(window.borders, window.kernel, strict=True)):
        raise SettingError(f"max_pool2d: padding {padding} is more than half of the kernel {kernel_size}")


@operation("window")
def max_pool2d_gradient(xp: Any, g: Any, x: Any, *, kernel_size: Pair, stride: Pair | None, padding: Padding) -> Any:
    """∂x = g where x was the first largest of its window, summed over windows"""
    window = _pool_window(x, kernel_size, stride, padding)
    padded = window.pad(xp, x, -math.inf)
    largest = functools.reduce(xp.maximum, [padded[tap] for tap in window.taps()])
    result = xp.zeros_like(padded)
    free = largest == largest
    for tap in window.taps():
        here = xp.logical_and(free, padded[tap] == largest)
        free = xp.logical_and(free, xp.logical_not(here))
        result = xp.scatter_add(result, xp.where(here, g, 0), key=indexing.split(tap)[0])
    return window.crop(result)


max_pool2d_gradient.example(real(2, 2, 3, 3), real(2, 4, 6, 3), kernel_size=2, stride=None, padding=0)


@operation("window")
def max_pool2d_pick(xp: Any, h: Any, x: Any, *, kernel_size: Pair, stride: Pair | None, padding: Padding) -> Any:
    """y = h where x was the first largest of its window"""
    window = _pool_window(x, kernel_size, stride, padding)
    padded, picked = window.pad(xp, x, -math.inf), window.pad(xp, h)
    taps = window.taps()
    largest = functools.reduce(xp.maximum, [padded[tap] for tap in taps])
    result = picked[taps[-1]]
    for tap in taps[-2::-1]:
        result = xp.where(padded[tap] == largest, picked[tap], result)
    return result


max_pool2d_pick.example(real(2, 4, 6, 3), real(2, 4, 6, 3), kernel_size=2, stride=None, padding=0)

# The choice of the largest is constant between steps, so nothing flows back through it.
max_pool2d.vjp(x=lambda xp, g, y, x, **how: xp.max_pool2d_gradient(g, x, **how))
max_pool2d_gradient.vjp(
    g=lambda xp, h, y, g, x, **how: xp.max_pool2d_pick(h, x, **how),
    x=lambda xp, h, y, g, x, **how: None,
)
max_pool2d_pick.vjp(
    h=lambda xp, g, y, h, x, **how: xp.max_pool2d_gradient(g, x, **how),
    x=lambda xp, g, y, h, x, **how: None,
)


@operation("window", floating=True)
def avg_pool2d(xp: Any, x: Any, *, kernel_size: Pair, stride: Pair | None = None, padding: Padding = 0) -> Any:
    """y = Σ x / n in each window, the zeros of the border counted"""
    window = _pool_window(x, kernel_size, stride, padding)
    padded = window.pad(xp, x)
    total = functools.reduce(lambda a, b: a + b, [padded[tap] for tap in window.taps()])
    return total / math.prod(window.kernel)


avg_pool2d.example(real(2, 4, 6, 3), kernel_size=2)
avg_pool2d.example(real(1, 5, 5, 2), kernel_size=3, stride=2, padding=1)


@avg_pool2d.check
def _(x: Any, *, kernel_size: Pair, stride: Pair | None, padding: Padding) -> None:
    _check_pool("avg_pool2d", x, kernel_size, stride, padding)


@operation("window")
def avg_pool2d_gradient(
    xp: Any, g: Any, *, size: tuple[int, int], kernel_size: Pair, stride: Pair | None, padding: Padding
) -> Any:
    """∂x = Σ g / n over the windows that x lay in"""
    window = Window(size, kernel_size, _step(kernel_size, stride), padding, 1)
    share = g / math.prod(window.kernel)
    result = xp.zeros((g.shape[0], *window.padded, g.shape[3]), dtype=g.dtype)
    for tap in window.taps():
        result = xp.scatter_add(result, share, key=indexing.split(tap)[0])
    return window.crop(result)


avg_pool2d_gradient.example(real(2, 2, 3, 3), size=(4, 6), kernel_size=2, stride=None, padding=0)

avg_pool2d.vjp(x=lambda xp, g, y, x, **how: xp.avg_pool2d_gradient(g, size=tuple(x.shape[1:3]), **how))
avg_pool2d_gradient.vjp(g=lambda xp, h, y, g, size, **how: xp.avg_pool2d(h, **how))

# --- normalisation ---


@operation("normalization", floating=True, example=[real(4, 3, 2), positive(2), real(2)])
def batch_norm(xp: Any, x: Any, weight: Any, bias: Any, *, epsilon: float = 1e-5) -> Any:
    """y = (x - mean x) / √(var x + ε)·w + b, over all axes but the last; gives (y, mean, variance)"""
    axis = tuple(range(x.ndim - 1))
    mean = xp.mean(x, axis=axis)
    variance = xp.var(x, axis=axis)
    return (x - mean) * (weight / xp.sqrt(variance + epsilon)) + bias, mean, variance


@batch_norm.check
def _(x: Any, weight: Any, bias: Any, *, epsilon: float) -> None:
    if x.ndim < 2 or weight.shape != x.shape[-1:] or bias.shape != x.shape[-1:]:
        raise ShapeError(
            f"batch_norm: weight {weight.shape} and bias {bias.shape} must be as long as the last axis of x {x.shape}"
        )


@operation("composite", example=[real(4, 2), real(4, 2), positive(2), real(2), positive(2)], epsilon=1e-5)
def batch_norm_gradient(xp: Any, g: Any, x: Any, weight: Any, mean: Any, variance: Any, *, epsilon: float) -> Any:
    """∂x = w / √(var + ε)·(g - mean g - x̂·mean(g·x̂)), x̂ = (x - mean) / √(var + ε)"""
    axis = tuple(range(x.ndim - 1))
    scale = 1 / xp.sqrt(variance + epsilon)
    standard = (x - mean) * scale
    return (g - xp.mean(g, axis=axis) - standard * xp.mean(g * standard, axis=axis)) * (weight * scale)


def _standard(xp: Any, x: Any, mean: Any, variance: Any, epsilon: float) -> Any:
    return (x - mean) / xp.sqrt(variance + epsilon)


@batch_norm.vjp("x")
def _(xp: Any, g: Any, y: Any, x: Any, weight: Any, bias: Any, epsilon: float) -> Any:
    (flow, on_mean, on_variance), (_, mean, variance) = g, y
    parts = []
    count = x.size // x.shape[-1]
    if flow is not None:
        parts.append(xp.batch_norm_gradient(flow, x, weight, mean, variance, epsilon=epsilon))
    if on_mean is not None:
        parts.append(xp.broadcast_to(on_mean / count, x.shape))
    if on_variance is not None:
        parts.append(on_variance * 2 / count * (x - mean))
    return functools.reduce(lambda a, b: a + b, parts)


@batch_norm.vjp("weight")
def _(xp: Any, g: Any, y: Any, x: Any, weight: Any, bias: Any, epsilon: float) -> Any:
    if g[0] is None:
        return xp.zeros_like(weight)
    return xp.sum(g[0] * _standard(xp, x, y[1], y[2], epsilon), axis=tuple(range(x.ndim - 1)))


@batch_norm.vjp("bias")
def _(xp: Any, g: Any, y: Any, x: Any, weight: Any, bias: Any, epsilon: float) -> Any:
    if g[0] is None:
        return xp.zeros_like(bias)
    return xp.sum(g[0], axis=tuple(range(x.ndim - 1)))


@operation("composite", floating=True, example=[real(2, 2, 3, 4)], size=3, alpha=0.5)
def local_response_norm(
    xp: Any, x: Any, *, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0
) -> Any:
    """y = x / (k + α·Σ x²)ᵝ, summed over the ``size`` nearest channels

    With the constants of the 2012 net: α is not divided by the size. Source: Krizhevsky, Sutskever and Hinton,
    "ImageNet classification with deep convolutional neural networks" (2012), section 3.3.
    """
    channels, before = x.shape[-1], size // 2
    squares = xp.pad(x * x, (*((0, 0),) * (x.ndim - 1), (before, size - 1 - before)))
    total = functools.reduce(lambda a, b: a + b, [squares[..., i : i + channels] for i in range(size)])
    return x / (k + alpha * total) ** beta
