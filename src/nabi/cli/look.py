"""``nabi look``: into a formula, a picture, a model, or what a model makes of a picture."""

from pathlib import Path
from typing import Annotated, Any

import typer

from nabi.cli.look_files import is_model
from nabi.errors import SettingError

WAYS = (
    "look: name what to look at: a picture; a model, with pictures or without; "
    'or a formula, as in nabi look --graph "(x+y)*z" x=-2 y=5 z=-4'
)

# Which options go with what is looked at, besides --json.
_OPTIONS = {
    "--graph": {"out"},
    "--distances": {"out"},
    "a picture": {"crop", "zoom", "size", "html"},
    "a model": {"out"},
    "a model and pictures": {"out", "label", "top", "neighbors"},
}


def look(
    things: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="IMAGE|MODEL|NAME=NUMBER",
            help="A picture; a model file or run folder, and pictures for it; with --graph numbers, such as x=-2.",
        ),
    ] = None,
    graph: Annotated[
        str | None, typer.Option(metavar="EXPRESSION", help='A formula to take apart, such as "(x+y)*z".')
    ] = None,
    distances: Annotated[
        bool, typer.Option("--distances", help="Box, shift and tint a picture, all to one L2 distance from it.")
    ] = False,
    crop: Annotated[
        str | None, typer.Option(metavar="X,Y,W,H", help="Of a picture only this part: left, top, width, height.")
    ] = None,
    zoom: Annotated[float | None, typer.Option(help="Look closer: at the middle, its sides divided by this.")] = None,
    size: Annotated[
        int | None,
        typer.Option(help="Shrink a picture to so many numbers a side at most.", show_default="what can be shown"),
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page of the picture and its numbers.")] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(
            help="The right class: once for all pictures, or once for each.", show_default="the folder's name"
        ),
    ] = None,
    top: Annotated[
        int | None, typer.Option(help="How many classes to show of a model that has more.", show_default="20")
    ] = None,
    neighbors: Annotated[
        int | None,
        typer.Option(help="How many nearest neighbours of a picture to show.", show_default="as it was made"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where to write the figure: .svg or .png (.dot for a graph).",
            show_default="graph.svg, weights.png, look.png or distances.png",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Look into a formula, a picture or a model.

    IMAGE prints a picture as the grid of numbers that the computer sees. MODEL draws its weights as pictures. MODEL
    IMAGE... shows the score of each class for each picture, the losses, and how they come about: for a net what each
    layer makes of it and where it looked, for nearest neighbours who they are. --distances IMAGE makes three
    pictures that are equally far from it. --graph EXPRESSION shows every value and every gradient of a formula.
    """
    given = {"crop": crop, "zoom": zoom, "size": size, "html": html, "label": label, "top": top, "neighbors": neighbors}
    things = things or []
    if graph is not None:
        from nabi.cli.look_graph import look_at_graph

        _refuse("--graph", distances=distances or None, **given)
        look_at_graph(graph, things, out, as_json)
        return
    if not things:
        raise SettingError(WAYS)
    paths = [Path(thing) for thing in things]
    if distances:
        from nabi.cli.look_distances import look_at_distances

        _refuse("--distances", **given)
        look_at_distances(_only(paths), out, as_json)
    elif len(paths) > 1:
        from nabi.cli.look_answers import look_at_answers

        _refuse("a model and pictures", **given)
        look_at_answers(paths[0], paths[1:], label or [], 20 if top is None else top, neighbors, out, as_json)
    elif is_model(paths[0]):
        from nabi.cli.look_model import look_at_model

        _refuse("a model", **given)
        look_at_model(paths[0], out, as_json)
    else:
        from nabi.cli.look_picture import look_at_picture

        _refuse("a picture", out=out, **given)
        look_at_picture(paths[0], crop, 1.0 if zoom is None else zoom, size, html, as_json)


def _refuse(what: str, **given: Any) -> None:
    """Raise where an option was given that means nothing for what is looked at."""
    for name, value in given.items():
        if value is not None and value != [] and name not in _OPTIONS[what]:
            raise SettingError(f"--{name}: does not go with {what}")


def _only(paths: list[Path]) -> Path:
    if len(paths) > 1:
        raise SettingError(f"--distances takes one picture, not {len(paths)}")
    return paths[0]
