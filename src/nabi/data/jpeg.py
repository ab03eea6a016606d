"""JPEG files, decoded by libjpeg-turbo with nothing around it: what Pillow gives to the bit, sooner.

Behind Pillow is the same library. But it reads a file's header in Python, hands the file over in pieces and copies the
pixels twice: of a photo that is half of the time, of a picture of 32x32 nearly all of it, most of it with Python's lock
in hand. So simplejpeg decodes what it can decode without a warning, and Pillow is asked only where there is more to a
file than its pixels: how the camera was held, or what may be wrong.
"""

import numpy as np
import simplejpeg
from numpy.typing import NDArray

START = b"\xff\xd8\xff"
COLOURS = ("Gray", "YCbCr", "RGB")
FRAMES = b"\xc0\xc1\xc2"  # baseline, extended and progressive, in Huffman's code
TABLES = b"\xc4\xdb\xdd\xfe"  # of Huffman's code and of quantization, the interval of restarts, and comments
APPLICATION, SCAN = 0xE0, 0xDA


def plain_jpeg(content: bytes, most: int) -> NDArray[np.uint8] | None:
    """The pixels, (H, W, 3), of a whole and ordinary JPEG file of at most so many pixels; ``None`` of any other file.

    Examples
    --------
    >>> import io
    >>> from PIL import Image
    >>> file = io.BytesIO()
    >>> Image.new("L", (3, 2), 128).save(file, "JPEG")
    >>> plain_jpeg(file.getvalue(), 100)[0, 0].tolist(), plain_jpeg(file.getvalue()[:-20], 100)
    ([128, 128, 128], None)
    """
    if not content.startswith(START):
        return None
    try:  # it refuses what libjpeg-turbo as much as warns of
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        if colours not in COLOURS or height * width > most:
            return None
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(content, "RGB")
    except Exception:
        return None
    return pixels


def has_pixels_only(content: bytes) -> bool:
    """Whether there is no more to a JPEG file than its 8-bit pixels, and what they are decoded with.

    Source: ITU-T T.81, annex B; JFIF 1.02.

    Examples
    --------
    >>> import io
    >>> from PIL import Image
    >>> file, exif = io.BytesIO(), Image.Exif()
    >>> Image.new("L", (3, 2), 128).save(file, "JPEG")
    >>> has_pixels_only(file.getvalue()), has_pixels_only(file.getvalue().replace(b"JFIF", b"Exif"))
    (True, False)
    """
    at, framed = len(START) - 1, False
    while content[at : at + 1] == b"\xff" and at + 4 <= len(content):
        marker, begin = content[at + 1], at + 4
        length = content[at + 2] << 8 | content[at + 3]
        if marker == SCAN:
            return framed
        if marker in FRAMES:
            framed = content[begin : begin + 1] == b"\x08"
        elif not (
            marker in TABLES or (marker == APPLICATION and length >= 16 and content.startswith(b"JFIF\0", begin))
        ):
            return False
        at += 2 + length
    return False
