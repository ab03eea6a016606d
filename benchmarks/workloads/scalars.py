"""A graph of operations on single numbers: what an operation costs by itself."""

import sys
from collections.abc import Iterator
from typing import Any

from benchmarks.suite import Built, Case, Contender, Settings, workload


def graph(a: Any, b: Any, operations: int) -> Any:
    """So many operations, one after another."""
    x = a
    for _ in range(operations // 4):
        x = x * b
        x = x + a
        x = x * 0.5
        x = x + b
    return x


@workload(
    "scalars", sizes=(1_000,), doubling=(250, 500, 1_000, 2_000, 4_000), quick=100, size_is="operations", parallel=False
)
def scalars(size: int, settings: Settings) -> Iterator[Case]:
    """Forward and backward through a graph of 1,000 operations on single numbers, eagerly"""

    def built(make: Any) -> Built:
        def work() -> Any:
            a, b = make(1.0), make(0.5)
            graph(a, b, size).backward()
            return a.grad

        return Built(work)

    def ours() -> Built:
        import nabi

        return built(lambda value: nabi.tensor(value, requires_grad=True))

    def pytorch() -> Built:
        import torch

        return built(lambda value: torch.tensor(value, requires_grad=True))

    def micrograd() -> Built:
        from micrograd.engine import Value

        sys.setrecursionlimit(20 * size + 1_000)  # its walk is recursive
        return built(Value)

    contenders = [
        Contender("nabi", ours, ours=True),
        Contender("PyTorch", pytorch),
        Contender("micrograd", micrograd),
    ]
    yield Case("scalar graph, forward and backward", contenders, size)
