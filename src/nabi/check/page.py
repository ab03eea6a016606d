"""A report as a page of its own, with the pictures that it speaks of side by side."""

from itertools import islice
from typing import Any

from nabi.check.report import Group, Report, kinds
from nabi.check.survey import SPLITS
from nabi.pages import inlined, rendered

SHOWN = 160  # pixels of a picture's long side
MOST_GROUPS, MOST_FILES = 300, 60  # of copies; of one kind of oddity
MOST_COPIES = 12  # of one picture

HOW = {
    "": "",
    "bytes": "the same file",
    "pixels": "the same pixels",
    "near": "looks the same",
    "mirrored": "looks the same, mirrored",
    "part": "looks like a part, or has one",
}


def page(report: Report) -> str:
    """An HTML page that holds all it needs, and asks no other address for anything.

    Names of files and classes are escaped. Of very many findings it shows the first of each kind.
    """
    here = report.survey
    groups = report.groups[:MOST_GROUPS]
    odd = [(heading, files_[:MOST_FILES], len(files_)) for heading, files_ in kinds(report.odd)]
    rows = {name: row for row, name in enumerate(here.files)}
    wanted = {copy.row for group in groups for copy in group.copies[:MOST_COPIES]}
    wanted |= {rows[name] for _, some, _ in odd for name, _ in some}
    pictures = {row: inlined(picture, SHOWN) for row, picture in here.fetch(sorted(wanted))} if wanted else {}

    def show(group: Group) -> dict[str, Any]:
        return _group(report, group, pictures)

    about = report.as_dict()
    return rendered(
        "check",
        about=about,
        splits=SPLITS,
        urgent=[show(group) for group in groups if group.must_be_seen_to],
        others=[show(group) for group in groups if not group.must_be_seen_to],
        left_out=len(report.groups) - len(groups),
        unreadable=list(kinds(here.unreadable)),
        odd=[
            (heading, [(name, words, pictures.get(rows[name])) for name, words in some], many)
            for heading, some, many in odd
        ],
        turned=sum(many for tag, many in about["orientations"].items() if tag != "1"),
        most=max(int(report.counts.sum(1).max()), 1),
    )


def _group(report: Report, group: Group, pictures: dict[int, str]) -> dict[str, Any]:
    here = report.survey
    return {
        "across_splits": group.across_splits,
        "across_classes": group.across_classes,
        "left_out": max(0, len(group.copies) - MOST_COPIES),
        "copies": [
            {
                "file": here.files[copy.row],
                "split": SPLITS[here.splits[copy.row]],
                "label": here.classes[here.labels[copy.row]],
                "picture": pictures.get(copy.row),
                "how": HOW[copy.how] + (f" ({min(copy.similarity, 0.999):.3f})" if copy.similarity < 1 else ""),
            }
            for copy in islice(group.copies, MOST_COPIES)
        ],
    }
