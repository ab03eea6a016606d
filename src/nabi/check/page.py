"""A report as a page of its own, with the pictures that it speaks of side by side."""

import base64
import io
from importlib.resources import files
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nabi.check.report import Group, Report, kinds
from nabi.check.survey import SPLITS

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
    from jinja2 import Environment

    here = report.survey
    groups = report.groups[:MOST_GROUPS]
    odd = [(heading, files_[:MOST_FILES], len(files_)) for heading, files_ in kinds(report.odd)]
    rows = {name: row for row, name in enumerate(here.files)}
    wanted = {copy.row for group in groups for copy in group.copies[:MOST_COPIES]}
    wanted |= {rows[name] for _, some, _ in odd for name, _ in some}
    pictures = {row: _inlined(picture) for row, picture in here.fetch(sorted(wanted))} if wanted else {}
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        files("nabi.check").joinpath("page.html").read_text(encoding="utf-8")
    )

    def show(group: Group) -> dict[str, Any]:
        return _group(report, group, pictures)

    about = report.as_dict()
    return template.render(
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


def _inlined(picture: NDArray[np.uint8]) -> str:
    """A picture made small, as the address that holds it."""
    from PIL import Image

    image = Image.fromarray(picture[:, :, 0] if picture.shape[2] == 1 else picture)
    image.thumbnail((SHOWN, SHOWN))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
