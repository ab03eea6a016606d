"""Every operation, enumerated from the registry: shapes, gradients to second order, compiled."""

import contextlib
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import nabi
from nabi import engines
from nabi.graph import namespace
from nabi.graph.operation import Operation
from nabi.graph.shapes import Spec, infer
from operation_inputs import EXAMPLES, OPERATIONS, arrays, calls
from random_graphs import compare

examples = pytest.mark.parametrize(("operation", "example"), [pytest.param(o, e, id=name) for o, e, name in EXAMPLES])
operations = pytest.mark.parametrize("operation", OPERATIONS, ids=lambda o: o.name)


def outputs(result: Any) -> tuple[Any, ...]:
    return result if isinstance(result, tuple) else (result,)


def directly(operation: Operation, values: list[Any], how: dict[str, Any]) -> tuple[Any, ...]:
    """What the formula gives over NumPy, with nothing of the graph in between."""
    with np.errstate(all="ignore"):
        return outputs(operation.forward(namespace.numpy, *values, **{**operation.defaults, **how}))


@operations
def test_declaration(operation: Operation) -> None:
    assert operation.examples, "an operation is declared with an example"
    assert " = " in operation.mathematics or " ~ " in operation.mathematics
    assert operation.mathematics == operation.mathematics.strip()
    if operation.differentiable and operation.kind != "composite":
        for i, held in enumerate(operation.holds):
            if held is None:
                assert operation.rule(i) is not None, f"no gradient for {operation.arrays[i]}"


@examples
def test_example_gives_what_the_formula_gives(operation: Operation, example: Any) -> None:
    values = arrays(example)
    result = outputs(operation(*[nabi.tensor(v) for v in values], **example.settings))
    for got, wanted in zip(result, directly(operation, values, example.settings), strict=True):
        np.testing.assert_array_equal(got.numpy(), wanted)


@operations
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_shapes_agree_with_numpy(operation: Operation, data: Any) -> None:
    values, how = data.draw(calls(operation))
    complete = operation.complete(how)
    specs = outputs(infer(operation, [Spec(v.shape, v.dtype) for v in values], complete))
    for spec, value in zip(specs, directly(operation, values, how), strict=True):
        assert spec.shape == np.shape(value)
        if operation.kind != "creation":
            assert spec.dtype == value.dtype


differentiable = pytest.mark.parametrize("operation", [o for o in OPERATIONS if o.differentiable], ids=lambda o: o.name)


@differentiable
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_gradients_to_second_order(operation: Operation, data: Any) -> None:
    values, how = data.draw(calls(operation))
    nabi.check_gradients(lambda *args: operation(*args, **how), *values, tolerance=2e-6)


def with_gradients(operation: Operation, example: Any, order: int) -> Any:
    """A function of an example's arrays: the results, and gradients of sums of them up to an order."""

    def function(*args: Any) -> list[Any]:
        result = list(outputs(operation(*args, **example.settings)))
        floats = [i for i, v in enumerate(args) if v.dtype.kind == "f"]
        if not (operation.differentiable and floats and any(r.dtype.kind == "f" for r in result)):
            return result

        def total(given: list[Any]) -> Any:
            changed = list(args)
            for place, i in enumerate(floats):
                changed[i] = given[place]
            parts = outputs(operation(*changed, **example.settings))
            return sum((nabi.ops.sum(nabi.ops.sin(p)) for p in parts), start=nabi.tensor(0.0))

        def total_of_gradients(given: list[Any]) -> Any:
            return sum((nabi.ops.sum(nabi.ops.cos(g)) for g in nabi.grad(total)(given)), start=nabi.tensor(0.0))

        given = [args[i] for i in floats]
        result += nabi.grad(total)(given)
        if order > 1:
            with contextlib.suppress(nabi.errors.GraphError):  # the gradient depends on nothing
                result += nabi.grad(total_of_gradients)(given)
        return result

    return function


@examples
def test_compiled_equals_eager(operation: Operation, example: Any) -> None:
    """Values and gradients, bit for bit."""
    values = [nabi.tensor(v) for v in arrays(example, dtype=np.float32)]
    function = with_gradients(operation, example, 1)
    for a, b in zip(function(*values), nabi.compile(function, engine="reference")(*values), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a.numpy(), b.numpy())


@examples
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_machine_code_gives_what_the_formula_gives(operation: Operation, example: Any, dtype: Any) -> None:
    """Values and gradients of first and second order, as near as rounding carries."""
    values = arrays(example, dtype=dtype)
    plan = nabi.compile(with_gradients(operation, example, 2), engine="reference").plan(*map(nabi.tensor, values))
    wanted = engines.prepare("reference", plan)(values)
    for engine in ("cpu", "cpu-direct"):
        compare(plan, values, engines.prepare(engine, plan)(values), wanted, runs=4)


def test_numbers_are_weak_and_integers_become_float32() -> None:
    i, f, d = nabi.tensor([1, 2]), nabi.tensor([1.0, 2.0]), nabi.tensor(np.array([1.0, 2.0]))
    assert (i.dtype, f.dtype, d.dtype) == (np.int64, np.float32, np.float64)
    assert (i + 1).dtype == np.int64
    assert (i + 1.5).dtype == np.float32
    assert (i / 2).dtype == np.float32
    assert (i + f).dtype == np.float32
    assert (f + d).dtype == np.float64
    assert (f + 1.5).dtype == np.float32
    assert nabi.ops.exp(i).dtype == np.float32
    assert (f > 1).dtype == np.bool_
    assert (nabi.tensor(np.array([True])) + 1).dtype == np.int64
    assert (nabi.tensor(np.array([3], np.uint8)) + i).dtype == np.int64
    assert (1 - nabi.tensor(np.array([3], np.uint8))).dtype == np.uint8


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t, o: t(2, 3) + t(4), r"add: the shapes do not broadcast together: x \(2, 3\) and y \(4,\)"),
        (lambda t, o: t(2, 3) @ t(4, 2), r"matmul: .*: x \(2, 3\) and y \(4, 2\)"),
        (lambda t, o: o.conv2d(t(1, 5, 5, 3), t(3, 3, 2, 4)), r"conv2d: x \(1, 5, 5, 3\) has 3 channels, but weight "),
        (lambda t, o: o.conv2d(t(1, 2, 2, 3), t(3, 3, 3, 4)), r"conv2d: .*\(3, 3\) does not fit into x \(1, 2, 2, 3\)"),
        (lambda t, o: o.max_pool2d(t(5, 5), kernel_size=2), r"max_pool2d: x is \(N, H, W, C\), not \(5, 5\)"),
        (lambda t, o: o.reshape(t(2, 3), (4, 2)), r"reshape: 6 elements do not fill the shape \(4, 2\): x \(2, 3\)"),
        (lambda t, o: o.concat([t(2, 3), t(2, 4)], axis=0), r"concat: .*arrays\[0\] \(2, 3\) and arrays\[1\] \(2, 4\)"),
        (lambda t, o: o.sum(t(2, 3), axis=2), r"sum: axis 2 is outside an array of 2 axes: x \(2, 3\)"),
        (lambda t, o: o.softmax(t()), r"softmax: axis -1 is outside an array of 0 axes: x \(\)"),
        (lambda t, o: o.log_softmax(t(), axis=0), r"log_softmax: axis 0 is outside an array of 0 axes: x \(\)"),
        (lambda t, o: o.sum(t(), axis=-1), r"sum: axis -1 is outside an array of 0 axes: x \(\)"),
        (lambda t, o: o.argmax(t(), axis=0), r"argmax: axis 0 is outside an array of 0 axes: x \(\)"),
        (lambda t, o: t(2, 3)[5], r"getitem: index 5 is outside axis 0 of x of shape \(2, 3\)"),
        (lambda t, o: o.batch_norm(t(2, 3), t(2), t(3)), r"batch_norm: weight \(2,\) and bias \(3,\)"),
        (lambda t, o: o.max(t(0, 3), axis=0), r"max: the largest or smallest of no elements, along axis 0: x \(0, 3\)"),
    ],
)  # fmt: skip
def test_shape_errors_name_operation_argument_and_shapes(call: Any, message: str) -> None:
    make = lambda *shape: nabi.tensor(np.zeros(shape, np.float32))
    with pytest.raises(nabi.errors.ShapeError, match=message):
        call(make, nabi.ops)
    with pytest.raises(nabi.errors.ShapeError, match=message):
        nabi.compile(lambda: call(lambda *shape: nabi.ops.zeros(shape=shape, dtype="float32"), nabi.ops))()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: -x, r"^negative: takes numbers, not bool: use logical_not, or convert with astype$"),
        (lambda x: x - x, r"^subtract: takes numbers, not bool: use logical_xor, or convert with astype$"),
        (nabi.ops.sign, r"^sign: takes numbers, not bool: use the truth values as they are, or convert with astype$"),
    ],
)
def test_truth_values_are_no_numbers_to_subtract(call: Any, message: str) -> None:
    truths = nabi.tensor([True, False])
    for function in (call, nabi.compile(call), nabi.compile(call, engine="cpu")):
        with pytest.raises(nabi.errors.DTypeError, match=message):
            function(truths)
    assert (truths - 1).numpy().tolist() == [0, -1]


def test_boolean_mask_is_refused() -> None:
    x = nabi.tensor([1.0, -1.0])
    with pytest.raises(nabi.errors.ShapeError, match="where"):
        x[x > 0]


def test_ties() -> None:
    """max shares equally, max-pooling takes the first, relu'(0) = 0."""
    assert nabi.grad(lambda x: nabi.ops.max(x))(nabi.tensor([2.0, 2.0, 1.0])).numpy().tolist() == [0.5, 0.5, 0.0]
    assert float(nabi.grad(nabi.ops.relu)(0.0)) == 0.0
    picture = nabi.tensor(np.ones((1, 2, 2, 1), np.float32))
    g = nabi.grad(lambda x: nabi.ops.sum(nabi.ops.max_pool2d(x, kernel_size=2)))(picture)
    assert g.numpy().ravel().tolist() == [1.0, 0.0, 0.0, 0.0]


def test_extreme_inputs_give_finite_activations() -> None:
    x = nabi.tensor([-1e4, -100.0, 0.0, 100.0, 1e4])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("sigmoid", "tanh", "softplus", "elu", "gelu", "silu", "hard_swish", "log_softmax", "softmax"):
            operation = getattr(nabi.ops, name)
            assert np.isfinite(operation(x).numpy()).all(), name
            g = nabi.grad(lambda x: nabi.ops.sum(operation(x)))(x)  # noqa: B023
            assert np.isfinite(g.numpy()).all(), name
