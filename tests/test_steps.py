"""The walk back, step by step: it reads like the lecture, and its numbers are the gradients."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nabi
from nabi import losses, models, ops
from nabi.graph.mathematics import mathematics, number, symbol, write_number
from nabi.graph.operation import registry
from nabi.graph.shapes import Spec


def leaf(value, name=None, dtype=None):
    return nabi.tensor(value, name, requires_grad=True, dtype=dtype)


def told(tensor) -> str:
    return "\n".join(str(step) for step in tensor.graph().steps())


def flows(tensor):
    return {flow.name: flow for step in tensor.graph().steps() for flow in step.flows}


# --- the lecture ---


def test_the_lecture_s_example_reads_like_the_lecture() -> None:
    x, y, z = leaf(-2.0, "x"), leaf(5.0, "y"), leaf(-4.0, "z")
    first, second = ((x + y) * z).graph().steps()
    assert (first.name, first.value, first.upstream) == ("f", -12.0, 1.0)
    assert (second.name, second.value, second.upstream) == ("q", 3.0, -4.0)
    assert [(f.name, f.derivative, f.local, f.gradient) for step in (first, second) for f in step.flows] == [
        ("q", "z", -4.0, -4.0),
        ("z", "q", 3.0, 3.0),
        ("x", "1", 1.0, -4.0),
        ("y", "1", 1.0, -4.0),
    ]
    assert str(first).splitlines() == [
        "f = q·z = 3·(-4) = -12    upstream df/df = 1",
        "    ∂f/∂q = z = -4        df/dq = 1·(-4) = -4",
        "    ∂f/∂z = q = 3         df/dz = 1·3 = 3",
    ]
    assert str(second).splitlines() == [
        "q = x + y = -2 + 5 = 3    upstream df/dq = -4",
        "    ∂q/∂x = 1             df/dx = (-4)·1 = -4",
        "    ∂q/∂y = 1             df/dy = (-4)·1 = -4",
    ]


def test_the_sigmoid_neuron_of_the_lecture() -> None:
    w0, x0, w1, x1, b = (leaf(v, n) for v, n in ((2.0, "w0"), (-1.0, "x0"), (-3.0, "w1"), (-2.0, "x1"), (-3.0, "b")))
    neuron = ops.sigmoid(w0 * x0 + w1 * x1 + b)
    step = next(neuron.graph().steps())
    assert str(step).splitlines() == [
        "f = σ(t) = σ(1) = 0.7311                                upstream df/df = 1",
        "    ∂f/∂t = f·(1 - f) = 0.7311·(1 - 0.7311) = 0.1966    df/dt = 1·0.1966 = 0.1966",
        "    sigmoid: y = 1 / (1 + e⁻ˣ)",
    ]
    found = {name: round(float(flow.total), 2) for name, flow in flows(neuron).items()}
    assert found | {"w0": -0.2, "x0": 0.39, "w1": -0.39, "x1": -0.59, "b": 0.2} == found
    opened = 1 / (1 + ops.exp(-(w0 * x0 + w1 * x1 + b)))
    assert [step.operation for step in opened.graph().steps()][:4] == ["divide", "add", "exp", "negative"]
    assert "\n    ∂v/∂u = v = 0.3679" in told(opened)


# --- what is written ---


@pytest.mark.parametrize(
    ("function", "at", "formula", "derivative", "condition", "local"),
    [
        (lambda x: x**3, 2.0, "x³", "3·x²", "", 12.0),
        (lambda x: x**-1, 2.0, "x⁻¹", "-x⁻²", "", -0.25),
        (lambda x: x * x, 3.0, "x·x", "x + x", "", 6.0),
        (lambda x: x - x, 3.0, "x - x", "0", "", 0.0),
        (lambda x: ops.square(x), -3.0, "x²", "2·x", "", -6.0),
        (lambda x: x / 4, 3.0, "x / 4", "1 / 4", "", 0.25),
        (lambda x: 1 / x, 2.0, "1 / x", "-f / x", "", -0.25),
        (lambda x: -x, 2.0, "-x", "-1", "", -1.0),
        (lambda x: ops.relu(x), 2.0, "relu(x)", "1", "x > 0", 1.0),
        (lambda x: ops.relu(x), -2.0, "relu(x)", "0", "x ≤ 0", 0.0),
        (lambda x: ops.maximum(x, 1.0), 1.0, "max(x, 1)", "1 / 2", "x = 1 and x ≤ 1", 0.5),
        (lambda x: ops.tanh(x), 0.0, "tanh(x)", "1 - f·f", "", 1.0),
        (lambda x: ops.sqrt(x), 4.0, "√x", "1 / (2·f)", "", 0.25),
        (lambda x: ops.log(x), 4.0, "ln(x)", "1 / x", "", 0.25),
        (lambda x: ops.leaky_relu(x, negative_slope=0.5), -4.0, "leaky_relu(x)", "0.5", "x ≤ 0", 0.5),
        (lambda x: x.sum(), 4.0, "Σ(x)", "1", "", 1.0),
        (lambda x: x.reshape(1, 1).mean(), 4.0, None, None, "", 1.0),
    ],
)
def test_local_derivatives_are_the_rules_written_out(function, at, formula, derivative, condition, local) -> None:
    steps = list(function(leaf(at, "x")).graph().steps())
    flow = steps[-1].flows[0]
    if formula is None:  # through arrays of one element
        assert float(flow.total.sum()) == local
        return
    assert (steps[-1].formula, flow.derivative, flow.condition) == (formula, derivative, condition)
    assert flow.local == pytest.approx(local)
    assert flow.total == pytest.approx(local)


def test_arrays_are_told_by_shape_and_statistics_and_formulas_by_name() -> None:
    x = nabi.tensor(np.arange(6, dtype=np.float32).reshape(2, 3), "x")
    w, b = leaf(np.ones((3, 4), np.float32), "W"), leaf(np.zeros(4, np.float32), "b")
    assert told(ops.relu(x @ w + b).sum()).splitlines() == [
        "f = Σ(s) = 60    upstream df/df = 1",
        "    ∂f/∂s = 1    df/ds = df/df·∂f/∂s: (2, 4) 1 ≤ 1 ≤ 1",
        "s = relu(r): (2, 4) 3 ≤ 7.5 ≤ 12    upstream df/ds: (2, 4) 1 ≤ 1 ≤ 1",
        "    ∂s/∂r = where(r > 0, 1, 0)      df/dr = df/ds·∂s/∂r: (2, 4) 1 ≤ 1 ≤ 1",
        "    relu: y = max(0, x)",
        "r = q + b: (2, 4) 3 ≤ 7.5 ≤ 12    upstream df/dr: (2, 4) 1 ≤ 1 ≤ 1",
        "    ∂r/∂q = 1                     df/dq = df/dr·∂r/∂q: (2, 4) 1 ≤ 1 ≤ 1",
        "    ∂r/∂b = 1                     df/db = Σ(df/dr·∂r/∂b): [2, 2, 2, 2]",
        "q = x·W: (2, 4) 3 ≤ 7.5 ≤ 12    upstream df/dq: (2, 4) 1 ≤ 1 ≤ 1",
        "    df/dW = xᵀ·df/dq: (3, 4) 3 ≤ 5 ≤ 7",
    ]


def test_gradients_that_meet_are_added() -> None:
    x = leaf(3.0, "x")
    lines = told(x * 2 + x * 5)
    assert "df/dx = 1·5 = 5\n" in lines
    assert lines.endswith("df/dx = 1·2 = 2, in all 7")


def test_automatic_names() -> None:
    x = leaf(1.0, "x")
    few = (ops.sin(x) + leaf(2.0)) * 3
    assert [step.formula for step in few.graph().steps()] == ["r·3", "q + a", "sin(x)"]
    many = x
    for _ in range(9):
        many = ops.sin(many)
    assert [step.name for step in many.graph().steps()] == ["f", *(f"v{i}" for i in range(8, 0, -1))]
    taken = ops.sin(ops.sin(leaf(1.0, "q")) * leaf(1.0, "f"))
    assert [step.name for step in taken.graph().steps()] == ["L", "s", "r"]


def test_a_long_formula_is_cut() -> None:
    x = leaf(1.0, "x" * 200)
    (step,) = ops.sin(x).graph().steps()
    assert len(step.formula) == 100
    assert step.formula.endswith("…")


# --- the numbers ---


OF_NUMBERS = sorted(n for n, o in registry.items() if o.kind == "elementwise" and o.differentiable and o.plain)


@pytest.mark.parametrize("name", OF_NUMBERS)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_local_derivatives_of_numbers_are_the_gradients(name, data) -> None:
    operation = registry[name]
    values = [data.draw(st.floats(0.25, 4).map(lambda v: round(v, 2))) for _ in operation.arrays]
    inputs = [leaf(v, f"x{i}", "float64") for i, v in enumerate(values)]
    result = operation(*inputs, **operation.examples[0].settings)
    (step,) = result.graph().steps()
    wanted = nabi.gradients(result, inputs)
    for flow, gradient in zip(step.flows, wanted, strict=True):
        assert flow.gradient == flow.total == gradient.item()
        assert flow.local == pytest.approx(gradient.item(), rel=1e-12, abs=1e-15)
    assert str(step)


@pytest.mark.parametrize("name", sorted(n for n, o in registry.items() if o.differentiable))
def test_every_operation_can_be_walked(name) -> None:
    operation = registry[name]
    random = np.random.default_rng(0)
    for one in operation.examples:
        inputs = []
        for draw in one.arrays:
            if isinstance(draw.domain, int):
                inputs.append(nabi.tensor(random.integers(0, draw.domain, draw.shape)))
            elif draw.domain == "boolean":
                inputs.append(nabi.tensor(random.integers(0, 2, draw.shape).astype(bool)))
            elif draw.domain == "key":
                inputs.append(nabi.tensor(np.arange(2, dtype=np.uint32)))
            else:
                inputs.append(
                    leaf(
                        random.normal(size=draw.shape)
                        if draw.domain == "real"
                        else random.uniform(0.5, 2.5, draw.shape)
                    )
                )
        result = operation(*inputs, **one.settings)
        parts = result if isinstance(result, tuple) else (result,)
        total = sum((part * part).sum() for part in parts)
        steps = list(total.graph().steps())
        assert all(str(step) and step.flows for step in steps)
        total.backward()
        leaves = {id(i): i for i in inputs if i.requires_grad}
        graph = total.graph()
        names = {graph._names[i.serial]: i for i in leaves.values()}
        totals = {flow.name: flow.total for step in steps for flow in step.flows if flow.name in names}
        for key, value in names.items():
            if value.grad is not None:
                np.testing.assert_allclose(totals[key], value.grad.numpy(), rtol=1e-6, atol=1e-9)


def test_a_model_s_steps_end_at_the_gradients() -> None:
    model = models.convnet((8, 8, 3), 4, channels=(4, 8))
    pictures = np.random.default_rng(0).integers(0, 255, (3, 8, 8, 3)).astype(np.float32)
    loss = losses.softmax_cross_entropy(model(pictures, training=True), nabi.tensor([0, 1, 2]))
    graph = loss.graph()
    totals = {flow.name: flow.total for step in graph.steps() for flow in step.flows}
    loss.backward()
    leaves = [node for node in graph._nodes if node.operation is None and node.requires_grad]
    assert len(leaves) == 8
    for node in leaves:
        np.testing.assert_array_equal(totals[graph._names[node.serial]], node.grad.numpy())


# --- mathematics as xp ---


def test_numbers_are_written_in_few_digits() -> None:
    values = (0.0, -0.0, 3.0, -12.5, 1e6, 123456.7, 1e-5, 0.1 + 0.2, float("nan"), float("inf"), -float("inf"))
    assert [write_number(v) for v in values] == [
        "0", "0", "3", "-12.5", "1e6", "123457", "1e-5", "0.3", "nan", "∞", "-∞",
    ]  # fmt: skip


def test_brackets_stand_where_they_are_needed_and_nowhere_else() -> None:
    x, y = symbol("x", Spec((), "float64")), symbol("y", Spec((), "float64"))
    assert str((x + y) * x) == "(x + y)·x"
    assert str(x - (y - x)) == "x - (y - x)"
    assert str(x / (y * x)) == "x / (y·x)"
    assert str(-(x + y)) == "-(x + y)"
    assert str((x * y) ** 2) == "(x·y)²"
    assert str(x + -y) == "x + (-y)"
    assert str(-x - number(-2.0)) == "-x - (-2)"
    assert str(mathematics.sqrt(x + 1)) == "√(x + 1)"
    assert str(mathematics.where(x > y, x, 0)) == "where(x > y, x, 0)"
    with pytest.raises(TypeError, match="no truth value"):
        bool(x > y)
