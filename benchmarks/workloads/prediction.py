"""Prediction: scores of one batch, batch norm by its running statistics."""

from collections.abc import Iterator

from benchmarks import machine, networks
from benchmarks.suite import Built, Case, Contender, Settings, workload
from benchmarks.workloads.training import torch_contenders


def forward(what: str, network: networks.Network, shape: tuple[int, ...], settings: Settings) -> Iterator[Case]:
    """Cases in each precision: all have the same weights, and their scores must agree."""
    arrays = networks.weights(network)
    x, _ = networks.batch(shape, 1)

    def ours(precision: str = "float32") -> Built:
        from benchmarks import in_nabi

        return in_nabi.forward(network, arrays, x, settings.engine, precision)

    def pytorch(**how: object) -> Built:
        from benchmarks import in_pytorch

        return in_pytorch.forward(network, arrays, x, **how)  # type: ignore[arg-type]

    def jax() -> Built:
        from benchmarks import in_jax

        return in_jax.forward(network, arrays, x)

    contenders = [Contender("nabi", ours, ours=True), *torch_contenders(pytorch, True), Contender("JAX", jax)]
    yield Case(what, contenders, shape[0])
    if machine.has_bfloat16():
        contenders = [
            Contender("nabi", lambda: ours("bfloat16"), ours=True),
            *torch_contenders(pytorch, True, "bfloat16"),
        ]
        yield Case(what, contenders, shape[0], "bfloat16")


@workload("latency", sizes=(1, 256), doubling=(1, 2, 4, 8, 16, 32, 64, 128, 256), quick=1, size_is="pictures")
def latency(size: int, settings: Settings) -> Iterator[Case]:
    """Prediction with the convnet: one picture, warm, and a batch of 256"""
    yield from forward("convnet 64-128-256 at 32x32, prediction", networks.convnet(), (size, 32, 32, 3), settings)


@workload("mobilenet", sizes=(8,), doubling=(1, 2, 4, 8, 16), quick=1, size_is="pictures")
def mobilenet(size: int, settings: Settings) -> Iterator[Case]:
    """Prediction with a depthwise-separable net (MobileNet v1) at 224x224"""
    yield from forward("MobileNet v1 at 224x224, prediction", networks.mobilenet(), (size, 224, 224, 3), settings)
