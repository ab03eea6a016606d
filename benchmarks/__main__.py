"""Run the benchmarks: ``python -m benchmarks [NAME ...] [--json FILE]``.

Ours and the peer run in turn, A B A B, so that a change of the machine's speed meets both; each pair gives a ratio
(ours divided by the peer's time: below 1 is faster), and the median ratio is what to quote. Peers that are not
installed are left out by name. Install them with ``pip install torch==2.13.0 micrograd``.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import nabi

Work = Callable[[], Any]
BENCHMARKS: dict[str, Callable[[], list[dict[str, Any]]]] = {}


def benchmark(function: Callable[[], list[dict[str, Any]]]) -> Callable[[], list[dict[str, Any]]]:
    """Declare a benchmark: a function that gives rows."""
    BENCHMARKS[function.__name__] = function
    return function


def in_turn(ours: Work, peer: Work, pairs: int, warm: int = 3) -> tuple[float, float, float]:
    """Median seconds of ours and of the peer, and the median ratio of the pairs."""
    times: list[tuple[float, float]] = []
    for i in range(pairs + warm):
        pair = []
        for work in (ours, peer):
            start = time.perf_counter()
            work()
            pair.append(time.perf_counter() - start)
        if i >= warm:
            times.append((pair[0], pair[1]))
    return median(a for a, _ in times), median(b for _, b in times), median(a / b for a, b in times)


def row(
    what: str, peer: str, result: tuple[float, float, float], unit: str = "ms", scale: float = 1e3
) -> dict[str, Any]:
    """One line of the table."""
    ours, theirs, ratio = result
    return {"what": what, "ours": ours * scale, "peer": peer, "theirs": theirs * scale, "unit": unit, "ratio": ratio}


def scalar_graph(a: Any, b: Any) -> Any:
    """A thousand operations on single numbers."""
    x = a
    for _ in range(250):
        x = x * b
        x = x + a
        x = x * 0.5
        x = x + b
    return x


@benchmark
def scalars() -> list[dict[str, Any]]:
    """Forward and backward through 1,000 operations on single numbers, eagerly."""

    def ours() -> None:
        scalar_graph(nabi.tensor(1.0, requires_grad=True), nabi.tensor(0.5, requires_grad=True)).backward()

    rows = []
    torch = _peer("torch")
    if torch:
        torch.set_num_threads(2)

        def theirs() -> None:
            a, b = (torch.tensor(v, requires_grad=True) for v in (1.0, 0.5))
            scalar_graph(a, b).backward()

        rows.append(row("1,000-operation scalar graph", "PyTorch", in_turn(ours, theirs, 200)))
    micrograd = _peer("micrograd.engine")
    if micrograd:
        sys.setrecursionlimit(10_000)  # its walk is recursive

        def tiny() -> None:
            scalar_graph(micrograd.Value(1.0), micrograd.Value(0.5)).backward()

        rows.append(row("1,000-operation scalar graph", "micrograd", in_turn(ours, tiny, 200)))
    return rows


@benchmark
def mlp() -> list[dict[str, Any]]:
    """One training step of an MLP 3072-1024-1024-10 at batch 256, SGD with momentum, float32, compiled `reference`."""
    torch = _peer("torch")
    if not torch:
        return []
    torch.set_num_threads(2)
    rng = np.random.default_rng(0)
    images = rng.standard_normal((256, 3072)).astype(np.float32)
    labels = rng.integers(0, 10, 256)
    model = nabi.models.mlp((3072,), 10, hidden=(1024, 1024), seed=0)
    optimizer = nabi.optim.SGD(nabi.nn.parameters(model), learning_rate=0.01, momentum=0.9)

    @nabi.compile(state=(model, optimizer), engine="reference")
    def step(x: Any, y: Any) -> Any:
        loss = nabi.losses.softmax_cross_entropy(model(x, training=True), y)
        optimizer.minimize(loss)
        return loss

    twin = torch.nn.Sequential(
        torch.nn.Linear(3072, 1024), torch.nn.ReLU(), torch.nn.Linear(1024, 1024), torch.nn.ReLU(),
        torch.nn.Linear(1024, 10),
    )  # fmt: skip
    sgd = torch.optim.SGD(twin.parameters(), lr=0.01, momentum=0.9)
    x, y = torch.from_numpy(images), torch.from_numpy(labels)

    def theirs() -> None:
        sgd.zero_grad()
        torch.nn.functional.cross_entropy(twin(x), y).backward()
        sgd.step()

    return [row("MLP step, batch 256", "PyTorch", in_turn(lambda: step(images, labels), theirs, 60, warm=10))]


@benchmark
def start() -> list[dict[str, Any]]:
    """How long importing takes, as a process of its own, beside importing NumPy alone."""

    def process(source: str) -> Work:
        return lambda: subprocess.run([sys.executable, "-c", source], check=True)

    nothing = min(in_turn(process("pass"), process("pass"), 10)[:2])
    rows = []
    for what, source in (
        ("import nabi", "import nabi"),
        ("import nabi, first tensor", "import nabi; nabi.tensor(1.0)"),
    ):
        ours, theirs, _ = in_turn(process(source), process("import numpy"), 20)
        ours, theirs = ours - nothing, theirs - nothing  # without the interpreter's own start
        rows.append(row(what, "import numpy", (ours, theirs, ours / theirs)))
    return rows


@benchmark
def size() -> list[dict[str, Any]]:
    """Installed size, dependencies included."""
    ours = _installed("nabi")
    rows = []
    if _peer("torch"):
        theirs = _installed("torch")
        rows.append(row("installed size", "PyTorch (CPU build)", (ours, theirs, ours / theirs), "MB", 1e-6))
    return rows or [
        {"what": "installed size", "ours": ours / 1e6, "unit": "MB", "peer": "-", "theirs": 0.0, "ratio": 0.0}
    ]


def _installed(name: str) -> float:
    """Bytes on disk of a distribution and all that it requires."""
    seen: set[str] = set()
    total = 0
    pending = [name]
    while pending:
        one = re.split(r"[ ;<>=!~\[(]", pending.pop())[0].lower().replace("_", "-")
        if one in seen:
            continue
        seen.add(one)
        try:
            found = importlib.metadata.distribution(one)
        except importlib.metadata.PackageNotFoundError:
            continue
        total += sum(Path(str(f.locate())).stat().st_size for f in found.files or () if Path(str(f.locate())).exists())
        pending += [r for r in found.requires or () if "extra ==" not in r]
    return float(total)


def _peer(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        print(f"{name} is not installed: left out", file=sys.stderr)
        return None


def machine() -> str:
    """The processor, its cores, and the versions that matter."""
    model = platform.processor()
    flags = ""
    if Path("/proc/cpuinfo").exists():
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        model = next(
            (line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")), model
        )
        words = set(text.split())
        flags = ", ".join(f for f in ("avx2", "avx512f", "avx512_bf16", "amx_tile") if f in words)
    return f"{model} ({flags}), {os.cpu_count()} cores, Python {platform.python_version()}, NumPy {np.__version__}"


def main() -> None:
    """Run what was asked for and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *BENCHMARKS], metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    asked = parser.parse_args()
    print(f"{machine()}\n\n| what | nabi | peer | peer's | ratio |\n| --- | ---: | --- | ---: | ---: |")
    rows = []
    for name in asked.names or BENCHMARKS:
        for r in BENCHMARKS[name]():
            rows.append(r)
            print(
                f"| {r['what']} | {r['ours']:.3g} {r['unit']} | {r['peer']} | {r['theirs']:.3g} {r['unit']} "
                f"| {r['ratio']:.2f} |",
                flush=True,
            )
    if asked.json:
        asked.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
