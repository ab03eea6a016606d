"""A page of its own: a picture enlarged, and the numbers in its cells, one channel at a time."""

from typing import NamedTuple

import numpy as np

from nabi.look.grid import View
from nabi.pages import rendered, sharp

WIDTH = 480  # of the enlarged picture on the page, at least

# The colour of a cell by its number, var(--v); and from which number on black letters are easier to read than white.
_CELLS = {
    "grey": ("rgb(var(--v) var(--v) var(--v))", 120),
    "red": ("rgb(var(--v) 0 0)", 256),
    "green": ("rgb(0 var(--v) 0)", 150),
    "blue": ("rgb(0 0 var(--v))", 256),
}


class _Channel(NamedTuple):
    name: str
    background: str
    dark: int
    rows: list[list[int]]


def page(shown: View, title: str, said: str) -> str:
    """An HTML page that holds all it needs, and asks no other address for anything.

    Parameters
    ----------
    shown : View
        As `view` gives it.
    title, said : str
        The heading, and a sentence below it. They are escaped.

    Examples
    --------
    >>> from nabi.look import view
    >>> text = page(view(np.zeros((2, 2, 1), np.uint8)), "<cat>.png", "2x2")
    >>> "&lt;cat&gt;.png" in text, "<cat>" in text
    (True, False)
    """
    left, top, wide, high = shown.crop
    rows, columns = shown.numbers.shape[:2]
    scale = max(1, -(-WIDTH // columns))
    return rendered(
        "look",
        title=title,
        said=said,
        png=sharp(shown.numbers),
        width=columns * scale,
        height=rows * scale,
        columns=left + np.arange(columns) * wide // columns,
        rows=top + np.arange(rows) * high // rows,
        channels=_channels(shown),
    )


def _channels(shown: View) -> list[_Channel]:
    channels = []
    for number, name in enumerate(shown.channels):
        background, dark = _CELLS[name]
        channels.append(_Channel(name, background, dark, shown.numbers[:, :, number].tolist()))
    return channels
