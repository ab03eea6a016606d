"""``nabi check``: pictures looked at before anything is trained on them."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from nabi.check import Report, examine, page, without_leaks
from nabi.check.copies import HOW
from nabi.check.report import Group, kinds
from nabi.check.survey import SPLITS
from nabi.cli.characters import json_text, printable
from nabi.cli.pictures import refuse_inside, whole_path
from nabi.cli.terminal import bar, console
from nabi.container import replace_file
from nabi.data import Dataset
from nabi.data.named import NAMED

MUST_BE_SEEN_TO = 1
MOST = 5  # findings of one kind that are printed, and copies of one picture
WORDS = dict(zip(HOW, ("same file", "same pixels", "near", "mirrored", "part"), strict=True))


def check(
    source: Annotated[str, typer.Argument(metavar="DATA", help="A name, folder or archive, as for nabi train.")],
    html: Annotated[Path | None, typer.Option(help="Write a page with the pictures of every finding.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Everything that was found, as JSON.")] = False,
    near: Annotated[
        float | None,
        typer.Option(show_default="0.94", help="How alike near copies must be, from 0.8 to 1 (the very same)."),
    ] = None,
) -> None:
    """Look at pictures before anything is trained on them.

    Names files that cannot be read or are odd, copies of the same picture (exact, resized, compressed again, mirrored,
    cut out), and how classes and sizes are distributed. Ends with exit code 1 where something must be seen to: files
    that cannot be read, a picture in several splits or under several classes, a class without training pictures.
    """
    source = whole_path(source)
    if html is not None:
        refuse_inside(source, html)
    with bar(console(stderr=True)) as show:
        report = examine(source, near=near, show=show)
        if html is not None:
            show("writing the page", 0, 1)
            text = page(report)
            with replace_file(html) as file:
                file.write(text.encode("utf-8", "backslashreplace"))
    if as_json:
        print(json_text({**report.as_dict(), "page": None if html is None else str(html)}, indent=2))
    else:
        _print(console(), report)
        if html is not None:
            console().print(f"page: {printable(str(html))}")
    if report.must_be_seen_to:
        raise typer.Exit(MUST_BE_SEEN_TO)


def set_leaks_aside(dataset: Dataset, source: str, where: Console) -> Dataset:
    """The data without test pictures that are trained on; and one line, where there are any.

    Published sets stay as they are, so that what is measured can be compared with what others published.
    """
    if source in NAMED:
        return dataset
    with bar(where) as show:
        kept, found = without_leaks(dataset, report=lambda done, total: show("looking for leaks", done, total))
    if len(found):
        parts = [
            f"{len(rows):,} of {len(part):,} {name} pictures"
            for name, rows, part in (
                ("test", found.test, dataset.test),
                ("validation", found.validation, dataset.validation),
            )
            if len(rows) and part is not None
        ]
        where.print(
            f"{' and '.join(parts)} are copies of pictures seen in training, and are not counted; "
            f"to see them: nabi check {printable(source)}"
        )
    return kept


def _print(where: Console, report: Report) -> None:
    """Findings for people: what must be seen to first."""
    about, here = report.as_dict(), report.survey
    splits = ", ".join(
        f"{split} {about['splits'][split]['pictures']:,}{' (made)' if about['splits'][split]['made'] else ''}"
        for split in SPLITS
    )
    classes = f"{len(here.classes)} class{'es' if len(here.classes) != 1 else ''}"
    where.print(f"{printable(here.name)}: {len(here.files):,} pictures of {classes}; {splits}")
    urgent = [group for group in report.groups if group.must_be_seen_to]
    if report.must_be_seen_to:
        where.print("must be seen to:")
    for heading, files in kinds(here.unreadable):
        _print_files(where, heading, files)
    if report.untrained:
        where.print(f"  classes without pictures to train on: {_names(report.untrained)}")
    _print_groups(where, report, "pictures that are in several splits", [g for g in urgent if g.across_splits])
    alone = [group for group in urgent if not group.across_splits]
    _print_groups(where, report, "pictures that are in several classes", alone)
    others = [group for group in report.groups if not group.must_be_seen_to]
    if report.odd or others or report.empty or report.few or here.outside:
        where.print("worth a look:")
    for heading, files in kinds(report.odd):
        _print_files(where, heading, files)
    _print_groups(where, report, "pictures that are there more than once, in one class and split", others)
    if here.outside:
        _print_files(where, "pictures in no class folder", [(name, "") for name in here.outside])
    if report.empty:
        where.print(f"  classes without pictures: {_names(report.empty)}")
    if report.few:
        where.print(f"  classes with fewer than ten pictures to train on: {_names(report.few)}")
    where.print("\n".join(_distribution(about)))


def _print_files(where: Console, heading: str, files: list[tuple[str, str]]) -> None:
    where.print(f"  {heading}: {len(files):,}")
    for name, words in files[:MOST]:
        where.print(f"    {printable(name)}" + (f": {printable(words)}" if words else ""))
    _print_rest(where, len(files))


def _print_groups(where: Console, report: Report, heading: str, groups: list[Group]) -> None:
    if not groups:
        return
    here = report.survey
    where.print(f"  {heading}: {len(groups):,}")
    for group in groups[:MOST]:
        for copy in group.copies[:MOST]:
            place = f"{SPLITS[here.splits[copy.row]]}, {here.classes[here.labels[copy.row]]}"
            how = f"; {WORDS[copy.how]}" if copy.how else ""
            how += f" {min(copy.similarity, 0.999):.3f}" if copy.similarity < 1 else ""
            lead = "  = " if copy.how else "    "
            where.print(f"{lead}{printable(here.files[copy.row])} ({printable(place)}{how})")
        _print_rest(where, len(group.copies))
    _print_rest(where, len(groups))


def _print_rest(where: Console, many: int) -> None:
    if many > MOST:
        where.print(f"    and {many - MOST:,} more: --json has all, --html shows them")


def _distribution(about: dict[str, Any]) -> list[str]:
    classes = sorted(((sum(row.values()), name) for name, row in about["classes"].items()), key=lambda one: -one[0])
    most, least = classes[0], [one for one in classes if one[0]][-1]
    short, long = about["sizes"]["short_side"], about["sizes"]["long_side"]
    turned = sum(many for tag, many in about["orientations"].items() if tag != "1")
    looked = f"near copies (correlation {about['near']:g} or more)" if about["near"] else "exact copies only"
    if most[1] == least[1]:
        balance = f"pictures of one class only, {printable(most[1])}: "
        balance += "there is nothing to tell apart, and nothing to train"
    else:
        balance = f"balance: {printable(most[1])} has {most[0]:,} pictures, {printable(least[1])} {least[0]:,}"
        balance += f": {about['imbalance']:.3g} times as many" if most[0] > least[0] else ""
    return [
        balance,
        f"sizes: short side {short['least']:,} to {short['most']:,} pixels (median {short['median']:g}), "
        f"long side {long['least']:,} to {long['most']:,}; "
        + (f"{turned:,} turned by their EXIF orientation" if turned else "none turned by its EXIF orientation"),
        f"looked for: {looked}{', parts of pictures' if about['parts'] else ''}",
    ]


def _names(names: list[str]) -> str:
    return printable(", ".join(names[:20]) + (f" and {len(names) - 20:,} more" if len(names) > 20 else ""))
