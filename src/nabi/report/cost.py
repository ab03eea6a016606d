"""What a model costs to run, measured in a process of its own, where nothing else takes time or memory."""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nabi import threads
from nabi._compile import compile
from nabi.classifiers import Classifier, PhotoClassifier, load
from nabi.errors import NabiError
from nabi.training import evaluation_batch

REPEATS, SECONDS = 15, 1.0  # of one picture at a time: so often, or for so long
BATCHES = 3
PATIENCE = 120  # seconds
FEW = 16  # different pictures

_COMMAND = "import sys; from nabi.report.cost import measure; measure(sys.argv[1], sys.argv[2])"


class CostError(NabiError):
    """It could not be measured."""


def cost(model: str | os.PathLike[str], pictures: ArrayLike) -> dict[str, Any]:
    """Time and memory that a model needs to answer.

    Parameters
    ----------
    model : path-like
        A model file.
    pictures : array_like of uint8, (N, H, W, C)
        What to ask it about; the first few are used.

    Returns
    -------
    dict
        ``milliseconds`` a picture, one at a time; ``milliseconds_in_batches``, of ``batch`` pictures; ``repeats``;
        ``peak_mib`` of memory of the whole process, None where the system does not tell; ``file_mib``; ``machine``;
        ``threads``.

    Raises
    ------
    CostError
        The process failed, or took too long.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pictures.npy"
        np.save(file, np.asarray(pictures)[:FEW])
        try:
            done = subprocess.run(
                [sys.executable, "-c", _COMMAND, os.fspath(model), str(file)],
                capture_output=True,
                text=True,
                timeout=PATIENCE,
                check=True,
            )
            found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        except subprocess.CalledProcessError as error:
            last = (error.stderr or "").strip().splitlines()
            raise CostError(f"what it costs could not be measured: {last[-1] if last else error}") from None
        except (OSError, subprocess.TimeoutExpired, ValueError, IndexError) as error:
            raise CostError(f"what it costs could not be measured: {error}") from None
    return found | {
        "file_mib": round(Path(model).stat().st_size / 2**20, 2),
        "machine": processor(),
        "threads": threads.count(),
    }


def measure(model: str, pictures: str) -> None:
    """What the process does: prints what it measured, as JSON."""
    classifier = load(model)
    images = np.load(pictures)
    answer = _answering(classifier)
    batch = evaluation_batch(classifier.input_shape_)
    many = np.concatenate([images] * (-(-batch // len(images))))[:batch]
    alone = _times(lambda turn: answer(images[turn % len(images)][None]), REPEATS)
    together = _times(lambda turn: answer(many), BATCHES)
    print(
        json.dumps(
            {
                "milliseconds": round(1000 * statistics.median(alone), 3),
                "milliseconds_in_batches": round(1000 * statistics.median(together) / batch, 3),
                "batch": batch,
                "repeats": len(alone),
                "peak_mib": peak_mib(),
            }
        )
    )


def _answering(classifier: Classifier) -> Callable[[NDArray[np.uint8]], Any]:
    """Scores of pictures; of photos without the cache of features, which has these already."""
    if not isinstance(classifier, PhotoClassifier):
        return classifier.scores
    backbone, head = classifier.extractor_.model_, classifier.head_
    see = compile(lambda images: backbone(images, training=False), state=backbone, engine=classifier.engine)
    return lambda images: head.scores(see(images).numpy())


def _times(work: Callable[[int], Any], most: int) -> list[float]:
    """Seconds of each time, but the first, which makes machine code."""
    work(0)
    work(1)
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < most and (len(times) < 3 or time.perf_counter() - begin < SECONDS):
        start = time.perf_counter()
        work(len(times))
        times.append(time.perf_counter() - start)
    return times


def peak_mib() -> float | None:
    """The most memory that this process ever had, in MiB; None where the system does not tell."""
    try:
        # Not ru_maxrss, which on Linux knows of the process that this one was started from, too.
        lines = Path("/proc/self/status").read_text().splitlines()
        return round(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024, 1)
    except (OSError, StopIteration):
        return None


def processor() -> str:
    """The machine's processor, by its name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
