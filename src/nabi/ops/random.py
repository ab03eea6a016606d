"""Random numbers, as pure functions of a key; see `nabi.random` for the generator."""

from typing import Any

from nabi import random
from nabi.errors import DTypeError, SettingError
from nabi.graph.operation import Integer, below, key, operation, real


def _check_key(key: Any, *rest: Any, **settings: Any) -> None:
    if key.shape != (2,) or key.dtype != "uint32":
        raise DTypeError(f"a key is uint32 of shape (2,), as nabi.random.key makes it, not {key.dtype} {key.shape}")


@operation("random", differentiable=False, example=[key(), below(9)])
def fold_in(xp: Any, key: Integer, data: Integer) -> Any:
    """y = a new key, made of a key and an integer"""
    return random.fold_in(xp, key, data)


@operation("random", differentiable=False, example=[key()], shape=(2, 3))
def random_bits(xp: Any, key: Integer, *, shape: tuple[int, ...]) -> Any:
    """y = random 32-bit words"""
    return random.bits(xp, key, shape)


@operation("random", differentiable=False, example=[key()], shape=(2, 3))
def random_uniform(xp: Any, key: Integer, *, shape: tuple[int, ...]) -> Any:
    """y ~ uniform in [0, 1)"""
    return random.uniform(xp, key, shape)


@operation("random", differentiable=False, example=[key()], shape=(2, 3))
def random_normal(xp: Any, key: Integer, *, shape: tuple[int, ...]) -> Any:
    """y ~ normal, mean 0 and variance 1"""
    return random.normal(xp, key, shape)


@operation("random", differentiable=False, example=[key()], shape=(2, 3), low=-2, high=5)
def random_integers(xp: Any, key: Integer, *, shape: tuple[int, ...], low: int, high: int) -> Any:
    """y ~ the integers low … high - 1, each as likely as the other"""
    if high <= low:
        raise SettingError(f"random_integers: high={high} must be above low={low}")
    return random.integers(xp, key, shape, low, high)


@operation("random", differentiable=False, example=[key()], length=5)
def random_permutation(xp: Any, key: Integer, *, length: int) -> Any:
    """y = the integers below length in random order"""
    return random.permutation(xp, key, length)


for _draw in (fold_in, random_bits, random_uniform, random_normal, random_integers, random_permutation):
    _draw.check(_check_key)


@operation("composite", example=[real(4, 3), key()], rate=0.4)
def dropout(xp: Any, x: Any, key: Integer, *, rate: float) -> Any:
    """y = x / (1 - rate), each element zero with probability rate"""
    if not 0 <= rate < 1:
        raise SettingError(f"dropout: rate={rate} must lie in [0, 1)")
    keep = xp.random_uniform(key, shape=x.shape) >= rate
    return xp.where(keep, x / (1 - rate), 0)
