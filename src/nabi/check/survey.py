"""Every picture of a source: where it belongs, what is known of it, what it looks like as a thumbnail.

Files are decoded once; what was found out about them is kept in the cache, so that a second look takes a second.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nabi import cache, threads
from nabi.check.fingerprints import SIDE, SMALLEST, all_thumbnails, thumbnail
from nabi.check.oddities import Oddity, oddities
from nabi.data.cifar import form_of, may_be_cifar
from nabi.data.dataset import Dataset
from nabi.data.decode import decode
from nabi.data.files import Member, Progress, composed, expanded, is_archive, members
from nabi.data.folders import cache_key
from nabi.data.gather import are_small, side_by_side
from nabi.data.idx import is_idx_name
from nabi.data.layout import layout
from nabi.data.loading import ARCHIVE_ENDINGS, load
from nabi.data.named import NAMED
from nabi.data.splits import content_key, keys_of, split_by_content, usual_fraction
from nabi.errors import DataError, PictureError

SPLITS = ("train", "validation", "test")
MANY, GROUP = 32, 1 << 18  # files, and bytes of files, that a thread looks at in one go
FORMAT = 2  # of what is cached: to be raised when what is found out changes

Fetch = Callable[[list[int]], Iterator[tuple[int, NDArray[np.uint8]]]]


@dataclass(frozen=True, eq=False)
class Survey:
    """What is known of N pictures, in the order of split, class and name.

    ``splits`` are positions in ``SPLITS``, ``labels`` in ``classes``; ``digests`` are of the files' bytes (of their
    pixels, where there are no files), ``keys`` of the decoded pixels; ``sizes`` are heights and widths. ``made`` are
    the splits that the source lacks, and that were made as ``nabi train`` makes them. ``odd`` and ``unreadable`` have
    a file's name first, ``outside`` are pictures in no class folder. ``fetch`` decodes pictures again.
    """

    name: str
    classes: tuple[str, ...]
    files: list[str]
    splits: NDArray[np.int64]
    labels: NDArray[np.int64]
    keys: NDArray[np.uint64]
    digests: NDArray[np.uint64]
    sizes: NDArray[np.int64]
    orientations: NDArray[np.int64]
    thumbnails: NDArray[np.uint8]
    odd: list[tuple[str, Oddity]]
    unreadable: list[tuple[str, Oddity]]
    outside: list[str]
    made: tuple[str, ...]
    fetch: Fetch


def survey(source: str | Path, *, small: bool = False, report: Progress = lambda done, total: None) -> Survey:
    """Look at every picture of a source, which may be anything that :func:`nabi.data.load` takes.

    ``small``: have thumbnails also of sets that are no files, and whose pictures are smaller than 32 pixels.

    Raises
    ------
    DataError
        As :func:`nabi.data.load`, but pictures that cannot be decoded are no error.
    """
    if not (isinstance(source, str) and source in NAMED):
        path = expanded(source)
        if _has_class_folders(path):
            return _of_files(path, report)
    return _of_arrays(load(source, progress=report), small, report)


def _has_class_folders(path: Path) -> bool:
    """Whether it is a folder or archive of pictures, and not of CIFAR's or IDX files."""
    if path.is_dir():
        found: Iterable[Member] = members(path)
    elif path.is_file() and not is_idx_name(path.name) and is_archive(path):
        found = members(path, lambda _: False)
    else:
        return False
    names = [member.name for member in islice(found, 1000) if not member.is_folder]
    return not any(map(is_idx_name, names)) and not form_of([n.rsplit("/", 1)[-1] for n in names if may_be_cifar(n)])


# --- files


@dataclass(frozen=True)
class _Seen:
    """What became of one file: known as a picture, or unreadable, or (neither) a folder."""

    name: str
    problem: Oddity | None = None
    odd: tuple[Oddity, ...] = ()
    key: int = 0
    digest: int = 0
    size: tuple[int, int] = (0, 0)
    orientation: int = 1
    thumbnail: NDArray[np.uint8] | None = None


def _look_at(member: Member) -> _Seen:
    if member.problem:
        return _Seen(member.name, Oddity("refused", member.problem))
    if member.is_folder:
        return _Seen(member.name)
    try:
        content = member.read()
        picture = decode(content, member.name)
    except DataError as error:
        kind = error.kind if isinstance(error, PictureError) else "refused"
        return _Seen(member.name, Oddity(kind, str(error).removeprefix(f"{member.name}: ")))
    odd, orientation = oddities(content, member.name, picture)
    digest = int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
    size = (picture.shape[0], picture.shape[1])
    return _Seen(member.name, None, tuple(odd), content_key(picture), digest, size, orientation, thumbnail(picture))


def _of_files(path: Path, report: Progress) -> Survey:
    listing = list(members(path)) if path.is_dir() else None
    key = cache_key(path, listing, "check", FORMAT)
    stored = cache.load(key)
    if stored is None:
        about, thumbnails = _found_out(path, listing, report)
        # What could not be opened may be open the next time, by the same key.
        if len(thumbnails) and not about["again"]:
            cache.store(key, about, (*thumbnails.shape, 1), [thumbnails[..., None]])
    else:
        about, thumbnails = stored[0], stored[1][..., 0]
    return _placed(path, about, thumbnails)


def _found_out(path: Path, listing: list[Member] | None, report: Progress) -> tuple[dict[str, Any], NDArray[np.uint8]]:
    """All that is kept about the files, whatever the layout will turn out to be; and the thumbnails."""
    seen: dict[str, _Seen] = {}  # of a name that stands in an archive twice the last, as unpacking would leave it
    found = members(path, report=report) if listing is None else iter(listing)
    done = 0
    for results in side_by_side(lambda group: [_look_at(member) for member in group], _together(found), are_small):
        for one in results:
            seen.pop(one.name, None)
            seen[one.name] = one
        done += len(results)
        if listing is not None:
            report(done, len(listing))
    pictures = [one for one in seen.values() if one.thumbnail is not None]
    problems = [(one.name, *one.problem) for one in seen.values() if one.problem is not None]
    about = {
        "source": f"{path} (nabi check)",
        "names": [one.name for one in pictures],
        "keys": cache.pack(np.array([one.key for one in pictures], np.uint64)),
        "digests": cache.pack(np.array([one.digest for one in pictures], np.uint64)),
        "sizes": cache.pack(np.array([side for one in pictures for side in one.size], np.int64)),
        "orientations": cache.pack(np.array([one.orientation for one in pictures], np.int64)),
        "odd": [(one.name, *odd) for one in pictures for odd in one.odd],
        "unreadable": problems,
        "folders": [one.name for one in seen.values() if one.thumbnail is None and one.problem is None],
        "again": any(kind == "refused" for _, kind, _ in problems),
    }
    thumbnails = np.empty((len(pictures), SIDE, SIDE), np.uint8)
    for row, one in enumerate(pictures):
        assert one.thumbnail is not None
        thumbnails[row] = one.thumbnail
    return about, thumbnails


def _together(found: Iterator[Member]) -> Iterator[list[Member]]:
    """Small files many at a time, so that handing them to a thread costs less than decoding them."""
    group: list[Member] = []
    for member in found:
        group.append(member)
        if len(group) == MANY or sum(one.size for one in group) > GROUP:
            yield group
            group = []
    if group:
        yield group


def _placed(path: Path, about: dict[str, Any], thumbnails: NDArray[np.uint8]) -> Survey:
    """Every picture in its class and split, as :func:`nabi.data.load` and ``nabi train`` have it."""
    names: list[str] = about["names"]
    problems = [(file, Oddity(kind, words)) for file, kind, words in about["unreadable"]]
    try:
        found = layout([*about["folders"], *names, *(file for file, _ in problems)])
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    places = [found.place(name) for name in names]
    order = sorted(
        (SPLITS.index(place.split), place.label, composed(names[row]), row)
        for row, place in enumerate(places)
        if place is not None
    )
    rows = np.array([row for *_, row in order], np.intp)
    if not len(rows):
        first = f", the first of {len(problems)} files is {problems[0][0]}: {problems[0][1].words}" if problems else ""
        raise DataError(f"{path}: no picture in any class folder{first}")
    keys = cache.unpack(about["keys"], np.uint64)[rows]
    labels = np.array([found.classes.index(label) for _, label, _, _ in order], np.int64)
    splits, made = _completed(np.array([split for split, *_ in order], np.int64), labels, keys, found.splits)
    files = [names[row] for row in rows]
    inside = set(files)
    name = path.resolve().name
    for ending in ARCHIVE_ENDINGS if path.is_file() else ():
        name = name.removesuffix(ending)
    return Survey(
        name,
        found.classes,
        files,
        splits,
        labels,
        keys,
        cache.unpack(about["digests"], np.uint64)[rows],
        cache.unpack(about["sizes"], np.int64).reshape(-1, 2)[rows],
        cache.unpack(about["orientations"], np.int64)[rows],
        thumbnails[rows],
        [(file, Oddity(kind, words)) for file, kind, words in about["odd"] if file in inside],
        [(file, oddity) for file, oddity in problems if file.endswith("/") or found.place(file) is not None],
        sorted(name for name, place in zip(names, places, strict=True) if place is None),
        made,
        lambda wanted: _fetched(path, files, wanted),
    )


def _completed(
    splits: NDArray[np.int64], labels: NDArray[np.int64], keys: NDArray[np.uint64], given: Iterable[str]
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """The splits with those that were not given, made from training as :func:`nabi.data.complete_splits` does."""
    made = tuple(split for split in SPLITS if split not in given)
    training = np.flatnonzero(splits == 0)
    fractions = [usual_fraction(split, len(training)) if split in made else 0.0 for split in ("test", "validation")]
    parts = split_by_content(keys[training], labels[training], fractions)
    completed = splits.copy()
    for split, part in zip(("test", "validation"), parts, strict=False):
        completed[training[part]] = SPLITS.index(split)
    return completed, made


def _fetched(path: Path, files: list[str], wanted: list[int]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    rows = {files[row]: row for row in wanted}
    reading = (one for one in members(path, rows.__contains__) if one.name in rows and not one.problem)

    def decoded(member: Member) -> tuple[str, NDArray[np.uint8] | None]:
        try:
            return member.name, decode(member.read(), member.name)
        except DataError:  # it could be decoded before
            return member.name, None

    for name, picture in threads.map_in_order(decoded, reading):
        if picture is not None:
            yield rows[name], picture


# --- arrays


def _of_arrays(dataset: Dataset, small: bool, report: Progress) -> Survey:
    """Of data that are no files of pictures: of these there is nothing to say but what is in the pictures."""
    given = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    parts = [(SPLITS.index(name), part) for name, part in given.items() if part is not None]
    images = [part.images for _, part in parts]
    lengths = [len(part) for _, part in parts]
    labels = np.concatenate([part.labels for _, part in parts])
    keys = np.concatenate([keys_of(part) for _, part in parts])
    splits = np.repeat(np.array([number for number, _ in parts], np.int64), lengths)
    files = [
        f"{SPLITS[number]}/{row}" if part.names is None else part.names[row]
        for number, part in parts
        for row in range(len(part))
    ]
    completed, made = _completed(splits, labels, keys, [SPLITS[number] for number, _ in parts])
    starts = np.cumsum([0, *lengths])

    def fetch(wanted: list[int]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        for row in wanted:
            part = int(np.searchsorted(starts, row, "right")) - 1
            yield row, np.asarray(images[part][row - int(starts[part])])

    height, width = dataset.train.images.shape[1:3]
    enough = small or min(height, width) >= SMALLEST
    return Survey(
        dataset.name,
        dataset.classes,
        files,
        completed,
        labels,
        keys,
        keys,
        np.tile(np.array([height, width], np.int64), (len(labels), 1)),
        np.ones(len(labels), np.int64),
        all_thumbnails(images if enough else [], report),
        [],
        [],
        [],
        made,
        fetch,
    )
