"""``load``: from a name or a path to a data set."""

from itertools import islice
from pathlib import Path

from nabi.data.cifar import form_of, load_cifar, may_be_cifar
from nabi.data.dataset import Dataset
from nabi.data.decode import checked_size
from nabi.data.files import Progress, expanded, is_archive, members, open_regular
from nabi.data.folders import load_folder
from nabi.data.idx import is_idx_name, load_idx, partner
from nabi.data.named import NAMED
from nabi.data.resize import Size
from nabi.errors import DataError, FormatError, SettingError

ARCHIVE_ENDINGS = (".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar", ".zip")


def load(
    name_or_path: str | Path,
    *,
    size: int | tuple[int, int] | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """A data set of pictures in classes, by name or by path.

    Parameters
    ----------
    name_or_path : str or Path
        ``"digits"``, ``"cifar10"``, ``"cifar100"``, ``"mnist"`` or ``"fashion-mnist"``: the official files, with their
        published checksums, from the folders in ``NABI_DATA``, the cache or the network. Otherwise a path to

        - a folder of class folders, or a .tar, .tar.gz, .tar.xz or .zip of one; inside, ``train/``, ``val/``
          (``valid/``, ``validation/``) and ``test/`` are told apart;
        - CIFAR in its binary or python form, as .tar.gz or as a folder of its files;
        - a folder of IDX files (``train-images-idx3-ubyte.gz`` and so on), or one of them.
    size : int or (int, int), optional
        Height and width that pictures in folders and archives are brought to: short side resized, centre cropped. By
        default pictures that all have the same size stay as they are, and others become 32x32.
    progress : callable, optional
        Called from time to time as ``progress(done, total)`` while pictures are decoded (a folder's files are counted,
        an archive's bytes) or files are downloaded (bytes).

    Returns
    -------
    Dataset
        With the splits that the source has: ``test`` and ``validation`` may be ``None``
        (:func:`nabi.data.complete_splits` makes them). ``digits``, which has none of its own, comes with all three.
        ``images`` may be a read-only memory map; or, where there is no room for one, an :class:`~nabi.data.OnDemand`,
        which decodes pictures when they are asked for. ``skipped`` names the files that were passed over.

    Raises
    ------
    DataError
        If nothing of that name is there, or it is no data set; :class:`~nabi.errors.FormatError` if it is damaged,
        :class:`~nabi.errors.ChecksumError` if official files are not what was published.
    DownloadError
        If it has to be downloaded and cannot.
    SettingError
        If ``size`` is not a size, or is given for a data set that has one of its own.

    Examples
    --------
    >>> digits = load("digits")
    >>> digits.train.images.shape, digits.train.images.dtype, len(digits.classes)
    ((1259, 8, 8, 1), dtype('uint8'), 10)
    """
    wanted = checked_size(size)
    if isinstance(name_or_path, str) and name_or_path in NAMED:
        _refuse_size(wanted, name_or_path)
        return NAMED[name_or_path].load(progress)
    path = expanded(name_or_path)
    if path.is_dir():
        return _load_folder(path, wanted, progress)
    try:
        open_regular(path).close()
    except DataError as error:
        if path.exists():
            raise
        raise DataError(f"{error} (data sets known by name: {', '.join(NAMED)})") from None
    return _load_file(path, wanted, progress)


def _load_folder(path: Path, size: Size | None, progress: Progress | None) -> Dataset:
    name = path.resolve().name
    found = [member for member in islice(members(path), 1000) if not member.is_folder]
    here = [member.name for member in found]
    if any(is_idx_name(file) for file in here):
        _refuse_size(size, name)
        for member in found:
            if is_idx_name(member.name) and member.problem:
                raise FormatError(f"{path / member.name}: {member.problem}")
        return load_idx([path / file for file in here if is_idx_name(file)], name)
    if form_of([file.rsplit("/", 1)[-1] for file in here if may_be_cifar(file)]):
        _refuse_size(size, name)
        return load_cifar(path, name)
    return load_folder(path, name, size, progress)


def _load_file(path: Path, size: Size | None, progress: Progress | None) -> Dataset:
    name = path.name
    if is_idx_name(name):
        _refuse_size(size, name)
        return load_idx(partner(path), name)
    if not is_archive(path):
        raise DataError(
            f"{path}: neither an archive (tar, tar.gz, tar.xz, zip) nor IDX: a folder of pictures is needed"
        )
    for ending in ARCHIVE_ENDINGS:
        name = name.removesuffix(ending)
    if _is_cifar_archive(path):
        _refuse_size(size, name)
        return load_cifar(path, name)
    return load_folder(path, name, size, progress)


def _is_cifar_archive(path: Path) -> bool:
    """Told by the names of its files, of which mostly the first three are enough."""
    seen: list[str] = []
    files = (member.name for member in members(path, lambda _: False) if not member.is_folder)
    for number, file in enumerate(files, 1):
        if may_be_cifar(file):
            seen.append(file.rsplit("/", 1)[-1])
            if form_of(seen):
                return True
        if number >= 3 and not seen:
            return False
    return False


def _refuse_size(size: Size | None, name: str) -> None:
    if size is not None:
        raise SettingError(f"{name} has a size of its own: size is for folders and archives of pictures")
