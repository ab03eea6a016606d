"""What is odd about a file that can be decoded, and how kinds of files are headed."""

import io
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nabi.data.damage import with_article
from nabi.data.decode import formats

EXTREME = 4  # times as long as short: a centre crop leaves a quarter
FLAT = 8  # levels between the darkest and the brightest pixel, which is less than compression adds

UNREADABLE = {
    "empty": "empty files",
    "zero-area": "pictures without pixels",
    "truncated": "files that are cut short",
    "not-an-image": "files that are no pictures",
    "damaged": "damaged files",
    "refused": "files that were not opened",
}
ODD = {
    "extension": "files whose extension says another format",
    "animated": "animations, of which the first frame is used",
    "cmyk": "pictures in CMYK, converted to RGB",
    "sixteen-bit": "pictures of 16 bits, scaled to 8",
    "transparent": "pictures with transparent pixels, which become white",
    "aspect": "pictures far longer than wide, or wider than long",
    "flat": "pictures of a single flat colour",
    "tiny": "pictures far smaller than the others",
}

_EXTENSIONS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".jif"),
    "MPO": (".mpo", ".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png", ".apng"),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "AVIF": (".avif", ".avifs"),
}


class Oddity(NamedTuple):
    """Something about one file: its kind (a key of ``UNREADABLE`` or ``ODD``), and what it is in words."""

    kind: str
    words: str


def oddities(content: bytes, name: str, picture: NDArray[np.uint8]) -> tuple[list[Oddity], int]:
    """What is odd about a file that could be decoded to ``picture``, and its EXIF orientation (1 to 8)."""
    from PIL import Image

    found = []
    with Image.open(io.BytesIO(content), formats=formats()) as image:
        format_, mode = str(image.format), image.mode
        orientation = _orientation(image)
        suffix = PurePosixPath(name).suffix
        if suffix and suffix.lower() not in _EXTENSIONS.get(format_, (suffix.lower(),)):
            found.append(Oddity("extension", f"{with_article(format_)}, whatever {suffix} says"))
        frames = _frames(image)
        if frames > 1:
            found.append(Oddity("animated", f"{frames} frames, of which the first is used"))
        if mode == "CMYK":
            found.append(Oddity("cmyk", "CMYK, converted to RGB"))
        if mode.startswith("I"):
            found.append(Oddity("sixteen-bit", "16 bits a pixel, scaled to 8"))
        share = _transparent(image)
        if share:
            found.append(Oddity("transparent", f"{share:.1%} of its pixels transparent, some in part: laid on white"))
    height, width = picture.shape[:2]
    if max(height, width) >= EXTREME * min(height, width):
        found.append(Oddity("aspect", f"{width}x{height}: a centre crop leaves little of it"))
    if _range(picture[:: height // 8 or 1, :: width // 8 or 1]) <= FLAT and _range(picture) <= FLAT:  # mostly few tell
        red, green, blue = picture[height // 2, width // 2].tolist()
        found.append(Oddity("flat", f"a single flat colour, #{red:02x}{green:02x}{blue:02x}"))
    return found, orientation


def _range(picture: NDArray[np.uint8]) -> int:
    """Levels between the darkest and the brightest, in the channel where it is most."""
    return int((picture.max((0, 1)).astype(int) - picture.min((0, 1))).max())


def _frames(image: Any) -> int:
    if image.format == "MPO":  # phones hide a second picture in their JPEGs
        return 1
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:  # damaged behind the first, which is the one that is used
        return 1


def _orientation(image: Any) -> int:
    try:
        found = int(image.getexif().get(274, 1))
    except Exception:  # damaged EXIF data; the pixels may be good
        return 1
    return found if 1 <= found <= 8 else 1


def _transparent(image: Any) -> float:
    """The share of pixels that are not opaque."""
    if not image.has_transparency_data:
        return 0.0
    alpha = np.asarray(image.convert("RGBA").getchannel("A"))
    return float((alpha < 255).mean())
