"""What ``nabi look`` is given: models, pictures, and where its figures go."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nabi import data
from nabi.cli.run_folder import MODEL, is_backbone
from nabi.data.decode import is_grey
from nabi.data.files import open_regular
from nabi.errors import DataError, PictureError, SettingError


def is_model(path: Path) -> bool:
    """Whether a file or folder is meant as a model: by its name or its first bytes, or as the folder of a run.

    So is the name of a network that was trained elsewhere.

    Raises
    ------
    DataError
        Nothing is there, or it is a folder without a model.
    """
    if path.is_dir():
        if not (path / MODEL).exists():
            raise DataError(f"{path}: a folder without {MODEL} in it")
        return True
    if is_backbone(path):
        return True
    with open_regular(path) as file:
        return path.suffix in (".safetensors", ".onnx") or file.read(10)[8:] in (b'{"', b"{}")


def read_picture(path: Path) -> NDArray[np.uint8]:
    """One picture as it is: uint8, (H, W, 3), or (H, W, 1) where it is grey."""
    ((_, picture),) = data.pictures([path])
    if isinstance(picture, PictureError):
        raise picture
    return picture[:, :, :1] if is_grey(picture) else picture


def figure_file(out: Path | None, default: str) -> Path:
    """Where a figure goes, checked before anything is computed."""
    path = Path(default) if out is None else out
    if path.suffix.lower() not in (".svg", ".png"):
        raise SettingError(f"{path}: a figure is written as .svg or .png")
    return path
