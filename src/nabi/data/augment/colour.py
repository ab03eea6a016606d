"""The colours of a picture: what they are on the whole, and how they are changed."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nabi.data.augment.declaration import augmentation
from nabi.data.augment.draws import Keys, uniform
from nabi.data.augment.pictures import Pictures


@augmentation("color-jitter", brightness=(0, 1), contrast=(0, 1), saturation=(0, 1))
def color_jitter(
    images: Pictures, keys: Keys, brightness: float = 0.4, contrast: float = 0.4, saturation: float = 0.4
) -> Pictures:
    """Change brightness, contrast and saturation (in the spirit of Krizhevsky and others 2012, section 4.1).

    Three factors b, c and s are drawn, each uniform between 1 less and 1 more its number; with the grey of a pixel and
    the mean grey of its picture, a value v becomes b (mean + c (grey + s (v - grey) - mean)), rounded and clipped once,
    at the end. On grey pictures saturation does nothing.
    """
    strength = np.array([[brightness], [contrast], [saturation]], np.float32)
    b, c, s = (1 + strength * (2 * uniform(keys, 3) - 1))[..., None, None]
    planes = [images[..., channel].astype(np.float32) for channel in range(images.shape[3])]
    mean = _grey(mean_colour(images).T).astype(np.float32)[:, None, None]
    offset = b * c * (1 - s) * _grey(planes) + b * (1 - c) * mean
    changed = np.empty_like(images)
    for channel, plane in enumerate(planes):
        changed[..., channel] = rounded(b * c * s * plane + offset)
    return changed


def _grey(planes: Sequence[NDArray[Any]] | NDArray[Any]) -> NDArray[Any]:
    """How bright red, green and blue are: ITU-R BT.601, as in Pillow's mode "L". One plane alone is grey already."""
    if len(planes) == 1:
        return planes[0]
    red, green, blue = planes
    return 0.299 * red + 0.587 * green + 0.114 * blue


def mean_colour(images: Pictures) -> NDArray[np.float64]:
    """The mean of each channel of each picture, (N, C); sums of integers do not depend on their order."""
    _, height, width, channels = images.shape
    sums = [images[..., channel].sum(axis=(1, 2), dtype=np.int64) for channel in range(channels)]
    means: NDArray[np.float64] = np.stack(sums, axis=1) / (height * width)
    return means


def rounded(values: NDArray[np.floating]) -> Pictures:
    """The nearest values that a pixel can have."""
    return np.asarray(np.rint(np.clip(values, 0, 255)), np.uint8)
