"""One workload in a process of its own, with its number of threads set before anything is imported.

``python -m benchmarks.worker FILE`` reads what to do from FILE, and writes the rows into it. XLA takes its threads from
the cores that the process may use, the others from the environment: both are set, here and by `start`.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import machine, suite

ROOT = Path(__file__).parent.parent
VARIABLES = "NABI_NUM_THREADS OMP_NUM_THREADS OPENBLAS_NUM_THREADS MKL_NUM_THREADS NUMBA_NUM_THREADS".split()


def environment(threads: int) -> dict[str, str]:
    """The environment of a process with so many threads; what it imports is compiled once, as if it were installed."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**inherited, **dict.fromkeys(VARIABLES, str(threads))}


def start(name: str, sizes: list[int], settings: suite.Settings) -> dict[str, Any]:
    """Run a workload elsewhere: its rows, or the error that it ended with."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "task.json"
        task = {"name": name, "sizes": sizes, "settings": asdict(settings)}
        file.write_text(json.dumps(task), encoding="utf-8")
        command = [sys.executable, "-m", "benchmarks.worker", str(file)]
        with Watch() as watch:
            done = subprocess.run(command, cwd=ROOT, env=environment(settings.threads), check=False)
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if "rows" not in found:
        found = {"rows": [], "error": f"the process ended with {done.returncode}"}
    rows = [{**row, "others": watch.others} for row in found["rows"]]
    return {"rows": rows, "error": found.get("error", "")}


class Watch:
    """Look how much of the machine others take while a process of ours runs.

    Attributes
    ----------
    others : float or None
        Of all cores' time, the share that other processes, and other guests of the host, had; None where the system
        does not say.
    """

    others: float | None = None

    def __enter__(self) -> "Watch":
        self.before = machine.busy(), children(), time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        then, ours, begun = self.before
        now = machine.busy()
        if now is not None and then is not None:
            whole = (time.perf_counter() - begun) * (os.cpu_count() or 1)
            self.others = round(max(0.0, sum(now) - sum(then) - (children() - ours)) / whole, 3)


def children() -> float:
    """Seconds of the cores' time that ended processes of ours have had."""
    spent = os.times()
    return spent.children_user + spent.children_system


def work(name: str, sizes: list[int], settings: suite.Settings) -> dict[str, Any]:
    """Run a workload here. Rows that were measured before an error are kept."""
    from benchmarks import apart, rounds

    rows: list[suite.Row] = []
    for size in sizes:
        try:
            for found in suite.load()[name].run(size, settings):
                if isinstance(found, suite.Case):
                    rounds.say(f"  {found.what}{f', {size:,}' if size else ''}, {found.precision}")
                    found = rounds.measure(found, settings)
                else:
                    for who, why in found["left_out"].items():
                        rounds.say(f"    {who}: left out: {why}")
                rows.append({"workload": name, **found})
        except apart.Failed as error:
            return {"rows": rows, "error": str(error)}
        except Exception as error:
            return {"rows": rows, "error": f"{type(error).__name__}: {error}"}
    return {"rows": rows, "error": ""}


def main(file: Path) -> None:
    task = json.loads(file.read_text(encoding="utf-8"))
    settings = suite.Settings(**{**task["settings"], "only": tuple(task["settings"]["only"])})
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, machine.cores()[: settings.threads])
    if task["name"] == "machine":
        found: dict[str, Any] = {"rows": [machine.describe(settings.threads, 0.1 if settings.quick else 1.0)]}
    else:
        found = work(task["name"], task["sizes"], settings)
    file.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
