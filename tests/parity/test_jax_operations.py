"""Every operation's formula and rules over jax.numpy: the same formulas serve XLA, and random bits are the same."""

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nabi import random
from nabi.graph import indexing, namespace
from nabi.graph.operation import Operation
from operation_inputs import OPERATIONS, calls

jax = pytest.importorskip("jax")
pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def xp() -> Any:
    import jax.numpy as jnp
    from jax.scipy.special import erf

    jax.config.update("jax_enable_x64", True)

    def scatter_add(x: Any, updates: Any, *indices: Any, key: tuple[Any, ...]) -> Any:
        return x.at[indexing.join(key, indices)].add(updates)

    return namespace.Namespace(
        jnp,
        pad=lambda x, widths, value=0.0: jnp.pad(x, widths, constant_values=value),
        getitem=lambda x, *indices, key: x[indexing.join(key, indices)],
        scatter_add=scatter_add,
        precise_matmul=jnp.matmul,
        erf=erf,
    )


def as_tuple(result: Any) -> tuple[Any, ...]:
    return result if isinstance(result, tuple) else (result,)


def assert_close(got: Any, wanted: Any) -> None:
    got, wanted = np.asarray(got), np.asarray(wanted)
    assert got.dtype == wanted.dtype
    if wanted.dtype.kind == "f":
        # float32 appears only in random numbers: uniforms are exact, normals within 4 units in the last place.
        np.testing.assert_allclose(got, wanted, rtol=1e-11 if wanted.dtype == np.float64 else 4.8e-7, atol=1e-11)
    else:
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda o: o.name)
@settings(max_examples=3, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_operation_over_jax(xp: Any, operation: Operation, data: Any) -> None:
    values, how = data.draw(calls(operation))
    how = operation.complete(how)
    traced = [xp.asarray(v) for v in values]
    with np.errstate(all="ignore"):
        wanted = operation.forward(namespace.numpy, *values, **how)
        got = operation.forward(xp, *traced, **how)
    for a, b in zip(as_tuple(got), as_tuple(wanted), strict=True):
        assert_close(a, b)
    rng = np.random.default_rng(0)
    g = tuple(rng.standard_normal(np.shape(w)) for w in as_tuple(wanted))
    as_given = (lambda parts: parts) if isinstance(wanted, tuple) else (lambda parts: parts[0])
    for i in range(len(values)):
        rule = operation.rule(i)
        if rule is None or operation.kind == "composite":
            continue
        with np.errstate(all="ignore"):
            expected = rule(namespace.numpy, as_given(g), wanted, *values, **how)
            found = rule(xp, as_given(tuple(map(xp.asarray, g))), got, *traced, **how)
        if expected is None:
            assert found is None
        else:
            assert_close(found, expected)


@settings(max_examples=20, deadline=None, derandomize=True, database=None)
@given(
    seed=st.integers(0, 2**64 - 1),
    shape=st.sampled_from([(), (1,), (7,), (4, 8), (3, 0), (1023,)]),
)
def test_random_bits_are_the_same(xp: Any, seed: int, shape: tuple[int, ...]) -> None:
    key = random.key(seed)
    traced = xp.asarray(key)
    for draw in (random.bits, random.uniform, lambda *a: random.integers(*a, -5, 12)):
        np.testing.assert_array_equal(draw(namespace.numpy, key, shape), draw(xp, traced, shape))
    np.testing.assert_array_equal(random.permutation(namespace.numpy, key, 50), random.permutation(xp, traced, 50))
    np.testing.assert_array_equal(random.fold_in(namespace.numpy, key, np.int64(9)), random.fold_in(xp, traced, 9))


def test_threefry_is_the_published_cipher(xp: Any) -> None:
    """Against JAX's own implementation of Threefry-2x32."""
    from jax.extend.random import threefry_2x32

    key = np.array([0x13198A2E, 0x03707344], np.uint32)
    counters = np.arange(10, dtype=np.uint32) * np.uint32(0x10001)
    ours = np.concatenate(random.threefry2x32(namespace.numpy, key, counters[:5], counters[5:]))
    theirs = threefry_2x32(xp.asarray(key), xp.asarray(counters))
    np.testing.assert_array_equal(ours, np.asarray(theirs))
