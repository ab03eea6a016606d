"""The one reader: a file is told by its content, whatever its name."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

from nabi.data.files import open_regular
from nabi.errors import FormatError
from nabi.weights import pytorch, safetensors
from nabi.weights.arrays import Arrays


def read(path: str | os.PathLike[str]) -> Arrays:
    """Read the arrays of a file of weights: safetensors, or what ``torch.save`` writes in either of its forms.

    PyTorch is not needed, and nothing in the file runs: its pickle may hold tensors, numbers, strings and plain
    containers (dict, OrderedDict, Counter, list, tuple, torch.Size), and is refused at the first other thing it asks
    for, before any array is made.

    Parameters
    ----------
    path : path-like
        The file, told by its content: the name may end with anything.

    Returns
    -------
    dict of str to ndarray
        Writable arrays by name, in the file's order, float64, float32, float16, integers or bool; a bfloat16 becomes
        the float32 of the same value. Tensors that lie in each other's memory, as tied weights do, may do so as arrays.
        Tensors in nested containers have dotted names (an item of a list by its number), without what all names begin
        with: ``{"state_dict": {"fc.bias": ...}, "epoch": 3}`` gives ``fc.bias``, while ``{"model": {"fc.bias": ...},
        "mean": {"fc.bias": ...}}`` gives ``model.fc.bias`` and ``mean.fc.bias``. What is no tensor is passed over.

    Raises
    ------
    FormatError
        The file is something else, damaged, or asks for more than tensors and plain containers.
    DataError
        It is not there or cannot be read.

    Notes
    -----
    Nothing of the file is trusted. What it claims is compared with the bytes that are there before memory is taken for
    it, and time and memory stay within a small multiple of the file's length (see `nabi.data.pickles`).

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from nabi import container
    >>> path = Path(tempfile.mkdtemp()) / "model.safetensors"
    >>> container.write(path, {"bias": np.zeros(2)}, {})
    >>> read(path)
    {'bias': array([0., 0.])}
    """
    path = Path(path)
    with open_regular(path) as file:
        try:
            start = file.read(512)
            form = _form(start, os.fstat(file.fileno()).st_size)
            file.seek(0)
            return form(file)
        except FormatError as error:
            raise FormatError(f"{path}: {error}") from None
        except OSError as error:
            raise FormatError(f"{path}: cannot be read ({(error.strerror or type(error).__name__).lower()})") from None
        except MemoryError:
            raise FormatError(f"{path}: does not fit in memory") from None


def _form(start: bytes, size: int) -> Callable[[IO[bytes]], Arrays]:
    """The reader of what begins so."""
    if safetensors.begins(start, size):
        return safetensors.read
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return pytorch.read_zip
    if start.startswith(b"\x80"):
        return pytorch.read_stream
    if start[257:262] == b"ustar":
        raise FormatError("a tar, as PyTorch wrote before 0.1.10: load it there and save it anew")
    if start.startswith(b"version https://git-lfs"):
        raise FormatError("only a note of Git LFS of where the file is: fetch it with git lfs pull")
    raise FormatError("neither a safetensors file nor what torch.save writes")
