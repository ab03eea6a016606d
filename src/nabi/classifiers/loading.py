"""The one reader of model files."""

import os
from pathlib import Path
from typing import Any

from nabi import container
from nabi.classifiers.base import rebuild
from nabi.classifiers.imported import ImportedClassifier, from_onnx
from nabi.classifiers.registry import registered
from nabi.errors import ModelFileError, SettingError


def load(path: str | os.PathLike[str]) -> Any:
    """Read a classifier that its ``save`` wrote.

    Parameters
    ----------
    path : path-like
        A model file, or a folder with one in it, as ``nabi train`` makes it; or an ONNX file, whose name ends in
        ``.onnx`` (see `nabi.classifiers.imported.from_onnx`).

    Returns
    -------
    Classifier
        Of the class that was saved, fitted.

    Raises
    ------
    ModelFileError, FormatError
        The file is missing, damaged, of a newer nabi, or something else.

    Examples
    --------
    >>> import tempfile, pathlib, numpy as np
    >>> from nabi.classifiers import LinearClassifier
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "model.safetensors"
    >>> LinearClassifier(max_iter=1, random_state=0).fit([[0.0], [1.0]], ["no", "yes"]).save(path)
    >>> load(path).predict([[5.0]])
    array(['yes'], dtype='<U3')
    """
    if Path(path).is_dir():
        path = _only_model(Path(path))
    if Path(path).suffix.lower() == ".onnx":
        return from_onnx(path)
    arrays, header = container.read(path)
    name = header.get("classifier")
    if name is None:
        what = "the checkpoint of a run" if "checkpoint" in header else "no classifier"
        raise ModelFileError(f"{path}: {what}, not a model")
    try:
        imported = name == ImportedClassifier.registered_name
        return rebuild(ImportedClassifier if imported else registered(str(name)), arrays, header)
    except (ModelFileError, SettingError) as error:
        # In one line, and not a long one: what a header holds may be megabytes.
        raise ModelFileError(f"{path}: {' '.join(str(error).split())[:300]}") from None


def _only_model(folder: Path) -> Path:
    found = sorted(folder.glob("*.safetensors"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise ModelFileError(f"{folder}: a folder with one model file is wanted; there is {names}")
    return found[0]
