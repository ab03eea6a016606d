"""``nabi look --distances IMAGE``: three pictures that are equally far from one, and look nothing alike."""

from pathlib import Path

from nabi import figures
from nabi.cli.characters import json_text, printable
from nabi.cli.look_files import figure_file, read_picture
from nabi.cli.terminal import console, note
from nabi.errors import DataError
from nabi.look.distances import same_distance
from nabi.look.grid import view

LARGEST = 512  # pixels a side: larger pictures show nothing more


def look_at_distances(path: Path, out: Path | None, as_json: bool) -> None:
    """Box, shift and tint a picture to one and the same L2 distance, draw them side by side, and print how far."""
    figure = figure_file(out, "distances.png")
    shown = view(read_picture(path), most=LARGEST)
    if shown.shrunk:
        note(f"{path}: {shown.size[0]}x{shown.size[1]} pixels shrunk to at most {LARGEST} a side")
    try:
        versions = same_distance(shown.numbers)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    titles = ["original\n" + path.name, *(f"{v.name}: {v.distance:,.2f}\n{v.how}" for v in versions)]
    figures.pictures([shown.numbers, *(v.picture for v in versions)], titles, figure, columns=4, width=2.2)
    squares = {version.squared_distance for version in versions}
    if as_json:
        content = {
            "path": str(path),
            "width": shown.numbers.shape[1],
            "height": shown.numbers.shape[0],
            "exact": len(squares) == 1,
            "versions": [
                {"name": v.name, "how": v.how, "distance": v.distance, "squared_distance": v.squared_distance}
                for v in versions
            ],
            "figure": str(figure),
        }
        print(json_text(content, indent=2))
        return
    where = console()
    where.print(f"{printable(str(path))}: {shown.numbers.shape[1]}x{shown.numbers.shape[0]} pixels")
    for version in versions:
        where.print(f"  {version.name:8} L2 distance {version.distance:,.2f}: {version.how}")
    if len(squares) == 1:
        where.print(f"all three at the squared distance {squares.pop():,}, exactly")
    else:
        where.print(
            f"squared distances {', '.join(f'{v.squared_distance:,}' for v in versions)}: "
            "no whole numbers were found that make them equal"
        )
    where.print(f"figure: {printable(str(figure))}")
