"""``nabi look IMAGE``: a picture as the grid of numbers that the computer sees."""

import re
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from nabi.cli.characters import json_text, printable
from nabi.cli.look_files import read_picture
from nabi.cli.terminal import console
from nabi.container import replace_file
from nabi.errors import SettingError
from nabi.look.grid import Crop, View, view
from nabi.look.page import page

ACROSS = 32  # numbers, where there is no terminal whose width says how many
ON_A_PAGE = 64
MOST_NUMBERS = 50_000_000


def look_at_picture(
    path: Path, crop: str | None, zoom: float, size: int | None, html: Path | None, as_json: bool
) -> None:
    """Print a picture's numbers, channel by channel, or write them as a page."""
    where = console()
    part = None if crop is None else _crop(crop)
    # On a terminal four letters a number; scripts get the picture's own numbers, however many they are.
    fits = max(4, where.width // 4) if where.is_terminal else ACROSS
    most = size or (None if as_json else ON_A_PAGE if html is not None else fits)
    if size is not None and size < 1:
        raise SettingError(f"--size {size}: it must be 1 or more")
    if not zoom >= 1:
        raise SettingError(f"--zoom {zoom:g}: it must be 1 or more")
    picture = read_picture(path)
    try:
        shown = view(picture, crop=part, zoom=zoom, most=most)
    except SettingError as error:
        raise SettingError(f"{path}: {error}") from None
    if shown.numbers.size > MOST_NUMBERS:
        raise SettingError(
            f"{path}: {shown.numbers.size:,} numbers are too many: choose a part with --crop or a --size"
        )
    name, said = printable(str(path)), _said(shown)
    if html is not None:
        with replace_file(html) as file:
            file.write(page(shown, name, said).encode("utf-8", "backslashreplace"))
    if as_json:
        print(json_text(_as_data(path, shown, html)))
    elif html is not None:
        where.print(f"{name}: {said}\npage: {printable(str(html))}")
    else:
        where.print(f"{name}: {said}")
        _print(where, shown)


def _crop(text: str) -> Crop:
    found = re.fullmatch(r"\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*", text)
    if found is None:
        raise SettingError(f"--crop {text!r}: write X,Y,W,H, four whole numbers, as in 10,20,8,8")
    left, top, width, height = map(int, found.groups())
    return left, top, width, height


def _said(shown: View) -> str:
    """What of the picture is shown, in words."""
    width, height = shown.size
    left, top, wide, high = shown.crop
    across, down = shown.numbers.shape[1], shown.numbers.shape[0]
    said = f"{width}x{height} pixels, {' '.join(shown.channels)}, uint8"
    if (wide, high) != (width, height):
        said += f"; of these the {wide}x{high} from x={left}, y={top}"
    if shown.shrunk:
        said += (
            f"; shrunk to {across}x{down}, each number the mean of {wide / across:.3g}x{high / down:.3g} pixels "
            "(--crop, --zoom and --size show the picture's own)"
        )
    return said


def _print(where: Console, shown: View) -> None:
    coloured = where.is_terminal and where.color_system is not None and not where.no_color
    for number, name in enumerate(shown.channels):
        where.print(f"\n{name}")
        if not coloured:
            where.print("\n".join(shown.rows(number)))
            continue
        for row in shown.numbers[:, :, number]:
            where.print(Text.assemble(*((f"{value:4d}", _cell(name, int(value))) for value in row)))


def _cell(channel: str, value: int) -> str:
    """The style of a cell: its number as a colour, with letters that can be read on it."""
    colour = {"red": (value, 0, 0), "green": (0, value, 0), "blue": (0, 0, value)}.get(channel, (value, value, value))
    dark = value > (140 if channel in ("grey", "green") else 255)
    return f"{'black' if dark else 'white'} on rgb({colour[0]},{colour[1]},{colour[2]})"


def _as_data(path: Path, shown: View, html: Path | None) -> dict[str, Any]:
    left, top, wide, high = shown.crop
    return {
        "path": str(path),
        "width": shown.size[0],
        "height": shown.size[1],
        "crop": {"x": left, "y": top, "width": wide, "height": high},
        "shrunk": shown.shrunk,
        "channels": {name: shown.numbers[:, :, number].tolist() for number, name in enumerate(shown.channels)},
        "page": None if html is None else str(html),
    }
