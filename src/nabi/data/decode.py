"""One picture: from the bytes of a file to uint8 pixels of shape (H, W, 3)."""

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nabi.data.damage import damage
from nabi.data.jpeg import has_pixels_only, plain_jpeg
from nabi.data.resize import Size, fit
from nabi.errors import PictureError, SettingError

# A small file can be an honest picture of 16 million pixels; a larger one must have earned it by its own size.
MAX_PIXELS = 100_000_000
MAX_PIXELS_ANYWAY = 16_000_000
MAX_PIXELS_PER_BYTE = 1000
MAX_SIDE = 16384

# Not all that Pillow can open: EPS would start Ghostscript, and nobody's photos are FLI or WMF.
FORMATS = ("JPEG", "MPO", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF")


def checked_size(size: int | tuple[int, int] | None) -> Size | None:
    """Height and width, from what a person gave as ``size``: one number for both, two numbers, or ``None``.

    Raises
    ------
    SettingError
        If it is none of these, or a side is less than 1 or more than 16384.

    Examples
    --------
    >>> checked_size(32)
    (32, 32)
    """
    if size is None:
        return None
    sides = size if isinstance(size, tuple) else (size, size)
    whole = all(isinstance(side, (int, np.integer)) and not isinstance(side, bool) for side in sides)
    if len(sides) != 2 or not whole or not all(1 <= side <= MAX_SIDE for side in sides):
        raise SettingError(f"size is {size!r}: it must be one or two whole numbers from 1 to {MAX_SIDE}")
    return int(sides[0]), int(sides[1])


def decode(content: bytes, name: str, size: Size | None = None) -> NDArray[np.uint8]:
    """Decode a picture as a person would see it: uint8 of shape (H, W, 3).

    Grey becomes three equal channels, transparent pixels lie over white, 16-bit values are scaled to 8, CMYK is
    converted, the camera's orientation (EXIF) is applied; of an animation it is the first frame.

    Parameters
    ----------
    content : bytes
        A file: JPEG, PNG, GIF, BMP, WebP, TIFF, PNM or AVIF (the last if Pillow was built with it).
    name : str
        What messages call it.
    size : (int, int), optional
        Height and width that the picture is brought to, as :func:`nabi.data.resize.fit` would.

    Raises
    ------
    PictureError
        If it is no picture, damaged, or has more than 100 million pixels (or 16 million, and 1000 a byte of the file).
    """
    with _decoded(content, name) as whole:
        return whole if size is None else fit(whole, size)


def decode_and_fit(
    content: bytes, name: str, size: Callable[[Size], Size]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A picture as it is, and as large as ``size`` says: what `decode` would give without and with a size.

    Parameters
    ----------
    content, name
        As for `decode`.
    size : callable
        Height and width that a picture of this height and width is brought to.
    """
    with _decoded(content, name) as whole:
        return whole, fit(whole, size((whole.shape[0], whole.shape[1])))


@contextmanager
def _decoded(content: bytes, name: str) -> Iterator[NDArray[np.uint8]]:
    """A picture's pixels, upright and in three channels; what goes wrong with them inside is told of ``name``."""
    from PIL import Image, UnidentifiedImageError

    silence_pillow()
    try:
        plain = plain_jpeg(content, _most_pixels(len(content)))
        if plain is not None and has_pixels_only(content):
            yield plain
            return
        with Image.open(io.BytesIO(content), formats=formats()) as image:
            if image.width * image.height > _most_pixels(len(content)):
                raise PictureError(f"{image.width}x{image.height} is too large for a file of {len(content)} bytes")
            if plain is None:
                image.load()
                plain = np.asarray(_over_white(_eight_bits(image)))
            yield _upright(plain, _orientation(image))
    except PictureError as error:
        raise PictureError(f"{name}: {error}") from None
    except Exception as error:  # Pillow's decoders raise nearly everything on damaged files
        reason = f"cannot be decoded ({' '.join(str(error).split()) or type(error).__name__})"
        if isinstance(error, UnidentifiedImageError):
            reason = "not a picture of a known format"
        kind, words = damage(content, reason)
        raise PictureError(f"{name}: {words}", kind) from None


def is_grey(picture: NDArray[np.uint8]) -> bool:
    """Whether the three channels are equal, whatever the file called itself; mostly the first row tells."""
    return all(bool((part[..., :1] == part[..., 1:]).all()) for part in (picture[:1], picture))


def grey(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """One channel, (H, W, 1), from three: the luma of ITU-R BT.601; of a grey picture exactly its own values."""
    from PIL import Image

    return picture[..., :1] if is_grey(picture) else np.asarray(Image.fromarray(picture).convert("L"))[..., None]


def _most_pixels(bytes_there: int) -> int:
    return min(MAX_PIXELS, max(MAX_PIXELS_ANYWAY, MAX_PIXELS_PER_BYTE * bytes_there))


def _eight_bits(image: Any) -> Any:
    """A picture of 16-bit grey values as one of 8 bits; any other as it is."""
    from PIL import Image

    if image.mode == "F":
        raise PictureError("its pixels are floating-point numbers, whose range is not known")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image)
    if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
        raise PictureError("its pixels have more than 16 bits")
    scaled = Image.fromarray(_sixteen_to_eight()[values])
    scaled.info = dict(image.info)
    transparent = scaled.info.pop("transparency", None)
    if isinstance(transparent, int):
        scaled.paste(255, mask=Image.fromarray(values == transparent))
    return scaled


def _over_white(image: Any) -> Any:
    from PIL import Image

    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy it


def _orientation(image: Any) -> int:
    """The EXIF tag 274, from 1 (upright) to 8; 1 where the EXIF data are damaged: the pixels may be good."""
    try:
        return int(image.getexif().get(274, 1))
    except Exception:  # as when decoding
        return 1


def _upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    if 5 <= orientation <= 8:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


@cache
def _sixteen_to_eight() -> NDArray[np.uint8]:
    """A table, which takes no more memory than the picture; the nearest value, so that 65535 is 255."""
    return ((np.arange(65536) * 255 + 32767) // 65535).astype(np.uint8)


@cache
def formats() -> tuple[str, ...]:
    """Those of `FORMATS` that Pillow was built with."""
    from PIL import Image

    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def silence_pillow() -> None:
    """Pillow warns of oddities in files (and prints them between a program's own lines); here they are not news.

    Set anew where it is missing, since whoever catches warnings puts the filters back. ``catch_warnings`` around each
    picture would not do: it is not safe in threads.
    """
    if _SILENCE not in warnings.filters:
        warnings.filterwarnings("ignore", module=_SILENCE[3].pattern)


_SILENCE = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
