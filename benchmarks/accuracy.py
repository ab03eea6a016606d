"""Time to accuracy on CIFAR-10, beside PyTorch: ``python -m benchmarks.accuracy [--epochs N] [--only nabi]``.

nabi       ``ConvNetClassifier`` with its defaults, augmented as ``nabi train --model convnet`` does it
PyTorch    the same network from the same weights, with the same schedule, optimiser, batches, loss and augmentation,
           in float32, channels_last, by oneDNN: `benchmarks.twin`, which is read off the classifier

Each has a process of its own with the same number of threads, and they take their epochs in turn, A B A B, so that a
change of the machine's speed meets both; the other one sleeps. The clock counts training alone. It stops while the
test pictures are answered after each epoch (which decides on nothing: the run goes on to its end), and counts what
comes before the first step in `fit` (statistics of the pixels, filters, compiling), but not reading the pictures; of
the twin, which is given all that, it counts the steps.

The data is ``cifar10-jpeg.tar.xz`` in the folder that NABI_DATA names: CIFAR-10 as JPEG, not pixel-exact, so that
accuracies are those of "CIFAR-10 (JPEG copy)". ``--json FILE`` writes what ``python -m benchmarks --from`` reads.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import machine, suite, tables, worker

THREADS = 2
DATA = "CIFAR-10 (JPEG copy)"


@dataclass(frozen=True)
class Epoch:
    """What an epoch came to; seconds are those of training, from the beginning."""

    epoch: int
    epochs: int
    seconds: float
    loss: float
    accuracy: float


def classifier(given: argparse.Namespace) -> tuple[Any, Any, Any]:
    """The classifier, untrained, and pictures and labels to train on and to test with."""
    import numpy as np

    from nabi import data
    from nabi.cli.choices import chosen, flip_colours

    loaded = data.load(Path(os.environ["NABI_DATA"]) / "cifar10-jpeg.tar.xz")
    train, test = ((np.array(part.images), part.labels) for part in (loaded.train, loaded.test))
    if given.quick:
        some = np.random.default_rng(0).permutation(len(train[0]))[:512]
        train, test = (tuple(part[some % len(part)] for part in parts) for parts in (train, test))
    asked = {"model": "convnet", "seed": given.seed, "precision": "float32"}
    made = chosen(asked if given.epochs is None else asked | {"epochs": given.epochs})
    flip_colours(made, train[0])
    return made, train, test


def nabi(given: argparse.Namespace) -> Iterator[Epoch]:
    """Ours, an epoch at a time."""
    import numpy as np

    from nabi.training import EpochEnded, Started

    made, train, (images, labels) = classifier(given)
    seconds, begun, epochs = 0.0, time.perf_counter(), 0
    for event in made.fit_events(*train):
        if isinstance(event, Started):
            epochs = event.epochs
        elif isinstance(event, EpochEnded):
            seconds += time.perf_counter() - begun
            right = float(np.mean(made.predict(images) == labels))
            yield Epoch(event.epoch, epochs, seconds, event.train_loss, right)
            begun = time.perf_counter()


def pytorch(given: argparse.Namespace) -> Iterator[Epoch]:
    """The twin, an epoch at a time."""
    import torch

    from benchmarks.twin import Twin, begun

    made, train, test = classifier(given)
    recipe = begun(made, *train)
    twin = Twin(recipe)
    train, test = (tuple(map(torch.from_numpy, part)) for part in (train, test))
    seconds = 0.0
    for epoch in range(recipe.epochs):
        started = time.perf_counter()
        loss = twin.epoch(*train)
        seconds += time.perf_counter() - started
        right = float((twin.scores(test[0]).argmax(1) == test[1]).double().mean())
        yield Epoch(epoch + 1, recipe.epochs, seconds, loss, right)


Side = Callable[[argparse.Namespace], Iterator[Epoch]]
SIDES: dict[str, Side] = {"nabi": nabi, "pytorch": pytorch}


def serve(pipe: Connection, side: Side, given: argparse.Namespace, inherited: Sequence[Connection]) -> None:
    """The process of one side: an epoch whenever it is told to, until the other end of the pipe is closed."""
    for end in inherited:
        end.close()
    os.environ |= worker.environment(THREADS)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, machine.cores()[:THREADS])
    with suppress(EOFError):
        epochs = side(given)
        while pipe.recv_bytes():
            pipe.send_bytes(json.dumps(asdict(next(epochs))).encode())


def in_turn(given: argparse.Namespace) -> tuple[dict[str, list[Epoch]], dict[str, str]]:
    """The epochs of each side, and whose process failed."""
    context = multiprocessing.get_context("fork")  # of a process that has imported nothing which has threads
    found: dict[str, list[Epoch]] = {}
    failed: dict[str, str] = {}
    with ExitStack() as held:
        running: dict[str, tuple[Any, Connection]] = {}
        for which in [given.only] if given.only else SIDES:
            pipe, its_end = context.Pipe()
            inherited = [pipe, *(other for _, other in running.values())]
            process = context.Process(target=serve, args=(its_end, SIDES[which], given, inherited))
            process.start()
            its_end.close()
            held.callback(process.join)
            running[which] = process, held.enter_context(pipe)
        while running:
            for which, (process, pipe) in list(running.items()):
                try:
                    pipe.send_bytes(b"an epoch")
                    epoch = Epoch(**json.loads(pipe.recv_bytes()))
                except (EOFError, OSError):  # it has said why
                    process.join()
                    failed[which] = f"its process ended with {process.exitcode}"
                    del running[which]
                    continue
                found.setdefault(which, []).append(epoch)
                print(said(which, epoch), file=sys.stderr, flush=True)
                if epoch.epoch == epoch.epochs or (given.minutes and epoch.seconds >= 60 * given.minutes):
                    del running[which]
                    pipe.close()
    return found, failed


NAMES = {"nabi": "nabi", "pytorch": "PyTorch, channels last"}


def said(which: str, one: Epoch) -> str:
    return (
        f"{which:8} epoch {one.epoch}/{one.epochs}  {one.seconds:8.1f} s  loss {one.loss:.4f}  test {one.accuracy:.4f}"
    )


# --- what came of it


def reached(epochs: list[Epoch], target: float) -> float | None:
    """Seconds of training until the test pictures were answered so well for the first time."""
    return next((one.seconds for one in epochs if one.accuracy >= target), None)


def per_epoch(epochs: list[Epoch]) -> float:
    """Seconds of an epoch: the median, without the first where there are more."""
    ends = [0.0, *(one.seconds for one in epochs)]
    each = [after - before for before, after in itertools.pairwise(ends)]
    return median(each[1:] or each)


def row(what: str, figures: dict[str, float | None], unit: str = "s") -> suite.Row:
    """One figure of both sides, as the other benchmarks write theirs; seconds are compared, and nothing else."""
    entry = lambda which: {"name": NAMES[which], "median": figures[which], "least": None}
    ours, theirs = figures.get("nabi"), figures.get("pytorch")
    left_out = {NAMES[which]: "never reached" for which, figure in figures.items() if figure is None}
    peers = [] if theirs is None else [entry("pytorch") | {"beside": False}]
    ratio = theirs / ours if ours and theirs and unit == "s" else None
    if peers and ratio is not None:
        peers[0]["ratio"] = ratio
    return {
        "workload": "accuracy", "what": f"{DATA}, {what}", "size": 0, "precision": "float32", "unit": unit,
        "engine": "auto", "threads": THREADS, "ours": None if ours is None else entry("nabi"), "peers": peers,
        "best": peers[0]["name"] if peers else None, "ratio": ratio, "left_out": left_out,
    }  # fmt: skip


def rows(found: dict[str, list[Epoch]], targets: list[float]) -> list[suite.Row]:
    """Seconds to each target and of an epoch, and the accuracy in the end."""
    of_all = lambda figure: {which: figure(epochs) for which, epochs in found.items()}
    whole = f"{next(iter(found.values()))[0].epochs} epochs"
    made = [
        row(f"{whole}: training to {target:.0%} on test", of_all(partial(reached, target=target))) for target in targets
    ]
    made.append(row(f"{whole}: training for one epoch", of_all(per_epoch)))
    made.append(row(f"{whole}: test accuracy in the end", of_all(lambda epochs: epochs[-1].accuracy), unit=""))
    return made


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shares = lambda text: [float(part) for part in text.split(",")]
    parser.add_argument("--epochs", type=int, help="the classifier's own number by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=SIDES, help="one side alone")
    parser.add_argument("--targets", type=shares, default=[0.85, 0.9], metavar="SHARE[,SHARE]")
    parser.add_argument("--minutes", type=float, help="end a side after an epoch in which it has trained so long")
    parser.add_argument("--quick", action="store_true", help="512 pictures: only whether everything runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    given = parser.parse_args(arguments)
    if "NABI_DATA" not in os.environ:
        parser.error("NABI_DATA names no folder with its pictures")
    return given


def main(arguments: list[str] | None = None) -> int:
    given = parse(arguments)
    settings = suite.Settings(threads=THREADS, quick=given.quick)
    described = worker.start("machine", [], settings)["rows"][0]
    begun = time.perf_counter()
    with worker.Watch() as watch:
        found, failed = in_turn(given)
    measured = [{**one, "others": watch.others} for one in rows(found, given.targets)]
    print(tables.description(described), tables.summary(measured), tables.disturbance(measured), sep="\n\n")
    if given.json:
        typed = [*(sys.argv[1:] if arguments is None else arguments)]
        result: tables.Result = {
            "machine": described,
            "command": shlex.join(["python", "-m", "benchmarks.accuracy", *tables.without_files(typed)]),
            "quick": given.quick,
            "rows": measured,
            "errors": {f"accuracy, {which}": why for which, why in failed.items()},
            "minutes": round((time.perf_counter() - begun) / 60, 1),
            "epochs": {which: [asdict(one) for one in epochs] for which, epochs in found.items()},
        }
        given.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
