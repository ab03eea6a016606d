"""A process that trains the convnet from nothing: ``python -m benchmarks.fresh WHO BATCH ENGINE STEPS``.

Prints, as JSON, the most memory that the process had when everything was imported and after the steps (MiB), and what
a step took at last (seconds). WHO is nabi, classifier (its default convolutional network as an estimator, through
`partial_fit`), pytorch, pytorch-last (channels last), pytorch-compiled or jax. Each process imports what it needs and
nothing of the others.
"""

import contextlib
import importlib
import json
import resource
import sys
import time
from pathlib import Path

import numpy as np

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


def main(who: str, batch: int, engine: str, steps: int) -> None:
    if who == "classifier":
        print(json.dumps(of_estimator(batch, steps)))
        return
    network = networks.convnet()
    side = importlib.import_module(f"benchmarks.in_{who.partition('-')[0]}")
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
        compiled = who.endswith("-compiled")
        work = side.step(network, arrays, x, y, channels_last=who != "pytorch", compile=compiled).work
    for _ in range(steps):
        begun = time.perf_counter()
        work()
        last = time.perf_counter() - begun
    print(json.dumps({"imported": imported, "total": peak(), "last step": last}))


def of_estimator(batch: int, steps: int) -> dict[str, float]:
    from nabi import ConvNetClassifier

    imported = peak()
    x, y = networks.batch((batch, 32, 32, 3), 10)
    images = np.clip(128 + 64 * x, 0, 255).astype(np.uint8)
    classifier = ConvNetClassifier(batch_size=batch)
    for _ in range(steps):
        begun = time.perf_counter()
        classifier.partial_fit(images, y, classes=np.arange(10))
        last = time.perf_counter() - begun
    return {"imported": imported, "total": peak(), "last step": last}


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
