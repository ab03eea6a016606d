"""What is known of a plan's kernels from an earlier process: the same kernels, and never those of another plan."""

import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import nabi
from nabi import cache, engines, machine, ops
from nabi.engines.cpu import blas, programs, recall
from nabi.engines.cpu.program import Program
from nabi.graph.operation import Operation, registry
from nabi.graph.plan import Plan
from nabi.nn import parameters
from random_graphs import SMALL
from random_graphs import Program as RandomProgram
from test_cpu_engine import plan_of

X = np.random.default_rng(0).standard_normal((8, 12, 12, 3)).astype(np.float32)
W = np.random.default_rng(1).standard_normal((3, 3, 3, 16)).astype(np.float32)


def network(x: Any, w: Any) -> Any:
    return ops.log_softmax(ops.mean(ops.relu(ops.conv2d(x, w, padding=1) * 0.5), axis=(1, 2)))


def larger() -> Plan:
    """A plan of several kernels."""
    a, b = (np.ones(shape, np.float32) for shape in ((600, 256), (256, 256)))

    def function(a: Any, b: Any) -> Any:
        hidden = ops.relu(a @ b)
        return ops.sum(ops.exp(hidden / ops.sum(hidden)) @ b, axis=0)

    return plan_of(function, a, b)


@pytest.fixture(autouse=True)
def _a_cache(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NABI_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Has an element for each text that is written."""
    texts: list[int] = []
    real = Program._write

    def write(self: Program, *given: Any) -> Any:
        texts.append(1)
        return real(self, *given)

    monkeypatch.setattr(Program, "_write", write)
    return texts


def named(plan: Plan, *how: Any) -> str:
    name = recall.name_of(plan, *how)
    assert name is not None
    return name


def test_a_plan_that_is_known_is_not_written_again(written: list[int]) -> None:
    plans = [larger() for _ in range(2)]
    names = [named(plan, 0) for plan in plans]
    assert names[0] == names[1]
    first = Program(plans[0], name=names[0])
    count = len(written)
    assert count == len(first.kernels) > 1
    again = Program(plans[1], name=names[1])
    assert len(written) == count
    assert again.kernels == first.kernels
    for what in ("scratch", "calls_blas", "size", "offsets"):
        assert getattr(again, what) == getattr(first, what)


def test_the_engine_asks_for_what_is_known(written: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "KEPT", 8)
    wanted = engines.prepare("cpu", plan_of(network, X, W))([X, W])
    count = len(written)
    assert count
    programs._places.clear()
    got = engines.prepare("cpu", plan_of(network, X, W))([X, W])
    assert len(written) == count
    assert all(a.tobytes() == b.tobytes() for a, b in zip(wanted, got, strict=True))


@pytest.mark.parametrize(
    "other",
    [
        lambda x, w: network(x, w) + 1,
        lambda x, w: ops.log_softmax(ops.mean(ops.relu(ops.conv2d(x, w, padding=1) * 0.25), axis=(1, 2))),
        lambda x, w: ops.log_softmax(ops.mean(ops.relu(ops.conv2d(x, w, padding=1) * -0.5), axis=(1, 2))),
        lambda x, w: ops.log_softmax(ops.mean(ops.relu(ops.conv2d(x, w, padding=0) * 0.5), axis=(1, 2))),
        lambda x, w: ops.log_softmax(ops.mean(ops.tanh(ops.conv2d(x, w, padding=1) * 0.5), axis=(1, 2))),
        lambda x, w: ops.log_softmax(ops.mean(ops.relu(ops.conv2d(x, w, padding=1) * 0.5), axis=(2, 1))),
        lambda x, w: (network(x, w), x),
    ],
)
def test_another_plan_has_another_name(other: Callable[..., Any]) -> None:
    assert named(plan_of(other, X, W)) != named(plan_of(network, X, W))


def test_so_has_one_of_other_arrays_or_made_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(network, X, W)
    names = [
        named(plan, 0, True, False, ()),
        named(plan, 1, True, False, ()),
        named(plan, 0, False, False, ()),
        named(plan, 0, True, True, ()),
        named(plan, 0, True, False, (0,)),
        named(plan_of(network, X[:4], W), 0, True, False, ()),
        named(plan_of(network, X.astype(np.float64), W.astype(np.float64)), 0, True, False, ()),
    ]
    with machine.pretending(machine.narrower(machine.processor())):
        names.append(named(plan, 0, True, False, ()))
    monkeypatch.setattr(blas, "find", lambda: None)
    names.append(named(plan, 0, True, False, ()))
    monkeypatch.setattr(recall, "_version", lambda: "of tomorrow")
    names.append(named(plan, 0, True, False, ()))
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("one", "other"), [(0.0, -0.0), (1, 1.0), (1, True), (np.float32(1), np.float64(1)), ((1, 2), [1, 2]), ("1", 1),
                       (slice(1), slice(1, None)), (..., None), (np.dtype("f4"), np.dtype("f8")), ({1: 2}, {1: 3})]
)  # fmt: skip
def test_settings_that_differ_are_told_apart(one: Any, other: Any) -> None:
    assert recall._plain(one) != recall._plain(other)
    assert recall._plain(one) == recall._plain(one)


def test_what_is_somebodys_own_is_written_each_time() -> None:
    def cube(xp: Any, x: Any) -> Any:
        """y = x³"""
        return x * x * x

    own = Operation(cube, "elementwise", True, True)
    assert recall.name_of(plan_of(lambda x: own(x) + 1, X)) is None
    with pytest.raises(TypeError, match="a function is not told"):
        recall._plain(cube)


def test_of_an_operation_that_took_the_name_of_another_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others, that are still nabi's, are made of it."""

    def exp(xp: Any, x: Any) -> Any:
        """y = 2ˣ"""
        return 2**x

    plan = plan_of(network, X, W)
    assert recall.name_of(plan) is not None
    monkeypatch.setitem(registry, "exp", Operation(exp, "elementwise", True, True))
    assert recall.name_of(plan) is None
    exp.__module__ = None  # type: ignore[assignment]
    assert recall.name_of(plan_of(lambda x: registry["exp"](x) + 1, X)) is None


class Slope(float):
    def __repr__(self) -> str:
        return "0.1"


@pytest.mark.parametrize("value", [Slope(5), np.array(1.0), np.array([1], object), type("Own", (np.float64,), {})(1)])
def test_what_may_say_anything_of_itself_is_not_believed(value: Any) -> None:
    with pytest.raises(TypeError, match="is not told by what it says"):
        recall._plain(value)


@pytest.mark.parametrize("trouble", ["changed", "none there", "another loaded"])
def test_files_that_are_not_what_is_running_say_nothing(
    trouble: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """As after an upgrade under a running process, or from a zip, which no kernel may be noted down under."""
    plan = plan_of(network, X, W)
    known = recall.name_of(plan)
    monkeypatch.setattr(recall, "_version", recall._version.__wrapped__)
    assert recall.name_of(plan) == known is not None
    if trouble == "changed":
        monkeypatch.setattr(recall, "BEGUN", 0.0)
    elif trouble == "none there":
        monkeypatch.setattr(machine, "__file__", str(tmp_path / "nabi.zip/nabi/machine.py"))
    else:
        extra = types.ModuleType("nabi.ops.extra")
        extra.__file__ = str(tmp_path / "extra.pyc")
        monkeypatch.setitem(sys.modules, "nabi.ops.extra", extra)
    assert recall.name_of(plan) is None


def test_another_compiler_is_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(network, X, W)
    before = named(plan)
    monkeypatch.setattr(machine.llvmlite, "__version__", "99")
    assert named(plan) != before


@pytest.mark.parametrize("damage", ["a kernel is gone", "the note is damaged", "the note is short", "no cache"])
def test_what_is_not_there_any_more_is_made_again(
    damage: str, written: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    plan = larger()
    name = named(plan)
    monkeypatch.setattr(machine, "_state", {})  # as in a new process
    first = Program(plan, name=name)
    folder = cache.folder() / machine.FOLDER
    monkeypatch.setattr(machine, "_state", {})
    written.clear()
    if damage == "a kernel is gone":
        (folder / f"{first.kernels[0].name}.o").unlink()
    elif damage == "the note is damaged":
        (folder / f"{name}.o").write_bytes(b"x" * 100)
    elif damage == "the note is short":
        recall.remember(name, first.kernels[:1])
    else:
        monkeypatch.setenv("NABI_CACHE", str(tmp_path / "another"))
    assert Program(plan, name=name).kernels == first.kernels
    assert len(written) == (1 if damage == "a kernel is gone" else len(first.kernels) - (damage == "the note is short"))
    written.clear()
    assert Program(plan, name=name).kernels == first.kernels
    assert not written


def test_training_goes_on_with_the_same_bits(monkeypatch: pytest.MonkeyPatch, written: list[int]) -> None:
    monkeypatch.setattr(programs, "KEPT", 32)
    rows = np.random.default_rng(2).standard_normal((300, 20)).astype(np.float32)
    labels = np.arange(300) % 3

    def trained() -> list[bytes]:
        programs._places.clear()
        classifier = nabi.MLPClassifier((64,), max_iter=2, random_state=0, engine="cpu").fit(rows, labels)
        return [
            classifier.predict_proba(rows).tobytes(),
            *(w.numpy().tobytes() for w in parameters(classifier.model_).values()),
        ]

    first = trained()
    assert written
    written.clear()
    assert trained() == first
    assert not written


@pytest.mark.parametrize("seed", range(60_000, 60_012))
def test_random_programs_are_known_again(seed: int) -> None:
    program = RandomProgram(seed, SMALL)
    plans = [program.plan(), program.plan()]
    names = [named(plan) for plan in plans]
    assert names[0] == names[1]
    assert Program(plans[0], name=names[0]).kernels == Program(plans[1], name=names[1]).kernels


def test_products_are_those_of_numpys_blas() -> None:
    """SciPy has one, too, and which comes first among all libraries is chance."""
    import scipy.linalg  # noqa: F401

    blas._found.cache_clear()
    found = blas._found()
    assert found is None or "numpy" in found[2]._name
