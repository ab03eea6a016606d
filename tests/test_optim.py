"""Optimisers and schedules: formulas by hand, the same bits compiled, and what is refused."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import nabi
from nabi import nn, ops, optim
from nabi.errors import SettingError, ShapeError

VARIANTS: dict[str, Callable[[Any], optim.Optimizer]] = {
    "sgd": lambda p: optim.SGD(p, 0.1),
    "sgd decay": lambda p: optim.SGD(p, 0.1, weight_decay=0.1),
    "momentum": lambda p: optim.SGD(p, 0.05, momentum=0.9),
    "nesterov": lambda p: optim.SGD(p, 0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    "rmsprop": lambda p: optim.RMSProp(p, 0.05),
    "rmsprop momentum": lambda p: optim.RMSProp(p, 0.01, momentum=0.9, weight_decay=0.01),
    "adam": lambda p: optim.Adam(p, 0.1, weight_decay=0.01),
    "adamw": lambda p: optim.AdamW(p, 0.1, weight_decay=0.1),
}
every_variant = pytest.mark.parametrize("make", VARIANTS.values(), ids=VARIANTS)


def valley(dtype: Any = np.float32) -> tuple[dict[str, Any], Callable[[], Any]]:
    """Two parameters, and a smooth function of them with its least value 0 at (1, -2) and 3."""
    x = nabi.tensor(np.array([3.0, 1.0], dtype), requires_grad=True)
    y = nabi.tensor(np.array(0.0, dtype), requires_grad=True)
    target = np.array([1.0, -2.0], dtype)
    return {"x": x, "y": y}, lambda: ops.square(x - target).sum() + 0.5 * ops.square(y - 3)


@every_variant
def test_every_optimiser_goes_down(make: Callable[[Any], optim.Optimizer]) -> None:
    parameters, loss = valley()
    optimizer = make(parameters)
    first = loss().item()
    for _ in range(100):
        optimizer.minimize(loss())
    assert loss().item() < 0.1 * first
    assert optimizer.step.item() == 100


@every_variant
def test_parameters_remain_leaves(make: Callable[[Any], optim.Optimizer]) -> None:
    parameters, loss = valley()
    optimizer = make(parameters)
    optimizer.minimize(loss())
    for tensor in nabi.nn.tensors(optimizer).values():
        assert tensor.operation is None
        assert tensor.inputs == ()
    assert all(p.requires_grad for p in parameters.values())
    assert not any(m.requires_grad for by_path in optimizer.moments.values() for m in by_path.values())


@every_variant
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_compiled_gives_the_same_bits_and_is_compiled_once(make: Callable[[Any], optim.Optimizer], dtype: Any) -> None:
    def run(compiled: bool) -> list[Any]:
        parameters, _ = valley(dtype)
        optimizer = make(parameters)
        x, y = parameters.values()
        target = nabi.tensor(np.array([1.0, -2.0], dtype))

        def step(target: Any) -> None:
            optimizer.minimize(ops.square(x - target).sum() + 0.5 * ops.square(y - 3))

        if compiled:
            step = nabi.compile(step, state=optimizer)
        for number in range(5):
            optimizer.learning_rate.assign(0.1 / (number + 1))
            if optimizer.weight_decay is not None:
                optimizer.weight_decay.assign(0.2 / (number + 1))
            step(target)
        if compiled:
            assert len(step.recordings) == 1  # type: ignore[attr-defined]
        return [tensor.numpy() for tensor in nn.tensors(optimizer).values()]

    for eager, compiled in zip(run(False), run(True), strict=True):
        assert eager.dtype == compiled.dtype
        np.testing.assert_array_equal(eager, compiled)


def one_parameter(value: float = 2.0) -> Any:
    return nabi.tensor(np.array(value), requires_grad=True)


def steps(make: Callable[..., optim.Optimizer], gradients: list[float], **settings: Any) -> list[float]:
    """Where a parameter that starts at 2 goes under these gradients."""
    p = one_parameter()
    optimizer = make([p], **settings)
    found = []
    for gradient in gradients:
        optimizer.update([nabi.tensor(np.array(gradient))])
        found.append(p.item())
    return found


def test_sgd_by_hand() -> None:
    assert steps(optim.SGD, [1.0, -2.0], learning_rate=0.5) == [1.5, 2.5]
    assert steps(optim.SGD, [1.0], learning_rate=0.5, weight_decay=0.25) == [2 - 0.5 * (1 + 0.5)]
    assert steps(optim.SGD, [1.0, 1.0, 0.0], learning_rate=0.5, momentum=0.5) == [1.5, 0.75, 0.375]
    assert steps(optim.SGD, [1.0, 1.0], learning_rate=0.5, momentum=0.5, nesterov=True) == [1.25, 0.375]


def test_rmsprop_by_hand() -> None:
    (found,) = steps(optim.RMSProp, [3.0], learning_rate=0.1, decay=0.75, epsilon=0.0)
    assert found == pytest.approx(2 - 0.1 * 3 / math.sqrt(0.25 * 9))


def test_the_first_step_of_adam_is_as_long_as_the_learning_rate() -> None:
    for gradient in (1e-3, 1.0, 1e3):
        assert steps(optim.Adam, [gradient], learning_rate=0.1, epsilon=0.0) == pytest.approx([1.9])
    (found,) = steps(optim.AdamW, [1.0], learning_rate=0.1, epsilon=0.0, weight_decay=0.5)
    assert found == pytest.approx(2 * (1 - 0.05) - 0.1)


def test_adam_by_hand_over_many_steps() -> None:
    gradients = [0.3, -0.1, 2.0, 0.05]
    p, m, v, expected = 2.0, 0.0, 0.0, []
    for t, g in enumerate(gradients, start=1):
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
        p -= 0.01 * (m / (1 - 0.9**t)) / (math.sqrt(v / (1 - 0.99**t)) + 1e-8)
        expected.append(p)
    assert steps(optim.Adam, gradients, learning_rate=0.01, beta2=0.99) == pytest.approx(expected, rel=1e-12)


def test_a_run_that_is_taken_up_again_goes_on_with_the_same_bits() -> None:
    def run(interrupted: bool) -> Any:
        parameters, loss = valley()
        optimizer = optim.Adam(parameters, 0.1)
        for number in range(6):
            if interrupted and number == 3:
                saved = {name: t.numpy() for name, t in nn.tensors(optimizer).items()}
                parameters, loss = valley()
                optimizer = optim.Adam(parameters, 0.7)
                nn.load_tensors(optimizer, saved)
            optimizer.minimize(loss())
        return parameters["x"].numpy()

    np.testing.assert_array_equal(run(False), run(True))


def test_an_optimiser_of_ones_own_is_a_formula_that_leaves_no_history() -> None:
    class SignDescent(optim.Optimizer):
        def formula(self, p: Any, g: Any, moments: Any, learning_rate: Any, decay: Any) -> Any:
            new = p - learning_rate * ops.sign(g)
            assert not new.requires_grad  # nothing of the update is kept in memory for a gradient
            return new, {}

    assert steps(SignDescent, [3.0, -0.1, 7.0], learning_rate=0.5) == [1.5, 2.0, 1.5]


def test_names() -> None:
    parameters, _ = valley()
    optimizer = optim.Adam(parameters)
    assert list(nn.tensors(optimizer)) == [
        "parameters.x",
        "parameters.y",
        "moments.first.x",
        "moments.first.y",
        "moments.second.x",
        "moments.second.y",
        "learning_rate",
        "step",
    ]
    assert not optim.SGD(parameters).moments
    for name, kind in optim.OPTIMIZERS.items():
        assert name in repr(kind(parameters)).lower()


@pytest.mark.parametrize("shape", [(40, 24), (24, 40), (7, 7)])
def test_orthogonal_keeps_directions_and_makes_their_lengths_alike(shape: tuple[int, int]) -> None:
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    u, s, v = np.linalg.svd(x, full_matrices=False)
    assert s.max() > 2 * s.min()
    found = u.T @ optim.orthogonal(nabi.tensor(x)).numpy() @ v.T
    assert np.diag(found).min() > 0.65
    assert np.diag(found).max() < 1.25
    assert np.abs(found - np.diag(np.diag(found))).max() < 1e-4


def test_filters_keep_their_length_under_muon() -> None:
    filters, bias = (
        nabi.tensor(np.random.default_rng(0).normal(size=s), requires_grad=True) for s in ((3, 3, 4, 9), 9)
    )
    optimizer = optim.Muon([filters, bias], 0.1, momentum=0.9, weight_decay=0.01)
    twin = nabi.tensor(bias.numpy(), requires_grad=True)
    plain = optim.SGD([twin], 0.1, momentum=0.9, nesterov=True, weight_decay=0.01)
    gradients = np.random.default_rng(1).normal(size=(5, 3, 3, 4, 9))
    for g in gradients:
        before = filters.numpy()
        optimizer.update([nabi.tensor(g), nabi.tensor(g[0, 0, 0])])
        plain.update([nabi.tensor(g[0, 0, 0])])
        kept = before * (3 / np.linalg.norm(before))
        moved = np.linalg.svd((kept - filters.numpy()).reshape(-1, 9) / (0.1 * 0.25), compute_uv=False)
        assert 0.65 < moved.min() < moved.max() < 1.25
        np.testing.assert_array_equal(bias.numpy(), twin.numpy())


def test_refusals() -> None:
    p = one_parameter()
    for kind in optim.OPTIMIZERS.values():
        with pytest.raises(SettingError, match="no parameters"):
            kind([])
        with pytest.raises(SettingError, match="learning_rate=-1"):
            kind([p], learning_rate=-1)
        with pytest.raises(SettingError, match="weight_decay=nan"):
            kind([p], weight_decay=float("nan"))
        with pytest.raises(SettingError, match="parameter 'w' is not a leaf that requires a gradient"):
            kind({"w": nabi.tensor(1.0)})
        with pytest.raises(SettingError, match="parameter '0' is not a leaf"):
            kind([p * 2])
        with pytest.raises(ShapeError, match="2 gradients for 1 parameters"):
            kind([p]).update([p, p])
    with pytest.raises(SettingError, match="momentum=1"):
        optim.SGD([p], momentum=1.0)
    with pytest.raises(SettingError, match="nesterov"):
        optim.SGD([p], nesterov=True)
    with pytest.raises(SettingError, match="beta2=1"):
        optim.Adam([p], beta2=1.0)


# --- schedules ---


def test_step_decay_and_cosine() -> None:
    assert [optim.step_decay(1.0, 2, 0.5)(step) for step in range(5)] == [1, 1, 0.5, 0.5, 0.25]
    down = optim.cosine(0.8, 100, floor=0.1)
    values = [down(step) for step in range(120)]
    assert values[0] == 0.8
    assert values[50] == pytest.approx(0.45)
    assert values[100:] == pytest.approx([0.1] * 20)
    assert all(a >= b for a, b in pairwise(values))


@pytest.mark.parametrize("length", [1, 2, 3, 10, 101])
def test_one_cycle_rises_once_and_falls_once(length: int) -> None:
    cycle = optim.one_cycle(0.5, length)
    values = [cycle(step) for step in range(length + 5)]
    top = int(np.argmax(values))
    assert all(a <= b for a, b in pairwise(values[: top + 1]))
    assert all(a >= b for a, b in pairwise(values[top:]))
    assert max(values) <= 0.5
    if length > 3:
        assert values[0] == pytest.approx(0.5 / 25)
        assert max(values) > 0.45
        assert values[length - 1 :] == pytest.approx([0.5 / 25 / 1e4] * 6)


def test_warm_up() -> None:
    gently = optim.warm_up(optim.cosine(1.0, 10), 5)
    assert [gently(step) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert gently(5) == 1
    assert gently(15) == 0


def test_schedules_refuse() -> None:
    for make in (
        lambda: optim.cosine(1.0, 0),
        lambda: optim.step_decay(1.0, 0),
        lambda: optim.one_cycle(1.0, 0),
        lambda: optim.warm_up(optim.constant(1.0), 0),
    ):
        with pytest.raises(SettingError, match="at least 1"):
            make()
    with pytest.raises(SettingError, match="rise"):
        optim.one_cycle(1.0, 10, rise=1.0)
