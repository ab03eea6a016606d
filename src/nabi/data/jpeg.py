"""JPEG files, decoded by libjpeg-turbo with nothing around it: what Pillow gives to the bit, sooner.

Behind Pillow is the same library. But it reads a file's header in Python, hands the file over in pieces and copies the
pixels twice: of a photo that is half of the time, of a picture of 32x32 nearly all of it, most of it with Python's lock
in hand. So simplejpeg decodes what has nothing odd about it; of all else Pillow says what it is, or what is wrong.
"""

import numpy as np
import simplejpeg
from numpy.typing import NDArray

START = b"\xff\xd8\xff"
ABOUT_IT = b"\xff\xe1"
"""The segments with what a camera says of a photo, how it was held among it; in pixels these bytes never follow."""
COLOURS = ("Gray", "YCbCr", "RGB")


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
