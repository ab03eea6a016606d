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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
    side = importlib.import_module(
        "nabi.classifiers" if who == "classifier" else f"benchmarks.in_{who.partition('-')[0]}"
    )
    if who == "nabi" and engine != "reference":  # the engine is loaded on demand; that is importing, too
        with contextlib.suppress(ImportError):
            importlib.import_module("nabi.engines.cpu")
    imported = peak()
    x, y = networks.batch((batch, 32, 32, 3), 10)
    work = of_estimator(side, x, y) if who == "classifier" else of_network(side, who, engine, x, y)
    for _ in range(steps):
        begun = time.perf_counter()
        work()
        last = time.perf_counter() - begun
    print(json.dumps({"imported": imported, "total": peak(), "last step": last}))


def of_network(side: Any, who: str, engine: str, x: NDArray[Any], y: NDArray[Any]) -> Callable[[], Any]:
    network = networks.convnet()
    arrays = networks.weights(network)
    options: dict[str, Any] = {}
    if who == "nabi":
        options = {"engine": engine}
    elif who != "jax":
        options = {"channels_last": who != "pytorch", "compile": who.endswith("-compiled")}
    work: Callable[[], Any] = side.step(network, arrays, x, y, **options).work
    return work


def of_estimator(side: Any, x: NDArray[Any], y: NDArray[Any]) -> Callable[[], Any]:
    images = np.clip(128 + 64 * x, 0, 255).astype(np.uint8)
    classifier = side.ConvNetClassifier(batch_size=len(x))
    return lambda: classifier.partial_fit(images, y, classes=np.arange(10))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
