"""What counts as pictures, and the messages to those who give something else."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nabi.errors import SettingError, ShapeError

Pictures = NDArray[np.uint8]
"""uint8 of shape (N, H, W, C), C being 1 or 3."""


def as_pictures(given: Any, keys: Any, wanted_by: object) -> Pictures:
    """The pictures that were given, with a key for each where there are keys; anything else is refused."""
    images: NDArray[Any] = np.asarray(given)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
        raise SettingError(
            f"augment: {wanted_by} changes pictures, uint8 of shape (N, H, W, 1 or 3), not {described(images)}"
        )
    if keys is not None and np.shape(keys) != (len(images), 2):
        raise ShapeError(f"augment: {len(images)} pictures need keys of shape ({len(images)}, 2), not {np.shape(keys)}")
    return images


def described(array: NDArray[Any]) -> str:
    """Dtype and shape, as messages say them."""
    return f"{array.dtype} of shape {array.shape}"


def require_below_side(name: str, label: str, number: int, images: Pictures) -> None:
    """Refuse what could put a whole picture out of sight."""
    _, height, width, _ = images.shape
    if number and number >= min(height, width):
        raise SettingError(
            f"augment: {name}'s {label} is {number}; it must be below {min(height, width)}, the pictures' side"
        )
