"""What was measured, as Markdown."""

import math
from collections.abc import Iterable, Sequence
from statistics import linear_regression
from typing import Any

from benchmarks.suite import WORKLOADS, Row

Result = dict[str, Any]
"""One run: the machine, the command, and the rows."""


def document(results: Sequence[Result]) -> str:
    """The whole of docs/benchmarks.md: one part for each machine."""
    return "\n".join([HEAD, *(part(result) for result in merged(results))])


def merged(results: Iterable[Result]) -> list[Result]:
    """One result for each machine; what was measured in several runs is taken from the last of them."""
    machines: dict[str, Result] = {}
    for result in results:
        processor = result["machine"]["processor"]
        whole = machines.setdefault(
            f"{processor['name']}, {processor.get('identity')}, {processor['cores']}",
            {"machine": result["machine"], "commands": [], "quick": False, "rows": [], "errors": {}},
        )
        disturbed = lambda one: max(BUSY, one["machine"].get("others") or 0.0)
        whole["machine"] = min(result, whole, key=disturbed)["machine"]  # the later one where both are quiet
        versions = result["machine"]["versions"]
        when = ", ".join(filter(None, [result["machine"]["date"], versions.get("commit")]))
        whole["commands"].append(f"    {result['command']}  # {when}")
        whole["quick"] |= bool(result.get("quick"))
        anew = {place(row) for row in result["rows"]}
        whole["rows"] = [row for row in whole["rows"] if place(row) not in anew] + result["rows"]
        whole["errors"] |= result.get("errors", {})
    for whole in machines.values():
        order = {name: number for number, name in enumerate(WORKLOADS)}
        whole["rows"].sort(key=lambda row: order.get(row["workload"], len(order)))
    return list(machines.values())


def place(row: Row) -> tuple[Any, ...]:
    """What a row says something about."""
    return tuple(row[name] for name in ("workload", "what", "size", "precision", "threads"))


def part(result: Result) -> str:
    """One machine: what it is, the summary, and everything in full."""
    rows = result["rows"]
    main = widest(usual(rows))
    machine = result["machine"]
    pieces = [f"## {machine['processor']['name']}", "", description(machine), "", *result["commands"], ""]
    if result["quick"]:
        pieces += ["**These figures are of `--quick`: they show that everything runs, not how fast it is.**", ""]
    pieces += [disturbance(rows), summary(main), "", "### All contenders", "", everything(main), ""]
    pieces += titled("### How cost grows", growth(widest(rows)))
    pieces += titled("### One thread beside more", scaling(usual(rows)))
    pieces += titled("### Left out", left_out(rows))
    pieces += titled("### Failed", "\n".join(f"- `{name}`: {why}" for name, why in result["errors"].items()))
    return "\n".join(pieces)


BUSY = 0.05
"""The share of the cores that others may have before it is said."""


def disturbance(rows: Iterable[Row]) -> str:
    """A warning where others used the machine while something was measured."""
    shares: dict[str, float] = {}
    for row in rows:
        if (share := row.get("others")) is not None and share > BUSY:
            shares[row["workload"]] = max(share, shares.get(row["workload"], 0.0))
    if not shares:
        return ""
    named = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
    return f"**Busy machine.** While these were measured, others took part of the cores' time: {named}.\n"


def titled(title: str, text: str) -> list[str]:
    return [title, "", text, ""] if text else []


def usual(rows: Iterable[Row]) -> list[Row]:
    """Those of the sizes that are measured without ``--sizes``; all of a workload that has none of these."""
    found = list(rows)
    sizes = {name: workload.sizes for name, workload in WORKLOADS.items()}
    whole = {row["workload"] for row in found if row["size"] in sizes.get(row["workload"], ())}
    return [r for r in found if r["workload"] not in whole or r["size"] in sizes.get(r["workload"], ())]


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table; columns whose title begins with "#" hold numbers, and stand right."""
    rule = ["---:" if title.startswith("#") else "---" for title in head]
    titles = [title.removeprefix("#") for title in head]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (titles, rule, *lines))


def quantity(value: float | None, unit: str) -> str:
    """Three digits, and a unit in which they can be read."""
    if value is None:
        return "-"
    if unit == "s":
        for factor, smaller in ((1.0, "s"), (1e3, "ms"), (1e6, "µs")):
            if abs(value) * factor >= 1 or smaller == "µs":
                value, unit = value * factor, smaller
                break
    return (f"{value:,.0f} {unit}" if abs(value) >= 100 else f"{value:.3g} {unit}").rstrip()


def times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}"


def name(row: Row) -> str:
    """What was measured, with the size, and the precision where it is not the usual one."""
    workload = WORKLOADS.get(row["workload"])
    size = f", {workload.size_is if workload else 'size'} {row['size']:,}" if row["size"] else ""
    return f"{row['what']}{size}{'' if row['precision'] == 'float32' else ', ' + row['precision']}"


def best(row: Row) -> dict[str, Any]:
    return next((peer for peer in row["peers"] if peer["name"] == row["best"]), {})


def own(row: Row) -> float | None:
    return row["ours"]["median"] if row["ours"] else None


def summary(rows: Iterable[Row]) -> str:
    """A line for each row in which anybody was measured: ours and the best peer."""
    return table(
        ["what", "#nabi", "best peer", "#its", "#times"],
        (
            (
                name(row),
                quantity(own(row), row["unit"]),
                row["best"] or "-",
                quantity(best(row).get("median"), row["unit"]),
                times(row["ratio"]),
            )
            for row in rows
            if row["ours"] or row["peers"]
        ),
    )


def everything(rows: Iterable[Row]) -> str:
    """A line for each contender."""
    lines = []
    for row in rows:
        first = name(row)
        if row["ours"]:
            figures = [quantity(row["ours"][which], row["unit"]) for which in ("median", "least")]
            lines.append([first, "nabi", *figures, "", ""])
            first = ""
        for peer in row["peers"]:
            figures = [quantity(peer[which], row["unit"]) for which in ("median", "least")]
            apart = f"{peer['difference']:.0e}" if "difference" in peer else ""
            lines.append([first, peer["name"], *figures, times(peer.get("ratio")), apart])
            first = ""
    return table(["what", "who", "#median", "#least", "#times", "#answers differ by"], lines)


def families(rows: Iterable[Row], *names: str) -> list[list[Row]]:
    """Rows that have the same of these, and the same work and precision."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in ("workload", "what", "precision", *names)), []).append(row)
    return list(found.values())


def widest(rows: Iterable[Row]) -> list[Row]:
    """Of what was measured with several numbers of threads, the row with the most of them."""
    return [max(found, key=lambda row: row["threads"]) for found in families(rows, "size")]


def growth(rows: Iterable[Row]) -> str:
    """For what was measured at several sizes, a table: each contender at each of them, and the exponent of its cost."""
    tables = []
    for found in families(rows):
        found.sort(key=lambda row: row["size"])
        if len({row["size"] for row in found}) < 2:
            continue
        workload = WORKLOADS.get(found[0]["workload"])
        lines, sizes, speed = [], [row["size"] for row in found], is_speed(found[0])
        for who in contenders(found):
            figures = [median_of(row, who) for row in found]
            costs = [n / one if one and speed else one for n, one in zip(sizes, figures, strict=True)]
            fitted = exponent(sizes, costs)
            lines.append([who, *(quantity(one, found[0]["unit"]) for one in figures), times(fitted)])
        lines.append(["times the best peer", *(times(row["ratio"]) for row in found), ""])
        precision = "" if found[0]["precision"] == "float32" else f", {found[0]['precision']}"
        head = [f"{found[0]['what']}{precision}; {workload.size_is if workload else 'size'}"]
        tables.append(table([*head, *(f"#{row['size']:,}" for row in found), "#exponent"], lines))
    return "\n\n".join(tables)


def is_speed(row: Row) -> bool:
    """Whether more of it is better: what is done in a second, and not what it takes."""
    return str(row["unit"]).endswith("/s")


def exponent(sizes: Sequence[int], costs: Sequence[float | None]) -> float | None:
    """The p with which cost ~ sizeᵖ fits best: the least squares of the logarithms."""
    points = [(math.log(size), math.log(cost)) for size, cost in zip(sizes, costs, strict=True) if cost and cost > 0]
    if len(points) < 2:
        return None
    return linear_regression(*zip(*points, strict=True)).slope


def scaling(rows: Iterable[Row]) -> str:
    """For what was measured with several numbers of threads: each contender, and how much faster more of them are."""
    measured = [found for found in families(rows, "size") if len({row["threads"] for row in found}) > 1]
    counts = sorted({row["threads"] for found in measured for row in found})
    lines = []
    for found in measured:
        by_count = {row["threads"]: row for row in found}
        first = name(found[0])
        for who in contenders(found):
            medians = [median_of(by_count[count], who) if count in by_count else None for count in counts]
            known = [one for one in medians if one is not None]
            gain = known[0] / known[-1] if len(known) > 1 else None
            gain = 1 / gain if gain and is_speed(found[0]) else gain
            lines.append([first, who, *(quantity(one, found[0]["unit"]) for one in medians), times(gain)])
            first = ""
    head = [f"#{count} thread{'s' * (count > 1)}" for count in counts]
    return table(["what", "who", *head, "#times"], lines) if lines else ""


def contenders(rows: Iterable[Row]) -> list[str]:
    """Everybody who was measured in one of the rows, ours first."""
    named = [one["name"] for row in rows for one in ([row["ours"]] if row["ours"] else []) + row["peers"]]
    return sorted(dict.fromkeys(named), key=lambda name: name != "nabi")


def median_of(row: Row, who: str) -> float | None:
    everybody = [row["ours"], *row["peers"]] if row["ours"] else row["peers"]
    return next((one["median"] for one in everybody if one["name"] == who), None)


def left_out(rows: Iterable[Row]) -> str:
    """Who did not take part, where, and why."""
    where: dict[tuple[str, str], dict[str, None]] = {}
    for row in rows:
        for who, why in row["left_out"].items():
            where.setdefault((who, why), {})[f"{row['workload']} ({row['precision']})"] = None
    return "\n".join(f"- {who}: {why} ({', '.join(names)})" for (who, why), names in where.items())


def without_files(arguments: list[str]) -> list[str]:
    """The command without where its results went, which is nobody else's business."""
    kept: list[str] = []
    skip = False
    for argument in arguments:
        if not skip and argument.split("=")[0] not in ("--json", "--markdown"):
            kept.append(argument)
        skip = argument in ("--json", "--markdown")
    return kept


def description(machine: dict[str, Any]) -> str:
    """The machine in a few lines."""
    processor, versions = machine["processor"], machine["versions"]
    frequency = next((f", {processor[k]:,} MHz" for k in ("most MHz", "MHz") if k in processor), "")
    identity = f" ({processor['identity']})" if "identity" in processor else ""
    others = machine.get("others") or 0.0
    disturbed = (
        f"; others took {others:.0%} of the cores' time while these rates were measured" if others > BUSY else ""
    )
    lines = [
        f"- {processor['name']}{identity}, {processor['cores']} cores{frequency}; {', '.join(processor['caches'])}; "
        f"{', '.join(processor['flags'])}",
        f"- {machine['memory GB']} GB of memory; {machine['system']}",
        f"- with {machine['threads']} threads NumPy multiplies float32 matrices at {machine['matrix product GFLOP/s']} "
        f"GFLOP/s, and copies memory at {machine['memory GB/s']} GB/s (read and written){disturbed}",
        f"- {', '.join(f'{name} {version}' for name, version in versions.items())}",
        f"- {machine['date']}",
    ]
    return "\n".join(lines)


HEAD = """\
# Benchmarks

Written by `python -m benchmarks --from benchmarks/results/*.json --markdown docs/benchmarks.md`; nothing here was typed
in. (The oldest of these files, `-a`, was read back from an earlier one of these pages: its figures have three digits.)
Such a file is written by `python -m benchmarks --sizes --threads 1,2 --json FILE`, and, of time to accuracy, by
`python -m benchmarks.accuracy --json FILE`, which says what it counts.

Ours and all peers run in turn, A B C A B C, each in a process of its own, as users have them, with the same number of
threads. The threads of PyTorch and JAX go on spinning for up to 20 ms after their turn (they are left as people have
them), so 50 ms pass before the next one's. A sample lasts 30 ms at least; where it is of several units of work, one
more is done before the clock starts, for the caches, which others have had. The median over the rounds is given beside
the least. **times** is how many times as long the peer takes (or how many times as much it needs) as nabi: the median
over the rounds of the ratio within a round. Above 1, nabi is ahead. The best peer is the one with the least median in
the same precision. An **exponent** is the p with which cost ~ sizeᵖ fits best: 1 is in proportion, and below 1 is what
has a part that does not grow.

Networks are built alike on all sides and begin with the same weights, on pictures of float32 that stand ready in the
layout of each. Before anything is timed, the losses of the first three steps (or the scores) must agree to within 1e-4
of the largest in float32, 0.05 in bfloat16; how far they lie apart is in the table.
A convolutional network is measured in both of PyTorch's memory formats; `torch.compile` takes channels last.

The peers are the dependency group `peers`, and PyTorch as a build for the CPU, a group of its own, which a plain
`pip install torch` is not: [CONTRIBUTING.md](../CONTRIBUTING.md) has the commands. A peer that is not installed is left
out by name.
"""
