"""Which folders are classes and which are splits: found out from names alone."""

from collections import Counter
from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass

from nabi.data.files import composed
from nabi.errors import DataError

SPLITS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}
_ORDER = ("train", "validation", "test")


@dataclass(frozen=True)
class Place:
    """Where a file belongs: the split, the class (NFC)."""

    split: str
    label: str


@dataclass(frozen=True)
class Layout:
    """Which folders are splits and which are classes."""

    classes: tuple[str, ...]
    place: Callable[[str], Place | None]
    splits: tuple[str, ...]


def layout(names: Iterable[str]) -> Layout:
    """Find out the layout from the names of all files and folders (these end with ``/``).

    - One folder that everything is in is taken off, if folders are in it.
    - A folder ``train`` at the top makes it, ``val``, ``valid`` or ``validation``, and ``test`` the splits; so does
      ``Train``.
    - What is a folder then is a class; its pictures may lie at any depth.

    Raises
    ------
    DataError
        If there is no class folder, or a test or validation folder but no training folder.

    Examples
    --------
    >>> found = layout(["pets/train/cat/1.jpg", "pets/train/dog/", "pets/test/cat/2.jpg", "pets/README"])
    >>> found.classes
    ('cat', 'dog')
    >>> found.place("pets/test/cat/2.jpg")
    Place(split='test', label='cat')
    """
    folders = {tuple(composed(name).split("/")[:-1]) for name in names}
    folders = {path[:depth] for path in folders for depth in range(1, min(len(path), 4) + 1)}
    top: tuple[str, ...] = ()
    firsts = {path[0] for path in folders}
    if len(firsts) == 1 and any(len(path) == 2 for path in folders) and not firsts & set(SPLITS):
        top = tuple(firsts)
    inside = {path[len(top) :] for path in folders if len(path) > len(top)}
    tops = {path[0] for path in inside}
    named = _named(tops, inside)
    if "train" in named.values():
        splits = set(named)
        classes = {path[1] for path in inside if len(path) >= 2 and path[0] in splits}
    elif tops and tops <= set(named):
        raise DataError(f"has {', '.join(sorted(tops))} but no train folder")
    else:
        splits, classes = set(), tops
    if not classes:
        raise DataError("has no class folders: expected CLASS/PICTURE or train/CLASS/PICTURE")
    roles = [named[name] for name in sorted(splits)]
    for twice in (role for role, count in Counter(roles).items() if count > 1):
        raise DataError(
            f"has more than one {twice} folder: {', '.join(sorted(name for name in splits if named[name] == twice))}"
        )

    def place(name: str) -> Place | None:
        parts = tuple(composed(name).split("/"))[len(top) :]
        if splits:
            return Place(named[parts[0]], parts[1]) if len(parts) >= 3 and parts[0] in splits else None
        return Place("train", parts[0]) if len(parts) >= 2 else None

    return Layout(tuple(sorted(classes)), place, tuple(sorted(set(roles) or {"train"}, key=_ORDER.index)))


def _named(tops: Set[str], inside: Set[tuple[str, ...]]) -> dict[str, str]:
    """Which folders at the top are splits: in other letters only where no class folder is beside them."""
    anyhow = {name: SPLITS[name.lower()] for name in tops if name.lower() in SPLITS}
    if len(anyhow) == len(tops) and any(len(path) > 1 and anyhow[path[0]] == "train" for path in inside):
        return anyhow
    return {name: SPLITS[name] for name in tops if name in SPLITS}
