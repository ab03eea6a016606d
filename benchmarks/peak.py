"""How much memory a step of the convnet takes: ``python -m benchmarks.peak WHO BATCH ENGINE``, in a process of its own.

Prints, in MiB, the most that the process had in memory when everything was imported, and after three steps. WHO is
nabi, or a peer as `pytorch`, `pytorch-last` or `jax`. Each process imports what it needs and nothing of the others.
"""

import contextlib
import importlib
import json
import resource
import sys
from pathlib import Path

from benchmarks import networks


def peak() -> float:
    """MiB that this process had in memory at most; Linux counts in KiB.

    The kernel's figure for this program alone, where there is one: ``ru_maxrss`` begins with that of the process that
    started this one.
    """
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(who: str, batch: int, engine: str) -> None:
    network = networks.convnet()
    side = importlib.import_module(f"benchmarks.in_{who.removesuffix('-last')}")
    if who == "nabi" and engine != "reference":  # the engine is loaded on demand; that is importing, too
        with contextlib.suppress(ImportError):
            importlib.import_module("nabi.engines.cpu")
    imported = peak()
    arrays = networks.weights(network)
    x, y = networks.batch((batch, 32, 32, 3), 10)
    if who == "nabi":
        work = side.step(network, arrays, x, y, engine).work
    elif who == "jax":
        work = side.step(network, arrays, x, y).work
    else:
        work = side.step(network, arrays, x, y, channels_last=who.endswith("-last")).work
    for _ in range(3):
        work()
    print(json.dumps({"imported": imported, "total": peak()}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
