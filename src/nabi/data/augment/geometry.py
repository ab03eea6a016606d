"""Where the pixels of a picture go: mirrored, moved, enlarged, turned."""

import math

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from nabi.data.augment.declaration import augmentation
from nabi.data.augment.draws import Keys, integers, uniform
from nabi.data.augment.interpolation import sample
from nabi.data.augment.pictures import Pictures, require_below_side
from nabi.data.resize import resize, taps, way


@augmentation("flip", probability=(0, 1))
def flip(images: Pictures, keys: Keys, probability: float = 0.5) -> Pictures:
    """Mirror a picture, left to right, with this probability (Krizhevsky and others 2012, section 4.1).

    Examples
    --------
    >>> from nabi.data.augment import keys
    >>> images = np.arange(3, dtype=np.uint8).reshape(1, 1, 3, 1)
    >>> flip(probability=1)(images, keys(np.zeros(2, np.uint32), [0])).ravel()
    array([2, 1, 0], dtype=uint8)
    """
    chosen = uniform(keys, 1)[0] < probability
    changed = images.copy()
    for picture in np.flatnonzero(chosen):
        for channel in range(images.shape[3]):  # NumPy reverses bytes sooner than pixels of three bytes
            changed[picture, ..., channel] = images[picture, :, ::-1, channel]
    return changed


@augmentation("crop", padding=range(10_000))
def crop(images: Pictures, keys: Keys, padding: int | None = None) -> Pictures:
    """Pad with black on all sides and cut out as large a picture as before, anywhere.

    ``padding`` is how many pixels a picture moves at most, by default an eighth of its shorter side: 4 of 32, the usual
    number for CIFAR-10 (He and others, "Deep Residual Learning for Image Recognition", 2016, section 4.2). Padding with
    zeros is what others do, so that accuracies can be compared.

    Examples
    --------
    >>> from nabi.data.augment import keys
    >>> images = np.full((1, 2, 3, 1), 255, np.uint8)
    >>> crop(1)(images, keys(np.zeros(2, np.uint32), [0]))[0, :, :, 0]
    array([[255, 255,   0],
           [255, 255,   0]], dtype=uint8)
    """
    count, height, width, channels = images.shape
    padding = min(height, width) // 8 if padding is None else padding
    require_below_side("crop", "padding", padding, images)
    top, left = integers(keys, 2, 2 * padding + 1)
    padded = np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    # Pixels are of one or three bytes, rows of many: where windows are cut from rows of bytes, copying is quick.
    rows = padded.reshape(count, height + 2 * padding, (width + 2 * padding) * channels)
    windows = sliding_window_view(rows, (height, width * channels), axis=(1, 2))
    changed: Pictures = windows[np.arange(count), top, left * channels].reshape(images.shape)
    return changed


@augmentation("resized-crop", smallest=(0.001, 1), widest=(1, 100))
def resized_crop(images: Pictures, keys: Keys, smallest: float = 0.08, widest: float = 4 / 3) -> Pictures:
    """Cut out a part and enlarge it to the size of the whole.

    Source: Szegedy and others, "Going Deeper with Convolutions" (2015), section 6. The part's area is uniform between
    ``smallest`` and 1 of the picture's, the logarithm of its aspect ratio, taken relative to the picture's, uniform
    between 1/``widest`` and ``widest``; a side that would be longer than the picture is cut to it, where others draw
    again. Pixels between pixels are interpolated bilinearly: see `nabi.data.resize`.
    """
    _, height, width, _ = images.shape
    area, tilt, down, along = uniform(keys, 4).astype(np.float64)
    area = smallest + (1 - smallest) * area
    # One by one: what NumPy's own exponential rounds to may depend on where in an array a number stands.
    ratio = np.array([widest**exponent for exponent in (2 * tilt - 1).tolist()])
    tall, wide = np.minimum(1, np.sqrt(area / ratio)), np.minimum(1, np.sqrt(area * ratio))
    top, left = down * (1 - tall) * height, along * (1 - wide) * width
    rows = taps(height, top, top + tall * height, height, "bilinear")
    columns = taps(width, left, left + wide * width, width, "bilinear")
    return resize(images, way(images.shape[1:], rows, columns))


@augmentation("rotation", degrees=(0, 180))
def rotation(images: Pictures, keys: Keys, degrees: float = 15.0) -> Pictures:
    """Turn a picture about its centre, by an angle uniform between -``degrees`` and ``degrees``.

    Pixels between pixels are interpolated bilinearly. Beyond the edge, its pixels are repeated: corners of black would
    tell a network how far a picture was turned.
    """
    _, height, width, _ = images.shape
    angles = (math.radians(degrees) * (2 * uniform(keys, 1)[0].astype(np.float64) - 1)).tolist()
    cosine = np.array([math.cos(angle) for angle in angles])  # one by one, as above
    sine = np.array([math.sin(angle) for angle in angles])
    y, x = (height - 1) / 2, (width - 1) / 2
    return sample(images, (cosine, sine, y - cosine * y - sine * x), (-sine, cosine, x + sine * y - cosine * x))
