"""Compiled functions: what is recorded, what is refused, when they are recorded again, and that nothing is lost."""

import contextlib
import copy
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import nabi
from forks import ends_well
from nabi import ops
from nabi.engines import prepare, reference
from nabi.errors import CompileError, DTypeError, GraphError, SettingError, ShapeError
from nabi.graph.plan import last_uses, make_plan, verify
from nabi.graph.shapes import Spec

SCALE = 2.0


def scaled(x: Any) -> Any:
    return x * SCALE


class Counter:
    """State with a tensor and a plain field."""

    def __init__(self) -> None:
        self.total = nabi.tensor(0.0, name="total")
        self.step = 1.0


def test_runs_and_is_recorded_once() -> None:
    double = nabi.compile(lambda x: x * 2)
    assert [float(double(v)) for v in (1.0, 2.5)] == [2.0, 5.0]
    assert double.recordings == ["first call"]


def test_another_shape_or_dtype_is_recorded_again_and_told() -> None:
    total = nabi.compile(lambda x: ops.sum(x))
    assert float(total(np.ones((2, 3), np.float32))) == 6
    assert float(total(np.ones((4,), np.float32))) == 4
    assert total(np.ones((4,))).dtype == np.float64
    assert float(total(np.ones((2, 3), np.float32))) == 6
    assert total.recordings == ["first call", "changed: argument 0", "changed: argument 0"]


@pytest.mark.parametrize(
    ("branch", "hint"),
    [
        (lambda x: x if x > 0 else -x, "where"),
        (lambda x: x * float(x), "return it"),
        (lambda x: x * x.item(), "return it"),
        (lambda x: ops.full(shape=(int(x),), value=1.0), "keyword"),
        (lambda x: np.asarray(x) * 2, "return it"),
        (lambda x: x.numpy(), "return it"),
        (lambda x: [1, 2][x.astype("int64")], "keyword"),
    ],
)
def test_asking_a_symbol_for_its_value_is_refused(branch: Any, hint: str) -> None:
    with pytest.raises(CompileError, match=hint):
        nabi.compile(branch)(1.0)


def test_asking_state_for_its_value_is_refused() -> None:
    weight = nabi.tensor(3.0, name="weight")
    with pytest.raises(CompileError, match=r"float\(\) of tensor 'weight'"):
        nabi.compile(lambda x: x * float(weight), state=weight)(1.0)


def test_an_undeclared_tensor_is_named() -> None:
    weight = nabi.tensor(3.0, name="weight")
    with pytest.raises(CompileError, match="'weight' is used by a compiled function but not declared"):
        nabi.compile(lambda x: x * weight)(1.0)
    with pytest.raises(CompileError, match="'weight' is changed by a compiled function but not declared"):
        nabi.compile(lambda x: weight.assign(x))(1.0)
    assert float(nabi.compile(lambda x: x * weight, state=weight)(2.0)) == 6


def test_a_symbol_does_not_leak() -> None:
    kept = []
    nabi.compile(lambda x: kept.append(x))(1.0)
    with pytest.raises(CompileError, match="earlier recording"):
        nabi.compile(lambda x: x + kept[0])(1.0)


def test_positional_numbers_are_inputs() -> None:
    scale = nabi.compile(lambda x, factor: x * factor)
    x = np.ones(2, np.float32)
    assert scale(x, 2.0).numpy().tolist() == [2, 2]
    assert scale(x, 0.1).numpy().tolist() == (nabi.tensor(x) * 0.1).numpy().tolist()
    assert scale(x, 0.1).dtype == np.float32, "a number yields to the array beside it"
    assert scale(x.astype(np.float64), 0.1).numpy().tolist() == [0.1, 0.1], "and is not rounded on the way"
    assert len(scale.recordings) == 2


def test_changed_numbers_around_the_function_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    doubled = nabi.compile(scaled)
    assert float(doubled(3.0)) == 6
    monkeypatch.setitem(globals(), "SCALE", 5.0)
    assert float(doubled(3.0)) == 15
    assert doubled.recordings[-1] == "changed: global SCALE"

    factor = 2.0
    closed = nabi.compile(lambda x: x * factor)
    assert float(closed(3.0)) == 6
    factor = 7.0
    assert float(closed(3.0)) == 21
    assert closed.recordings[-1] == "changed: closure factor"

    by_keyword = nabi.compile(lambda x, *, power: x**power)
    assert [float(by_keyword(3.0, power=p)) for p in (2, 3, 2)] == [9, 27, 9]
    assert by_keyword.recordings[-1] == "changed: keyword power"

    counter = Counter()
    count = nabi.compile(lambda: counter.total.assign(counter.total + counter.step), state=counter)
    count()
    counter.step = 10.0
    count()
    assert float(counter.total) == 11
    assert count.recordings[-1] == "changed: state step"


def test_state_is_updated_and_reads_see_the_update() -> None:
    counter = Counter()

    @nabi.compile(state={"nested": [counter]})
    def advance(x: Any) -> Any:
        before = counter.total * 1
        counter.total.assign(counter.total + x)
        return before, counter.total, {"twice": counter.total * 2}

    before, after, rest = advance(2.0)
    assert (float(before), float(after), float(rest["twice"])) == (0, 2, 4)
    advance(3.0)
    assert float(counter.total) == 5
    assert counter.total.name == "total"
    assert counter.total.operation is None, "still a leaf, without a history"
    assert float(after) == 2, "what was handed out does not change"


def test_an_error_while_recording_leaves_state_as_it_was() -> None:
    counter = Counter()

    def fails() -> None:
        counter.total.assign(counter.total + 1)
        raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        nabi.compile(fails, state=counter)()
    assert float(counter.total) == 0
    assert float(counter.total + 1) == 1, "and the eager interpreter is in charge again"


def test_assign_checks_shape_and_dtype() -> None:
    counter = Counter()
    for assign in (
        lambda v: counter.total.assign(v),
        lambda v: nabi.compile(lambda: counter.total.assign(v), state=counter)(),
    ):
        with pytest.raises(ShapeError, match=r"'total' has shape \(\), the new value \(2,\)"):
            assign(np.ones(2, np.float32))
        with pytest.raises(DTypeError, match="float32, the new value float64"):
            assign(np.array(1.0))
    with pytest.raises(GraphError, match="only leaves"):
        (nabi.tensor(1.0, requires_grad=True) * 2).assign(1.0)


def test_gradients_inside_a_compiled_function_to_second_order() -> None:
    cube = lambda x: x**3
    assert float(nabi.compile(lambda x: nabi.grad(nabi.grad(cube))(x))(nabi.tensor(2.0))) == 12
    w = nabi.tensor(2.0, requires_grad=True)
    slope = nabi.compile(lambda x: nabi.gradients(x * w * w, [w])[0], state=w)
    assert float(slope(3.0)) == 12
    with pytest.raises(GraphError, match=r"nabi\.gradients"):
        nabi.compile(lambda: (w * w).backward(), state=w)()


def test_a_compiled_function_inside_another_is_part_of_it() -> None:
    inner = nabi.compile(lambda x: x + 1)
    outer = nabi.compile(lambda x: inner(x) * 2)
    assert float(outer(1.0)) == 4
    assert inner.recordings == []


def test_no_grad_is_recorded() -> None:
    w = nabi.tensor(2.0, requires_grad=True)

    def slope() -> Any:
        with nabi.no_grad():
            frozen = w * 1
        return nabi.gradients(frozen * w, [w])[0]

    assert float(nabi.compile(slope, state=w)()) == float(slope()) == 2


def test_constants_made_inside_are_allowed() -> None:
    f = nabi.compile(lambda x: x + nabi.tensor([1.0, 2.0]) + np.array([10.0, 20.0], np.float32))
    assert f(np.zeros(2, np.float32)).numpy().tolist() == [11, 22]


def test_a_returned_input_is_a_copy() -> None:
    x = np.ones(3, np.float32)
    same = nabi.compile(lambda x: (x, x.reshape(3, 1)))(x)
    x[:] = 5
    assert all((r.numpy() == 1).all() for r in same)


def test_unknown_engine() -> None:
    with pytest.raises(SettingError, match="engine 'gpu' is not one of auto, reference"):
        nabi.compile(lambda x: x, engine="gpu")(1.0)


def test_unsuitable_argument() -> None:
    with pytest.raises(CompileError, match=r"argument 0 .* is str"):
        nabi.compile(lambda x: x)("text")


# --- plans ---


def example_plan() -> Any:
    return nabi.compile(lambda x, y: ops.exp(x) * y + ops.exp(x)).plan(nabi.tensor([1.0, 2.0]), nabi.tensor([3.0, 4.0]))


def test_duplicates_are_merged_and_unused_nodes_dropped() -> None:
    def f(x: Any) -> Any:
        ops.sqrt(x)
        return ops.exp(x) * ops.exp(x)

    assert [n.operation.name for n in nabi.compile(f).plan(nabi.tensor([1.0])).nodes] == ["exp", "multiply"]


def test_verify_names_the_node_that_is_stated_wrongly() -> None:
    plan = example_plan()
    plan.nodes[1].spec = Spec((3,), np.float32)
    with pytest.raises(GraphError, match=r"multiply is stated as float32\(3\), but its operation gives float32\(2\)"):
        verify(plan)


def test_verify_names_a_node_whose_input_is_missing() -> None:
    plan = example_plan()
    with pytest.raises(GraphError, match="multiply uses exp, which is not computed before it"):
        verify(plan._replace(nodes=plan.nodes[1:]))
    with pytest.raises(GraphError, match="the output add is never computed"):
        verify(plan._replace(nodes=plan.nodes[:-1]))
    with pytest.raises(GraphError, match="neither an input nor a constant"):
        make_plan(plan.inputs[1:], plan.outputs)


def test_every_value_is_let_go_once_and_no_output_is() -> None:
    plan = example_plan()
    dead = [serial for some in last_uses(plan) for serial in some]
    assert len(dead) == len(set(dead))
    assert plan.outputs[0].serial not in dead


@pytest.mark.parametrize("block", [1, 7, 64, 10**9])
def test_blocks_do_not_change_a_bit(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elementwise nodes run together, a block of rows at a time, give what they give one by one."""
    monkeypatch.setattr(reference, "BLOCK", block)
    rng = np.random.default_rng(0)
    x = nabi.tensor(rng.standard_normal((33, 5)).astype(np.float32), requires_grad=True)
    b = nabi.tensor(rng.standard_normal(5).astype(np.float32), requires_grad=True)
    column = nabi.tensor(rng.standard_normal((33, 1)).astype(np.float32))

    def f(x: Any, b: Any, column: Any) -> Any:
        h = ops.tanh(x + b) * column
        s = ops.sum(h, axis=0)
        y = ops.gelu(h) / (1 + ops.exp(-h)) + s
        loss = ops.mean(y * y)
        return loss, h, ops.where(y > 0, y, 0.1 * y), *nabi.gradients(loss, [x, b])

    eager = f(x, b, column)
    plan = nabi.compile(f).plan(x, b, column)
    run = prepare("reference", plan)
    for _ in range(3):
        for got, wanted in zip(run([x.value, b.value, column.value]), eager, strict=True):
            np.testing.assert_array_equal(got, wanted.numpy())


def test_what_was_handed_out_is_never_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "BLOCK", 4)
    double = nabi.compile(lambda x: ops.exp(x * 2) + 1)
    kept, views = [], []
    for i in range(6):
        result = double(np.full((8, 3), i / 10, np.float32))
        kept.append(result)
        views.append(double(np.full((8, 3), -i / 10, np.float32)).value[1:])
    for i, (result, view) in enumerate(zip(kept, views, strict=True)):
        assert np.allclose(result.numpy(), math.exp(i / 5) + 1)
        assert np.allclose(view, math.exp(-i / 5) + 1)


def test_a_training_step_repeats_eager_bit_for_bit() -> None:
    rng = np.random.default_rng(0)
    data = rng.standard_normal((16, 5)).astype(np.float32)
    labels = rng.integers(0, 3, 16)

    def make() -> list[Any]:
        r = np.random.default_rng(1)
        shapes = [(5, 4), (4,), (4, 3)]
        return [nabi.tensor(r.standard_normal(s).astype(np.float32), requires_grad=True) for s in shapes]

    def step(parameters: list[Any], x: Any, y: Any, rate: Any) -> Any:
        hidden = ops.relu(x @ parameters[0] + parameters[1])
        picked = ops.take_along_axis(ops.log_softmax(hidden @ parameters[2]), ops.expand_dims(y, axis=1), axis=1)
        loss = -picked.mean()
        for p, g in zip(parameters, nabi.gradients(loss, parameters), strict=True):
            p.assign(p - rate * g)
        return loss

    eager, compiled = make(), make()
    run = nabi.compile(lambda x, y, rate: step(compiled, x, y, rate), state=compiled)
    for _ in range(20):
        a = step(eager, nabi.tensor(data), nabi.tensor(labels), 0.1)
        b = run(data, labels, 0.1)
        assert a.numpy() == b.numpy()
    for p, q in zip(eager, compiled, strict=True):
        np.testing.assert_array_equal(p.numpy(), q.numpy())
        assert p.operation is None


def at_once(work: Callable[[], Any], callers: int = 4) -> None:
    """Have several threads do this, in the smallest turns that Python knows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(callers) as pool:
            for done in [pool.submit(work) for _ in range(callers)]:
                done.result(timeout=60)
    finally:
        sys.setswitchinterval(before)


@pytest.mark.parametrize("engine", ["reference", "cpu"])
def test_of_calls_from_several_threads_no_update_is_lost(engine: str) -> None:
    total = nabi.tensor(np.zeros(3, np.float32))
    add = nabi.compile(lambda x: total.assign(total + x), state=total, engine=engine)

    def work() -> None:
        for _ in range(200):
            add(np.ones(3, np.float32))

    at_once(work)
    np.testing.assert_array_equal(total.numpy(), np.full(3, 800, np.float32))


def test_several_threads_that_call_first_record_once() -> None:
    ready = threading.Barrier(6)

    @nabi.compile
    def double(x: Any) -> Any:
        time.sleep(0.05)
        return x * 2

    def work() -> None:
        ready.wait(60)
        for length in (1, 2, 3):
            assert double(np.ones(length, np.float32)).shape == (length,)

    at_once(work, callers=6)
    assert len(double.recordings) == 3


def test_what_changes_while_a_thread_waits_is_seen() -> None:
    """It waits until another has recorded the function for another shape."""
    rate, begun, go_on = [1.0], threading.Event(), threading.Event()

    @nabi.compile
    def scaled(x: Any) -> Any:
        if x.shape[0] == 7:
            begun.set()
            go_on.wait(60)
        return x * rate[0]

    with ThreadPoolExecutor(2) as pool:
        pool.submit(scaled, np.ones(7, np.float32))
        begun.wait(60)
        waiting = pool.submit(scaled, np.ones(3, np.float32))
        time.sleep(0.1)
        rate[0] = 5.0
        go_on.set()
        assert waiting.result(60).numpy().tolist() == [5, 5, 5]
    rate[0] = 1.0
    assert scaled(np.ones(3, np.float32)).numpy().tolist() == [1, 1, 1]


def test_a_function_may_be_asked_while_it_is_recorded(caplog: pytest.LogCaptureFixture) -> None:
    double = nabi.compile(lambda x: x * 2)
    inner = []

    class Curious(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if not inner:
                inner.append(None)
                inner.append(double.plan(np.ones(2, np.float32)))

    log, handler = logging.getLogger("nabi.compile"), Curious()
    log.addHandler(handler)
    try:
        with caplog.at_level(logging.INFO, "nabi.compile"):
            assert double(np.ones(3, np.float32)).shape == (3,)
    finally:
        log.removeHandler(handler)
    assert len(inner) == 2


def test_a_function_that_was_not_called_can_be_copied() -> None:
    twice = copy.deepcopy(nabi.compile(scaled))
    assert float(twice(3.0)) == 6.0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_fork_in_the_middle_of_a_turn_has_a_turn_of_its_own() -> None:
    total = nabi.tensor(0.0)
    add = nabi.compile(lambda x: total.assign(total + x), state=total)
    add(1.0)
    with add._turn("run"):  # as another thread may have it, which is not there in the child
        child = os.fork()
        if not child:
            with contextlib.suppress(BaseException):
                add(1.0)
                os._exit(0 if float(total) == 2 else 2)
            os._exit(77)
    ends_well(child)
    assert float(total) == 1
