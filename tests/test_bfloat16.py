"""Products in bfloat16: what is rounded, how sums are kept, the same bits, who refuses it, and that it learns."""

import itertools
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import matrix_registers
import nabi
import random_graphs
from fuzzing import examples
from nabi import classifiers, data, engines, losses, machine, models, nn, ops, optim, threads
from nabi.cli import main
from nabi.engines.cpu import values
from nabi.engines.cpu.program import Program as Compiled
from nabi.engines.reference import rounding, to_bfloat16
from nabi.errors import SettingError
from nabi.graph import namespace
from nabi.ops.convolve import Window
from nabi.training.learner import GradientDescent
from random_graphs import LARGE, SMALL, Program, Size, compare
from test_cpu_engine import plan_of

UNIT = float(np.finfo(np.float32).eps) / 2
HALF = 2.0**-8
"""The most that rounding to bfloat16 changes a number, relatively."""
TINY = 2.0**-126 * (1 + HALF)
"""What is smaller counts as zero in the processor's instructions."""

where_it_is = pytest.mark.skipif(
    not machine.processor().bfloat16, reason="the processor does not compute with bfloat16 (AVX512-BF16)"
)


@pytest.fixture
def _everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products are in bfloat16 however small they are, and convolutions never go Winograd's way."""
    monkeypatch.setattr(values, "TWICE", 0)
    monkeypatch.setattr(values, "SAVING", math.inf)


def run(engine: str, function: Callable[..., Any], *arrays: Any, precision: str = "bf16") -> list[Any]:
    return engines.prepare(engine, plan_of(function, *arrays), 0, precision)(list(arrays))


def kinds(function: Callable[..., Any], *arrays: Any) -> set[str]:
    """Of the values that a processor with bfloat16 would compute: convolutions in it are called by their settings."""
    found: set[str] = set()
    pending = values.spell(plan_of(function, *arrays), winograd=True, rounded=True)[2]
    while pending:
        value = pending.pop()
        found.add(("rounded_" if value.settings.get("rounded") else "") + value.kind)
        pending += value.inputs
    return found


def normal(*shapes: tuple[int, ...]) -> list[Any]:
    rng = np.random.default_rng(list(itertools.chain(*shapes)))
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def same_bits(some: list[Any], others: list[Any]) -> bool:
    return all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in zip(some, others, strict=True))


# --- rounding ---


def test_rounding_is_to_the_nearest_and_of_two_to_the_even_one() -> None:
    """Every pattern of the lower half beside some upper halves, against arithmetic in float64."""
    upper = np.array([0x0000, 0x0001, 0x3F80, 0x3F81, 0xC2FF, 0x7F7E, 0x8000, 0x0080], np.uint32) << np.uint32(16)
    x = (upper[:, None] | np.arange(1 << 16, dtype=np.uint32)).ravel().view(np.float32)
    low = (x.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32).astype(np.float64)
    step = np.where(np.abs(low) < 2.0**-126, 2.0**-133, np.exp2(np.floor(np.log2(np.maximum(np.abs(low), 1e-300))) - 7))
    share = np.abs(x.astype(np.float64) - low) / step
    odd = (x.view(np.uint32) >> np.uint32(16)) & np.uint32(1)
    up = (share > 0.5) | ((share == 0.5) & (odd == 1))
    np.testing.assert_array_equal(to_bfloat16(x), low + np.copysign(step, x) * up)


def test_rounding_of_what_is_not_finite() -> None:
    edges = np.array([np.inf, -np.inf, 3.4e38, -3.4e38, 3.38e38], np.float32)
    np.testing.assert_array_equal(to_bfloat16(edges)[:4], [np.inf, -np.inf, np.inf, -np.inf])
    assert np.isfinite(to_bfloat16(edges)[4])
    every = (np.arange(1, 1 << 23, 8191, dtype=np.uint32) | np.uint32(0x7F800000)).view(np.float32)
    assert np.isnan(to_bfloat16(every)).all()


def test_the_reference_rounds_what_is_multiplied_and_nothing_else() -> None:
    x, y = normal((5, 7), (7, 4))
    got, added = run("reference", lambda x, y: [x @ y, x + 1e-4], x, y)
    np.testing.assert_array_equal(got, to_bfloat16(x) @ to_bfloat16(y))
    np.testing.assert_array_equal(added, x + np.float32(1e-4))
    picture, weight = normal((2, 6, 6, 3), (3, 3, 3, 4))
    (got,) = run("reference", lambda x, w: ops.conv2d(x, w, padding=1), picture, weight)
    exact = [to_bfloat16(a) for a in (picture, weight)]
    (wanted,) = run("reference", lambda x, w: ops.conv2d(x, w, padding=1), *exact, precision="float32")
    np.testing.assert_array_equal(got, wanted)


def test_float64_is_never_rounded() -> None:
    x, y = (a.astype(np.float64) for a in normal((64, 64), (64, 64)))
    for engine in ("reference", *(["cpu"] if machine.processor().bfloat16 else [])):
        (got,) = run(engine, lambda x, y: x @ y, x, y)
        np.testing.assert_allclose(got, x @ y, rtol=1e-12, atol=1e-12)


# --- products of matrices ---

SHAPES = [  # rows, depth, columns
    (1, 1, 1), (1, 2, 1), (1, 33, 65), (2, 3, 5), (5, 7, 3), (6, 16, 64), (7, 17, 63), (12, 31, 16), (13, 32, 17),
    (17, 33, 33), (47, 15, 48), (48, 64, 49), (49, 63, 80), (50, 65, 127), (64, 64, 64), (95, 1, 129), (100, 255, 10),
    (31, 1024, 96), (128, 300, 192), (300, 5000, 70),
]  # fmt: skip


def error_bound(x: Any, y: Any) -> Any:
    """4·√n·u·Σ|x|·|y|. Source: Higham and Mary (2019), theorem 2.4; products of two bfloat16 numbers are exact."""
    size = np.abs(x).astype(np.float64) @ np.abs(y).astype(np.float64)
    most = max(np.abs(x).max(initial=0), np.abs(y).max(initial=0))
    return 4 * math.sqrt(x.shape[-1]) * UNIT * size + x.shape[-1] * TINY * max(1.0, float(most))


@pytest.fixture(params=["vectors", "matrix registers"])
def _registers(request: pytest.FixtureRequest) -> Iterator[None]:
    """Products in vectors alone, and in matrix registers as the manual describes them."""
    with matrix_registers.none() if request.param == "vectors" else matrix_registers.emulated():
        yield


@where_it_is
@pytest.mark.usefixtures("_everywhere", "_registers")
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
@pytest.mark.parametrize("turned", [(False, False), (False, True), (True, False), (True, True)], ids=str)
def test_products(shape: tuple[int, int, int], turned: tuple[bool, bool]) -> None:
    """Against float64 products of the rounded operands: what is left is the rounding of a float32 sum."""
    rows, depth, columns = shape
    x, y = normal((rows, depth), (depth, columns))
    given = [np.ascontiguousarray(a.T) if t else a for a, t in zip((x, y), turned, strict=True)]

    def multiply(a: Any, b: Any) -> Any:
        a, b = (ops.permute_dims(t, (1, 0)) if turn else t for t, turn in zip((a, b), turned, strict=True))
        return a @ b

    assert "rounded_matmul" in kinds(multiply, *given)
    (got,) = run("cpu", multiply, *given)
    x, y = to_bfloat16(x), to_bfloat16(y)
    error = np.abs(got - x.astype(np.float64) @ y.astype(np.float64))
    assert (error <= error_bound(x, y)).all()


@where_it_is
@pytest.mark.usefixtures("_everywhere")
def test_products_of_what_is_computed_where_it_is_rounded() -> None:
    """Operands that are formulas: lanes that are not there hold numbers, too, and must not be added up."""
    x, y, v = normal((19, 37), (37, 21), (21,))

    def function(x: Any, y: Any, v: Any) -> Any:
        return (ops.exp(x) + 3.0) @ (ops.cos(y) * v + 2.0)

    (got,) = run("cpu", function, x, y, v)
    a, b = to_bfloat16(np.exp(x) + np.float32(3)), to_bfloat16(np.cos(y) * v + np.float32(2))
    # A formula may be off by two units in the last place, and so be rounded to the neighbour of the nearest.
    error = np.abs(got - a.astype(np.float64) @ b.astype(np.float64))
    assert (error <= error_bound(a, b) + 4 * HALF * np.abs(a) @ np.abs(b) / math.sqrt(37)).all()
    turned = ops.permute_dims
    (other,) = run("cpu", lambda x, y, v: turned(turned(ops.exp(x) + 3.0, (1, 0)), (1, 0)) @ (ops.cos(y) * v + 2.0),
                   x, y, v)  # fmt: skip
    np.testing.assert_array_equal(got, other)


@where_it_is
@pytest.mark.usefixtures("_everywhere")
def test_matrix_registers_are_used_where_they_can_be_filled() -> None:
    product = lambda x, y: x @ y
    shapes = {(64, 70, 64): True, (32, 32, 64): True, (32, 30, 64): False, (512, 64, 15): False}
    for (rows, depth, columns), used in shapes.items():
        with matrix_registers.emulated() as called:
            plan = plan_of(product, *normal((rows, depth), (depth, columns)))
            Compiled(plan, rounded=True)
        assert ("tdpbf16ps" in called) == used


@where_it_is
@pytest.mark.usefixtures("_everywhere")
@pytest.mark.parametrize(
    ("count", "side", "kernel", "inputs", "outputs", "used"),
    [
        (1, 8, 3, 32, 64, True),
        (3, 8, 1, 96, 32, True),
        (5, (4, 16), 2, 8, 96, True),
        (2, 16, 3, 32, 32, True),
        (2, 8, 3, 32, 48, True),
        (2, 7, 3, 24, 64, True),
        (2, (3, 6), 1, 32, 64, True),
        (2, 8, 3, 32, 40, False),
        (40, 2, 3, 32, 32, False),  # most places of a line begin no window
    ],
)
def test_gradients_on_filters_that_fill_matrix_registers(
    count: int, side: Any, kernel: int, inputs: int, outputs: int, used: bool
) -> None:
    """Against float64 products of the rounded operands."""
    high, wide = side if isinstance(side, tuple) else (side, side)
    x, g = normal((count, high + kernel - 1, wide + kernel - 1, inputs), (count, high, wide, outputs))

    def gradient(x: Any, g: Any) -> Any:
        return ops.conv2d_weight_gradient(x, g, kernel_size=(kernel, kernel), stride=1, padding=0, dilation=1, groups=1)

    assert "rounded_convolution_gradient" in kinds(gradient, x, g)
    with matrix_registers.emulated() as called:
        (got,) = run("cpu", gradient, x, g)
    assert ("tdpbf16ps" in called) == used
    with matrix_registers.none():
        (other,) = run("cpu", gradient, x, g)
    x, g = to_bfloat16(x), to_bfloat16(g).reshape(-1, outputs)
    for a in range(kernel):
        for b in range(kernel):
            window = x[:, a : a + high, b : b + wide].reshape(-1, inputs).T
            error = error_bound(window, g)
            for each in (got, other):
                assert (np.abs(each[a, b] - window.astype(np.float64) @ g) <= error).all()


@where_it_is
@pytest.mark.usefixtures("_everywhere")
def test_gradients_on_filters_that_are_computed_together() -> None:
    """In one kernel: each has a place of its own for its sums."""
    x, g, h = normal((4, 10, 10, 32), (4, 8, 8, 32), (4, 8, 8, 64))
    how = {"kernel_size": (3, 3), "stride": 1, "padding": 0, "dilation": 1, "groups": 1}

    def gradients(x: Any, g: Any, h: Any) -> Any:
        return ops.conv2d_weight_gradient(x, g, **how), ops.conv2d_weight_gradient(x, h, **how)

    with matrix_registers.emulated() as called:
        both = run("cpu", gradients, x, g, h)
    assert "tdpbf16ps" in called
    with matrix_registers.emulated():
        alone = [run("cpu", lambda x, g: ops.conv2d_weight_gradient(x, g, **how), x, each)[0] for each in (g, h)]
    for one, other in zip(both, alone, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("side", "channels", "filled"), [(16, 32, True), (15, 48, True), (16, 24, False)])
def test_convolutions_that_fill_matrix_registers_are_computed_as_they_are_defined(
    side: int, channels: int, filled: bool
) -> None:
    """Where there are none, by fewer multiplications in float32."""
    x, w, g = normal((8, side, side, channels), (3, 3, channels, channels), (8, side, side, channels))
    how = {"stride": 1, "padding": 1, "dilation": 1, "groups": 1}
    forward = plan_of(lambda x, w: ops.conv2d(x, w, **how), x, w)
    back = plan_of(lambda x, g: ops.conv2d_weight_gradient(x, g, kernel_size=(3, 3), **how), x, g)
    for registers in (False, True):
        made = [values.spell(plan, winograd=True, rounded=True, registers=registers)[2][0] for plan in (forward, back)]
        assert made[0].kind == ("convolution" if registers else "winograd")
        gradient = made[1].inputs[0] if made[1].kind == "permute_dims" else made[1]
        assert gradient.kind == ("convolution_gradient" if registers and filled else "winograd_gradient")


@st.composite
def _shifted(draw: st.DrawFn) -> tuple[Any, ...]:
    """Pictures' shape, outputs, window, padding, dilation and stride of a convolution that shifts a picture's line."""
    kernel = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    padding = draw(st.tuples(*(st.integers(0, min(2, each - 1)) for each in reach)))
    sides = [draw(st.integers(max(1, each - 2 * p) + 2, 12)) for each, p in zip(reach, padding, strict=True)]
    pictures = draw(st.integers(1, 5)), *sides, draw(st.integers(1, 70))
    return pictures, draw(st.integers(1, 5)) * 16, kernel, padding, dilation, draw(st.sampled_from([1, 1, 2, 3]))


@where_it_is
@pytest.mark.usefixtures("_everywhere")
@settings(max_examples=examples(25), deadline=None)
@given(_shifted())
def test_convolutions_that_shift_a_pictures_line(drawn: tuple[Any, ...]) -> None:
    """And their gradients on weights: whatever was in memory before, here what is not a number."""
    pictures, outputs, kernel, padding, dilation, stride = drawn
    how = {"stride": stride, "padding": padding, "dilation": dilation, "groups": 1}
    window = Window(pictures[1:3], kernel, stride, padding, dilation)
    x, w, g = normal(pictures, (*kernel, pictures[3], outputs), (pictures[0], *window.steps, outputs))
    plans = (
        plan_of(lambda x, w: ops.conv2d(x, w, **how), x, w),
        plan_of(lambda x, g: ops.conv2d_weight_gradient(x, g, kernel_size=kernel, **how), x, g),
    )
    for plan in plans if (kernel, stride) != ((1, 1), 1) else ():
        (made,) = values.spell(plan, winograd=True, rounded=True, registers=True)[2]
        while not made.kind.startswith("convolution"):
            (made,) = made.inputs
        assert made.settings["shifted"] >= values.fills_line(window, pictures[2] + 2 * padding[1], 32)
    with matrix_registers.emulated():
        functions = [engines.prepare("cpu", plan, 0, "bf16") for plan in plans]
        for function, other in zip(functions, (w, g), strict=True):
            function([np.full_like(x, np.nan), np.full_like(other, np.nan)])
        (y,), (d,) = (function([x, other]) for function, other in zip(functions, (w, g), strict=True))
    padded = np.pad(to_bfloat16(x), ((0, 0), *((p, p) for p in padding), (0, 0)))
    w, g = to_bfloat16(w), to_bfloat16(g).reshape(-1, outputs)
    high, wide = window.steps
    seen = {
        (a, b): padded[:, a * dilation[0] :: stride, b * dilation[1] :: stride][:, :high, :wide].reshape(
            -1, pictures[3]
        )
        for a, b in itertools.product(*map(range, kernel))
    }
    windows, weights = np.concatenate([*seen.values()], 1), w.reshape(-1, outputs)
    exact = windows.astype(np.float64) @ weights
    assert (np.abs(y.reshape(-1, outputs) - exact) <= error_bound(windows, weights)).all()
    for place, pixels in seen.items():
        assert (np.abs(d[place] - pixels.T.astype(np.float64) @ g) <= error_bound(pixels.T, g)).all()


@where_it_is
@pytest.mark.parametrize("spectrum", ["flat", "decaying", "a quarter"])
def test_steps_of_muon_are_as_long_as_in_float32(spectrum: str) -> None:
    """What is next to nothing in a gradient is not blown up by what rounding adds to it."""
    rng, rows, columns = np.random.default_rng(0), 576, 64
    u, v = (np.linalg.qr(rng.standard_normal((n, columns)))[0] for n in (rows, columns))
    along = np.arange(columns)
    lengths = {"flat": 0.0 * along + 1, "decaying": np.exp(-along / 10), "a quarter": along < columns // 4}[spectrum]
    x = (u * lengths @ v.T).astype(np.float32)
    for engine in ("cpu", "reference"):
        (step,) = run(engine, optim.orthogonal, x)
        assert np.linalg.svd(step, compute_uv=False).max() < 1.3


@where_it_is
def test_stacks_of_matrices_are_near() -> None:
    """Rounded or not: an operand is moved by half a unit of bfloat16 at most."""
    x, y = normal((3, 40, 50), (50, 60))
    (got,) = run("cpu", lambda x, y: x @ y, x, y)
    exact = x.astype(np.float64) @ y.astype(np.float64)
    size = np.abs(x).astype(np.float64) @ np.abs(y)
    assert (np.abs(got - exact) <= (2 * HALF + HALF**2) * size + error_bound(x, y)).all()


@where_it_is
@pytest.mark.usefixtures("_everywhere")
@pytest.mark.parametrize("edge", [np.nan, np.inf, -np.inf, 3.4e38, 1e-40, -0.0])
def test_products_at_the_edges(edge: float) -> None:
    for n in (5, 40):
        x, y = normal((n, n), (n, n + 1))
        y[2, 2] = edge
        (got,), (wanted,) = (run(engine, lambda x, y: x @ y, x, y) for engine in ("cpu", "reference"))
        np.testing.assert_array_equal(np.isfinite(got), np.isfinite(wanted))
        np.testing.assert_array_equal(np.isnan(got), np.isnan(wanted))
        finite, x, y = np.isfinite(wanted), to_bfloat16(x), to_bfloat16(y)
        y = np.where(np.isfinite(y), y, 0)
        with np.errstate(invalid="ignore"):
            error = np.abs(got - x.astype(np.float64) @ y)
        assert (error <= error_bound(x, y))[finite].all()


def test_small_products_stay_as_they_are() -> None:
    """By shapes alone: what takes longer to round than it saves."""
    product = lambda x, y: x @ y
    assert "rounded_matmul" not in kinds(product, *normal((256, 1024), (1024, 10)))
    assert "rounded_matmul" not in kinds(product, *normal((8, 1024), (1024, 1024)))
    assert "rounded_matmul" in kinds(product, *normal((256, 1024), (1024, 64)))
    assert "rounded_matmul" in kinds(product, *normal((32, 64), (64, 64)))


# --- convolutions ---

CONVOLUTIONS: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((2, 8, 8, 3), (3, 3, 3, 64), {"padding": 1}),
    ((3, 9, 7, 5), (3, 3, 5, 40), {"padding": 1, "stride": 2}),
    ((2, 8, 8, 64), (1, 1, 64, 96), {}),
    ((2, 12, 11, 20), (5, 5, 20, 33), {"padding": 2, "stride": 2}),
    ((2, 14, 14, 20), (3, 3, 20, 36), {"padding": 2, "dilation": 2}),
    ((5, 6, 5, 33), (2, 2, 33, 65), {}),
    ((2, 33, 33, 3), (11, 11, 3, 32), {"padding": 2, "stride": 4}),
    ((37, 5, 5, 17), (3, 3, 17, 20), {"padding": 1}),
    ((4, 16, 16, 48), (3, 2, 48, 32), {"padding": 1, "stride": (1, 2)}),
    ((9, 8, 8, 40), (1, 1, 40, 100), {"stride": 2}),
    ((1, 1, 1, 1), (1, 1, 1, 1), {}),
    ((2, 17, 16, 1), (1, 4, 1, 2), {"dilation": (1, 3)}),
    ((70, 4, 3, 16), (3, 3, 16, 16), {"padding": 1}),
]


def with_gradients(how: dict[str, Any]) -> Callable[..., list[Any]]:
    full = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, **how}

    def function(x: Any, w: Any, g: Any) -> list[Any]:
        return [
            ops.conv2d(x, w, **how),
            ops.conv2d_input_gradient(g, w, size=tuple(x.shape[1:3]), **full),
            ops.conv2d_weight_gradient(x, g, kernel_size=tuple(w.shape[:2]), **full),
        ]

    return function


def check_convolution(
    picture: tuple[int, ...], weight: tuple[int, ...], how: dict[str, Any], engine: str = "cpu"
) -> None:
    """The convolution and its gradients, against the definition in float64 on rounded operands; see `error_bound`."""
    x, w = normal(picture, weight)
    g = normal(ops.conv2d(nabi.tensor(x), nabi.tensor(w), **how).shape)[0]
    function = with_gradients(how)
    got = run(engine, function, x, w, g)
    rounded = [to_bfloat16(a).astype(np.float64) for a in (x, w, g)]
    exact = run("reference", function, *rounded)
    size = run("reference", function, *map(np.abs, rounded))
    depths = math.prod(weight[:3]), math.prod(weight[:2]) * weight[3], math.prod(g.shape[:3])
    for a, b, s, depth in zip(got, exact, size, depths, strict=True):
        assert (np.abs(a - b) <= 4 * math.sqrt(depth) * UNIT * s + depth * TINY * 10).all()


@where_it_is
@pytest.mark.usefixtures("_everywhere", "_registers")
@pytest.mark.parametrize(("picture", "weight", "how"), CONVOLUTIONS, ids=str)
def test_convolutions(picture: tuple[int, ...], weight: tuple[int, ...], how: dict[str, Any]) -> None:
    x, w = normal(picture, weight)
    g = normal(ops.conv2d(nabi.tensor(x), nabi.tensor(w), **how).shape)[0]
    assert {"rounded_convolution", "rounded_convolution_gradient"} <= kinds(with_gradients(how), x, w, g)
    check_convolution(picture, weight, how)


@where_it_is
@pytest.mark.usefixtures("_everywhere", "_registers")
def test_convolutions_in_strands_and_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    from nabi.engines.cpu import segments

    monkeypatch.setattr(segments, "FEW_OPERATIONS", 0)
    monkeypatch.setattr(segments, "TINY", 0)
    monkeypatch.setattr(segments, "BLOCK", 1 << 10)
    for picture, weight, how in CONVOLUTIONS:
        check_convolution(picture, weight, how)


def test_which_way_a_convolution_goes() -> None:
    """By shapes alone: Winograd's way in float32, where that is faster."""

    def ways(picture: tuple[int, ...], weight: tuple[int, ...], **how: Any) -> set[str]:
        x, w = normal(picture, weight)
        g = np.zeros(ops.conv2d(nabi.tensor(x), nabi.tensor(w), **how).shape, np.float32)
        both = {"winograd", "winograd_gradient", "rounded_convolution", "rounded_convolution_gradient"}
        return kinds(with_gradients(how), x, w, g) & both

    way, direct = {"winograd", "winograd_gradient"}, {"rounded_convolution", "rounded_convolution_gradient"}
    assert ways((2, 16, 16, 64), (3, 3, 64, 128), padding=1) == way
    assert ways((2, 5, 5, 64), (3, 3, 64, 64), padding=1) == direct  # four tiles of 4×4 for 5×5
    assert ways((2, 4, 4, 512), (3, 3, 512, 384), padding=1) == direct
    assert ways((2, 16, 16, 3), (3, 3, 3, 64), padding=1) >= direct
    assert ways((2, 16, 16, 64), (1, 1, 64, 64)) == direct
    assert ways((2, 16, 16, 64), (3, 3, 64, 64), padding=1, stride=2) >= {"rounded_convolution"}


# --- random programs ---

NOISE = 4 * HALF
"""What moves an operand in a noisy run: four times what rounding may; see `random_graphs.UNITS`."""


def _noisy_matmul(x: Any, y: Any) -> Any:
    """A product whose operands may have been rounded, or not."""
    if x.dtype == y.dtype == np.float32:
        rng = random_graphs.Noisy.rng
        x, y = (a * (1 + rng.uniform(-NOISE, NOISE, a.shape)).astype(np.float32) for a in (x, y))
    return _plain_noise.matmul(x, y)


_plain_noise = random_graphs.NOISE


@pytest.fixture
def _rounding_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """`compare` allows what rounding the operands of products may do."""
    monkeypatch.setattr(random_graphs, "NOISE", namespace.Namespace(_plain_noise, matmul=_noisy_matmul))


def check_program(seed: int, size: Size) -> None:
    program = Program(seed, size)
    plan = program.plan()
    wanted = engines.prepare("reference", plan, 0, "bf16")(program.inputs)
    got = engines.prepare("cpu", plan, 0, "bf16")(program.inputs)
    compare(plan, program.inputs, got, wanted)


def seeds(first: int, count: int) -> Any:
    return pytest.mark.parametrize("seed", range(first, first + examples(count)))


@where_it_is
@pytest.mark.usefixtures("_rounding_noise")
class TestRandomPrograms:
    @pytest.mark.usefixtures("_everywhere")
    @seeds(60_000, 10)
    def test_small(self, seed: int) -> None:
        check_program(seed, SMALL)

    @seeds(70_000, 2)
    def test_large(self, seed: int) -> None:
        check_program(seed, LARGE)


# --- steps of training ---


def step_of(engine: str, precision: str, model: str = "mlp") -> GradientDescent:
    if model == "mlp":
        net = models.mlp((12, 12, 3), 10, hidden=(96, 64), dropout=0.2)
    else:
        net = models.convnet((16, 16, 3), 10, channels=(32, 64))
    optimizer = optim.SGD(nn.parameters(net), 0.05, momentum=0.9)
    return GradientDescent(net, optimizer, losses.softmax_cross_entropy, engine=engine, precision=precision)


def batch_for(model: str, count: int = 96) -> list[Any]:
    rng = np.random.default_rng(0)
    side = 12 if model == "mlp" else 16
    return [rng.standard_normal((count, side, side, 3)).astype(np.float32), rng.integers(0, 10, count)]


@where_it_is
@pytest.mark.usefixtures("_rounding_noise")
@pytest.mark.parametrize("model", ["mlp", "convnet"])
def test_a_step_of_training(model: str) -> None:
    """From the same state, each output as near to the reference's as rounding carries.

    As a whole: where another pixel is the largest of its pool, single weights are carried far.
    """
    learner = step_of("reference", "bf16", model)
    batch = batch_for(model)
    plan = learner._step.plan(*batch)
    given = [*batch, *(t.held for t in nabi.graph.nest.tensors(learner.state).values())]
    kept = len(given) - len(batch)
    got, wanted = (engines.prepare(engine, plan, kept, "bf16")(given) for engine in ("cpu", "reference"))
    noisy = [random_graphs.noisy_run(plan, given, seed) for seed in range(4)]
    for place, (a, b) in enumerate(zip(got, wanted, strict=True)):
        distances = [np.linalg.norm(np.subtract(results[place], b, dtype=np.float64)) for results in (got, *noisy)]
        assert distances[0] <= max(distances[1:]), f"output {place}: {np.shape(a)}"
    plain = engines.prepare("cpu", plan, kept)(given)
    assert not same_bits(got, plain), "nothing was rounded"


@pytest.fixture
def _default_threads() -> Iterator[None]:
    yield
    threads.set_num_threads(None)


@where_it_is
@pytest.mark.usefixtures("_default_threads")
@pytest.mark.parametrize("model", ["mlp", "convnet"])
def test_same_bits_from_run_to_run_and_for_any_number_of_threads(model: str) -> None:
    ends = []
    for count in (1, 2, 3, 2):
        threads.set_num_threads(count)
        learner = step_of("cpu", "bf16", model)
        told = [learner.step(*batch_for(model)) for _ in range(3)]
        state = nabi.graph.nest.tensors(learner.state).values()
        ends.append([*(t.numpy() for t in state), *(value.numpy() for value, _ in told)])
    assert all(same_bits(ends[0], end) for end in ends[1:])
    program = Compiled(learner._step.plan(*batch_for(model)), rounded=True)
    assert any(len(stage) > 1 for stage in program.stages), "nothing would be shared out"


@where_it_is
def test_weights_that_were_assigned_are_seen() -> None:
    """What was laid out of weights beforehand is laid out again for others."""
    layer = nn.Linear(128, 96, key=nabi.random.key(0))
    (x,) = normal((64, 128))
    how = {"state": layer, "precision": "bf16"}
    forward = {engine: nabi.compile(layer, engine=engine, **how) for engine in ("cpu", "reference")}
    for number in range(3):
        got, wanted = (forward[engine](x).numpy() for engine in ("cpu", "reference"))
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(forward["cpu"](x).numpy(), got)
        layer.weight.assign(layer.weight * -(number + 2.0))


# --- who refuses it ---

LACKING = (
    "precision 'bf16': this processor lacks instructions for bfloat16 (AVX512-BF16); "
    "write precision='auto', which takes it where it is"
)


@pytest.mark.parametrize("engine", ["cpu", "cpu-direct", "auto"])
def test_a_processor_that_cannot_says_so(engine: str) -> None:
    plan = plan_of(lambda x, y: x @ y, *normal((128, 128), (128, 128)))
    with machine.pretending(machine.narrower(machine.processor())):
        with pytest.raises(SettingError) as caught:
            nabi.compile(lambda x: x, engine=engine, precision="bf16")
        assert str(caught.value) == LACKING
        with pytest.raises(SettingError) as caught:
            engines.prepare(engine, plan, 0, "bf16")
        assert str(caught.value) == LACKING
        small = plan_of(lambda x: x * 2.0, np.ones(2))
        with pytest.raises(SettingError):  # however small, so that nobody is surprised later
            engines.prepare(engine, small, 0, "bf16")


def test_auto_computes_as_the_processor_can() -> None:
    x, y = normal((128, 128), (128, 128))
    product = lambda x, y: x @ y
    plain, rounded = run("cpu", product, x, y, precision="float32"), run("reference", product, x, y)
    with machine.pretending(machine.narrower(machine.processor())):
        narrow = run("cpu", product, x, y, precision="float32")
        assert same_bits(run("cpu", product, x, y, precision="auto"), narrow)
    auto = run("cpu", product, x, y, precision="auto")
    assert same_bits(auto, run("cpu", product, x, y) if machine.processor().bfloat16 else plain)
    if machine.processor().bfloat16:
        np.testing.assert_allclose(auto[0], rounded[0], rtol=1e-3, atol=1e-4)
        assert not same_bits(auto, plain)
    assert same_bits(
        run("reference", product, x, y, precision="auto"), run("reference", product, x, y, precision="float32")
    )


def test_the_reference_computes_in_it_anywhere() -> None:
    x, y = normal((16, 16), (16, 16))
    with machine.pretending(machine.narrower(machine.processor())):
        got = nabi.compile(lambda x, y: x @ y, engine="reference", precision="bf16")(x, y)
    np.testing.assert_array_equal(got.numpy(), to_bfloat16(x) @ to_bfloat16(y))


@pytest.mark.parametrize("precision", ["half", "BF16", "", "bfloat16"])
def test_an_unknown_precision_is_refused(precision: str) -> None:
    with pytest.raises(SettingError) as caught:
        nabi.compile(lambda x: x, precision=precision)
    assert str(caught.value) == f"precision {precision!r} is not one of float32, bf16, auto"
    with pytest.raises(SettingError, match="precision"):
        classifiers.MLPClassifier(precision=precision).check_settings()


def test_eagerly_all_is_float32() -> None:
    x, y = normal((64, 64), (64, 64))
    np.testing.assert_array_equal((nabi.tensor(x) @ nabi.tensor(y)).numpy(), namespace.numpy.matmul(x, y))
    assert (rounding.matmul(x, y) != namespace.numpy.matmul(x, y)).any()


# --- classifiers ---


def fitted(precision: str, **how: Any) -> Any:
    digits = data.load("digits")
    classifier = classifiers.MLPClassifier(
        (128, 64), max_iter=12, random_state=0, engine="cpu", precision=precision, **how
    )
    return classifier.fit(digits.train.images, digits.train.labels), digits.test


@where_it_is
def test_it_learns_as_well() -> None:
    """The test pictures are 276: one standard deviation of an accuracy of 0.96 is 0.012."""
    (plain, test), (rounded, _) = fitted("float32"), fitted("bf16")
    ours, theirs = rounded.score(test.images, test.labels), plain.score(test.images, test.labels)
    assert theirs > 0.9
    assert abs(ours - theirs) < 3 * math.sqrt(2 * 0.04 * 0.96 / len(test.labels))
    some, others = (nn.tensors(c.model_).values() for c in (plain, rounded))
    assert any((a.numpy() != b.numpy()).any() for a, b in zip(some, others, strict=True)), "nothing was rounded"


@where_it_is
def test_a_run_that_was_stopped_ends_with_the_same_bits(tmp_path: Path) -> None:
    digits = data.load("digits")
    given = digits.train.images[:512], digits.train.labels[:512]

    def made() -> Any:
        return classifiers.MLPClassifier((64,), max_iter=4, random_state=0, engine="cpu", precision="bf16")

    whole, first, second = made(), made(), made()
    list(whole.fit_events(*given))
    steps = itertools.count()
    list(first.fit_events(*given, checkpoint=tmp_path / "checkpoint", stop=lambda: next(steps) >= 6))
    list(second.fit_events(*given, checkpoint=tmp_path / "checkpoint"))
    assert same_bits(*([t.numpy() for t in nn.tensors(c.model_).values()] for c in (whole, second)))
    other = classifiers.MLPClassifier((64,), max_iter=4, random_state=0, engine="cpu")
    list(first.fit_events(*given, checkpoint=tmp_path / "other", stop=lambda: True))
    with pytest.raises(SettingError, match="precision"):
        list(other.fit_events(*given, checkpoint=tmp_path / "other"))


@where_it_is
def test_a_saved_model_answers_on_any_processor(tmp_path: Path) -> None:
    classifier, test = fitted("bf16")
    classifier.save(tmp_path / "model.safetensors")
    answers = classifier.predict(test.images)
    loaded = nabi.load(tmp_path / "model.safetensors")
    assert loaded.precision == "bf16"
    np.testing.assert_array_equal(loaded.predict_proba(test.images), classifier.predict_proba(test.images))
    with machine.pretending(machine.narrower(machine.processor())):
        elsewhere = nabi.load(tmp_path / "model.safetensors")
        np.testing.assert_array_equal(elsewhere.predict(test.images), answers)
        with pytest.raises(SettingError, match="this processor lacks"):
            elsewhere.fit(test.images, test.labels)


@where_it_is
def test_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NABI_DATA", raising=False)
    asked = ["train", "--hidden", "64", "--batch-size", "64", "--epochs", "1", "--precision", "bf16", "--out"]
    assert main([*asked, "run"]) == 0
    assert json.loads(Path("run/metrics.json").read_text())["arguments"]["precision"] == "bf16"
    capsys.readouterr()
    with machine.pretending(machine.narrower(machine.processor())):
        assert main([*asked, "other"]) == 2
    assert " ".join(LACKING.split()) in " ".join(capsys.readouterr().err.split())
    assert main([*asked[:-3], "--precision", "half", "--out", "other"]) == 2
    assert "--precision 'half' is not one of float32, bf16, auto" in capsys.readouterr().err
    assert main(["train", "--model", "knn", "--precision", "bf16"]) == 2
