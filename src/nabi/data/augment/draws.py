"""Keys, and the numbers that are drawn from them: many keys at once, bit by bit what `nabi.random` draws from each.

There are a few pictures at a time, so that NumPy would take as long for a hundred additions as for the pictures
themselves: the generator's formula is run on registers instead, which writes machine code.
"""

import functools

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nabi import machine
from nabi.engines.cpu.code import ZERO, Code, Index
from nabi.engines.cpu.lanes import Lane, lanes_xp
from nabi.random import DRAWS, KEYS, threefry2x32

Keys = NDArray[np.uint32]
"""uint32 of shape (N, 2): a key for each picture."""


def keys(epoch_key: NDArray[np.uint32], positions: ArrayLike) -> Keys:
    """A key for each picture, from the epoch's key and the picture's position in the data set.

    Parameters
    ----------
    epoch_key : array of uint32, (2,)
        From :mod:`nabi.random`.
    positions : array_like of int, (N,)
        Each below 2**32.

    Returns
    -------
    array of uint32, (N, 2)
        Row i is ``nabi.random.fold_in(numpy, epoch_key, positions[i])``.

    Examples
    --------
    >>> from nabi import random
    >>> keys(random.key(7), [3, 0])[0] == random.fold_in(np, random.key(7), np.int64(3))
    array([ True,  True])
    """
    return children(np.reshape(epoch_key, (1, 2)), positions)[:, 0]


def uniform(keys: Keys, count: int) -> NDArray[np.float32]:
    """``count`` numbers in [0, 1) for each picture: float32 of shape (count, N).

    Column i is ``nabi.random.uniform(numpy, keys[i], (count,))``. The same keys give the same numbers again: an
    augmentation draws once, all that it needs.

    Examples
    --------
    >>> uniform(keys(np.zeros(2, np.uint32), range(5)), 3).shape
    (3, 5)
    """
    return unit(words(keys, count))


def integers(keys: Keys, count: int, high: ArrayLike) -> NDArray[np.int64]:
    """``count`` integers from 0 up to ``high``, itself excluded, for each picture: int64 of shape (count, N).

    Column i is ``nabi.random.integers(numpy, keys[i], (count,), 0, high)``. ``high`` may be an array (count, 1): a
    bound for each of the numbers.

    Examples
    --------
    >>> rows, columns = integers(keys(np.zeros(2, np.uint32), range(5)), 2, [[10], [1]])
    >>> columns
    array([0, 0, 0, 0, 0])
    """
    return words(keys, count).astype(np.int64) % np.asarray(high, np.int64)


def children(keys: Keys, numbers: ArrayLike) -> NDArray[np.uint32]:
    """The key that each key has for each number: (numbers, keys, 2), as `nabi.random.fold_in` makes them."""
    first, second = _encrypted(keys, np.asarray(numbers, np.int64).astype(np.uint32), KEYS)
    return np.stack([first, second], axis=-1)


def words(keys: Keys, count: int) -> NDArray[np.uint32]:
    """``count`` random words for each key: (count, N), as `nabi.random.bits` draws them."""
    made = _encrypted(keys, np.arange((count + 1) // 2, dtype=np.uint32), DRAWS)
    return made.reshape(2 * made.shape[1], len(keys))[:count]


def unit(words: NDArray[np.uint32]) -> NDArray[np.float32]:
    """Numbers in [0, 1) out of random words: the upper 24 bits of each."""
    return (words >> 8).astype(np.float32) * np.float32(2.0**-24)


def _encrypted(keys: Keys, counters: NDArray[np.uint32], second: int) -> NDArray[np.uint32]:
    """Two words for each counter and key, (2, counters, keys); all counters have the same ``second`` word."""
    made = np.empty((2, len(counters), len(keys)), np.uint32)
    arrays = [np.ascontiguousarray(keys), counters, made, np.array([second], np.uint32)]
    machine.run(_text(machine.processor()), arrays, [len(keys), len(counters)], len(keys))
    return made


@functools.cache
def _text(processor: machine.Processor) -> str:
    """The kernel: all counters under each key from one to another."""
    code = Code(processor.vector)
    keys, counters, made, second = (code.pointer(slot) for slot in range(4))
    count_of_keys, count = code.word(4), code.word(5)

    def read(array: str, place: Index) -> Lane:
        return Lane(code, code.load(array, place, np.dtype(np.uint32), 1), np.uint32, 1)

    x1 = read(second, ZERO)
    with code.loop("%start", "%stop") as number:
        key = read(keys, number.times(2)), read(keys, number.times(2).plus(1))
        with code.loop(0, count) as counter:
            row = code.integer(counter)
            for word in threefry2x32(lanes_xp, key, read(counters, counter), x1):
                line = code.at(made, "i32", code.let(f"mul i64 {row}, {count_of_keys}"))
                code.emit(f"store i32 {word.name}, ptr {code.at(line, 'i32', code.integer(number))}, align 4")
                row = code.let(f"add i64 {row}, {count}")
    return code.text()
