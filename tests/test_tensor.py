"""Tensors and gradients, as a person uses them."""

import threading
from typing import Any

import numpy as np
import pytest

import nabi
from nabi import ops
from nabi.errors import DTypeError, GradientError, GraphError, ShapeError
from nabi.graph import nest


def test_the_lecture_s_first_graph() -> None:
    """f = (x + y)z at x=-2, y=5, z=-4 (chapter 4.2)."""
    x, y, z = (nabi.tensor(v, requires_grad=True) for v in (-2.0, 5.0, -4.0))
    q = x + y
    f = q * z
    f.backward()
    assert (float(q), float(f)) == (3, -12)
    assert (float(x.grad), float(y.grad), float(z.grad)) == (-4, -4, 3)


def test_the_sigmoid_neuron() -> None:
    w0, x0, w1, x1, bias = (nabi.tensor(v, requires_grad=True) for v in (2.0, -1.0, -3.0, -2.0, -3.0))
    output = ops.sigmoid(w0 * x0 + w1 * x1 + bias)
    output.backward()
    assert round(float(output), 2) == 0.73
    assert [round(float(t.grad), 2) for t in (w0, x0, w1, x1, bias)] == [-0.20, 0.39, -0.39, -0.59, 0.20]


def test_dtypes_on_the_way_in() -> None:
    assert nabi.tensor([1.0]).dtype == np.float32
    assert nabi.tensor(np.array([1.0])).dtype == np.float64
    assert nabi.tensor(np.array([1.0], np.float16)).dtype == np.float32
    assert nabi.tensor(np.float64(1)).dtype == np.float64
    assert nabi.tensor([1]).dtype == np.int64
    assert nabi.tensor([True]).dtype == np.bool_
    assert nabi.tensor(1, requires_grad=True).dtype == np.float32
    assert nabi.tensor([1.0], dtype="float64").dtype == np.float64
    with pytest.raises(DTypeError, match="complex"):
        nabi.tensor([1j])
    with pytest.raises(DTypeError, match="not int64"):
        nabi.tensor([1], dtype="int64", requires_grad=True)


def test_numpy_gives_a_copy_and_takes_a_copy() -> None:
    source = np.ones(2, np.float32)
    t = nabi.tensor(source)
    source[:] = 7
    out = t.numpy()
    out[:] = 8
    assert t.numpy().tolist() == [1, 1]
    assert np.asarray(t).tolist() == [1, 1]
    assert np.asarray(t, dtype=np.float64).dtype == np.float64


def test_dlpack() -> None:
    t = nabi.tensor([1.0, 2.0])
    assert np.from_dlpack(t).tolist() == [1, 2]
    back = nabi.from_dlpack(np.array([3.0, 4.0], np.float32))
    assert back.numpy().tolist() == [3, 4]


def test_python_protocols() -> None:
    t = nabi.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert len(t) == 2
    assert [row.numpy().tolist() for row in t] == [[1, 2], [3, 4]]
    assert t.T.numpy().tolist() == [[1, 3], [2, 4]]
    assert t.mT.numpy().tolist() == [[1, 3], [2, 4]]
    assert bool(nabi.tensor(0.0)) is False
    assert [10, 20][nabi.tensor(1)] == 20
    assert (np.ones(2, np.float32) + t).numpy().tolist() == [[2, 3], [4, 5]]
    assert "tensor([[1., 2.]" in repr(t)
    assert "<pre>" in t._repr_html_()
    with pytest.raises(TypeError):
        len(nabi.tensor(1.0))
    with pytest.raises(ShapeError, match="not a matrix"):
        _ = nabi.tensor([1.0]).T


def test_operators_equal_numpy_s() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.uniform(1, 2, (2, 3)), rng.uniform(1, 2, 3)
    x, y = nabi.tensor(a), nabi.tensor(b)
    pairs = [
        (x + y, a + b), (x - y, a - b), (x * y, a * b), (x / y, a / b), (x**y, a**b), (x // y, a // b), (x % y, a % b),
        (2 + x, 2 + a), (2 - x, 2 - a), (2 * x, 2 * a), (2 / x, 2 / a), (2**x, 2**a), (-x, -a), (+x, a), (abs(-x), a),
        (x < y, a < b), (x <= y, a <= b), (x > y, a > b), (x >= y, a >= b), (x == y, a == b), (x != y, a != b),
        (x @ y, a @ b), ((x > 1.5) & (x < 1.7), (a > 1.5) & (a < 1.7)), ((x > 1.5) | (x < 1.2), (a > 1.5) | (a < 1.2)),
        (~(x > 1.5), ~(a > 1.5)), (x[0], a[0]), (x[..., 1:], a[..., 1:]), (x[[1, 0], [2, 2]], a[[1, 0], [2, 2]]),
        (x[:, None], a[:, None]), (x[nabi.tensor([1, 1])], a[[1, 1]]), (x[::-1], a[::-1]),
        (x.sum(), a.sum()), (x.mean(axis=0), a.mean(axis=0)), (x.max(axis=1), a.max(axis=1)), (x.min(), a.min()),
        (x.reshape(3, -1), a.reshape(3, -1)), (x.reshape((6,)), a.reshape(6)),
    ]  # fmt: skip
    for got, wanted in pairs:
        np.testing.assert_array_equal(got.numpy(), wanted)


def test_gradients_add_up_over_uses_and_calls() -> None:
    x = nabi.tensor(3.0, requires_grad=True)
    (x * x + x).backward()
    assert float(x.grad) == 7
    (x * 2).backward()
    assert float(x.grad) == 9
    assert x.grad.operation is None


def test_broadcast_gradients_are_summed_back() -> None:
    x = nabi.tensor(np.ones((2, 3), np.float32), requires_grad=True)
    row, column, number = (nabi.tensor(np.ones(s, np.float32), requires_grad=True) for s in ((3,), (2, 1), ()))
    ops.sum(x * row * column * number).backward()
    assert row.grad.numpy().tolist() == [2, 2, 2]
    assert column.grad.numpy().tolist() == [[3], [3]]
    assert float(number.grad) == 6


def test_no_grad_and_detach() -> None:
    x = nabi.tensor(3.0, requires_grad=True)
    with nabi.no_grad():
        assert not (x * x).requires_grad
    y = (x * x).detach()
    assert not y.requires_grad
    (x * y).backward()
    assert float(x.grad) == 9
    x.grad = None
    (ops.stop_gradient(x) * x).backward()
    assert float(x.grad) == 3


def test_higher_derivatives() -> None:
    f = lambda x: ops.sin(x) * x**3
    value = 0.7
    d1 = nabi.grad(f)
    d2, d3 = nabi.grad(d1), nabi.grad(nabi.grad(d1))
    s, c = np.sin(value), np.cos(value)
    x = np.array(value)
    assert np.isclose(float(d1(x)), c * value**3 + 3 * s * value**2)
    assert np.isclose(float(d2(x)), -s * value**3 + 6 * c * value**2 + 6 * s * value)
    assert np.isclose(float(d3(x)), -c * value**3 - 9 * s * value**2 + 18 * c * value + 6 * s)


def test_nested_gradients_do_not_mix_up_their_variables() -> None:
    assert float(nabi.grad(lambda x: x * nabi.grad(lambda y: x + y)(x))(3.0)) == 1
    assert float(nabi.grad(lambda x: x * nabi.grad(lambda y: x * y)(x))(3.0)) == 6


def test_value_and_grad_of_a_nest() -> None:
    f = lambda p, x: ops.sum(p["w"] * x + p["b"][0])
    value, g = nabi.value_and_grad(f)({"w": nabi.tensor([1.0, 2.0]), "b": [nabi.tensor(1.0)]}, nabi.tensor([3.0, 4.0]))
    assert float(value) == 13
    assert g["w"].numpy().tolist() == [3, 4]
    assert float(g["b"][0]) == 2
    assert not g["w"].requires_grad


def test_gradient_of_intermediate_and_of_what_is_unused() -> None:
    x = nabi.tensor(2.0, requires_grad=True)
    unused = nabi.tensor([1.0, 1.0], requires_grad=True)
    h = x * x
    gh, gx, gu = nabi.gradients(h * h, [h, x, unused])
    assert (float(gh), float(gx), gu.numpy().tolist()) == (8, 32, [0, 0])


def test_errors_of_gradients() -> None:
    x = nabi.tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(GraphError, match=r"shape \(2,\): sum or average"):
        (x * 2).backward()
    with pytest.raises(GraphError, match=r"nothing .* requires a gradient"):
        nabi.tensor(1.0).backward()
    with pytest.raises(GraphError, match="does not require a gradient"):
        nabi.gradients(ops.sum(x), [nabi.tensor(1.0, name="c")])
    with pytest.raises(DTypeError, match="int64"):
        nabi.grad(lambda x: x)(nabi.tensor(1))
    with pytest.raises(GraphError, match="not float"):
        nabi.grad(lambda x: 1.0)(2.0)


def test_a_chain_of_100_000_nodes() -> None:
    x = nabi.tensor(1.0, requires_grad=True)
    y = x
    for _ in range(100_000):
        y = y + 1.0
    y.backward()
    assert float(x.grad) == 1
    assert float(nabi.gradients(y, [x])[0]) == 1
    del y  # taking it apart must not recurse either


def test_check_gradients_finds_a_wrong_rule_by_name() -> None:
    wrong = lambda x: ops.exp(x) + ops.stop_gradient(x * x)
    with pytest.raises(GradientError, match=r"order 1, argument weight\[1\]: analytic .*, numeric "):
        nabi.check_gradients(wrong, nabi.tensor([0.0, 2.0], name="weight"))
    second = lambda x: ops.sum(nabi.grad(lambda y: ops.sum(y**3))(x)) + 0 * ops.sum(x)
    assert nabi.check_gradients(second, [1.0, 2.0]).error < 1e-6


def test_threads_do_not_disturb_each_other() -> None:
    """One thread records while another computes."""
    failures: list[BaseException] = []

    def record() -> None:
        try:
            for _ in range(50):
                assert float(nabi.compile(lambda x: ops.exp(x) * x)(1.0)) > 2.7
        except BaseException as error:
            failures.append(error)

    def compute() -> None:
        try:
            for _ in range(500):
                x = nabi.tensor(2.0, requires_grad=True)
                (x * x).backward()
                assert float(x.grad) == 4
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=t) for t in (record, compute, record, compute)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures


def test_nests() -> None:
    tree: Any = {"a": [1, (2, 3)], "b": {"c": 4}}
    leaves, rebuild = nest.flatten(tree)
    assert leaves == [1, 2, 3, 4]
    assert rebuild([10, 20, 30, 40]) == {"a": [10, (20, 30)], "b": {"c": 40}}
    shared = nabi.tensor(1.0)
    loop: dict[str, Any] = {"x": shared, "again": shared}
    loop["self"] = loop
    assert list(nest.tensors(loop)) == ["x"]
