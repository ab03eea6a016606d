"""The networks that are measured compute the same in nabi, PyTorch and JAX: steps of training, and predictions."""

import pytest
from benchmarks import apart, networks, rounds
from benchmarks.suite import Built, Case

pytest.importorskip("torch")
pytest.importorskip("jax")

from benchmarks import in_jax, in_nabi, in_pytorch

pytestmark = pytest.mark.parity

NETWORKS = {
    "mlp": (networks.mlp(12, 8, 4), (6, 12)),
    "convnet": (networks.convnet((4, 8), n_classes=4), (4, 8, 8, 3)),
    "alexnet": (networks.alexnet(4), (2, 64, 64, 3)),
    "mobilenet": (networks.mobilenet(4), (2, 32, 32, 3)),
    "flat": (  # more than one pixel is laid out in a row, which channels first and last do in different orders
        [networks.Conv(3, 4, 3, stride=2), networks.RELU6, networks.Flatten(3, 2, 4), networks.Linear(24, 4)],
        (2, 7, 5, 3),
    ),
}


def agree(**built: Built) -> None:
    """All answers are those of the first, to the tolerance that the benchmarks keep."""
    answers = {name: apart.answer(one) for name, one in built.items()}
    found = rounds.compared(Case("both", []), dict.fromkeys(built, False), answers)
    assert len(found) == len(built) - 1


@pytest.mark.parametrize("name", sorted(set(NETWORKS) - {"mobilenet"}))
@pytest.mark.parametrize("channels_last", [False, True])
def test_steps_of_training(name: str, channels_last: bool) -> None:
    network, shape = NETWORKS[name]
    arrays, (x, y) = networks.weights(network), networks.batch(shape, 4)
    agree(
        nabi=in_nabi.step(network, arrays, x, y, "reference"),
        torch=in_pytorch.step(network, arrays, x, y, channels_last=channels_last),
        jax=in_jax.step(network, arrays, x, y),
    )


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_predictions(name: str, channels_last: bool) -> None:
    network, shape = NETWORKS[name]
    arrays, (x, _) = networks.weights(network), networks.batch(shape, 4)
    agree(
        nabi=in_nabi.forward(network, arrays, x, "reference"),
        torch=in_pytorch.forward(network, arrays, x, channels_last=channels_last),
        jax=in_jax.forward(network, arrays, x),
    )
