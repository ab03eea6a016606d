"""Tables as text: columns that line up in any script, in blocks as wide as the screen."""

from collections.abc import Sequence
from pathlib import Path

from rich.cells import cell_len

from nabi.cli.characters import printable

LONGEST = 18  # cells of a picture's name


def short_names(paths: Sequence[str]) -> list[str]:
    """Names that tell pictures apart: the file's, or with its folder's where two are the same.

    Examples
    --------
    >>> short_names(["test/cat/1.jpg", "test/dog/1.jpg"])
    ['cat/1.jpg', 'dog/1.jpg']
    """
    names = [Path(path).name for path in paths]
    if len(set(names)) < len(names):
        names = ["/".join(Path(path).parts[-2:]) for path in paths]
    return names


def aligned(rows: Sequence[Sequence[str]], *, right: int = 0) -> list[str]:
    """Rows as lines whose columns line up, the last `right` of them at their right edges.

    Examples
    --------
    >>> aligned([("나비", "1"), ("cat", "12")], right=1)
    ['나비   1', 'cat   12']
    """
    columns = list(zip(*rows, strict=True))
    widths = [max(map(cell_len, column)) for column in columns]
    lines = []
    for row in rows:
        cells = [
            _padded(cell, width, place >= len(columns) - right)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def table(
    title: str,
    heads: Sequence[str],
    names: Sequence[str],
    columns: Sequence[Sequence[str]],
    marked: Sequence[int | None],
    last: Sequence[tuple[str, Sequence[str]]],
    width: int,
) -> str:
    """A table of classes in rows and pictures in columns, in as many blocks as the width asks for.

    Parameters
    ----------
    title : str
    heads, columns : sequence, one for each picture
        Its name, and its cell for each class.
    names : sequence of str, one for each class
    marked : sequence of int or None, one for each picture
        The row that gets a star.
    last : sequence of (str, sequence of str)
        More rows below.
    width : int
        Of a line, in letters.
    """
    cells = [
        [f"{cell}{'*' if row == star else ' '}" for row, cell in enumerate(column)]
        for column, star in zip(columns, marked, strict=True)
    ]
    heads = [f"{_shortened(printable(head))} " for head in heads]
    first = max(cell_len(printable(name)) for name in [title, *names, *(name for name, _ in last)])
    each = max(cell_len(text) for column in [heads, *cells] for text in column) + 2
    per_block = max(1, (width - first) // each)
    lines = []
    for start in range(0, len(heads), per_block):
        block = slice(start, start + per_block)
        rows = [(title, *heads[block])]
        rows += [(printable(name), *(cell[row] for cell in cells[block])) for row, name in enumerate(names)]
        rows += [(name, *(f"{text} " for text in values[block])) for name, values in last]
        lines += ["", *aligned(rows, right=len(rows[0]) - 1)]
    return "\n".join(lines)


def _padded(text: str, width: int, at_the_right: bool) -> str:
    space = " " * (width - cell_len(text))
    return space + text if at_the_right else text + space


def _shortened(name: str) -> str:
    """The end of a name, where it is long: the beginnings of file names are often the same."""
    while cell_len(name) > LONGEST:
        name = "…" + name[2:]
    return name
