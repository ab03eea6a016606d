"""The random generator: Threefry-2x32 in uint32 arithmetic alone, written over ``xp``.

A key is two uint32 words. A draw is a pure function of key and shape: the same on every engine and machine for bits,
integers, uniforms and permutations, and within 4 units in the last place for normals (whose logarithm and cosine differ
between libraries). What is drawn never depends on what was drawn before; to draw again, make another key with
`fold_in`.

Source: Salmon, Moraes, Dror and Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3" (SC 2011).
"""

import math
from typing import Any

import numpy as np

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA
DRAWS, KEYS = 0, 1  # the second counter word: numbers and new keys never come from the same block


def key(seed: int) -> np.ndarray[Any, np.dtype[np.uint32]]:
    """Make a key, uint32 of shape (2,), from a seed between 0 and 2**64 - 1.

    Examples
    --------
    >>> key(7)
    array([0, 7], dtype=uint32)
    """
    if not 0 <= seed < 2**64:
        raise ValueError(f"a seed lies between 0 and 2**64 - 1, not {seed}")
    return np.array([seed >> 32, seed & 0xFFFFFFFF], dtype=np.uint32)


def threefry2x32(xp: Any, key: tuple[Any, Any], x0: Any, x1: Any) -> tuple[Any, Any]:
    """Encrypt counters ``x0``, ``x1`` (uint32 arrays of at least one axis) under a key's two: two words for each."""
    words = [*key, xp.bitwise_xor(xp.bitwise_xor(*key), _PARITY)]
    x0 = x0 + words[0]
    x1 = x1 + words[1]
    for block in range(5):
        for rotation in _ROTATIONS[block % 2]:
            x0 = x0 + x1
            x1 = xp.bitwise_or(xp.bitwise_left_shift(x1, rotation), xp.bitwise_right_shift(x1, 32 - rotation))
            x1 = xp.bitwise_xor(x1, x0)
        x0 = x0 + words[(block + 1) % 3]
        x1 = x1 + words[(block + 2) % 3] + (block + 1)
    return x0, x1


def fold_in(xp: Any, key: Any, data: Any) -> Any:
    """A new key, uint32 of shape (2,), from a key and one integer (0-d, below 2**32)."""
    counter = xp.reshape(xp.astype(data, xp.uint32), (1,))
    words = threefry2x32(xp, (key[0:1], key[1:2]), counter, xp.full((1,), KEYS, dtype=xp.uint32))
    return xp.concat(words, axis=0)


def bits(xp: Any, key: Any, shape: tuple[int, ...]) -> Any:
    """Random 32-bit words, uint32 of the given shape."""
    size = math.prod(shape)
    half = (size + 1) // 2
    counter = xp.arange(half, dtype=xp.uint32)
    words = threefry2x32(xp, (key[0:1], key[1:2]), counter, xp.full((half,), DRAWS, dtype=xp.uint32))
    return xp.reshape(xp.concat(words, axis=0)[:size], shape)


def uniform(xp: Any, key: Any, shape: tuple[int, ...]) -> Any:
    """Numbers in [0, 1), float32: multiples of 2**-24, each as likely as the other."""
    return xp.astype(xp.bitwise_right_shift(bits(xp, key, shape), 8), xp.float32) * 2.0**-24


def normal(xp: Any, key: Any, shape: tuple[int, ...]) -> Any:
    """Standard normal numbers, float32, by the transform of Box and Muller (1958)."""
    u = uniform(xp, key, (2, *shape))
    return xp.sqrt(-2.0 * xp.log(1.0 - u[0])) * xp.cos(2.0 * math.pi * u[1])


def integers(xp: Any, key: Any, shape: tuple[int, ...], low: int, high: int) -> Any:
    """Integers from ``low`` up to ``high``, itself excluded: int64; their bias is below (high - low) / 2**32."""
    return xp.astype(xp.remainder(bits(xp, key, shape), high - low), xp.int64) + low


def permutation(xp: Any, key: Any, length: int) -> Any:
    """The integers below ``length`` in random order, int64 of shape (length,)."""
    return xp.astype(xp.argsort(bits(xp, key, (length,)), stable=True), xp.int64)
