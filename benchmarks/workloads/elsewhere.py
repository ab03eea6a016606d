"""Workloads with a file of their own, which is run as a command: each writes its rows with ``--json FILE``.

A row there has "what" and "ours"; where there is a peer, "peer" and "ratio", above 1 where ours is faster. "who" says
which of several ways is ours, "unit" what is counted. Where "peer" is a name, "theirs" is its figure.
"""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.suite import Row, Settings, workload
from benchmarks.worker import ROOT


def run(module: str, arguments: list[str], peer: str, unit: str, settings: Settings, size: int = 0) -> Iterator[Row]:
    """The rows of a module, or one that says why there are none."""
    if why := missing(module, settings):
        yield {**blank(module.rpartition(".")[2], unit, settings), "size": size, "left_out": {"nabi": why}}
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.json"
        command = [sys.executable, "-m", module, *arguments, "--json", str(file)]
        subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)
        found = json.loads(file.read_text(encoding="utf-8"))
    yield from together({**row(one, peer, unit, settings), "size": size} for one in found["rows"])


def together(rows: Iterable[Row]) -> list[Row]:
    """One row for what was measured with several peers; the best of them is the one that ours is least ahead of."""
    found: dict[str, Row] = {}
    for one in rows:
        whole = found.setdefault(one["what"], {**one, "peers": []})
        whole["peers"].extend(one["peers"])
        if whole["peers"]:
            best = min(whole["peers"], key=lambda peer: peer["ratio"])
            whole |= {"best": best["name"], "ratio": best["ratio"]}
    return list(found.values())


def missing(module: str, settings: Settings) -> str:
    """Why a module cannot be run here, or nothing."""
    if importlib.util.find_spec(module) is None:
        return f"there is no {module}"
    if settings.quick:
        return f"--quick leaves it out: python -m {module}"
    return "" if "NABI_DATA" in os.environ else "NABI_DATA names no folder with its pictures"


def blank(what: str, unit: str, settings: Settings) -> Row:
    """A row in which nobody has been measured."""
    how = {"precision": "float32", "engine": settings.engine, "threads": settings.threads}
    nobody: Row = {"ours": None, "peers": [], "best": None, "ratio": None, "left_out": {}}
    return {"what": what, "size": 0, "unit": unit, **how, **nobody}


def row(one: dict[str, Any], peer: str, unit: str, settings: Settings) -> Row:
    """A row of theirs as one of ours."""
    who = one.get("who", "nabi")
    what = one["what"] if who == "nabi" else f"{one['what']} ({who.removeprefix('nabi, ')})"
    ours = {"name": "nabi", "median": one["ours"], "least": None}
    alone = {**blank(what, one.get("unit", unit), settings), "ours": ours}
    if "peer" not in one:
        return alone
    name, theirs = (one["peer"], one["theirs"]) if isinstance(one["peer"], str) else (peer, one["peer"])
    figures = {"name": name, "median": theirs, "least": None, "ratio": one["ratio"], "beside": False}
    return {**alone, "peers": [figures], "best": name, "ratio": one["ratio"]}


@workload(
    "neighbors", sizes=(50_000,), doubling=(6_250, 12_500, 25_000, 50_000), quick=1_000, size_is="candidates",
    long="several minutes",
)  # fmt: skip
def neighbors(size: int, settings: Settings) -> Iterator[Row]:
    """Exact nearest neighbours on pictures, and on random bytes: `benchmarks.neighbors`"""
    yield from run("benchmarks.neighbors", ["--speed", "--candidates", str(size)], "FAISS flat", "s", settings, size)


@workload(
    "pipeline", sizes=(3_068,), doubling=(767, 1_534, 3_068), quick=767, size_is="photos", long="several minutes"
)  # fmt: skip
def pipeline(size: int, settings: Settings) -> Iterator[Row]:
    """A folder of JPEG files to augmented batches: `benchmarks.pipeline`"""
    arguments = ["--photos", str(size), "--rounds", str(max(3, int(settings.seconds / 4)))]
    yield from run("benchmarks.pipeline", arguments, "PyTorch DataLoader", "pictures/s", settings, size)


@workload(
    "streaming", sizes=(12_272,), doubling=(3_068, 6_136, 12_272), quick=3_068, size_is="photos",
    long="a few minutes",
)  # fmt: skip
def streaming(size: int, settings: Settings) -> Iterator[Row]:
    """Memory and speed of photos decoded on demand, or from the cache, as they become many: `benchmarks.pipeline`"""
    yield from run("benchmarks.pipeline", ["--memory", "--photos", str(size)], "", "MiB", settings, size)
