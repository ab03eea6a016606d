"""Keys, and the numbers that are drawn from them: many keys at once, bit by bit what `nabi.random` draws from each.

There are a few pictures at a time, and for a hundred additions NumPy would take as long as for the pictures themselves.
So the generator's formula is run on the names of registers, which writes machine code.
"""

import functools
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nabi import machine
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
    arrays = [np.ascontiguousarray(keys, np.uint32), counters, made]
    machine.run(_text(), arrays, [second, len(keys), len(counters)], len(keys))
    return made


# --- the kernel ---

GIVEN = "ptr keys/ptr counters/ptr made/i64 second_word/i64 keys_there/i64 counters_there".split("/")

KERNEL = """
define void @kernel(ptr %given, i64 %start, i64 %stop, i64 %unused, ptr %nothing) {
entry:
GIVEN
  %second = trunc i64 %second_word to i32
  br label %next_key
next_key:
  %key = phi i64 [ %start, %entry ], [ %after_key, %done ]
  %more_keys = icmp slt i64 %key, %stop
  br i1 %more_keys, label %begin, label %exit
begin:
  %key_at = getelementptr <2 x i32>, ptr %keys, i64 %key
  %key_0 = load i32, ptr %key_at
  %other_at = getelementptr i32, ptr %key_at, i64 1
  %key_1 = load i32, ptr %other_at
  br label %next
next:
  %i = phi i64 [ 0, %begin ], [ %after, %one ]
  %more = icmp slt i64 %i, %counters_there
  br i1 %more, label %one, label %done
one:
  %counter_at = getelementptr i32, ptr %counters, i64 %i
  %counter = load i32, ptr %counter_at
FORMULA
  %line = mul i64 %i, %keys_there
  %place = add i64 %line, %key
  %to_0 = getelementptr i32, ptr %made, i64 %place
  store i32 MADE_0, ptr %to_0
  %all = mul i64 %counters_there, %keys_there
  %to_1 = getelementptr i32, ptr %to_0, i64 %all
  store i32 MADE_1, ptr %to_1
  %after = add i64 %i, 1
  br label %next
done:
  %after_key = add i64 %key, 1
  br label %next_key
exit:
  ret void
}
"""


class _Writing:
    """Registers as ``xp``: a formula run over their names writes the lines that compute it."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def let(self, what: str, x: Any, y: Any) -> "_Word":
        name = f"%w{len(self.lines)}"
        self.lines.append(f"  {name} = {what} i32 {x}, {y}")
        return _Word(self, name)

    bitwise_xor = functools.partialmethod(let, "xor")
    bitwise_or = functools.partialmethod(let, "or")
    bitwise_left_shift = functools.partialmethod(let, "shl")
    bitwise_right_shift = functools.partialmethod(let, "lshr")


class _Word:
    """A word in a register."""

    def __init__(self, writing: _Writing, name: str) -> None:
        self.writing, self.name = writing, name

    def __str__(self) -> str:
        return self.name

    def __add__(self, other: Any) -> "_Word":
        return self.writing.let("add", self, other)


@functools.cache
def _text() -> str:
    """The kernel: all counters under each key from one to another."""
    writing = _Writing()
    key_0, key_1, counter, second = (_Word(writing, f"%{name}") for name in ("key_0", "key_1", "counter", "second"))
    made = threefry2x32(writing, (key_0, key_1), counter, second)
    text = KERNEL.replace("GIVEN", machine.words("%given", GIVEN)).replace("FORMULA", "\n".join(writing.lines))
    return text.replace("MADE_0", str(made[0])).replace("MADE_1", str(made[1]))
