"""Why a file cannot be decoded: it is empty, no picture, cut short, or damaged."""

import re
import struct

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


def damage(content: bytes, reason: str) -> tuple[str, str]:
    """Why a file could not be decoded, where the decoder said ``reason``.

    Returns
    -------
    kind : str
        "empty", "zero-area", "not-an-image", "truncated" or "damaged".
    words : str

    Examples
    --------
    >>> damage(b"", "not a picture of a known format")
    ('empty', 'an empty file')
    >>> damage(b"<!DOCTYPE html><html>", "not a picture of a known format")
    ('not-an-image', 'not a picture but a web page')
    """
    if not content:
        return "empty", "an empty file"
    format_ = _signature(content)
    if _without_area(content):
        return "zero-area", f"a {format_ or 'picture'} without pixels: its width or height is 0"
    if not format_:
        for beginning, name in _BEGINNINGS:
            if re.match(beginning, content[:1000], re.DOTALL | re.IGNORECASE):
                return "not-an-image", f"not a picture but {name}"
        if "known format" in reason:
            return "not-an-image", reason
    what = with_article(format_ or "picture")
    if _cut_short(content) or "truncated" in reason:
        return "truncated", f"cut short: begins as {what}, but its end is missing"
    if "known format" in reason:
        return "damaged", f"begins as {what}, but is damaged or of a kind that is not read"
    return "damaged", reason


def with_article(name: str) -> str:
    """The name of a format as a sentence has it."""
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
