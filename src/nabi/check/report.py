"""What is to be said about a source of pictures before anything is trained on it: in words, and for scripts."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nabi.check.copies import Copy, Looked, copies, to_look_for
from nabi.check.oddities import ODD, UNREADABLE, Oddity
from nabi.check.survey import SPLITS, Survey, survey
from nabi.errors import SettingError
from nabi.waiting import Show

FORMAT = 1  # of the JSON: raised when something in it changes its meaning or goes
TINY = 32  # pixels of the short side, where most others have at least twice as many
FEW = 10  # training pictures of a class


@dataclass(frozen=True)
class Group:
    """Copies of one picture. It must be seen to where they lie in several splits, or under several classes."""

    copies: list[Copy]
    across_splits: bool
    across_classes: bool

    @property
    def must_be_seen_to(self) -> bool:
        """Whether a picture is trained on and tested on, or has two labels."""
        return self.across_splits or self.across_classes


@dataclass(frozen=True, eq=False)
class Report:
    """What was found out, and what was looked for."""

    survey: Survey
    groups: list[Group]
    looked: Looked
    tiny: list[tuple[str, Oddity]]

    @property
    def must_be_seen_to(self) -> bool:
        """Whether training or measuring on it as it is would go wrong."""
        return bool(self.survey.unreadable or self.untrained or any(group.must_be_seen_to for group in self.groups))

    @property
    def counts(self) -> NDArray[np.int64]:
        """Pictures by class and split: (K, 3)."""
        found = np.zeros((len(self.survey.classes), len(SPLITS)), np.int64)
        np.add.at(found, (self.survey.labels, self.survey.splits), 1)
        return found

    @property
    def untrained(self) -> list[str]:
        """Classes that have pictures, but none to train on."""
        return self._classes((self.counts[:, 0] == 0) & (self.counts.sum(1) > 0))

    @property
    def few(self) -> list[str]:
        """Classes with fewer than ten pictures to train on."""
        return self._classes((self.counts[:, 0] < FEW) & (self.counts[:, 0] > 0))

    @property
    def empty(self) -> list[str]:
        """Classes without any picture."""
        return self._classes(self.counts.sum(1) == 0)

    @property
    def imbalance(self) -> float:
        """How many times as many pictures the largest class has as the smallest that has any."""
        totals = self.counts.sum(1)
        return float(totals.max() / totals[totals > 0].min())

    @property
    def odd(self) -> list[tuple[str, Oddity]]:
        """Files that can be read but are odd."""
        return self.survey.odd + self.tiny

    def _classes(self, which: NDArray[np.bool_]) -> list[str]:
        return [self.survey.classes[label] for label in np.flatnonzero(which)]

    def as_dict(self) -> dict[str, Any]:
        """Everything, as JSON has it: see docs/check.md for what each word means."""
        here = self.survey
        short, long = here.sizes.min(1), here.sizes.max(1)
        counts = self.counts
        return {
            "format": FORMAT,
            "data": here.name,
            "must_be_seen_to": self.must_be_seen_to,
            "pictures": len(here.files),
            "splits": {
                split: {"pictures": int(counts[:, number].sum()), "made": split in here.made}
                for number, split in enumerate(SPLITS)
            },
            "classes": {
                name: dict(zip(SPLITS, row, strict=True))
                for name, row in zip(here.classes, counts.tolist(), strict=True)
            },
            "classes_without_training": self.untrained,
            "classes_with_few": self.few,
            "classes_empty": self.empty,
            "imbalance": round(self.imbalance, 2),
            "unreadable": [_file(name, oddity) for name, oddity in here.unreadable],
            "odd": [_file(name, oddity) for name, oddity in self.odd],
            "outside": here.outside,
            "near": self.looked.near,
            "parts": self.looked.parts,
            "copies": [self._group(group) for group in self.groups],
            "leaked": self.leaked(),
            "sizes": {
                "short_side": {"least": int(short.min()), "median": float(np.median(short)), "most": int(short.max())},
                "long_side": {"least": int(long.min()), "median": float(np.median(long)), "most": int(long.max())},
                "different": len(np.unique(here.sizes, axis=0)),
            },
            "orientations": {str(tag): many for tag, many in sorted(Counter(here.orientations.tolist()).items())},
        }

    def leaked(self) -> dict[str, int]:
        """How many pictures of validation and test have a copy in training (the test's: or in validation)."""
        found = Counter[int]()
        for group in self.groups:
            splits = [int(self.survey.splits[copy.row]) for copy in group.copies]
            found.update(split for split in splits if split > min(splits))
        return {split: found[number] for number, split in enumerate(SPLITS) if number}

    def _group(self, group: Group) -> dict[str, Any]:
        here = self.survey
        return {
            "must_be_seen_to": group.must_be_seen_to,
            "across_splits": group.across_splits,
            "across_classes": group.across_classes,
            "files": [
                {
                    "file": here.files[copy.row],
                    "split": SPLITS[here.splits[copy.row]],
                    "class": here.classes[here.labels[copy.row]],
                    "copy_of": here.files[copy.of] if copy.how else None,
                    "how": copy.how or None,
                    "similarity": round(copy.similarity, 4),
                }
                for copy in group.copies
            ],
        }


def examine(source: str | Path, *, near: float | None = None, show: Show = lambda what, done, total: None) -> Report:
    """Look at pictures before they are trained on.

    Parameters
    ----------
    source : str or Path
        A name, folder or archive, as for :func:`nabi.data.load`.
    near : float, optional
        How alike two pictures must be to be near copies: a correlation from 0.8 to 1. By default 0.94, and only exact
        copies are looked for among pictures of less than 32 pixels.
    show : callable, optional
        Called from time to time as ``show(what, done, total)``.

    Raises
    ------
    SettingError
        If ``near`` is something else.
    DataError
        If there is no such source, or no picture in it.

    Examples
    --------
    >>> report = examine("digits")
    >>> report.must_be_seen_to, len(report.groups), report.looked.near
    (False, 0, None)
    """
    if near is not None and not 0.8 <= near <= 1:
        raise SettingError(f"near is {near}: it must be from 0.8 to 1, where 1 is the very same picture")
    found = survey(source, small=near is not None, report=lambda done, total: show(f"reading {source}", done, total))
    looked = to_look_for(found.sizes, found.keys, near)
    groups = [
        Group(group, *(len({int(of[copy.row]) for copy in group}) > 1 for of in (found.splits, found.labels)))
        for group in copies(found.digests, found.keys, found.thumbnails, looked, show)
    ]
    groups.sort(key=lambda group: (not group.across_splits, not group.across_classes))
    return Report(found, groups, looked, list(_tiny(found)))


def _tiny(found: Survey) -> Iterator[tuple[str, Oddity]]:
    short = found.sizes.min(1)
    usual = float(np.median(short))
    for row in np.flatnonzero((short < TINY) & (short * 2 <= usual)).tolist():
        height, width = found.sizes[row].tolist()
        yield found.files[row], Oddity("tiny", f"{width}x{height}, where half of all have {usual:g} or more a side")


def _file(name: str, oddity: Oddity) -> dict[str, str]:
    return {"file": name, "kind": oddity.kind, "reason": oddity.words}


def kinds(found: list[tuple[str, Oddity]]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Files by what is the matter with them: a heading, and each file with its reason."""
    for kind, heading in (UNREADABLE | ODD).items():
        files = [(name, oddity.words) for name, oddity in found if oddity.kind == kind]
        if files:
            yield heading, files
