"""Pages of their own: HTML files that hold all they need, pictures too, and ask no other address for anything."""

import base64
import io
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray


def rendered(room: str, **said: Any) -> str:
    """The template ``page.html`` of a room of nabi, filled in; what is said is escaped."""
    from jinja2 import Environment

    text = files(f"nabi.{room}").joinpath("page.html").read_text(encoding="utf-8")
    page: str = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(text).render(**said)
    return page


def inlined(picture: NDArray[np.uint8], longest: int) -> str:
    """A picture (H, W, 1 or 3), its long side made ``longest`` pixels at most, as the address that holds it.

    Examples
    --------
    >>> inlined(np.zeros((300, 200, 3), np.uint8), 100)[:30]
    'data:image/jpeg;base64,/9j/4AA'
    """
    from PIL import Image

    image = Image.fromarray(picture[:, :, 0] if picture.shape[2] == 1 else picture)
    image.thumbnail((longest, longest))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
