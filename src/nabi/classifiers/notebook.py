"""How a classifier shows itself in a notebook: scikit-learn's diagram, and below it what its weights look for."""

import html
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nabi import figures
from nabi.pages import sharp

SIDE = 64  # pixels that a picture is at least enlarged to


def with_weights(diagram: str, pictures: NDArray[Any] | None, classes: NDArray[Any]) -> str:
    """The diagram, and weights as pictures.

    Parameters
    ----------
    diagram : str
        HTML.
    pictures : array, (M, H, W, C), or None
    classes : array, (K,)
        Their names are written below where there is one picture a class.
    """
    if pictures is None or pictures.shape[3] not in (1, 3):
        return diagram
    names = [str(name) for name in classes] if len(pictures) == len(classes) else [""] * len(pictures)
    cells = "".join(
        f'<figure style="margin:2px;text-align:center"><img src="{_sharp(picture)}">'
        f"<figcaption>{html.escape(name)}</figcaption></figure>"
        for name, picture in zip(names, figures.visible(pictures), strict=True)
    )
    return f'{diagram}<div style="display:flex;flex-wrap:wrap;font:12px sans-serif">{cells}</div>'


def _sharp(picture: NDArray[np.float64]) -> str:
    return sharp(np.rint(255 * picture).astype(np.uint8), max(1, round(SIDE / min(picture.shape[:2]))))
