"""How large the pictures of a folder or archive are, without decoding them."""

import contextlib
import io
from itertools import islice
from pathlib import Path
from statistics import median

from nabi.data.decode import formats, silence_pillow
from nabi.data.files import members

LOOKED_AT = 20
"""Pictures that are looked at: the first ones."""


def usual_side(path: Path) -> int | None:
    """The short side of a typical picture, in pixels; None where the first files are no pictures.

    Examples
    --------
    >>> import tempfile
    >>> from PIL import Image
    >>> folder = Path(tempfile.mkdtemp())
    >>> Image.new("RGB", (640, 480)).save(folder / "photo.png")
    >>> usual_side(folder)
    480
    """
    from PIL import Image

    silence_pillow()
    sides: list[int] = []
    files = (member for member in members(path) if not member.is_folder and not member.problem)
    for member in islice(files, 5 * LOOKED_AT):
        with contextlib.suppress(Exception):  # Pillow raises nearly everything on damaged files
            sides.append(min(Image.open(io.BytesIO(member.read()), formats=formats()).size))
        if len(sides) == LOOKED_AT:
            break
    return int(median(sides)) if sides else None
