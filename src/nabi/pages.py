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


def sharp(picture: NDArray[np.uint8], times: int = 1) -> str:
    """A picture (H, W, 1 or 3) to the bit, each pixel ``times`` as wide and as high, as the address that holds it.

    Examples
    --------
    >>> sharp(np.zeros((8, 8, 1), np.uint8), 4)[:30]
    'data:image/png;base64,iVBORw0K'
    """
    image = _image(picture)
    return _address(image.resize((image.width * times, image.height * times), 0), "PNG")


def inlined(picture: NDArray[np.uint8], longest: int) -> str:
    """A picture (H, W, 1 or 3), its long side made ``longest`` pixels at most, as the address that holds it.

    Examples
    --------
    >>> inlined(np.zeros((300, 200, 3), np.uint8), 100)[:30]
    'data:image/jpeg;base64,/9j/4AA'
    """
    image = _image(picture)
    image.thumbnail((longest, longest))
    return _address(image, "JPEG", quality=80)


def _image(picture: NDArray[np.uint8]) -> Any:
    from PIL import Image

    return Image.fromarray(picture[:, :, 0] if picture.shape[2] == 1 else picture)


def _address(image: Any, form: str, **how: Any) -> str:
    file = io.BytesIO()
    image.save(file, form, **how)
    return f"data:image/{form.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
