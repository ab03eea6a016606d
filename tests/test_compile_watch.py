"""What a compiled function reads from around it: a change of any of it is seen, never frozen in silence."""

import copy
import functools
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nabi
from nabi import ops
from nabi.errors import CompileError, DTypeError, GraphError

FACTOR = 2.0
TABLE = np.array([1.0, 2.0], np.float32)


def by_factor(x: Any) -> Any:
    return x * FACTOR


class Scaler:
    def __init__(self) -> None:
        self.factor = 2.0

    def step(self, x: Any) -> Any:
        return x * self.factor

    def __call__(self, x: Any) -> Any:
        return x * self.factor


@pytest.mark.parametrize(
    "function",
    [
        by_factor,
        lambda x: by_factor(x),
        lambda x: nabi.grad(lambda w: w * FACTOR)(x) * x,
        lambda x: sum((x * FACTOR for _ in range(1)), start=0.0),
        functools.partial(lambda extra, x: x * FACTOR + extra, 0.0),
        nabi.compile(by_factor),
    ],
)
def test_globals_of_inner_functions(function: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = (
        nabi.compile(lambda x: function(x)) if isinstance(function, functools.partial) else nabi.compile(function)
    )
    assert float(compiled(3.0)) == 6
    monkeypatch.setitem(globals(), "FACTOR", 5.0)
    assert float(compiled(3.0)) == 15


def test_fields_behind_methods_and_callables() -> None:
    for make in (lambda s: s.step, lambda s: s):
        scaler = Scaler()
        compiled = nabi.compile(make(scaler))
        assert float(compiled(3.0)) == 6
        scaler.factor = 7.0
        assert float(compiled(3.0)) == 21


def test_defaults_and_partials() -> None:
    def scaled(x: Any, factor: float = 2.0, *, shift: float = 0.0) -> Any:
        return x * factor + shift

    compiled = nabi.compile(scaled)
    assert float(compiled(3.0)) == 6
    scaled.__defaults__ = (4.0,)
    assert float(compiled(3.0)) == 12
    scaled.__kwdefaults__ = {"shift": 1.0}
    assert float(compiled(3.0)) == 13


def test_arrays_around_are_watched_for_changes_in_place() -> None:
    compiled = nabi.compile(lambda x: x * TABLE)
    x = np.ones(2, np.float32)
    assert compiled(x).numpy().tolist() == [1, 2]
    TABLE[1] = 9
    try:
        assert compiled(x).numpy().tolist() == [1, 9]
    finally:
        TABLE[1] = 2
    huge = np.zeros(5_000_000)
    with pytest.raises(CompileError, match="give it by position"):
        nabi.compile(lambda x: x * huge)(x)
    with pytest.raises(CompileError, match="weights is an array given as a keyword"):
        nabi.compile(lambda x, *, weights: x * weights)(x, weights=x)


def test_keywords_are_not_told_apart_by_an_address_that_is_used_again() -> None:
    compiled = nabi.compile(lambda x, *, act: act(x))
    assert [float(compiled(1.0, act=(lambda v, k=k: v * k))) for k in range(1, 6)] == [1, 2, 3, 4, 5]


def test_the_kind_of_a_layer_and_what_requires_a_gradient_are_watched() -> None:
    net = nabi.nn.Sequential(nabi.nn.ReLU())
    compiled = nabi.compile(lambda x: net(x), state=net)
    x = np.array([[-1.0]], np.float32)
    assert compiled(x).item() == 0
    net.relu = nabi.nn.Sigmoid()
    assert round(compiled(x).item(), 2) == 0.27

    w = nabi.tensor(1.0, requires_grad=True)

    def slope(x: Any) -> Any:
        return nabi.gradients(x * w, [w])[0]

    compiled = nabi.compile(slope, state=w)
    assert float(compiled(3.0)) == 3
    w.requires_grad = False
    with pytest.raises(GraphError, match=r"requires? a gradient"):
        compiled(3.0)


def test_zero_and_minus_zero_differ() -> None:
    compiled = nabi.compile(lambda x, *, z: (x / ops.full((), z), x / ops.full((), -z)))
    with np.errstate(divide="ignore"):
        assert [float(v) for v in compiled(1.0, z=0.0)] == [np.inf, -np.inf]
        assert [float(v) for v in compiled(1.0, z=-0.0)] == [-np.inf, np.inf]
    nan = nabi.compile(lambda x, *, z: x)
    nan(1.0, z=float("nan"))
    nan(1.0, z=float("nan"))
    assert len(nan.recordings) == 1


def test_a_value_inside_is_refused() -> None:
    w = nabi.tensor(1.0, name="w")
    with pytest.raises(CompileError, match="value of tensor 'w'"):
        nabi.compile(lambda x: x * w.value, state=w)(1.0)
    with pytest.raises(CompileError, match="value of"):
        nabi.compile(lambda x: x.value)(1.0)


def test_a_tensor_as_a_setting_is_refused() -> None:
    for wrong in (nabi.tensor(0.5), np.array(0.5)):
        with pytest.raises(TypeError, match="'alpha' is a plain value"):
            ops.elu(nabi.tensor([1.0]), alpha=wrong)
    assert ops.leaky_relu(nabi.tensor([-1.0]), negative_slope=np.float64(0.1)).dtype == np.float32
    with pytest.raises(DTypeError, match="float16"):
        ops.astype(nabi.tensor([1.0]), dtype="float16")


def test_numbers_computed_from_numbers_stay_exact_and_yielding() -> None:
    f = lambda x, c: x * (c * 3) + (1 - c**2)
    for x in (np.ones(1, np.float32), np.ones(1)):
        for c in (0.1, np.float64(0.1), 2):
            eager, compiled = f(nabi.tensor(x), c), nabi.compile(f)(x, c)
            assert eager.dtype == compiled.dtype == x.dtype
            assert eager.numpy() == compiled.numpy()


# --- gradients beyond a compiled function, an assignment, a copy ---


def test_a_caller_may_differentiate_through_a_compiled_function() -> None:
    square = nabi.compile(lambda x: x * x)
    assert float(nabi.grad(square)(3.0)) == 6
    x = nabi.tensor(3.0, requires_grad=True)
    square(x).backward()
    assert float(x.grad) == 6


def test_no_gradient_is_lost_in_silence_on_the_way_out_of_a_compiled_function() -> None:
    w = nabi.tensor(3.0, requires_grad=True)
    y = nabi.compile(lambda x: x * w, state=w)(2.0)
    assert float(y) == 6
    assert y.operands is None  # who keeps losses does not keep all that they were computed from
    with pytest.raises(GraphError, match="no gradient flows out of a compiled function"):
        (y * 2).backward()
    optimizer = nabi.optim.SGD([w])
    with pytest.raises(GraphError, match="no gradient flows out"):
        optimizer.minimize(y * 2)
    assert (float(w), int(optimizer.step)) == (3, 0)


def test_no_gradient_is_lost_in_silence_under_no_grad() -> None:
    w = nabi.tensor(3.0, requires_grad=True)
    with nabi.no_grad():
        assert float(nabi.grad(lambda x: x * x)(3.0)) == 6, "grad itself remembers what it needs"
        with pytest.raises(GraphError, match=r"nothing .* requires a gradient"):
            nabi.gradients(w * w, [w])


def test_gradients_after_an_assignment_are_those_of_the_values_that_were_used() -> None:
    def two_losses(d: Any, g: Any) -> Any:
        first, second = d * 5, d * g
        (slope,) = nabi.gradients(first, [d])
        d.assign(d - slope)
        (other,) = nabi.gradients(second, [g])
        g.assign(g - other)
        return second

    def after(w: Any) -> Any:
        loss = w * w
        w.assign(w - 1.0)
        return nabi.gradients(loss + w, [w])[0]

    for run in (lambda f, *state: f(*state), lambda f, *state: nabi.compile(lambda: f(*state), state=list(state))()):
        d, g, w = (nabi.tensor(v, requires_grad=True) for v in (1.0, 2.0, 3.0))
        run(two_losses, d, g)
        assert (float(d), float(g)) == (-4, 1)
        assert float(run(after, w)) == 7, "both what it was and what it is count"


def test_a_graph_of_gradients_refuses_a_leaf_that_was_assigned() -> None:
    w = nabi.tensor(3.0, "w", requires_grad=True)
    y = w * w
    w.assign(5.0)
    with pytest.raises(GraphError, match="'w' was assigned after multiply had used it"):
        y.graph()


def test_copies_are_nodes_of_their_own() -> None:
    layer = nabi.nn.Linear(2, 1, key=nabi.random.key(0))
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        loss = (layer.weight * 1.0).sum() + (twin.weight * 10.0).sum()
        a, b = nabi.gradients(loss, [layer.weight, twin.weight])
        assert (a.numpy().tolist(), b.numpy().tolist()) == ([[1], [1]], [[10], [10]])
        assert twin.weight.serial != layer.weight.serial
    x = layer.weight
    for _ in range(5000):
        x = x * 1.0
    copied = copy.deepcopy(x)
    assert copied.operation is None
    assert not copied.requires_grad


def test_no_gradient_flows_through_integers() -> None:
    through = lambda dtype: float(nabi.grad(lambda x: x.astype(dtype).astype("float32") * 3)(2.7))
    assert (through("int64"), through("bool"), through("float64")) == (0, 0, 3)


def test_a_wrong_gradient_changes_no_parameter() -> None:
    a, b = nabi.tensor([1.0], requires_grad=True), nabi.tensor([1.0], requires_grad=True)
    optimizer = nabi.optim.SGD([a, b], learning_rate=1.0)
    with pytest.raises(nabi.errors.ShapeError, match="parameter '1' is float32"):
        optimizer.update([nabi.tensor([1.0]), nabi.tensor([1.0, 2.0])])
    assert (float(a[0]), int(optimizer.step)) == (1, 0)


def test_integers_do_not_wrap_around() -> None:
    pixels = lambda *values: nabi.tensor(np.array(values, np.uint8))
    assert float(nabi.losses.mean_squared_error(pixels(1), pixels(200))) == 39601
    assert (pixels(200) + 100).numpy().tolist() == [44], "like arrays of NumPy: uint8 stays uint8"
    assert (pixels(200) + 1000).numpy().tolist() == [1200]
    assert (pixels(3) > -1).numpy().tolist() == [True]
    assert (pixels(200, 100).sum() + 1).item() == 301


def test_a_label_out_of_range_in_a_compiled_loss_is_not_a_number() -> None:
    for loss in nabi.losses.LOSSES.values():
        compiled = nabi.compile(lambda s, y, loss=loss: loss(s, y))
        assert np.isfinite(float(compiled(np.ones((1, 3), np.float32), np.array([2]))))
        assert np.isnan(float(compiled(np.ones((1, 3), np.float32), np.array([3]))))


@pytest.mark.parametrize("folder", ["mine", "lib"])
def test_functions_in_a_folder_that_python_was_installed_into(folder: str) -> None:
    """Such as a project whose environment was made in its own folder: only the libraries' folders are constant."""
    file = str(Path(sys.prefix) / folder / "helpers.py")
    scope: dict[str, Any] = {"scale": 2.0}
    exec(compile("def helper(x): return x * scale", file, "exec"), scope)
    helper = scope["helper"]
    compiled = nabi.compile(lambda x: helper(x))
    assert float(compiled(3.0)) == 6
    scope["scale"] = 5.0
    assert float(compiled(3.0)) == 15
