"""The pool: order, laziness, errors, and that it cannot lock itself up."""

import os
import threading
from typing import Any

import joblib
import numpy as np
import pytest
from joblib.externals.loky import get_reusable_executor
from threadpoolctl import threadpool_info

import nabi
from nabi import threads
from nabi.errors import SettingError
from nabi.graph import namespace


@pytest.fixture(params=[1, 3])
def _some_threads(request):
    threads.set_num_threads(request.param)
    yield
    threads.set_num_threads(None)


@pytest.mark.usefixtures("_some_threads")
class TestMapInOrder:
    def test_results_come_in_the_order_of_the_items(self):
        gates = [threading.Event() for _ in range(2)]

        def work(item):
            if threads.get_num_threads() > 1 and item < 2:  # the first waits until the second is done
                if item == 0:
                    assert gates[1].wait(10)
                gates[item].set()
            return item * item

        assert list(threads.map_in_order(work, range(50))) == [item * item for item in range(50)]

    def test_takes_few_items_ahead_of_an_endless_stream(self):
        taken = 0

        def endless():
            nonlocal taken
            while True:
                taken += 1
                yield taken

        results = threads.map_in_order(lambda item: item, endless(), ahead=5)
        assert [next(results) for _ in range(10)] == list(range(1, 11))
        results.close()
        assert taken <= 16

    def test_an_error_comes_out_at_its_item(self):
        results = threads.map_in_order(lambda item: 1 // (item - 3), range(10))
        assert [next(results) for _ in range(3)] == [-1, -1, -1]
        with pytest.raises(ZeroDivisionError):
            next(results)

    def test_inside_a_worker_it_does_not_wait_for_workers(self):
        def outer(item):
            return sum(threads.map_in_order(lambda inner: inner + item, range(20)))

        assert list(threads.map_in_order(outer, range(20))) == [190 + 20 * item for item in range(20)]


def test_the_pool_has_as_many_threads_as_were_chosen():
    threads.set_num_threads(3)
    try:
        barrier = threading.Barrier(3)
        assert sorted(threads.map_in_order(lambda _: barrier.wait(10), range(3))) == [0, 1, 2]
    finally:
        threads.set_num_threads(None)


def test_the_environment_sets_the_count(monkeypatch):
    monkeypatch.setenv("NABI_NUM_THREADS", "7")
    assert threads.get_num_threads() == 7
    threads.set_num_threads(2)
    assert threads.get_num_threads() == 2
    threads.set_num_threads(None)
    assert threads.get_num_threads() == 7


@pytest.mark.parametrize(
    ("content", "count"),
    [
        ("150000 100000", 2),
        ("100000 100000", 1),
        ("50000 100000", 1),
        ("max 100000", 64),
        ("-1 100000", 64),
        ("9 0", 64),
        ("", 64),
    ],
)
def test_a_container_has_no_more_threads_than_its_time_is_for(monkeypatch, tmp_path, content, count):
    for name in ("NABI_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)), raising=False)
    monkeypatch.setattr(threads, "_quota", threads._quota.__wrapped__)
    (tmp_path / "cpu.max").write_text(f"{content}\n")
    monkeypatch.setattr(threads, "QUOTAS", ((tmp_path / "nothing",), (tmp_path / "cpu.max",)))
    assert threads.get_num_threads() == count
    both = [tmp_path / f"{place}" for place in range(len(content.split()))]
    for path, word in zip(both, content.split(), strict=True):
        path.write_text(f"{word}\n")
    monkeypatch.setattr(threads, "QUOTAS", (both,))
    assert threads.get_num_threads() == count


@pytest.mark.parametrize("given", ["0", "-1", "two", "1.5", "٣"])
def test_a_count_that_is_none_is_refused(monkeypatch, given):
    monkeypatch.setenv("NABI_NUM_THREADS", given)
    with pytest.raises(SettingError, match="NABI_NUM_THREADS"):
        threads.get_num_threads()


@pytest.mark.parametrize("given", [0, -2, 1.5, True, "2"])
def test_what_is_no_number_of_threads_is_refused(given):
    with pytest.raises(SettingError, match="threads"):
        threads.set_num_threads(given)


def blas_threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


@pytest.mark.parametrize(
    "shapes",
    [
        ((333, 777), (777, 1111)),
        ((70_000, 8, 8), (70_000, 8, 8)),
        ((3, 400, 500), (3, 500, 300)),
        ((1, 9000), (9000, 5000)),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_large_products_are_the_same_for_any_number(shapes: Any, dtype: Any) -> None:
    random = np.random.default_rng(0)
    x, y = (random.standard_normal(shape).astype(dtype) for shape in shapes)
    found = []
    for number in (1, 2, 3):
        threads.set_num_threads(number)
        try:
            found.append((nabi.tensor(x) @ nabi.tensor(y)).numpy())
        finally:
            threads.set_num_threads(None)
    assert found[0].tobytes() == found[1].tobytes() == found[2].tobytes()
    assert found[0].dtype == dtype
    np.testing.assert_allclose(found[0], np.matmul(x, y), rtol=1e-4, atol=1e-4)


def test_large_products_are_for_all_threads_of_ours_and_one_of_blas(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, set[int]]] = []
    real = np.matmul

    def watched(*given: Any, **options: Any) -> Any:
        seen.append((threading.current_thread().name, blas_threads()))
        return real(*given, **options)

    monkeypatch.setattr(np, "matmul", watched)
    x = np.ones((600, 600), np.float32)
    threads.set_num_threads(2)
    try:
        namespace.numpy.matmul(x, x)
    finally:
        threads.set_num_threads(None)
    assert len(seen) > 1
    assert set.union(*(blas for _, blas in seen)) == {1}
    assert all(name.startswith("nabi") for name, _ in seen)


def _threads_of_both(_: int) -> tuple[int, set[int]]:
    np.ones((2, 2)) @ np.ones((2, 2))
    return threads.get_num_threads(), blas_threads()


@pytest.mark.parametrize("given", ["", "2", "7"])
def test_workers_of_joblib_use_each_core_once(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    """Whatever the environment gives a process that has the cores to itself."""
    monkeypatch.setenv("NABI_NUM_THREADS", given)
    get_reusable_executor().shutdown(wait=True)  # workers of before have the environment of before
    with joblib.parallel_config(backend="loky", inner_max_num_threads=1):
        found = joblib.Parallel(n_jobs=2)(joblib.delayed(_threads_of_both)(number) for number in range(4))
    assert {number for number, _ in found} == {1}
    assert set.union(*(blas for _, blas in found)) == {1}


def test_blas_works_on_one_thread_until_the_last_one_is_out() -> None:
    info = lambda: [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]
    np.ones((2, 2)) @ np.ones((2, 2))  # so that its library is there
    before = info()
    with threads.one_blas_thread():
        assert set(info()) == {1}
        with threads.one_blas_thread():
            pass
        assert set(info()) == {1}
    assert info() == before
