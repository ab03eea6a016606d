"""What can be measured only in a process that begins with nothing: peak memory, and the way to the first step."""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from benchmarks.suite import Built, Case, Contender, LeftOut, Settings, workload
from benchmarks.worker import ROOT

EAGER = {"PyTorch, channels first": "pytorch", "PyTorch, channels last": "pytorch-last"}
MODULES = {"pytorch": "torch", "pytorch-last": "torch", "pytorch-compiled": "torch", "jax": "jax"}


def process(who: str, size: int, settings: Settings, steps: int, cache: Path | None = None) -> dict[str, float]:
    """Run `benchmarks.fresh`; kernels are kept in ``cache``, where it is given."""
    command = [sys.executable, "-m", "benchmarks.fresh", who, str(size), settings.engine, str(steps)]
    kept = {} if cache is None else {"NABI_CACHE": str(cache), "TORCHINDUCTOR_CACHE_DIR": str(cache)}
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **kept}, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def present(who: str) -> None:
    """Refuse a peer that is not installed."""
    if who in MODULES and importlib.util.find_spec(MODULES[who]) is None:
        raise LeftOut(f"{MODULES[who]} is not installed")


@workload("memory", sizes=(256,), doubling=(64, 128, 256, 512), quick=2, size_is="batch", long="a few minutes")
def memory(size: int, settings: Settings) -> Iterator[Case]:
    """Peak memory of a process that takes three steps of the convnet, in all and above what importing takes"""
    everybody = {"nabi": "nabi", **EAGER, "JAX": "jax"}
    taken: dict[str, list[dict[str, float]]] = {who: [] for who in everybody.values()}

    def total(who: str) -> Callable[[], Built]:
        def work() -> float:
            taken[who].append(process(who, size, settings, steps=3))
            return taken[who][-1]["total"]

        def build() -> Built:
            present(who)
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
        contenders = [Contender(name, build(who), ours=who == "nabi") for name, who in everybody.items()]
        yield Case(
            f"convnet step, peak memory {what}", contenders, size, unit="MiB", timed=False, rounds=3, alike="not"
        )


@workload("first-step", sizes=(64,), quick=2, size_is="batch", long="several minutes")
def first_step(size: int, settings: Settings) -> Iterator[Case]:
    """From the start of a process until the convnet's first step is taken: nothing compiled before, and warm"""
    everybody = {"nabi": "nabi", **EAGER, "torch.compile": "pytorch-compiled", "JAX": "jax"}
    with ExitStack() as stack:
        folder = lambda: Path(stack.enter_context(tempfile.TemporaryDirectory()))
        used = {who: folder() for who in (*everybody.values(), "classifier")}

        def seconds(who: str, cold: bool) -> Callable[[], Built]:
            def work() -> float:
                cache = folder() if cold else used[who]
                begun = time.perf_counter()
                process(who, size, settings, steps=1, cache=cache)
                return time.perf_counter() - begun

            def build() -> Built:
                present(who)
                if not cold:
                    process(who, size, settings, steps=1, cache=used[who])
                return Built(work)

            return build

        for what, cold in (("for the first time ever", True), ("warm", False)):
            contenders = [
                Contender(name, seconds(who, cold), ours=who == "nabi", slow=who == "pytorch-compiled")
                for name, who in everybody.items()
            ]
            yield Case(
                f"convnet, a process to its first step, {what}", contenders, size, timed=False, rounds=3, alike="not"
            )
            if settings.engine != "reference":
                yield Case(
                    f"ConvNetClassifier() as it is, a process to its first step, {what}",
                    [Contender("nabi", seconds("classifier", cold), ours=True)], size, timed=False, rounds=3,
                    alike="not",
                )  # fmt: skip
