"""Pictures to predict: any number of them, decoded one after another."""

from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nabi.data.decode import checked_size, decode, grey
from nabi.data.files import Member, members, read_regular
from nabi.data.gather import are_small, side_by_side
from nabi.data.resize import Size
from nabi.errors import DataError, PictureError, SettingError

Paths = str | PathLike[str] | Iterable[str | PathLike[str]]


def pictures(
    paths: Paths, *, size: int | tuple[int, int] | None = None, channels: Literal[1, 3] = 3
) -> Iterator[tuple[str, NDArray[np.uint8] | PictureError]]:
    """Decode pictures lazily, a few ahead in parallel where their files are not small.

    Parameters
    ----------
    paths : a path, or an iterable of paths
        Files and folders; of a folder, every file at any depth, sorted, without hidden ones.
    size : int or (int, int), optional
        Height and width; as for :func:`nabi.data.load`. ``None`` leaves each picture as large as it is.
    channels : 1 or 3
        1 makes pictures grey.

    Yields
    ------
    (str, array of uint8 of shape (H, W, channels))
        The path and the picture; or the path and the :class:`~nabi.errors.PictureError` that says why there is none.

    Raises
    ------
    SettingError
        If ``size`` or ``channels`` is something else.
    """
    wanted = checked_size(size)
    if channels not in (1, 3):
        raise SettingError(f"channels is {channels!r}: it must be 1 or 3")
    given = [paths] if isinstance(paths, (str, PathLike)) else paths
    return side_by_side(
        lambda found: _picture(*found, wanted, channels), _found(given), small=lambda found: are_small([found[1]])
    )


def _found(paths: Iterable[str | PathLike[str]]) -> Iterator[tuple[str, Member]]:
    for given in paths:
        path = Path(given)
        if not path.is_dir():
            yield str(path), Member(path.name, read=lambda path=path: read_regular(path))  # type: ignore[misc]
            continue
        try:
            for member in members(path):
                if not member.is_folder or member.problem:
                    yield str(path / member.name), member
        except DataError as error:
            yield str(path), Member(path.name, problem=str(error).removeprefix(f"{path}: "))


def _picture(
    path: str, member: Member, size: Size | None, channels: int
) -> tuple[str, NDArray[np.uint8] | PictureError]:
    try:
        if member.problem:
            raise PictureError(f"{path}: {member.problem}")
        picture = decode(member.read(), path, size)
    except PictureError as error:
        return path, error
    except DataError as error:
        return path, PictureError(f"{path}: {str(error).removeprefix(f'{member.name}: ').removeprefix(f'{path}: ')}")
    return path, grey(picture) if channels == 1 else picture
