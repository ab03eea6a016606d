"""What a data set is: pictures, labels, the names of the classes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nabi.data.ondemand import OnDemand
from nabi.errors import DataError

MAX_COPIED = 1 << 30  # bytes of a memory map that are copied to memory where some of its pictures are chosen


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """Pictures of one purpose (training, validation or test), with their labels.

    Parameters
    ----------
    images : array of uint8, shape (N, H, W, C)
        C is 1 (grey) or 3 (red, green, blue). In memory; or memory-mapped, and then read-only; or, of a set that is
        too large for either, a :class:`~nabi.data.OnDemand`, which stands where the array would.
    labels : array of int64, shape (N,)
        Positions in the data set's ``classes``.
    names : sequence of str, optional
        The file that each picture came from, relative to the folder or archive, with ``/``.
    keys : array of uint64, shape (N,), optional
        A hash of each picture's content as it was before any resizing: equal pictures have equal keys, at every
        ``size``. ``None`` where the pictures in ``images`` are the originals (see :func:`nabi.data.content_keys`).

    Raises
    ------
    DataError
        If the shapes or dtypes are others.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    names: Sequence[str] | None = None
    keys: NDArray[np.uint64] | None = None

    def __post_init__(self) -> None:
        if self.images.dtype != np.uint8 or self.images.ndim != 4 or self.images.shape[3] not in (1, 3):
            raise DataError(
                f"images must be uint8 of shape (N, H, W, 1 or 3), these are {self.images.dtype} of {self.images.shape}"
            )
        if self.labels.dtype != np.int64 or self.labels.shape != self.images.shape[:1]:
            raise DataError(
                f"labels must be int64 of shape ({len(self.images)},), "
                f"these are {self.labels.dtype} of {self.labels.shape}"
            )
        for what, values in (("names", self.names), ("keys", self.keys)):
            if values is not None and len(values) != len(self.images):
                raise DataError(f"{len(values)} {what} for {len(self.images)} pictures")

    def __repr__(self) -> str:
        return f"Split({len(self)} pictures, {'x'.join(map(str, self.images.shape[1:]))})"

    def __len__(self) -> int:
        return len(self.images)

    def take(self, positions: NDArray[np.intp]) -> "Split":
        """The pictures at these positions, as a split of its own.

        They are copied if they are in memory, or few; of a large memory map they stay on the disk.
        """
        images: Any = self.images
        if isinstance(images, np.memmap) and len(positions) * images[:1].nbytes > MAX_COPIED:
            images = OnDemand(_Mapped(np.asarray(images)), images.shape)
        chosen: Any = images.take(positions) if isinstance(images, OnDemand) else images[positions]
        return Split(
            chosen,
            self.labels[positions],
            None if self.names is None else [self.names[position] for position in positions],
            None if self.keys is None else self.keys[positions],
        )


class _Mapped:
    """Copies rows of a memory map that is too large to be copied whole, into a pickle for one."""

    def __init__(self, rows: NDArray[np.uint8]) -> None:
        self._rows = rows

    def __call__(self, positions: NDArray[np.int64]) -> NDArray[np.uint8]:
        return self._rows[positions]

    def __getstate__(self) -> None:
        raise TypeError(f"a memory map of {self._rows.nbytes / 2**30:.1f} GiB is not pickled: load the data set again")


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Pictures in classes, divided by purpose.

    Parameters
    ----------
    name : str
        A short name for people: ``"cifar10"``, or the folder's or archive's own.
    classes : tuple of str
        The classes' names, composed (Unicode NFC); a label is a position in it. A class may have no picture.
    train : Split
    test, validation : Split or None
        What the source has. :func:`nabi.data.complete_splits` makes what is missing.
    skipped : list of (str, str)
        Files that were passed over, each with the reason.

    Raises
    ------
    DataError
        If a label has no class.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split | None = None
    validation: Split | None = None
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for split in (self.train, self.validation, self.test):
            if split is not None and len(split):
                lowest, highest = int(split.labels.min()), int(split.labels.max())
                if lowest < 0 or highest >= len(self.classes):
                    wrong = lowest if lowest < 0 else highest
                    raise DataError(f"{self.name}: label {wrong} has no name, there are {len(self.classes)} classes")

    def __repr__(self) -> str:
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        there = "".join(f", {name}={split}" for name, split in splits.items() if split is not None)
        return f"Dataset({self.name!r}, {len(self.classes)} classes{there})"
