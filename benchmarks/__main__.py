"""Run the benchmarks: ``python -m benchmarks [WORKLOAD ...]``; without a name, all of them.

Ours and all peers run in turn, A B C A B C, each in a process of its own, so that a change of the machine's speed meets
all of them. "times" is how many times as long a peer takes as nabi, as the median over the rounds: above 1, nabi is
ahead. Peers that are not installed are left out by name; CONTRIBUTING.md says how to install them.
"""

import argparse
import json
import shlex
import sys
import time
from pathlib import Path

from benchmarks import machine, suite, tables, worker


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for, print a Markdown table, and write files; 1 where a workload failed."""
    given = parse(arguments)
    if given.list:
        print(listing())
        return 0
    results = [result for file in given.merge for result in read(file)] if given.merge else [run(given)]
    if given.markdown:
        given.markdown.write_text(tables.document(results), encoding="utf-8")
    return 1 if any(result["errors"] for result in results) else 0


def read(file: Path) -> list[tables.Result]:
    """The runs that a file tells of: one, or a list of them."""
    found = json.loads(file.read_text(encoding="utf-8"))
    return found if isinstance(found, list) else [found]


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="WORKLOAD", help="among those that --list shows")
    parser.add_argument("--list", action="store_true", help="show what there is")
    parser.add_argument("--sizes", action="store_true", help="measure at doubling sizes, too")
    parser.add_argument(
        "--threads", type=counts, default=[len(machine.cores())], metavar="N[,N]",
        help="how many threads all may use; the default is one for each core",
    )  # fmt: skip
    parser.add_argument("--engine", default="auto", help="what ours is compiled with")
    parser.add_argument("--peers", type=words, default=(), metavar="NAME[,NAME]", help="those that begin so")
    parser.add_argument("--seconds", type=float, default=20.0, help="for the rounds of one case together")
    parser.add_argument("--quick", action="store_true", help="small sizes, two rounds: only whether everything runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write it as a document")
    parser.add_argument(
        "--from", dest="merge", nargs="+", type=Path, metavar="FILE",
        help="measure nothing: write the document from such JSON files",
    )  # fmt: skip
    given = parser.parse_args(arguments)
    known = suite.load()
    if unknown := [name for name in given.names if name not in known]:
        parser.error(f"no workload is called {', '.join(unknown)}; there are {', '.join(known)}")
    if given.merge and not given.markdown:
        parser.error("--from needs --markdown")
    return given


def counts(text: str) -> list[int]:
    """Numbers of threads, the fewest first."""
    found = sorted({int(part) for part in text.split(",")})
    if found[0] < 1 or found[-1] > len(machine.cores()):
        raise argparse.ArgumentTypeError(f"this process may use {len(machine.cores())} cores, not {text}")
    return found


def words(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def listing() -> str:
    """All workloads, one a line."""
    lines = []
    for name, workload in suite.load().items():
        sizes = f"; {workload.size_is} {', '.join(f'{n:,}' for n in workload.sizes)}" if workload.size_is else ""
        lines.append(f"{name:12}{workload.about}{sizes}{f' ({workload.long})' if workload.long else ''}")
    return "\n".join(lines)


def run(given: argparse.Namespace) -> tables.Result:
    """Measure: the rows, and what failed by name."""
    known = suite.load()
    how = {"engine": given.engine, "seconds": given.seconds, "quick": given.quick, "only": given.peers}
    most = given.threads[-1]
    begun = time.perf_counter()
    described = worker.start("machine", [], suite.Settings(threads=most, **how))["rows"][0]
    rows: list[suite.Row] = []
    errors: dict[str, str] = {}
    command = shlex.join(["python", "-m", "benchmarks", *tables.without_files(sys.argv[1:])])
    result: tables.Result = {"machine": described, "command": command, "quick": given.quick}
    result |= {"rows": rows, "errors": errors}
    for name in given.names or known:
        workload = known[name]
        for threads in given.threads if workload.parallel else [most]:
            note = f" ({workload.long})" if workload.long and not given.quick else ""
            print(f"{name}, {threads} threads{note}", file=sys.stderr, flush=True)
            found = worker.start(name, sizes(workload, given), suite.Settings(threads=threads, **how))
            rows += found["rows"]
            if warning := tables.disturbance(found["rows"]):
                print(f"  {warning.strip()}", file=sys.stderr, flush=True)
            if found["error"]:
                errors[name] = found["error"]
                print(f"  failed: {found['error']}", file=sys.stderr, flush=True)
            result["minutes"] = round((time.perf_counter() - begun) / 60, 1)
            if given.json:  # after each workload, so that one that is interrupted costs no more than itself
                given.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(tables.description(described), tables.summary(tables.widest(rows)), sep="\n\n")
    print("", tables.disturbance(rows), sep="\n", end="")
    if scaled := tables.scaling(rows):
        print("", scaled, sep="\n")
    return result


def sizes(workload: suite.Workload, given: argparse.Namespace) -> list[int]:
    """What a workload is measured at."""
    if given.quick:
        return [workload.quick]
    return sorted({*workload.sizes, *(workload.doubling if given.sizes else ())})


if __name__ == "__main__":
    sys.exit(main())
