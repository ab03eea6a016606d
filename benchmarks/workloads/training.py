"""Steps of training: forward, backward, SGD with momentum 0.9."""

from collections.abc import Iterator

from benchmarks import machine, networks
from benchmarks.suite import Built, Case, Contender, Settings, workload


def step(what: str, network: networks.Network, shape: tuple[int, ...], settings: Settings) -> Iterator[Case]:
    """Cases in each precision: all begin with the same weights, and their first losses must agree."""
    arrays = networks.weights(network)
    x, y = networks.batch(shape, network[-1].outputs)  # type: ignore[union-attr]

    def ours(precision: str = "float32") -> Built:
        from benchmarks import in_nabi

        return in_nabi.step(network, arrays, x, y, settings.engine, precision)

    def pytorch(**how: object) -> Built:
        from benchmarks import in_pytorch

        return in_pytorch.step(network, arrays, x, y, **how)  # type: ignore[arg-type]

    def jax() -> Built:
        from benchmarks import in_jax

        return in_jax.step(network, arrays, x, y)

    pictures = len(shape) == 4
    contenders = [Contender("nabi", ours, ours=True), *torch_contenders(pytorch, pictures), Contender("JAX", jax)]
    yield Case(what, contenders, shape[0])
    if machine.has_bfloat16():
        contenders = [
            Contender("nabi", lambda: ours("bfloat16"), ours=True),
            *torch_contenders(pytorch, pictures, "bfloat16"),
        ]
        yield Case(what, contenders, shape[0], "bfloat16")


def torch_contenders(build: object, pictures: bool, precision: str = "float32") -> list[Contender]:
    """PyTorch in both memory formats where there are pictures, and compiled."""
    made = lambda **how: lambda: build(precision=precision, **how)  # type: ignore[operator]
    compiled = Contender("torch.compile", made(channels_last=pictures, compile=True), slow=True)
    if not pictures:
        return [Contender("PyTorch", made()), compiled]
    return [
        Contender("PyTorch, channels first", made()),
        Contender("PyTorch, channels last", made(channels_last=True)),
        compiled,
    ]


@workload("mlp", sizes=(256,), doubling=(64, 128, 256, 512), quick=8, size_is="batch")
def mlp(size: int, settings: Settings) -> Iterator[Case]:
    """One training step of an MLP 3072-1024-1024-10"""
    yield from step("MLP 3072-1024-1024-10, step", networks.mlp(3072, 1024, 1024, 10), (size, 3072), settings)


@workload("convnet", sizes=(256,), doubling=(32, 64, 128, 256), quick=2, size_is="batch", long="several minutes")
def convnet(size: int, settings: Settings) -> Iterator[Case]:
    """One training step of three blocks of conv3x3, batch norm, relu and max-pool (64-128-256 channels) at 32x32x3"""
    yield from step("convnet 64-128-256 at 32x32, step", networks.convnet(), (size, 32, 32, 3), settings)


@workload("alexnet", sizes=(128,), doubling=(32, 64, 128, 256), quick=2, size_is="batch", long="several minutes")
def alexnet(size: int, settings: Settings) -> Iterator[Case]:
    """One training step of AlexNet (one tower, dropout) at 64x64x3"""
    yield from step("AlexNet at 64x64, step", networks.alexnet(), (size, 64, 64, 3), settings)


@workload("small", sizes=(32,), doubling=(8, 16, 32, 64, 128, 256), quick=8, size_is="batch")
def small(size: int, settings: Settings) -> Iterator[Case]:
    """One training step of a small MLP 64-32-10: how much a step costs beside its arithmetic"""
    yield from step("MLP 64-32-10, step", networks.mlp(64, 32, 10), (size, 64), settings)
