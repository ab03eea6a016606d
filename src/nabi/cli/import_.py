"""``nabi import``: a model that others made, as one of ours."""

import math
from pathlib import Path
from typing import Annotated

import typer

from nabi import nn
from nabi.classifiers.imported import from_onnx
from nabi.cli.characters import printable
from nabi.errors import DataError, SettingError


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE.onnx", help="An ONNX file of a classifier.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", show_default="FILE.safetensors", help="The model file to write.")
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="Height and width of its pictures, where the file leaves them open.")
    ] = None,
    mean: Annotated[str | None, typer.Option(help="Of a network of standardised pictures: a number a channel.")] = None,
    std: Annotated[str | None, typer.Option(help="Likewise, such as 0.229,0.224,0.225.")] = None,
    classes: Annotated[Path | None, typer.Option(metavar="FILE", help="Names of its classes, one a line.")] = None,
) -> None:
    """Open an ONNX classifier made of operations that nabi has, and keep it as a model file.

    It can then be looked at, evaluated and asked like any other. Networks of others mostly take pictures that were
    divided by 255 and standardised: say how with --mean and --std, and nabi does it. An operation that nabi lacks is
    named.
    """
    made = from_onnx(
        file,
        size=None if size is None else (size, size),
        mean=_numbers("--mean", mean),
        std=_numbers("--std", std),
        classes=None if classes is None else _lines(classes),
    )
    path = file.with_suffix(".safetensors") if out is None else out
    if out is None and path.exists():
        raise SettingError(f"{path}: there is one already: name another with --out, or the same to replace it")
    made.save(path, {"imported": file.name})
    numbers = sum(math.prod(tensor.shape) for tensor in nn.tensors(made.model_).values())
    shape = "x".join(map(str, made.input_shape_))
    gives = "probabilities" if made.gives_ else "scores"
    print(
        f"{printable(str(path))}: {len(made.model_.graph.graph.nodes):,} nodes, {numbers:,} weights, from "
        f"{shape} {made.input_dtype_} to {gives} of {len(made.classes_):,} classes"
    )


def _lines(path: Path) -> tuple[str, ...]:
    try:
        return tuple(path.read_text(encoding="utf-8").splitlines())
    except UnicodeDecodeError:
        raise DataError(f"{path}: not text in UTF-8") from None


def _numbers(option: str, given: str | None) -> tuple[float, ...] | None:
    if given is None:
        return None
    try:
        return tuple(float(part) for part in given.split(","))
    except ValueError:
        raise SettingError(f"{option} {given}: numbers with commas between them") from None
