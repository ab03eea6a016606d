"""What an augmentation is: a name, numbers within limits, and a function that changes pictures by their keys."""

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from nabi.data.augment.draws import Keys
from nabi.data.augment.pictures import Pictures, as_pictures
from nabi.errors import SettingError

Change = Callable[[Pictures, Keys], Pictures]
"""Anything a pipeline can be made of. What it does to a picture must follow from that picture and its key alone."""

Limits = range | tuple[float, float]
"""What a number may be: a range for a whole number, lowest and highest for any other."""

AUGMENTATIONS: dict[str, Callable[..., Any]] = {}
"""Every augmentation by its name: called with its numbers it gives the part of a pipeline."""

_changes: dict[str, Callable[..., Pictures]] = {}


@dataclass(frozen=True)
class Augmentation:
    """An augmentation with its numbers: called with images and keys it gives the changed images.

    Two are equal where names and numbers are, and ``str`` gives what :func:`parse` reads.
    """

    name: str
    numbers: tuple[float | None, ...]

    def __call__(self, images: Pictures, keys: Keys) -> Pictures:
        """Change each picture as its key says."""
        images = as_pictures(images, keys, self)
        return _changes[self.name](images, keys, *self.numbers)

    def __str__(self) -> str:
        return written(self.name, self.numbers)


def augmentation(name: str, **limits: Limits) -> Callable[[Callable[..., Pictures]], Callable[..., Augmentation]]:
    """Declare a function ``(images, keys, *numbers) -> images`` as an augmentation.

    Parameters
    ----------
    name : str
        What people write to choose it.
    **limits : range or (float, float)
        What each number may be: a range for a whole number, lowest and highest for any other. A number without
        limits may be any.

    Returns
    -------
    function
        Replaces the declared function by one that takes the numbers alone, all of which have defaults, and gives an
        :class:`Augmentation`. A default of ``None`` stands for a number that follows from the pictures.
    """

    def declare(change: Callable[..., Pictures]) -> Callable[..., Augmentation]:
        numbers = list(inspect.signature(change).parameters.values())[2:]
        signature = inspect.Signature(numbers, return_annotation=Augmentation)

        @functools.wraps(change)
        def make(*args: float, **kwargs: float) -> Augmentation:
            given = signature.bind(*args, **kwargs).arguments
            values = (
                within_limits(name, number.name, given[number.name], limits.get(number.name, (-math.inf, math.inf)))
                if given.get(number.name) is not None
                else number.default
                for number in numbers
            )
            return Augmentation(name, tuple(values))

        make.__signature__ = signature  # type: ignore[attr-defined]
        _changes[name] = change
        AUGMENTATIONS[name] = make
        return make

    return declare


def within_limits(name: str, label: str, value: Any, limits: Limits) -> float:
    """The number that was given for an augmentation, or one line that says what it must be."""
    lowest, highest = limits[0], limits[-1]
    if isinstance(limits, range):
        if isinstance(value, Integral) and int(value) in limits:
            return int(value)
        wanted = f"a whole number from {lowest} to {highest}"
    else:
        # Compared as it is: a whole number of 400 digits has no float.
        if isinstance(value, Real) and bool(lowest <= value <= highest):  # type: ignore[operator]
            return float(value)
        wanted = f"a number from {lowest:g} to {highest:g}"
    raise SettingError(f"augment: {name}'s {label} is {value!r}; it must be {wanted}")


def written(name: str, numbers: Sequence[float | None]) -> str:
    """An augmentation as people write it; numbers that follow from the pictures are left out."""
    return ":".join([name, *(repr(number) for number in numbers if number is not None)])
