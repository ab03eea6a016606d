"""Memory: what a step of training takes at its peak."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Iterator

from benchmarks.suite import Built, Case, Contender, LeftOut, Settings, workload
from benchmarks.worker import ROOT

WHO = {"nabi": "nabi", "PyTorch, channels first": "pytorch", "PyTorch, channels last": "pytorch-last", "JAX": "jax"}
MODULES = {"pytorch": "torch", "pytorch-last": "torch", "jax": "jax"}


@workload("memory", sizes=(256,), doubling=(64, 128, 256, 512), quick=2, size_is="batch", long="a few minutes")
def memory(size: int, settings: Settings) -> Iterator[Case]:
    """Peak memory of a process that takes three steps of the convnet, in all and above what importing takes"""
    taken: dict[str, list[dict[str, float]]] = {who: [] for who in WHO.values()}

    def total(who: str) -> Callable[[], Built]:
        command = [sys.executable, "-m", "benchmarks.peak", who, str(size), settings.engine]

        def work() -> float:
            done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
            taken[who].append(json.loads(done.stdout))
            return taken[who][-1]["total"]

        def build() -> Built:
            if who in MODULES and importlib.util.find_spec(MODULES[who]) is None:
                raise LeftOut(f"{MODULES[who]} is not installed")
            return Built(work)

        return build

    def above(who: str) -> Callable[[], Built]:
        """The same processes again, looked at in another way."""

        def build() -> Built:
            if not taken[who]:
                raise LeftOut("it was left out above")
            left = iter(taken[who])
            return Built(lambda: (one := next(left))["total"] - one["imported"])

        return build

    for what, build in (("in all", total), ("above what importing takes", above)):
        contenders = [Contender(name, build(who), ours=who == "nabi") for name, who in WHO.items()]
        yield Case(
            f"convnet step, peak memory {what}", contenders, size, unit="MiB", timed=False, rounds=3, alike="not"
        )
