"""Nearest neighbours on CIFAR-10 (JPEG copy): ``python -m benchmarks.neighbors [--memory] [--accuracy] [--parity]``.

memory      how much memory 5-NN of all test pictures among 50,000 takes, above the data
accuracy    1-NN by L2 and L1 of all test pictures, and how long that takes
parity      predictions of 2,000 test pictures are scikit-learn's wherever neither distances nor votes are tied, for
            L2 and L1 and k = 1, 5 and 20; distances and ties are checked against 64-bit integers
speed       our classifier beside FAISS (its exact index, IndexFlatL2) and scikit-learn (brute force): 1,000 test
            pictures among 50,000, and random bytes of the same shape, k = 1 and 20. What is timed is to fit and to
            find the neighbours; the peers are given float32 rows, which they need, and making these is not timed.
            One after the other, round by round, after each has done it once with a tenth of both, and with a pause
            before each, since threads of others spin; a ratio is the median of a round's two times

All without an option. ``--queries N`` takes the first N of the test pictures, mixed; ``--candidates N`` as many of the
training pictures for speed, at equal steps; ``--json FILE`` writes what speed found. The data is
``cifar10-jpeg.tar.xz`` in the folder that NABI_DATA names; decoded pictures are kept, so that all but the first run
begin at once (and the first measures its own decoding as memory). Exits with 1 where a figure is not what it must be,
but for those of speed.
"""

import argparse
import importlib.util
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.neighbors import KNeighborsClassifier
from threadpoolctl import threadpool_limits

from benchmarks.rounds import PAUSE
from nabi import data, threads
from nabi.classifiers.knn import KNNClassifier

PEERS = {"l2": "euclidean", "l1": "manhattan"}
NEIGHBOURS = (1, 5, 20)
MOST_MEMORY = 600  # MiB above the data
ROUNDS = {"nabi": 5, "FAISS flat": 5, "scikit-learn": 2}  # how often each takes part
EXHAUSTIVE = 50  # queries whose distances to all training pictures are computed in 64-bit integers


def pictures(queries: int | None, default: int) -> tuple[Any, Any, Any, Any]:
    """Training pictures and labels; test pictures in a fixed random order, since they come sorted by class."""
    loaded = data.load(Path(os.environ["NABI_DATA"]) / "cifar10-jpeg.tar.xz")
    assert loaded.test is not None
    order = np.random.default_rng(0).permutation(len(loaded.test))[: queries or default]
    return loaded.train.images, loaded.train.labels, np.asarray(loaded.test.images)[order], loaded.test.labels[order]


def peak() -> float:
    """MiB that this process has had in memory at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def memory(queries: int | None) -> bool:
    images, labels, asked, _ = pictures(queries, 10_000)
    images.max()  # a memory map counts once it is read
    before = peak()
    for metric in PEERS:
        KNNClassifier(metric=metric).fit(images, labels).predict(asked)
        above = peak() - before
        print(f"memory, {metric}, {len(asked):,} x {len(images):,}: so far at most {above:.0f} MiB above the")
        print(f"  {before:.0f} MiB of program and data; {MOST_MEMORY} are allowed")
    return peak() - before < MOST_MEMORY


def accuracy(queries: int | None) -> bool:
    images, labels, asked, answers = pictures(queries, 10_000)
    for metric in PEERS:
        classifier = KNNClassifier(1, metric=metric).fit(images, labels)
        begun = time.perf_counter()
        right = (classifier.predict(asked) == answers).mean()
        seconds = time.perf_counter() - begun
        print(f"accuracy, {metric}, 1-NN, {len(asked):,} x {len(images):,}: {right:.4f} in {seconds:.1f} s")
    return True


def parity(queries: int | None) -> bool:
    images, labels, asked, _ = pictures(queries, 2_000)
    rows, asked_rows = (np.asarray(given).reshape(len(given), -1) for given in (images, asked))
    as_floats, asked_floats = rows.astype(np.float64), asked_rows.astype(np.float64)  # float32 would round the sums
    good = True
    for metric, name in PEERS.items():
        classifier = KNNClassifier(metric=metric).fit(images, labels)
        distances, positions = classifier.kneighbors(asked, max(NEIGHBOURS) + 1)
        whole = np.array([integers(q, rows[near], metric) for q, near in zip(asked_rows, positions, strict=True)])
        right = distances == (np.sqrt(whole) if metric == "l2" else whole)
        print(f"parity, {metric}: {right.sum():,} of {right.size:,} distances are those of 64-bit integers")
        alike = [
            np.array_equal(near, np.argsort(integers(q, rows, metric), kind="stable")[: len(near)])
            for q, near in zip(asked_rows[:EXHAUSTIVE], positions, strict=False)
        ]
        print(f"parity, {metric}: {sum(alike)} of {len(alike)} queries have the neighbours that sorting all 64-bit")
        print("  distances gives, the lowest position first")
        good &= bool(right.all()) and all(alike)
        for k in NEIGHBOURS:
            begun = time.perf_counter()
            ours = classifier.set_params(n_neighbors=k)
            theirs = KNeighborsClassifier(k, algorithm="brute", metric=name).fit(as_floats, labels)
            same = ours.predict(asked) == theirs.predict(asked_floats)
            votes = np.sort(ours.scores(asked), axis=1)
            tied_distances, tied_votes = whole[:, k - 1] == whole[:, k], votes[:, -1] == votes[:, -2]
            clear = ~(tied_distances | tied_votes)
            good &= bool(same[clear].all())
            print(
                f"parity, {metric}, k = {k}: {same[clear].sum():,} of {clear.sum():,} predictions without ties are "
                f"scikit-learn's, {same[~clear].sum():,} of {(~clear).sum():,} with ties (of distances "
                f"{tied_distances.sum():,}, of votes {tied_votes.sum():,}); {time.perf_counter() - begun:.0f} s"
            )
    return good


def ours(images: Any, labels: Any, asked: Any) -> Callable[[int], Any]:
    return lambda k: KNNClassifier(k).fit(images, labels).kneighbors(asked)


def in_faiss(images: Any, labels: Any, asked: Any) -> Callable[[int], Any]:
    import faiss

    faiss.omp_set_num_threads(threads.get_num_threads())
    rows, asked_rows = floats(images), floats(asked)

    def work(k: int) -> Any:
        index = faiss.IndexFlatL2(rows.shape[1])
        index.add(rows)
        return index.search(asked_rows, k)

    return work


def in_scikit_learn(images: Any, labels: Any, asked: Any) -> Callable[[int], Any]:
    rows, asked_rows = floats(images), floats(asked)

    def work(k: int) -> Any:
        with threadpool_limits(threads.get_num_threads()):
            return KNeighborsClassifier(k, algorithm="brute").fit(rows, labels).kneighbors(asked_rows)

    return work


def floats(images: Any) -> Any:
    return np.asarray(images, np.float32).reshape(len(images), -1)


CONTENDERS = {"nabi": ours, "FAISS flat": in_faiss, "scikit-learn": in_scikit_learn}


def speed(queries: int | None, candidates: int | None) -> list[dict[str, Any]]:
    images, labels, asked, _ = pictures(queries, 1_000)
    some = np.linspace(0, len(images) - 1, candidates or len(images)).astype(np.int64)
    images, labels = np.asarray(images)[some], labels[some]  # in memory, for all of them
    random = np.random.default_rng(0)
    noise, asked_noise = (random.integers(0, 256, given.shape, np.uint8) for given in (images, asked))
    missing = [] if importlib.util.find_spec("faiss") else ["FAISS flat"]
    for name in missing:
        print(f"speed: {name} is left out: faiss-cpu is not installed")
    rows = []
    for data_name, some, others in (("pictures", images, asked), ("random bytes", noise, asked_noise)):
        ready = {name: make(some, labels, others) for name, make in CONTENDERS.items() if name not in missing}
        for name in ready:
            CONTENDERS[name](some[::10], labels[::10], others[::10])(1)
        for k in (1, 20):
            what = f"{k}-NN, {data_name}, {len(others):,} queries of {some[0].size:,} numbers"
            rows += compared(what, len(some), ready, k)
    return rows


def compared(what: str, size: int, ready: dict[str, Callable[[int], Any]], k: int) -> list[dict[str, Any]]:
    """A row for each peer."""
    seconds: dict[str, list[float]] = {name: [] for name in ready}
    for turn in range(max(ROUNDS.values())):
        for name, work in ready.items():
            if turn < ROUNDS[name]:
                time.sleep(PAUSE)
                begun = time.perf_counter()
                work(k)
                seconds[name].append(time.perf_counter() - begun)
    rows = []
    for name, theirs in seconds.items():
        if name != "nabi":
            ratio = statistics.median(one / other for one, other in zip(theirs, seconds["nabi"], strict=False))
            medians = statistics.median(seconds["nabi"]), statistics.median(theirs)
            rows.append(
                {"what": what, "unit": "s", "ours": medians[0], "peer": name, "theirs": medians[1], "ratio": ratio}
            )
            print(f"speed, {what}, {size:,}: {medians[0]:.3f} s, {name} {medians[1]:.3f} s: {ratio:.1f} times as fast")
    return rows


def integers(query: Any, rows: Any, metric: str) -> Any:
    """Distances from one row to many in 64-bit integers; squared ones for L2."""
    found = []
    for start in range(0, len(rows), 1000):
        difference = rows[start : start + 1000].astype(np.int64) - query
        found.append((difference * difference if metric == "l2" else np.abs(difference)).sum(axis=1))
    return np.concatenate(found)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.neighbors", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parts = (memory, accuracy, parity)  # memory first: it is the most that there was so far
    for part in parts:
        parser.add_argument(f"--{part.__name__}", action="store_true")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--queries", type=int, metavar="N")
    parser.add_argument("--candidates", type=int, metavar="N")
    given = parser.parse_args()
    if "NABI_DATA" not in os.environ:
        parser.error("NABI_DATA must name the folder that cifar10-jpeg.tar.xz is in")
    chosen = [part for part in parts if getattr(given, part.__name__)]
    every = not (chosen or given.speed)
    print(f"{threads.get_num_threads()} threads")
    good = [part(given.queries) for part in (parts if every else chosen)]
    if every or given.speed:
        rows = speed(given.queries, given.candidates)
        if given.json is not None:
            given.json.write_text(json.dumps({"rows": rows}, indent=2), encoding="utf-8")
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
