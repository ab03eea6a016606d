"""Arrays for calling operations with: from the examples that each declares, and from shapes that Hypothesis makes."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

import nabi.ops  # noqa: F401  (declares the operations)
from nabi.graph.indexing import ARRAY, Slice
from nabi.graph.operation import Draw, Operation, registry

OPERATIONS = sorted(registry.values(), key=lambda operation: operation.name)
EXAMPLES = [
    (operation, example, f"{operation.name}-{i}")
    for operation in OPERATIONS
    for i, example in enumerate(operation.examples)
]


def array(draw: Draw, rng: np.random.Generator, dtype: Any = np.float64) -> Any:
    """An array for one argument of an example."""
    if draw.domain == "positive":
        return rng.uniform(0.5, 2.5, draw.shape).astype(dtype)
    if draw.domain == "boolean":
        return rng.random(draw.shape) < 0.5
    if draw.domain == "key":
        return rng.integers(0, 2**32, draw.shape, dtype=np.uint32)
    if isinstance(draw.domain, int):
        return rng.integers(0, draw.domain, draw.shape)
    return rng.standard_normal(draw.shape).astype(dtype)


def arrays(example: Any, seed: int = 0, dtype: Any = np.float64) -> list[Any]:
    """Arrays for a whole example."""
    rng = np.random.default_rng(seed)
    return [array(draw, rng, dtype) for draw in example.arrays]


# --- calls that Hypothesis makes up ---


@st.composite
def calls(draw: Any, operation: Operation) -> tuple[list[Any], dict[str, Any]]:
    """Arrays and settings for a call of any operation, in shapes beyond its examples."""
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    example = draw(st.sampled_from(operation.examples))
    domains = [d.domain for d in example.arrays]
    settings = dict(example.settings)
    make = _SHAPES.get(operation.name) or _SHAPES.get(operation.kind)
    if make is None:
        shapes = [d.shape for d in example.arrays]
    else:
        shapes, changed = make(draw, operation, example)
        settings.update(changed)
        # More arrays than the example has are of the last one's kind; indices stay below the shortest axis.
        rest = [2] if operation.name == "getitem" else domains[-1:]
        domains = (domains[:1] if operation.name == "getitem" else domains[: len(shapes)]) + rest * len(shapes)
        domains = domains[: len(shapes)]
    values = [array(Draw(shape, domain), rng) for shape, domain in zip(shapes, domains, strict=True)]
    if draw(st.booleans()):
        values = [_strided(v) for v in values]
    return values, settings


def _strided(value: Any) -> Any:
    """The same numbers, not contiguous in memory."""
    if value.ndim == 0:
        return value
    wide = np.repeat(value, 2, axis=value.ndim - 1)
    return np.asfortranarray(wide)[..., ::2]


def _lengths(draw: Any, least: int, most: int, low: int = 0, high: int = 3) -> tuple[int, ...]:
    return tuple(draw(st.lists(st.integers(low, high), min_size=least, max_size=most)))


def _elementwise(draw: Any, operation: Operation, example: Any) -> Any:
    full = _lengths(draw, 0, 3)
    shapes = []
    for _ in example.arrays:
        kept = tuple(1 if draw(st.integers(0, 3)) == 0 else n for n in full)
        shapes.append(kept[draw(st.integers(0, len(full))) :] if draw(st.booleans()) else kept)
    return shapes, {}


def _axes(draw: Any, ndim: int) -> Any:
    kind = draw(st.sampled_from(["none", "one", "many"])) if ndim else "none"
    if kind == "none":
        return None
    if kind == "one":
        return draw(st.integers(-ndim, ndim - 1))
    return tuple(sorted(draw(st.sets(st.integers(0, ndim - 1), min_size=1))))


def _reduction(draw: Any, operation: Operation, example: Any) -> Any:
    low = 1 if operation.name not in ("sum", "any", "all") else 0
    shape = _lengths(draw, 0 if low else 1, 3, low)
    axis = _axes(draw, len(shape))
    if operation.name.startswith("arg") and isinstance(axis, tuple):
        axis = axis[0]
    settings = {"axis": axis, "keepdims": draw(st.booleans())}
    return [shape], settings


def _softmax(draw: Any, operation: Operation, example: Any) -> Any:
    shape = _lengths(draw, 1, 3, 1)
    return [shape], {"axis": _axes(draw, len(shape))}


def _permute(draw: Any, operation: Operation, example: Any) -> Any:
    shape = _lengths(draw, 1, 4)
    return [shape], {"axes": tuple(draw(st.permutations(range(len(shape)))))}


def _reshape(draw: Any, operation: Operation, example: Any) -> Any:
    shape = _lengths(draw, 1, 3)
    return [shape], {"shape": draw(st.sampled_from([(-1,) if 0 not in shape else (0,), shape[::-1], (1, *shape)]))}


def _broadcast(draw: Any, operation: Operation, example: Any) -> Any:
    full = _lengths(draw, 1, 3)
    kept = tuple(1 if draw(st.booleans()) else n for n in full)
    return [kept[draw(st.integers(0, len(full))) :]], {"shape": full}


def _flip(draw: Any, operation: Operation, example: Any) -> Any:
    shape = _lengths(draw, 1, 3)
    return [shape], {"axis": _axes(draw, len(shape))}


def _pad(draw: Any, operation: Operation, example: Any) -> Any:
    shape = _lengths(draw, 1, 3)
    return [shape], {"widths": tuple((draw(st.integers(0, 2)), draw(st.integers(0, 2))) for _ in shape)}


def _concat(draw: Any, operation: Operation, example: Any) -> Any:
    shape = _lengths(draw, 1, 3)
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    along = axis % len(shape)
    lengths = _lengths(draw, 1, 3)
    return [(*shape[:along], n, *shape[along + 1 :]) for n in lengths], {"axis": axis}


def _stack(draw: Any, operation: Operation, example: Any) -> Any:
    shape = _lengths(draw, 0, 3)
    return [shape] * draw(st.integers(1, 3)), {"axis": draw(st.integers(-len(shape) - 1, len(shape)))}


def _key(draw: Any, shape: tuple[int, ...]) -> tuple[Any, ...]:
    key: list[Any] = []
    for n in shape:
        kind = draw(st.sampled_from(["slice", "int", "array", "new", "end"]))
        if kind == "end":
            break
        if kind == "int":
            key.append(draw(st.integers(-n, n - 1)))
        elif kind == "array":
            key.append(ARRAY)
        else:
            if kind == "new":
                key.append(None)
            ends = st.one_of(st.none(), st.integers(-n - 1, n + 1))
            key.append(Slice(draw(ends), draw(ends), draw(st.sampled_from([None, 1, 2, -1]))))
    if draw(st.booleans()):
        key.append(Ellipsis)
    return tuple(key)


def _getitem(draw: Any, operation: Operation, example: Any) -> Any:
    shape = _lengths(draw, 1, 3, 2, 4)
    key = _key(draw, shape)
    pieces = draw(st.sampled_from([(), (2,), (2, 1)]))
    return [shape, *[pieces for item in key if item is ARRAY]], {"key": key}


def _take_along_axis(draw: Any, operation: Operation, example: Any) -> Any:
    shape = _lengths(draw, 1, 3, 1)
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    along = axis % len(shape)
    shape = (*shape[:along], 5, *shape[along + 1 :])  # the example's indices lie below 5
    return [shape, (*shape[:along], draw(st.integers(0, 3)), *shape[along + 1 :])], {"axis": axis}


def _matmul(draw: Any, operation: Operation, example: Any) -> Any:
    n, k, m = (draw(st.integers(0, 3)) for _ in range(3))
    left, right = draw(st.sampled_from([((), ()), ((2,), ()), ((), (3,)), ((2, 1), (3,)), ((1,), (2,)), ((0,), (0,))]))
    form = draw(st.sampled_from(["matrices", "left vector", "right vector", "vectors"]))
    x = (k,) if form in ("left vector", "vectors") else (*left, n, k)
    y = (k,) if form in ("right vector", "vectors") else (*right, k, m)
    return [x, y], {}


def _window(draw: Any, kernel: tuple[int, int], dilations: bool = True) -> tuple[tuple[int, int], dict[str, Any]]:
    """A picture's size and settings of a window that fits into it."""
    dilation = draw(st.sampled_from([1, 2, (1, 2)])) if dilations else 1
    d = (dilation, dilation) if isinstance(dilation, int) else dilation
    size = tuple((k - 1) * step + 1 + draw(st.integers(0, 3)) for k, step in zip(kernel, d, strict=True))
    settings: dict[str, Any] = {
        "stride": draw(st.sampled_from([1, 2, (2, 1), (1, 3)])),
        "padding": draw(st.sampled_from([0, 1, (1, 0), "same", "valid", ((0, 1), (2, 0))])),
    }
    if dilations:
        settings["dilation"] = dilation
    return size, settings


def _conv2d(draw: Any, operation: Operation, example: Any) -> Any:
    kernel = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    size, settings = _window(draw, kernel)
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    depth, out = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    settings["groups"] = groups
    return [(draw(st.integers(0, 2)), *size, groups * depth), (*kernel, depth, groups * out)], settings


def _pool(draw: Any, operation: Operation, example: Any) -> Any:
    kernel = (draw(st.integers(1, 3)), draw(st.integers(2, 3)))
    size, settings = _window(draw, kernel, dilations=False)
    settings["kernel_size"] = kernel
    if operation.name == "max_pool2d" and settings["padding"] not in ("valid", "same"):
        settings["padding"] = (int(kernel[0] > 1), 1)  # at most half a kernel: none lies on the border alone
    return [(draw(st.integers(0, 2)), *size, draw(st.integers(1, 2)))], settings


def _batch_norm(draw: Any, operation: Operation, example: Any) -> Any:
    shape = (*_lengths(draw, 1, 3, 2), draw(st.integers(1, 3)))
    return [shape, shape[-1:], shape[-1:]], {}


def _one_hot(draw: Any, operation: Operation, example: Any) -> Any:
    return [_lengths(draw, 0, 2)], {"depth": draw(st.integers(0, 4))}


def _dropout(draw: Any, operation: Operation, example: Any) -> Any:
    return [_lengths(draw, 0, 3), (2,)], {"rate": draw(st.sampled_from([0.0, 0.3, 0.9]))}


_SHAPES: dict[str, Any] = {
    "elementwise": _elementwise,
    "reduction": _reduction,
    "softmax": _softmax,
    "log_softmax": _softmax,
    "permute_dims": _permute,
    "reshape": _reshape,
    "broadcast_to": _broadcast,
    "flip": _flip,
    "pad": _pad,
    "concat": _concat,
    "stack": _stack,
    "getitem": _getitem,
    "take_along_axis": _take_along_axis,
    "matmul": _matmul,
    "conv2d": _conv2d,
    "max_pool2d": _pool,
    "avg_pool2d": _pool,
    "batch_norm": _batch_norm,
    "one_hot": _one_hot,
    "dropout": _dropout,
}
