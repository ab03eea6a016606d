"""Augmentation: training pictures changed at random in ways that leave their class alone.

Every number that is drawn for a picture follows from a key of the picture's own, and the key from the epoch's key and
the picture's position in the data set. So it makes no difference in which order pictures come, which share a batch or
how many threads work: the same picture in the same epoch is changed in the same way, to the bit. A run that resumes, a
run on another number of cores, and a look at one single picture all see what the training saw.

::

    "flip,crop:4,cutout:8,mixup:0.2"   parse  →  Pipeline         batch(pipeline, images, positions, epoch_key)
    flip, crop, ...                    the augmentations          keys  →  uniform, integers: what they draw from
    compose(...)                       of these and of any function (images, keys) -> images

Pictures are uint8 of shape (N, H, W, C), C being 1 or 3, and stay so; what is given is never changed in place. A new
augmentation is one function::

    @augmentation("invert", probability=(0, 1))
    def invert(images, keys, probability=0.5):
        chosen = uniform(keys, 1)[0] < probability
        return np.where(chosen[:, None, None, None], 255 - images, images)

Source: Krizhevsky, Sutskever and Hinton, "ImageNet Classification with Deep Convolutional Neural Networks" (NIPS 2012),
section 4.1, for flips, crops and changes of colour; the others are named where they are.
"""

import functools
import inspect
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

from nabi import threads
from nabi.errors import SettingError, ShapeError
from nabi.random import DRAWS, KEYS, threefry2x32

Pictures = NDArray[np.uint8]
"""uint8 of shape (N, H, W, C), C being 1 or 3."""

Keys = NDArray[np.uint32]
"""uint32 of shape (N, 2): a key for each picture."""

Change = Callable[[Pictures, Keys], Pictures]
"""Anything a pipeline can be made of. What it does to a picture must follow from that picture and its key alone."""

Limits = range | tuple[float, float]
"""What a number may be: a range for a whole number, lowest and highest for any other."""

BLOCK_BYTES = 2**18
"""About how many bytes of pictures one thread takes at once: what its cache holds together with what it computes."""

SAMPLE_PIXELS = 2**13
"""About how many pixels are interpolated at once: each takes some hundred bytes on the way."""

_PARTNER = 2**32 - 1  # the number under which mixup's second picture gets a key; parts of a pipeline have those below


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
    return _children(np.reshape(epoch_key, (1, 2)), positions)[:, 0]


def uniform(keys: Keys, count: int) -> NDArray[np.float32]:
    """``count`` numbers in [0, 1) for each picture: float32 of shape (count, N).

    Column i is ``nabi.random.uniform(numpy, keys[i], (count,))``. The same keys give the same numbers again: an
    augmentation draws once, all that it needs.

    Examples
    --------
    >>> uniform(keys(np.zeros(2, np.uint32), range(5)), 3).shape
    (3, 5)
    """
    return _unit(_words(keys, count))


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
    return _words(keys, count).astype(np.int64) % np.asarray(high, np.int64)


# ---- what an augmentation is -----------------------------------------------------------------------------------------

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
        images = _pictures(images, keys, self)
        return _changes[self.name](images, keys, *self.numbers)

    def __str__(self) -> str:
        return _written(self.name, self.numbers)


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
                _number(name, number.name, given[number.name], limits.get(number.name, (-math.inf, math.inf)))
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


# ---- the augmentations -----------------------------------------------------------------------------------------------


@augmentation("flip", probability=(0, 1))
def flip(images: Pictures, keys: Keys, probability: float = 0.5) -> Pictures:
    """Mirror a picture, left to right, with this probability (Krizhevsky and others 2012, section 4.1).

    Examples
    --------
    >>> images = np.arange(3, dtype=np.uint8).reshape(1, 1, 3, 1)
    >>> flip(probability=1)(images, keys(np.zeros(2, np.uint32), [0])).ravel()
    array([2, 1, 0], dtype=uint8)
    """
    chosen = uniform(keys, 1)[0] < probability
    changed = images.copy()
    changed[chosen] = images[chosen, :, ::-1]
    return changed


@augmentation("crop", padding=range(10_000))
def crop(images: Pictures, keys: Keys, padding: int | None = None) -> Pictures:
    """Pad with black on all sides and cut out as large a picture as before, anywhere.

    ``padding`` is how many pixels a picture moves at most, by default an eighth of its shorter side: 4 of 32, the usual
    number for CIFAR-10 (He and others, "Deep Residual Learning for Image Recognition", 2016, section 4.2). Padding with
    zeros is what others do, so that accuracies can be compared.

    Examples
    --------
    >>> images = np.full((1, 2, 3, 1), 255, np.uint8)
    >>> crop(1)(images, keys(np.zeros(2, np.uint32), [0]))[0, :, :, 0]
    array([[255, 255,   0],
           [255, 255,   0]], dtype=uint8)
    """
    count, height, width, channels = images.shape
    padding = min(height, width) // 8 if padding is None else padding
    _below_side("crop", "padding", padding, images)
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
    again. Pixels between pixels are interpolated bilinearly.
    """
    _, height, width, _ = images.shape
    area, tilt, down, along = uniform(keys, 4).astype(np.float64)
    area = smallest + (1 - smallest) * area
    # One by one: what NumPy's own exponential rounds to may depend on where in an array a number stands.
    ratio = np.array([widest**exponent for exponent in (2 * tilt - 1).tolist()])
    tall, wide = np.minimum(1, np.sqrt(area / ratio)), np.minimum(1, np.sqrt(area * ratio))
    first_row = down * (1 - tall) * height + (tall - 1) / 2  # a pixel is looked at in its middle, half a pixel on
    first_column = along * (1 - wide) * width + (wide - 1) / 2
    still = np.zeros_like(tall)
    return _sample(images, (tall, still, first_row), (still, wide, first_column))


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
    return _sample(images, (cosine, sine, y - cosine * y - sine * x), (-sine, cosine, x + sine * y - cosine * x))


Line = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


def _sample(images: Pictures, row: Line, column: Line) -> Pictures:
    """Look at the pictures elsewhere: bilinear between pixels, rounded to nearest, the edge repeated beyond it.

    Pixel (y, x) of the result shows what is in row ``a y + b x + c``, where a, b and c, each (N,), are ``row``, and in
    the column that ``column`` gives likewise.
    """
    count, height, width, channels = images.shape
    padded = np.pad(images, ((0, 0), (0, 1), (0, 1), (0, 0)))  # so that all have a right and a lower one, of weight 0
    stride = width + 1
    y, x = np.ogrid[np.float32(0) : height, np.float32(0) : width]
    changed = np.empty_like(images)
    for few in _cut(count, max(1, SAMPLE_PIXELS // max(1, height * width))):
        rows, columns = _follow(row, few, y, x, height), _follow(column, few, y, x, width)
        top, left = rows.astype(np.intp), columns.astype(np.intp)
        down, along = rows - top.astype(np.float32), columns - left.astype(np.float32)
        corner = ((height + 1) * np.arange(len(top))[:, None, None] + top) * stride + left
        for channel in range(channels):
            pixels = padded[few, ..., channel].ravel()
            upper_left, upper_right, lower_left, lower_right = (
                pixels[step:].take(corner).astype(np.float32) for step in (0, 1, stride, stride + 1)
            )
            upper = upper_left + (upper_right - upper_left) * along
            lower = lower_left + (lower_right - lower_left) * along
            changed[few, ..., channel] = np.rint(upper + (lower - upper) * down)
    return changed


def _follow(line: Line, few: slice, y: NDArray[np.float32], x: NDArray[np.float32], length: int) -> NDArray[np.float32]:
    """Where along an axis of ``length`` pixels the pixels (y, x) of a few pictures look: (few, H, W)."""
    a, b, c = (of_all[few, None, None].astype(np.float32) for of_all in line)
    return np.clip(a * y + b * x + c, 0, length - 1)


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
    mean = _grey(_mean(images).T).astype(np.float32)[:, None, None]
    offset = b * c * (1 - s) * _grey(planes) + b * (1 - c) * mean
    changed = np.empty_like(images)
    for channel, plane in enumerate(planes):
        changed[..., channel] = _rounded(b * c * s * plane + offset)
    return changed


def _grey(planes: Sequence[NDArray[Any]] | NDArray[Any]) -> NDArray[Any]:
    """How bright red, green and blue are: ITU-R BT.601, as in Pillow's mode "L". One plane alone is grey already."""
    if len(planes) == 1:
        return planes[0]
    red, green, blue = planes
    return 0.299 * red + 0.587 * green + 0.114 * blue


@augmentation("cutout", size=range(10_000))
def cutout(images: Pictures, keys: Keys, size: int | None = None) -> Pictures:
    """Cover a square of ``size`` pixels a side.

    Source: DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout" (2017). By
    default half the shorter side: 16 of 32, the paper's number for CIFAR-10. The square's centre is uniform over the
    picture, so that a part of it may lie outside. The paper covers with zeros after standardising, that is with the
    mean of the training set; this covers with the mean colour of the picture, which the picture alone can tell.
    """
    count, height, width, channels = images.shape
    size = min(height, width) // 2 if size is None else size
    _below_side("cutout", "size", size, images)
    row, column = integers(keys, 2, [[height], [width]])
    margin = (size + 1) // 2
    padded = np.pad(images, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    if size:
        rows = padded.reshape(count, height + 2 * margin, (width + 2 * margin) * channels)  # of bytes: see crop
        squares = sliding_window_view(rows, (size, size * channels), axis=(1, 2), writeable=True)
        start = margin - size // 2
        colours = np.tile(_rounded(_mean(images)), size)
        squares[np.arange(count), start + row, (start + column) * channels] = colours[:, None]
    return padded[:, margin : margin + height, margin : margin + width]


def _mean(images: Pictures) -> NDArray[np.float64]:
    """The mean of each channel of each picture, (N, C); sums of integers do not depend on their order."""
    _, height, width, channels = images.shape
    sums = [images[..., channel].sum(axis=(1, 2), dtype=np.int64) for channel in range(channels)]
    means: NDArray[np.float64] = np.stack(sums, axis=1) / (height * width)
    return means


def _rounded(values: NDArray[np.floating]) -> Pictures:
    return np.asarray(np.rint(np.clip(values, 0, 255)), np.uint8)


@dataclass(frozen=True)
class Mixup:
    """Blend a picture with another, and its label likewise.

    Source: Zhang and others, "mixup: Beyond Empirical Risk Minimization" (ICLR 2018). The other is any picture of the
    training set, drawn by the picture's own key, not one that happens to share its batch. The share λ is drawn from
    Beta(α, α) and max(λ, 1 - λ) goes to the picture itself. As the other is drawn uniformly, that changes nothing in
    how often which two are mixed in which shares, but an epoch shows every picture once as the larger part of a
    mixture.

    Parameters
    ----------
    alpha : float
        α, from 0.01 (hardly ever a visible mixture) to 100 (nearly always half and half).
    """

    alpha: float = 0.2

    def __post_init__(self) -> None:
        object.__setattr__(self, "alpha", _number("mixup", "alpha", self.alpha, (0.01, 100)))

    def __str__(self) -> str:
        return _written("mixup", (self.alpha,))

    def partners(self, keys: Keys, count: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The other picture for each of N, and the share that the picture itself keeps.

        Parameters
        ----------
        keys : array of uint32, (N, 2)
        count : int
            How many pictures there are to choose from.

        Returns
        -------
        positions : array of int64, (N,)
            Each below ``count``.
        share : array of float32, (N,)
            From 0.5 to 1.

        Examples
        --------
        >>> positions, share = Mixup(1.0).partners(keys(np.zeros(2, np.uint32), range(1000)), 10)
        >>> np.bincount(positions).size, bool((share >= 0.5).all())
        (10, True)
        """
        from scipy.special import betaincinv

        choice, place = _words(keys, 2)
        # Beta(α, α) is symmetric: the larger of λ and 1 - λ is what the upper half of its quantiles gives.
        share = betaincinv(self.alpha, self.alpha, 0.5 + _unit(place).astype(np.float64) / 2)
        return choice % np.int64(count), share.astype(np.float32)

    def mix(self, images: Pictures, others: Pictures, share: NDArray[np.float32]) -> Pictures:
        """``share * images + (1 - share) * others``, picture by picture, rounded to nearest.

        Parameters
        ----------
        images, others : array of uint8, (N, H, W, C)
        share : array of float32, (N,)

        Examples
        --------
        >>> black = np.zeros((1, 1, 1, 1), np.uint8)
        >>> Mixup().mix(black + np.uint8(255), black, np.float32([0.6])).item()
        153
        """
        mixed = images.astype(np.float32)  # step by step, as pictures to mix are many and memory is slow
        mixed -= others
        mixed *= np.asarray(share, np.float32)[:, None, None, None]
        mixed += others
        return np.rint(mixed, out=mixed).astype(np.uint8)


AUGMENTATIONS["mixup"] = Mixup


# ---- pipelines -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pipeline:
    """Augmentations one after another, in the order in which they are written.

    :func:`compose` and :func:`parse` make them. Called with images and keys it gives the changed images, new and of the
    same shape. Each part has keys of its own, which follow from the pictures' and its number. Mixing two pictures is
    not part of the call: :func:`batch` does that with ``mixup``, which is ``None`` where pictures are not mixed.
    """

    parts: tuple[Change, ...] = ()
    mixup: Mixup | None = None

    def __call__(self, images: Pictures, keys: Keys) -> Pictures:
        """Change each picture as its key says.

        Parameters
        ----------
        images : array of uint8, (N, H, W, C)
            C being 1 or 3.
        keys : array of uint32, (N, 2)

        Returns
        -------
        array of uint8, (N, H, W, C)

        Raises
        ------
        SettingError
            If the images are something else, or one of the parts makes something else of them.
        ShapeError
            If there is not one key for each picture.
        """
        images = _pictures(images, keys, self)
        changed = np.empty_like(images)
        keys_of_parts = _children(keys, range(len(self.parts)))

        def work(block: slice) -> None:
            before = images[block]
            for part, own in zip(self.parts, keys_of_parts, strict=True):
                after = np.asarray(part(before, own[block]))
                if after.shape != before.shape or after.dtype != np.uint8:
                    raise SettingError(
                        f"augment: {_name(part)} made {_described(after)} of {_described(before)}, and must not"
                    )
                before = after
            changed[block] = before

        _in_blocks(work, len(images), images[:1].size)
        return changed

    def __str__(self) -> str:
        return ",".join([*map(_name, self.parts), *([str(self.mixup)] if self.mixup else [])]) or "none"


def compose(*parts: str | Change | Pipeline | Mixup | None) -> Pipeline:
    """A pipeline of augmentations (such or texts), other pipelines, and any function ``(images, keys) -> images``.

    What a pipeline is made of takes the pipeline's place, so that nesting makes no difference; ``None`` is left out.
    :class:`Mixup`, alone or in a pipeline, comes last: it mixes pictures that are changed already.

    Raises
    ------
    SettingError
        If something is none of these, a text names nothing or has impossible numbers, or something follows mixup.

    Examples
    --------
    >>> print(compose(parse("flip"), lambda images, keys: 255 - images, "crop:4", Mixup(0.2)))
    flip:0.5,<lambda>,crop:4,mixup:0.2
    """
    changes: list[Change] = []
    mixup: Mixup | None = None
    for part in (_part(given) for given in parts if given is not None):
        if mixup is not None:
            raise SettingError(f"augment: {_name(part)} follows mixup, which must be the last and stand once")
        if isinstance(part, Pipeline):
            changes += part.parts
            mixup = part.mixup
        elif isinstance(part, Mixup):
            mixup = part
        else:
            changes.append(part)
    return Pipeline(tuple(changes), mixup)


def parse(text: str | Sequence[str | Change | Mixup] | Change | None) -> Pipeline | None:
    """The pipeline that a text or a sequence describes: ``"flip,crop:4"`` or ``("flip", "crop:4")``.

    Parameters
    ----------
    text : str, sequence or None
        Names from :data:`AUGMENTATIONS`, each with its numbers after colons; those left out have their defaults. In a
        sequence there may also be augmentations as such, and one alone is taken too.

    Returns
    -------
    Pipeline or None
        ``None`` for ``None``, ``"none"`` and nothing at all.

    Raises
    ------
    SettingError
        If a name is unknown, a number is impossible, or something follows mixup.

    Examples
    --------
    >>> parse("crop:4,cutout") == parse(["crop:4", cutout()])
    True
    >>> parse("flop")
    Traceback (most recent call last):
    nabi.errors.SettingError: augment: no augmentation is named 'flop'; there are flip, crop, resized-crop, rotation, \
color-jitter, cutout, mixup
    """
    items: Sequence[Any]
    if text is None or (isinstance(text, str) and text.strip() in ("", "none")):
        items = ()
    elif isinstance(text, str):
        items = text.split(",")
    else:
        items = text if isinstance(text, Sequence) else (text,)
    return compose(*items) if items else None


def _part(item: Any) -> Any:
    if not isinstance(item, str):
        if callable(item) or isinstance(item, Mixup):
            return item
        raise SettingError(f"augment: {item!r} is no augmentation; there are {', '.join(AUGMENTATIONS)}")
    name, *numbers = (word.strip() for word in item.split(":"))
    if name not in AUGMENTATIONS:
        raise SettingError(f"augment: no augmentation is named {name!r}; there are {', '.join(AUGMENTATIONS)}")
    factory = AUGMENTATIONS[name]
    takes = inspect.signature(factory).parameters
    if len(numbers) > len(takes):
        raise SettingError(
            f"augment: {item.strip()!r} has {len(numbers)} numbers; {name} has at most {len(takes)}: {', '.join(takes)}"
        )
    return factory(*(_read(name, label, number) for label, number in zip(takes, numbers, strict=False)))


def _read(name: str, label: str, text: str) -> float:
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            pass
    raise SettingError(f"augment: {name}'s {label} is {text!r}, which is not a number")


def batch(
    pipeline: Pipeline | None, images: Pictures, positions: ArrayLike, epoch_key: NDArray[np.uint32]
) -> tuple[Pictures, NDArray[np.int64] | None, NDArray[np.float32] | None]:
    """Pictures out of a data set, changed and mixed for one step of training.

    Parameters
    ----------
    pipeline : Pipeline or None
        ``None`` takes the images out and leaves them as they are, whatever they are.
    images : array of uint8, (M, H, W, C)
        All pictures of the training set, in memory or a memory map.
    positions : array_like of int, (N,)
        Which of them to take.
    epoch_key : array of uint32, (2,)
        From :mod:`nabi.random`; another one for each epoch.

    Returns
    -------
    images : array of uint8, (N, H, W, C)
    others : array of int64, (N,), or None
        With mixup, the positions of the pictures that were mixed in.
    share : array of float32, (N,), or None
        With mixup, the weight of each picture's own label; the label at ``others`` has the rest, 1 - share.

    Raises
    ------
    SettingError
        If the images are not pictures.

    Examples
    --------
    >>> from nabi import random
    >>> images = np.arange(10 * 8 * 8, dtype=np.int64).astype(np.uint8).reshape(10, 8, 8, 1)
    >>> changed, others, share = batch(parse("flip,crop:1,mixup"), images, [9, 0, 4], random.key(7))
    >>> changed.shape, others.shape, share.shape
    ((3, 8, 8, 1), (3,), (3,))
    >>> bool((batch(parse("flip,crop:1,mixup"), images, [4], random.key(7))[0] == changed[2]).all())
    True
    """
    images = np.asarray(images)
    positions = np.asarray(positions, np.int64)
    if pipeline is None:
        return images[positions], None, None
    _pictures(images, None, pipeline)
    own = keys(epoch_key, positions)
    changed = np.empty((len(positions), *images.shape[1:]), np.uint8)

    def change(block: slice) -> None:
        changed[block] = pipeline(images[positions[block]], own[block])

    mixup = pipeline.mixup
    if mixup is None:
        _in_blocks(change, len(positions), images[:1].size)
        return changed, None, None

    others, share = mixup.partners(own, len(images))
    (partner_keys,) = _children(own, [_PARTNER])

    def change_and_mix(block: slice) -> None:
        change(block)
        partners = pipeline(images[others[block]], partner_keys[block])
        changed[block] = mixup.mix(changed[block], partners, share[block])

    _in_blocks(change_and_mix, len(positions), images[:1].size)
    return changed, others, share


# ---- keys, draws, blocks, messages -----------------------------------------------------------------------------------


def _children(keys: Keys, numbers: ArrayLike) -> NDArray[np.uint32]:
    """The key that each key has for each number: (numbers, keys, 2), as `nabi.random.fold_in` makes them."""
    counters = np.asarray(numbers, np.int64).astype(np.uint32)[:, None]
    return np.stack(threefry2x32(np, keys.T, counters, np.full_like(counters, KEYS)), axis=-1)


def _words(keys: Keys, count: int) -> NDArray[np.uint32]:
    """``count`` random words for each key: (count, N), as `nabi.random.bits` draws them."""
    counters = np.arange((count + 1) // 2, dtype=np.uint32)[:, None]
    return np.concatenate(threefry2x32(np, keys.T, counters, np.full_like(counters, DRAWS)))[:count]


def _unit(words: NDArray[np.uint32]) -> NDArray[np.float32]:
    return (words >> 8).astype(np.float32) * np.float32(2.0**-24)


def _in_blocks(work: Callable[[slice], None], count: int, bytes_each: int) -> None:
    """Hand blocks of pictures to the threads: cut by what a picture takes, never by how many threads there are."""
    blocks = _cut(count, max(4, BLOCK_BYTES // max(1, bytes_each)))
    for _ in threads.map_in_order(work, blocks) if len(blocks) > 1 else map(work, blocks):
        pass


def _cut(count: int, at_most: int) -> list[slice]:
    """Cut ``count`` pictures into blocks as even as can be."""
    blocks = -(-count // at_most)
    edges = [count * number // blocks for number in range(blocks + 1)] if blocks else []
    return [slice(start, stop) for start, stop in itertools.pairwise(edges)]


def _pictures(given: Any, keys: Any, wanted_by: object) -> Pictures:
    images: NDArray[Any] = np.asarray(given)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
        raise SettingError(
            f"augment: {wanted_by} changes pictures, uint8 of shape (N, H, W, 1 or 3), not {_described(images)}"
        )
    if keys is not None and np.shape(keys) != (len(images), 2):
        raise ShapeError(f"augment: {len(images)} pictures need keys of shape ({len(images)}, 2), not {np.shape(keys)}")
    return images


def _described(array: NDArray[Any]) -> str:
    return f"{array.dtype} of shape {array.shape}"


def _below_side(name: str, label: str, number: int, images: Pictures) -> None:
    """Refuse what could put a whole picture out of sight."""
    _, height, width, _ = images.shape
    if number and number >= min(height, width):
        raise SettingError(
            f"augment: {name}'s {label} is {number}; it must be below {min(height, width)}, the pictures' side"
        )


def _number(name: str, label: str, value: Any, limits: Limits) -> float:
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


def _written(name: str, numbers: Sequence[float | None]) -> str:
    return ":".join([name, *(repr(number) for number in numbers if number is not None)])


def _name(part: object) -> str:
    return str(part) if isinstance(part, Augmentation | Pipeline | Mixup) else getattr(part, "__name__", repr(part))
