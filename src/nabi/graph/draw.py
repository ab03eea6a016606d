"""A picture of a graph as people draw it on a whiteboard, as SVG and as DOT.

Values stand above the lines and gradients below. What is drawn comes as plain data, a `Picture`, so that drawing
knows nothing of tensors. The same picture gives the same bytes.
"""

import unicodedata
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from nabi.graph.layout import Layout, Place, arrange

VALUE = "#00695c"  # blue-green and vermilion: told apart in every kind of colour vision, and dark enough to read
GRADIENT = "#b53a00"
INK = "#222222"
FAINT = "#666666"
LINE = "#8a8a8a"
FILLS = {"operation": "#eef3f7", "group": "#fdf6e3", "rest": "#f4f4f4"}
FONT = "'Noto Sans', 'DejaVu Sans', 'Segoe UI', 'Helvetica Neue', Arial, sans-serif"

_RADIUS = 18.0
_LONGEST = 36  # characters of a name that are shown; the rest stands in the hint


class Item(NamedTuple):
    """One thing in a picture.

    Attributes
    ----------
    kind : str
        "leaf" (a name), "operation" (a circle with a symbol), "group" (a layer drawn as one), "rest" (what was left
        out).
    title : str
        Its name, symbol or layer.
    inputs : tuple of int
        Where lines come from: items before this one.
    name : str
        What its value is called, where the title does not say.
    above, below : tuple of str
        Its value and its gradient, in lines.
    cost : tuple of str
        What it costs, forward and backward side by side, in lines.
    hint : str
        What a pointer resting on it is told.
    """

    kind: str
    title: str
    inputs: tuple[int, ...] = ()
    name: str = ""
    above: tuple[str, ...] = ()
    below: tuple[str, ...] = ()
    cost: tuple[str, ...] = ()
    hint: str = ""


class Picture(NamedTuple):
    """What is to be drawn, items before those that use them, with notes to stand below."""

    title: str
    items: tuple[Item, ...]
    notes: tuple[str, ...] = ()


# --- SVG ---


def svg(picture: Picture, width: float = 1200.0) -> str:
    """The picture as SVG; texts are texts, in any script.

    Parameters
    ----------
    picture : Picture
    width : float
        Pixels beside each other before the picture goes on in a row below.
    """
    items = picture.items
    layout = arrange([_size(item) for item in items], [item.inputs for item in items], width)
    lines = [*picture.notes]
    wide = max([layout.width, *(_text_width(line, 11) + 56 for line in lines), _LEGEND_WIDTH])
    high = layout.height + 18 * (len(lines) + 1) + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_n(wide)}" height="{_n(high)}" '
        f'viewBox="0 0 {_n(wide)} {_n(high)}" role="img" font-family="{FONT}">',
        f"<title>{_xml(picture.title)}</title>",
        f'<rect width="{_n(wide)}" height="{_n(high)}" rx="8" fill="#ffffff"/>',
        f'<g fill="none" stroke="{LINE}" stroke-width="1.4" stroke-linecap="round">',
        *_lines(picture, layout),
        "</g>",
    ]
    for item, place in zip(items, layout.places, strict=True):
        parts += _item(item, place)
    parts += _foot(lines, layout.height)
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def _size(item: Item) -> tuple[float, float]:
    above = 16.0 * len(item.above) if item.above else 4.0
    below = 16.0 * len(item.below) if item.below else 4.0
    head = _head_height(item) / 2
    tall = max(above, below, head + 17.0 * bool(item.name), head + 12.0 * len(item.cost) + 3)
    return _head_width(item) + _stub(item), 2 * tall


def _head_width(item: Item) -> float:
    """Room for the shape and for what is written over and under it."""
    written = [_text_width(_short(item.name), 12) * bool(item.name), *(_text_width(line, 9.5) for line in item.cost)]
    return max(_shape_width(item), *written)


def _shape_width(item: Item) -> float:
    if item.kind == "leaf":
        return _text_width(_short(item.title), 14) + 8
    if item.kind == "operation":
        return _RADIUS * 2 if len(item.title) <= 3 else _text_width(_short(item.title), 13) + 22
    return max(_text_width(_short(line), size) for line, size in zip(_in_group(item), (13, 10), strict=False)) + 26


def _head_height(item: Item) -> float:
    if item.kind == "leaf":
        return 18.0
    if item.kind == "operation":
        return _RADIUS * 2 if len(item.title) <= 3 else 30.0
    return 32.0 + 14.0 * (len(_in_group(item)) - 1)


def _in_group(item: Item) -> list[str]:
    return item.title.split("\n")[:2]


def _stub(item: Item) -> float:
    """How long the line is that an item's numbers stand on."""
    widest = max((_text_width(line, 12 if i == 0 else 10.5) for i, line in enumerate(item.above)), default=0.0)
    widest = max([widest, *(_text_width(line, 12) for line in item.below)])
    return widest + 14 if widest else 10.0


def _lines(picture: Picture, layout: Layout) -> list[str]:
    items, places = picture.items, layout.places
    parts = []
    for item, place in zip(items, places, strict=True):
        start = (
            place.right - _stub(item)
            if item.kind == "leaf"
            else place.left + (_head_width(item) + _shape_width(item)) / 2
        )
        parts.append(f'<path d="M{_n(start)} {_n(place.middle)}H{_n(place.right)}"/>')
    arriving: dict[int, list[int]] = {}
    for number, link in enumerate(layout.links):
        if link.target is not None:
            times = items[link.target].inputs.count(link.source) if items[link.target].kind == "operation" else 1
            arriving.setdefault(link.target, []).extend([number] * times)
    ends: dict[int, list[tuple[float, float]]] = {}
    for target, numbers in arriving.items():
        numbers.sort(key=lambda number: layout.links[number].start[1])
        for number, port in zip(numbers, _ports(items[target], places[target], len(numbers)), strict=True):
            ends.setdefault(number, []).append(port)
    for number, link in enumerate(layout.links):
        for x, y in ends.get(number, [link.end]):
            (x0, y0), (x1, _) = link.start, link.end
            bend = (x1 - x0) * 0.5
            path = f"M{_n(x0)} {_n(y0)}"
            if abs(y - y0) >= 0.05:
                path += f"C{_n(x0 + bend)} {_n(y0)} {_n(x1 - bend)} {_n(y)} {_n(x1)} {_n(y)}"
            if x > x1 or abs(y - y0) < 0.05:
                path += f"H{_n(x)}"
            dashes = ' stroke-dasharray="5 4"' if link.wraps else ""
            parts.append(f'<path d="{path}"{dashes}/>')
            if link.target is not None or (link.wraps and link.end == (x, y)):
                parts.append(f'<path d="M{_n(x - 6)} {_n(y - 3.5)}L{_n(x)} {_n(y)}L{_n(x - 6)} {_n(y + 3.5)}"/>')
    return parts


def _ports(item: Item, place: Place, count: int) -> list[tuple[float, float]]:
    """Where lines arrive at an item, from above downwards."""
    reach = _head_height(item) / 2 * 0.62
    heights = [0.0] if count == 1 else [reach * (2 * i / (count - 1) - 1) for i in range(count)]
    left = place.left + (_head_width(item) - _shape_width(item)) / 2
    if item.kind == "operation" and len(item.title) <= 3:
        return [(left + _RADIUS - (_RADIUS**2 - dy**2) ** 0.5, place.middle + dy) for dy in heights]
    return [(left, place.middle + dy) for dy in heights]


def _item(item: Item, place: Place) -> list[str]:
    wide, y = _shape_width(item), place.middle
    middle = place.left + _head_width(item) / 2
    if item.kind == "leaf":
        middle = place.right - _stub(item) - wide / 2
    left = middle - wide / 2
    parts = ["<g>"]
    if item.hint:
        parts.append(f"<title>{_xml(item.hint)}</title>")
    if item.kind == "leaf":
        parts.append(_text(middle - 2, y + 5, _short(item.title), 14, INK, bold=True))
    else:
        half = _head_height(item) / 2
        if item.kind == "operation" and len(item.title) <= 3:
            shape = f'<circle cx="{_n(middle)}" cy="{_n(y)}" r="{_n(_RADIUS)}"'
        else:
            round_off = half if item.kind == "operation" else 8.0
            shape = (
                f'<rect x="{_n(left)}" y="{_n(y - half)}" width="{_n(wide)}" height="{_n(2 * half)}" '
                f'rx="{_n(round_off)}"'
            )
        dashes = ' stroke-dasharray="4 3"' if item.kind == "rest" else ""
        parts.append(f'{shape} fill="{FILLS[item.kind]}" stroke="{INK}" stroke-width="1.3"{dashes}/>')
        if item.kind == "operation":
            size = 17 if len(item.title) <= 2 else 13
            parts.append(_text(middle, y + size * 0.35, _short(item.title), size, INK))
        else:
            inside = _in_group(item)
            for line, size, down in zip(inside, (13, 10), (4.5 if len(inside) == 1 else -2, 13), strict=False):
                parts.append(_text(middle, y + down, _short(line), size, INK if size == 13 else FAINT))
        if item.name:
            parts.append(_text(middle, y - half - 5, _short(item.name), 12, INK, bold=True))
        for down, line in enumerate(item.cost):
            parts.append(_text(middle, y + half + 12 * (down + 1), line, 9.5, FAINT))
    over = place.right - (place.right - (left + wide)) / 2
    for up, line in enumerate(reversed(item.above)):
        first = up == len(item.above) - 1
        parts.append(_text(over, y - 5 - 14 * up, line, 12 if first else 10.5, VALUE, bold=first))
    for down, line in enumerate(item.below):
        parts.append(_text(over, y + 14 + 14 * down, line, 12 if len(item.above) < 2 else 10.5, GRADIENT))
    parts.append("</g>")
    return parts


_LEGEND_WIDTH = 360.0


def _foot(notes: Sequence[str], top: float) -> list[str]:
    parts = [
        f'<text x="28" y="{_n(top + 8)}" font-size="11" fill="{FAINT}">above a line '
        f'<tspan fill="{VALUE}" font-weight="bold">its value</tspan>, below it '
        f'<tspan fill="{GRADIENT}">its gradient</tspan></text>'
    ]
    for row, note in enumerate(notes):
        place = f'x="28" y="{_n(top + 8 + 18 * (row + 1))}"'
        parts.append(f'<text {place} font-size="11" fill="{FAINT}">{_xml(note)}</text>')
    return parts


def _text(x: float, y: float, text: str, size: float, colour: str, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{_n(x)}" y="{_n(y)}" font-size="{_n(size)}" fill="{colour}"{weight} text-anchor="middle">'
        f"{_xml(text)}</text>"
    )


def _n(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _xml(text: str) -> str:
    """Text that may stand in XML, whatever it was."""
    allowed = (
        c if c in "\t\n" or (" " <= c <= "\ud7ff") or "\ue000" <= c <= "\ufffd" or c > "\uffff" else "\ufffd"
        for c in text
    )
    return escape("".join(allowed))


def _text_width(text: str, size: float) -> float:
    """About how wide a text is: nothing here knows the fonts, so rather too wide."""
    return size * sum(_widths(c) for c in text)


def _widths(character: str) -> float:
    if unicodedata.combining(character):
        return 0.0
    if unicodedata.east_asian_width(character) in "WF":
        return 1.05
    if character in " .,:;|il!'()[]":
        return 0.36
    if character in "MWmw@%≤…":
        return 0.9
    return 0.7 if character.isupper() else 0.6


# --- DOT ---


def dot(picture: Picture) -> str:
    """The picture in the language of Graphviz, for those who lay it out with other tools."""
    parts = [
        "digraph nabi {",
        f"  label={_quoted(chr(10).join((picture.title, *picture.notes)))};",
        "  rankdir=LR;",
        '  node [fontname="sans-serif"];',
        '  edge [fontname="sans-serif"];',
    ]
    shapes = {"leaf": "plaintext", "operation": "ellipse", "group": "box", "rest": "box"}
    for number, item in enumerate(picture.items):
        label = "\n".join(filter(None, (item.name, item.title, *item.cost)))
        style = ", style=dashed" if item.kind == "rest" else ""
        parts.append(f"  n{number} [label={_quoted(label)}, shape={shapes[item.kind]}{style}];")
    for number, item in enumerate(picture.items):
        for source in item.inputs:
            given = picture.items[source]
            label = _quoted("\n".join((*given.above, *(f"∂ {line}" for line in given.below))))
            parts.append(f"  n{source} -> n{number} [label={label}];")
    if picture.items:
        last = picture.items[-1]
        label = _quoted("\n".join((*last.above, *(f"∂ {line}" for line in last.below))))
        parts += ['  end [label="", shape=none];', f"  n{len(picture.items) - 1} -> end [label={label}];"]
    parts.append("}")
    return "\n".join(parts) + "\n"


def _quoted(text: str) -> str:
    clean = "".join(c if c >= " " or c == "\n" else "\ufffd" for c in text)
    return '"' + clean.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
