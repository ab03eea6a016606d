"""What is wrong with a file that cannot be decoded, and what is odd about one that can."""

import io
import re
import struct
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

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

# How files begin that people mistake for pictures, or that are pictures of a kind that is not read.
_BEGINNINGS = (
    (rb"\s*(<!doctype html|<html)", "a web page"),
    (rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?<svg", "SVG, a drawing: save it as PNG"),
    (rb"....ftyp(heic|heix|hevc|mif1|msf1)", "HEIC, which is not read: save it as JPEG"),
    (rb"%PDF", "a PDF document"),
    (rb"PK\x03\x04", "a zip archive"),
    (rb"8BPS", "Photoshop's own format: save it as PNG"),
    (rb"....ftyp", "a video"),
    (rb"version https://git-lfs", "a Git LFS pointer: run git lfs pull"),
)
_SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF8": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"BM": "BMP",
}


class Oddity(NamedTuple):
    """Something about one file: its kind (a key of ``UNREADABLE`` or ``ODD``), and what it is in words."""

    kind: str
    words: str


def unreadable(content: bytes, reason: str) -> Oddity:
    """Why a file could not be decoded, where the decoder said ``reason``.

    Examples
    --------
    >>> unreadable(b"", "not a picture of a known format").kind
    'empty'
    >>> unreadable(b"<!DOCTYPE html><html>", "not a picture of a known format").words
    'not a picture but a web page'
    """
    if not content:
        return Oddity("empty", "an empty file")
    format_ = _signature(content)
    if _without_area(content):
        return Oddity("zero-area", f"a {format_ or 'picture'} without pixels: its width or height is 0")
    if not format_:
        for beginning, name in _BEGINNINGS:
            if re.match(beginning, content[:1000], re.DOTALL | re.IGNORECASE):
                return Oddity("not-an-image", f"not a picture but {name}")
        if "known format" in reason:
            return Oddity("not-an-image", reason)
    if _cut_short(content) or "truncated" in reason:
        return Oddity("truncated", f"cut short: begins as {_an(format_ or 'picture')}, but its end is missing")
    return Oddity("damaged", f"begins as {_an(format_)}, but is damaged" if "known format" in reason else reason)


def oddities(content: bytes, name: str, picture: NDArray[np.uint8]) -> tuple[list[Oddity], int]:
    """What is odd about a file that could be decoded to ``picture``, and its EXIF orientation (1 to 8)."""
    from PIL import Image

    found = []
    with Image.open(io.BytesIO(content), formats=formats()) as image:
        format_, mode = str(image.format), image.mode
        orientation = _orientation(image)
        suffix = PurePosixPath(name).suffix
        if suffix and suffix.lower() not in _EXTENSIONS.get(format_, (suffix.lower(),)):
            found.append(Oddity("extension", f"{_an(format_)}, whatever {suffix} says"))
        frames = _frames(image)
        if frames > 1:
            found.append(Oddity("animated", f"{frames} frames, of which the first is used"))
        if mode == "CMYK":
            found.append(Oddity("cmyk", "CMYK, converted to RGB"))
        if mode.startswith("I"):
            found.append(Oddity("sixteen-bit", "16 bits a pixel, scaled to 8"))
        share = _transparent(image)
        if share:
            found.append(Oddity("transparent", f"{share:.1%} of its pixels transparent, and made white"))
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


def _an(name: str) -> str:
    return f"an {name}" if name in ("MPO", "AVIF") else f"a {name}"


def _signature(content: bytes) -> str:
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "WEBP"
    if re.match(rb"P[1-6]\s", content):
        return "PPM"
    return next((name for start, name in _SIGNATURES.items() if content.startswith(start)), "")


def _without_area(content: bytes) -> bool:
    try:
        match _signature(content):
            case "PNG":
                return content[12:16] == b"IHDR" and 0 in struct.unpack(">II", content[16:24])
            case "GIF":
                return 0 in struct.unpack("<HH", content[6:10])
            case "BMP":
                return 0 in struct.unpack("<ii", content[18:26])
            case "PPM":
                sizes = re.match(rb"P[1-6](?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+(\d+)", content[:1000])
                return sizes is not None and 0 in map(int, sizes.groups())
    except struct.error:
        pass
    return False


def _cut_short(content: bytes) -> bool:
    """Whether the mark is missing that ends a file of its format; of JPEG it may stand before some padding."""
    match _signature(content):
        case "JPEG":
            return b"\xff\xd9" not in content[-1024:]
        case "PNG":
            return b"IEND" not in content[-1024:]
        case "GIF":
            return b";" not in content[-16:]
        case "WEBP":
            return len(content) < 8 + int.from_bytes(content[4:8], "little")
        case "BMP":
            return len(content) < int.from_bytes(content[2:6], "little")
    return False


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
