"""The generator: published values, distribution, and independence of what was drawn before."""

import numpy as np
import pytest

import nabi
from nabi import ops, random
from nabi.graph import namespace

xp = namespace.numpy


@pytest.mark.parametrize(
    ("key", "counter", "words"),
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_known_answers_of_the_paper_s_authors(
    key: tuple[int, int], counter: tuple[int, int], words: tuple[int, int]
) -> None:
    """The known-answer test vectors of Random123 for threefry2x32 with 20 rounds."""
    x0, x1 = (np.array([c], np.uint32) for c in counter)
    found = random.threefry2x32(xp, np.array(key, np.uint32), x0, x1)
    assert tuple(int(w[0]) for w in found) == words


def test_keys() -> None:
    assert random.key(2**40 + 5).tolist() == [256, 5]
    for bad in (-1, 2**64):
        with pytest.raises(ValueError, match="seed"):
            random.key(bad)


def test_uniforms_fill_the_unit_interval_evenly() -> None:
    u = random.uniform(xp, random.key(1), (100_000,))
    assert u.dtype == np.float32
    assert 0 <= u.min() < 1e-4
    assert 1 - 1e-4 < u.max() < 1
    counts = np.histogram(u, 20, (0, 1))[0]
    assert ((counts - 5000) ** 2 / 5000).sum() < 44, "chi-squared with 19 degrees of freedom, p = 0.001"


def test_normals() -> None:
    z = random.normal(xp, random.key(2), (200_000,)).astype(np.float64)
    assert abs(z.mean()) < 4 / np.sqrt(200_000)
    assert abs(z.var() - 1) < 0.02
    assert abs((z**4).mean() - 3) < 0.1


def test_integers_and_permutations() -> None:
    n = random.integers(xp, random.key(3), (10_000,), -2, 5)
    assert sorted(set(n.tolist())) == [-2, -1, 0, 1, 2, 3, 4]
    order = random.permutation(xp, random.key(4), 1000)
    assert sorted(order.tolist()) == list(range(1000))
    assert order.tolist() != list(range(1000))


def test_a_draw_is_a_pure_function_of_its_key() -> None:
    key = random.key(7)
    a = ops.random_normal(key, shape=(3, 4)).numpy()
    ops.random_uniform(key, shape=(1000,))
    assert (ops.random_normal(key, shape=(3, 4)).numpy() == a).all()
    other = ops.fold_in(key, 1)
    assert not (ops.random_normal(other, shape=(3, 4)).numpy() == a).any()
    assert (ops.fold_in(key, 1).numpy() == other.numpy()).all()
    assert not (ops.fold_in(key, 2).numpy() == other.numpy()).all()


def test_compiled_draws_equal_eager_ones() -> None:
    draw = lambda key, i: ops.random_uniform(ops.fold_in(key, i), shape=(5,))
    compiled = nabi.compile(draw)
    key = random.key(1)
    for i in range(3):
        assert (compiled(key, i).numpy() == draw(key, i).numpy()).all()
    assert compiled.recordings == ["first call"]


def test_dropout_keeps_the_expectation() -> None:
    x = nabi.tensor(np.ones(100_000, np.float32))
    y = ops.dropout(x, random.key(5), rate=0.25).numpy()
    assert set(np.unique(y).tolist()) == {0.0, np.float32(1) / np.float32(0.75)}
    assert abs(y.mean() - 1) < 0.01
    with pytest.raises(nabi.errors.SettingError, match=r"rate=1\.0"):
        ops.dropout(x, random.key(5), rate=1.0)
