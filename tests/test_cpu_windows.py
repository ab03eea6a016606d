"""The fast engine's kernels for windows and products, on random shapes: values, gradients, what stays in registers."""

from typing import Any

import numpy as np
import pytest

import nabi
from fuzzing import examples
from nabi import engines, machine, ops, threads
from nabi.engines.cpu import panels, segments, values
from nabi.engines.cpu.program import Program
from nabi.graph.plan import Plan
from random_graphs import compare
from test_cpu_engine import KINDS, guarded


def plan_of(function: Any, *arrays: Any) -> Plan:
    """What a function does with arrays, by each of which it may derive."""
    tensors = [nabi.tensor(a, requires_grad=True) for a in arrays]
    found: Plan = nabi.compile(function, engine="reference").plan(*tensors)
    return found


def check(function: Any, *arrays: Any, vector: int = 64, engine: str = "cpu") -> None:
    """The engine's results are the reference's, and no memory of others is written."""
    plan = plan_of(function, *arrays)
    with machine.pretending(KINDS[vector](machine.processor())):
        run = engines.prepare(engine, plan)
    with guarded() as overrun:
        got = run(list(arrays))
    assert overrun() == 0
    compare(plan, list(arrays), got, engines.prepare("reference", plan)(list(arrays)))


def roots_of(function: Any, *arrays: Any) -> list[segments.Root]:
    """What the engine stores."""
    _, _, outputs = values.spell(plan_of(function, *arrays), winograd=True)
    return [root for stage in segments.lay_out(outputs, set()).stages for segment in stage for root in segment.roots]


def normal(rng: Any, *shape: int) -> Any:
    return rng.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("pictures", "side", "inputs"), [(64, 4, 1024), (33, 5, 2048), (1, 8, 1024), (2, 7, 1024)])
def test_rows_that_are_laid_out_anew(pictures: int, side: int, inputs: int) -> None:
    """Few windows a picture, so that those of several are multiplied together: all of them have room."""
    rng = np.random.default_rng(0)
    x, w = normal(rng, pictures, side, side, inputs), normal(rng, 1, 1, inputs, 32) / np.float32(30)
    check(lambda x, w: ops.conv2d(x, w), x, w)


# --- depthwise convolutions ---


def depthwise_example(rng: Any) -> tuple[list[Any], dict[str, Any]]:
    """A picture, a window for each channel and a number for each; and how the window goes."""
    channels = int(rng.choice([1, 3, 8, 16, 17, 24, 40, 96]))
    kernel, stride, dilation = (tuple(map(int, rng.integers(1, most, 2))) for most in (6, 4, 3))
    padding = tuple((int(before), int(after)) for before, after in rng.integers(0, 5, (2, 2)))
    least = [(k - 1) * d + 1 - sum(border) for k, d, border in zip(kernel, dilation, padding, strict=True)]
    size = [max(1, int(rng.integers(0, 24)) + n) for n in least]
    arrays = [normal(rng, int(rng.integers(1, 4)), *size, channels), normal(rng, *kernel, 1, channels)]
    settings = {"stride": stride, "padding": padding, "dilation": dilation, "groups": channels}
    return [*arrays, normal(rng, channels)], settings


@pytest.mark.parametrize("vector", KINDS)
@pytest.mark.parametrize("seed", range(examples(8)))
def test_depthwise(seed: int, vector: int) -> None:
    """Alone, between what is done to each element, and the gradients."""
    arrays, how = depthwise_example(np.random.default_rng(seed))

    def function(x: Any, w: Any, b: Any) -> list[Any]:
        y = ops.conv2d(ops.relu(x), w, **how)
        z = ops.relu6((y - b) * b + 1.0)
        return [z, ops.conv2d(x, w * b, **how), *nabi.gradients(ops.sum(ops.sin(z)), [x, w])]

    check(function, *arrays, vector=vector)


@pytest.mark.parametrize("edge", [np.nan, np.inf, -np.inf])
def test_depthwise_at_the_edges(edge: float) -> None:
    """What is not finite in a picture or a window, over the border, too, where it meets zeros."""
    rng = np.random.default_rng(0)
    x, w, b = normal(rng, 2, 9, 9, 20), normal(rng, 5, 5, 1, 20), normal(rng, 20)
    x[0, 0, 8, 3], w[0, 4, 0, 7], b[9] = edge, edge, edge
    check(lambda x, w, b: ops.relu6(ops.conv2d(x, w, padding=2, groups=20) * b), x, w, b)


def test_depthwise_goes_on_in_registers() -> None:
    """A picture is stored without a border, and with what follows on a convolution; what others read is stored, too."""
    x, w, b = np.zeros((2, 9, 9, 20), np.float32), np.zeros((3, 3, 1, 20), np.float32), np.zeros(20, np.float32)

    def alone(x: Any, w: Any, b: Any) -> Any:
        return ops.relu6(ops.conv2d(x, w, padding=1, groups=20) * b) + x

    (root,) = roots_of(alone, x, w, b)
    assert (root.value.kind, root.made.kind) == ("elementwise", "depthwise")

    def twice(x: Any, w: Any, b: Any) -> list[Any]:
        y = ops.conv2d(x, w, padding=1, groups=20)
        return [y * b, y[:, 1:] + b]

    assert roots_of(twice, x, w, b)[0].made.kind == "depthwise"
    assert all(root.made is root.value for root in roots_of(twice, x, w, b))


# --- products with panels of weights ---


def product_example(rng: Any) -> tuple[list[Any], dict[str, Any]]:
    """A picture, weights of any number of columns, and numbers for each; often of more rows than are near at once."""
    inputs, outputs = int(rng.choice([1, 3, 16, 40, 300, 1024])), int(rng.choice([1, 5, 8, 16, 24, 33, 40, 64, 75]))
    side = int(rng.choice([1, 1, 2, 3]))
    n, size = ((int(rng.integers(32, 70)), (side, side)), (2, tuple(map(int, rng.integers(7, 40, 2)))))[rng.integers(2)]
    how = {"stride": int(rng.integers(1, 3)), "padding": side // 2}
    return [normal(rng, n, *size, inputs), normal(rng, side, side, inputs, outputs), normal(rng, outputs)], how


@pytest.mark.parametrize("vector", KINDS)
@pytest.mark.parametrize("seed", range(examples(8)))
def test_convolution_by_panels(seed: int, vector: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone, between what is done to each element, and the gradients."""
    rng = np.random.default_rng(seed)
    monkeypatch.setattr(panels, "NEAR", int(rng.choice([1, 4 << 10, panels.NEAR])))
    arrays, how = product_example(rng)

    def function(x: Any, w: Any, b: Any) -> list[Any]:
        y = ops.conv2d(ops.relu(x), w, **how)
        z = ops.relu6((y - b) * b + 1.0)
        return [z, ops.conv2d(x, w * b, **how), *nabi.gradients(ops.sum(ops.sin(z)), [x, w])]

    check(function, *arrays, vector=vector, engine="cpu-direct")


def test_what_is_added_to_a_product_is_added_in_registers() -> None:
    x, w, v = (np.zeros(shape, np.float32) for shape in ((2, 9, 9, 20), (1, 1, 20, 48), (1, 1, 48, 20)))
    b = np.zeros(48, np.float32)

    def residual(x: Any, w: Any, v: Any, b: Any) -> Any:
        return x + ops.conv2d(ops.relu6(ops.conv2d(x, w) * b), v)

    roots = roots_of(residual, x, w, v, b)
    assert [root.made.kind for root in roots if root.value.kind == "elementwise"] == ["convolution"] * 2
    assert sorted(root.value.kind for root in roots) == ["elementwise", "elementwise", "panels", "panels"]


# --- gradients of networks whose pictures have odd sides ---


@pytest.mark.parametrize("vector", KINDS)
@pytest.mark.parametrize("seed", range(examples(6)))
def test_pooled_gradients_in_tiles(seed: int, vector: int) -> None:
    """Written, padded and summed: of sides that windows divide and of those that they do not."""
    rng = np.random.default_rng(seed)
    kernel, stride, padding = int(rng.integers(2, 4)), int(rng.integers(1, 5)), int(rng.integers(0, 2))
    shape = (int(rng.integers(1, 5)), *map(int, rng.integers(4, 12, 2)), int(rng.choice([1, 3, 16, 20])))
    how = {"kernel_size": kernel, "stride": stride, "padding": padding}
    x = np.round(normal(rng, *shape), 1)  # some are equal

    def function(x: Any) -> list[Any]:
        y = ops.max_pool2d(ops.relu(x), **how)
        (g,) = nabi.gradients(ops.sum(ops.sin(y)), [x])
        bordered = ops.pad(g, widths=((0, 0), (1, 2), (0, 1), (0, 0)))
        return [g, bordered * 2.0, ops.sum(g, axis=(0, 1, 2)), ops.sum(g * x), ops.sum(g * g, axis=(0, 1, 2))]

    check(function, x, vector=vector)


@pytest.mark.parametrize("vector", KINDS)
@pytest.mark.parametrize("seed", range(examples(6)))
def test_gradients_of_winograds_way(seed: int, vector: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On pictures and on weights, or on weights alone; with many strands and with few, of one block and of several."""
    rng = np.random.default_rng(seed)
    monkeypatch.setattr(segments, "PARTIALS", int(rng.choice([1, 1 << 20, 24 << 20])))
    monkeypatch.setattr(segments, "TILES", int(rng.choice([1, 8, 64])))
    inputs, outputs = (int(rng.choice([16, 20, 32, 64, 96])) for _ in range(2))
    x = normal(rng, int(rng.integers(1, 40)), *map(int, rng.integers(5, 12, 2)), inputs)
    w, padding, both = normal(rng, 3, 3, inputs, outputs) / 10, int(rng.integers(0, 3)), bool(rng.integers(2))

    def function(x: Any, w: Any) -> list[Any]:
        y = ops.sin(ops.conv2d(x, w, padding=padding))
        return nabi.gradients(ops.sum(y * y), [x, w] if both else [w])

    check(function, x, w, vector=vector)


def test_gradients_share_a_border() -> None:
    """The one on weights reads what the one on pictures needs, and asks for no more where that is not computed."""
    x, w = np.zeros((4, 9, 9, 32), np.float32), np.zeros((3, 3, 32, 64), np.float32)

    def pads(*wanted: int) -> list[tuple[int, ...]]:
        def function(x: Any, w: Any) -> list[Any]:
            return nabi.gradients(ops.sum(ops.sin(ops.conv2d(x, w, padding=1))), [(x, w)[n] for n in wanted])

        return sorted(root.value.shape for root in roots_of(function, x, w) if root.value.kind == "pad")

    picture, whole, bordered = (4, 14, 14, 32), (4, 12, 12, 64), (4, 14, 14, 64)
    assert pads(0, 1) == [picture, bordered]
    assert pads(1) == [whole, picture]


# --- a single picture, whose channels are shared out ---


@pytest.mark.parametrize("vector", KINDS)
@pytest.mark.parametrize("seed", range(examples(4)))
def test_channels_of_one_picture_are_shared_out(seed: int, vector: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of products and of depthwise convolutions, with what follows on them; with the same bits for 1 and 2 threads."""
    for name in ("FEW_OPERATIONS", "TINY"):
        monkeypatch.setattr(segments, name, 0)
    rng = np.random.default_rng(seed)
    few, many = (32 * int(n) for n in rng.integers(2, 6, 2))
    if seed == 1:
        few = 1024
    height, width, kernel = int(rng.choice([5, 7, 11])), int(rng.integers(7, 12)), int(rng.choice([3, 5]))
    arrays = [normal(rng, 1, height, width, few), normal(rng, 1, 1, few, many), normal(rng, kernel, kernel, 1, many),
              normal(rng, 1, 1, many, few), normal(rng, many)]  # fmt: skip

    def function(x: Any, wide: Any, around: Any, narrow: Any, b: Any) -> Any:
        y = ops.relu6(ops.conv2d(x, wide) * b)
        y = ops.relu6(ops.conv2d(y, around, padding="same", groups=many) - b)
        return x + ops.conv2d(y, narrow)

    made = [root.made.kind for root in roots_of(function, *arrays) if root.how == "columns"]
    assert made == ["convolution", "depthwise", "convolution"]
    check(function, *arrays, vector=vector)
    run = engines.prepare("cpu", plan_of(function, *arrays))
    found = []
    for count in (1, 2):
        threads.set_num_threads(count)
        found.append(run(arrays)[0].tobytes())
    threads.set_num_threads(None)
    assert found[0] == found[1]


def test_what_kernels_leave_to_each_other_takes_the_room_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long a chain is; here a picture at a time."""
    monkeypatch.setattr(segments, "BLOCK", 1)
    x, w = np.zeros((64, 16, 16, 32), np.float32), np.zeros((1, 1, 32, 32), np.float32)

    def chain(length: int) -> int:
        def function(x: Any, w: Any) -> Any:
            for _ in range(length):
                x = ops.relu(ops.conv2d(x, w))
            return x

        return Program(plan_of(function, x, w)).scratch // x[0].nbytes

    assert [chain(length) for length in (3, 4, 20)] == [2, 2, 2]
