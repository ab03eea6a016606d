"""Pictures that are fetched when they are asked for: of a set that is larger than memory."""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nabi.errors import DataError

TOGETHER = 1 << 24  # bytes of pictures that are fetched at once where all are asked for

Fetch = Callable[[NDArray[np.int64]], NDArray[np.uint8]]
"""Positions to pictures: int64 (n,) to uint8 (n, H, W, C)."""


class OnDemand:
    """Stands where an array of pictures (N, H, W, C) would, and holds none of them.

    It has an array's length, ``shape`` and ``dtype``. Indexed by a number, a slice, an array of positions or a mask, it
    gives an array in memory, which is forgotten when whoever asked forgets it. :meth:`take` chooses without fetching.
    ``np.asarray`` fetches everything. It can be pickled if ``fetch`` can.

    Parameters
    ----------
    fetch : callable
        Gives the pictures at any positions, the same whenever it is asked, from any thread.
    shape : (int, int, int, int)
        Of all pictures.
    positions : array of int64, (N,), optional
        Which of those that ``fetch`` knows these are; by default the first N.

    Examples
    --------
    >>> white = OnDemand(lambda positions: np.full((len(positions), 2, 2, 1), 255, np.uint8), (1_000_000, 2, 2, 1))
    >>> white[7].shape, white[:5].shape, white.take(np.arange(0, 1_000_000, 2)).shape
    ((2, 2, 1), (5, 2, 2, 1), (500000, 2, 2, 1))
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, fetch: Fetch, shape: tuple[int, ...], positions: NDArray[np.int64] | None = None) -> None:
        self._fetch = fetch
        self._positions = np.arange(shape[0], dtype=np.int64) if positions is None else positions
        self.shape = (len(self._positions), *shape[1:])

    def __len__(self) -> int:
        return len(self._positions)

    def __repr__(self) -> str:
        return f"OnDemand({len(self)} pictures, {'x'.join(map(str, self.shape[1:]))})"

    @property
    def size(self) -> int:
        """How many numbers the pictures have together."""
        return int(np.prod(self.shape, dtype=object))

    @property
    def nbytes(self) -> int:
        """How much memory they would take."""
        return self.size

    def take(self, positions: NDArray[np.integer[Any]] | slice) -> "OnDemand":
        """The pictures at these positions, still to be fetched."""
        return OnDemand(self._fetch, self.shape, self._positions[positions])

    def __getitem__(self, index: Any) -> NDArray[np.uint8]:
        first, *rest = index if isinstance(index, tuple) else (index,)
        chosen = self._positions[first]
        if np.ndim(chosen) > 1:
            raise IndexError("pictures are chosen by a number, a slice, or an array of one axis")
        pictures = self._fetch(np.atleast_1d(chosen))
        within = (0 if np.ndim(chosen) == 0 else ... if first is ... else slice(None), *rest)
        found: NDArray[np.uint8] = pictures if within == (slice(None),) else pictures[within]
        return found

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        for block in self._blocks():
            yield from self[block]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("pictures that are fetched on demand cannot be had without a copy")
        if self.nbytes > _memory():
            raise DataError(
                f"{len(self)} pictures take {self.nbytes / 2**30:.1f} GiB, more than there is memory: "
                "they can only be looked at in parts"
            )
        everything = np.empty(self.shape, np.uint8)
        for block in self._blocks():
            everything[block] = self[block]
        return everything if dtype is None else everything.astype(dtype, copy=False)

    def _blocks(self) -> Iterator[slice]:
        some = max(1, TOGETHER // max(1, self.nbytes // max(1, len(self))))
        return (slice(start, start + some) for start in range(0, len(self), some))


def joined(parts: Sequence[NDArray[np.uint8] | OnDemand]) -> NDArray[np.uint8] | OnDemand:
    """Pictures of one shape one after another; in memory if all of them are already.

    Examples
    --------
    >>> white = OnDemand(lambda positions: np.full((len(positions), 2, 2, 1), 255, np.uint8), (5, 2, 2, 1))
    >>> joined([white, np.zeros((3, 2, 2, 1), np.uint8)])
    OnDemand(8 pictures, 2x2x1)
    """
    if not any(isinstance(part, OnDemand | np.memmap) for part in parts):
        return np.concatenate(parts)
    starts = np.cumsum([0, *map(len, parts)])

    def fetch(positions: NDArray[np.int64]) -> NDArray[np.uint8]:
        pictures = np.empty((len(positions), *parts[0].shape[1:]), np.uint8)
        for part, start, end in zip(parts, starts, starts[1:], strict=False):
            here = (start <= positions) & (positions < end)
            if here.any():
                pictures[here] = part[positions[here] - start]
        return pictures

    return OnDemand(fetch, (int(starts[-1]), *parts[0].shape[1:]))


def _memory() -> float:
    """Bytes of memory that the machine has, where it says so."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return float("inf")
