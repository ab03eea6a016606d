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
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

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

_COMMAND = "import gc; from nabi.report.cost import measure; measure(); gc.freeze()"
"""Whoever waits for its end need not wait for Python to look for cycles."""


class CostError(NabiError):
    """It could not be measured."""


class Measuring:
    """Time and memory that a model needs to answer: a process that finds out, which takes seconds to begin.

    A context, in which there is the process: `prepare` it, do something else, and ask what it has `measured`.
    """

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory()
        self._process: subprocess.Popen[str] | None = None
        self._problem = ""
        pipe = subprocess.PIPE
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _COMMAND],
                stdin=pipe,
                stdout=pipe,
                stderr=pipe,
                text=True,
                start_new_session=True,  # Ctrl-C in the terminal is not for this process
            )
        except OSError as error:
            self._problem = str(error)
        return self

    def __exit__(self, *what: object) -> None:
        try:
            if self._process is not None:
                with self._process as process:  # which waits for its end
                    process.kill()
                    with suppress(OSError):  # what it was never sent cannot be sent to one that has ended
                        if process.stdin is not None:
                            process.stdin.close()
        finally:
            self._folder.cleanup()

    def prepare(self, model: str | os.PathLike[str], pictures: ArrayLike) -> None:
        """Have the process read the model, and make machine code; nobody waits for that.

        Parameters
        ----------
        model : path-like
            A model file.
        pictures : array_like of uint8, (N, H, W, C)
            What to ask it about; the first few are used.
        """
        self._model = Path(model)
        file = Path(self._folder.name) / "pictures.npy"
        try:
            np.save(file, np.asarray(pictures)[:FEW])
            if self._process is not None and self._process.stdin is not None:
                self._process.stdin.write(json.dumps([os.fspath(model), str(file)]) + "\n")
                self._process.stdin.flush()
        except OSError as error:
            self._problem = str(error)

    def measured(self) -> dict[str, Any]:
        """Have the process measure, and what it found.

        Returns
        -------
        dict
            ``milliseconds`` a picture, one at a time; ``milliseconds_in_batches``, of ``batch`` pictures; ``repeats``;
            ``peak_mib`` of memory of the whole process, None where the system does not tell; ``file_mib``;
            ``machine``; ``threads``.

        Raises
        ------
        CostError
            The process failed, or took too long.
        """
        try:
            if self._process is None or self._problem:
                raise OSError(self._problem)
            output, errors = self._process.communicate("now\n", timeout=PATIENCE)
            if self._process.returncode:
                raise OSError((errors.strip().splitlines() or [f"exit code {self._process.returncode}"])[-1])
            found: dict[str, Any] = json.loads(output.splitlines()[-1])
        except (OSError, subprocess.TimeoutExpired, ValueError, IndexError) as error:
            raise CostError(f"what it costs could not be measured: {error}") from None
        return found | {
            "file_mib": round(self._model.stat().st_size / 2**20, 2),
            "machine": processor(),
            "threads": threads.get_num_threads(),
        }


def measure() -> None:
    """What the process does, by lines on its standard input: it prepares, then measures and prints that as JSON."""
    asked = sys.stdin.readline()
    if not asked:
        return  # who started it is gone
    model, pictures = json.loads(asked)
    classifier = load(model)
    images = np.load(pictures)
    answer = _answering(classifier)
    batch = evaluation_batch(classifier.input_shape_)
    many = np.concatenate([images] * (-(-batch // len(images))))[:batch]
    for some in (images[:1], many):  # of both sizes machine code is made before anything is measured
        answer(some)
    if not sys.stdin.readline():
        return
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
    """Seconds of each time, but the first, after which caches and threads are warm."""
    work(0)
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
