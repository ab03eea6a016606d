"""Models: their shapes, their sizes, and that the same seed gives the same weights."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import nabi
from nabi import losses, models, nn, optim
from nabi.errors import SettingError, ShapeError

every_model = pytest.mark.parametrize("model", [models.linear, models.mlp, models.three_layer, models.convnet])


def bytes_(*shape: int) -> Any:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@every_model
def test_from_pictures_to_scores(model: Callable[..., nn.Sequential]) -> None:
    made = model((8, 6, 3), 5)
    assert made[0] is made.standardize
    assert isinstance(made.standardize, nn.Standardize)
    scores = made(bytes_(2, 8, 6, 3))
    assert scores.shape == (2, 5)
    assert scores.dtype == np.float32
    assert np.isfinite(scores.numpy()).all()
    given = nn.Standardize([0.5, 0.5, 0.5], [0.25, 0.25, 0.25])
    assert model((8, 6, 3), 5, standardize=given)[0] is given


@every_model
def test_same_seed_same_weights(model: Callable[..., nn.Sequential]) -> None:
    one, same, other = (nn.tensors(model((8, 8, 1), 3, seed=seed)) for seed in (1, 1, 2))
    assert list(one) == list(same)
    for name, tensor in one.items():
        np.testing.assert_array_equal(tensor.numpy(), same[name].numpy())
        if name.endswith(".weight") and "norm" not in name:
            assert (tensor.numpy() != other[name].numpy()).any()


@every_model
def test_a_compiled_step_of_training_gives_the_same_bits_as_an_eager_one(model: Callable[..., nn.Sequential]) -> None:
    x, y = bytes_(6, 8, 8, 1), np.arange(6) % 3

    def run(compiled: bool) -> tuple[list[Any], dict[str, Any]]:
        made = model((8, 8, 1), 3)
        optimizer = optim.SGD(nn.parameters(made), learning_rate=0.1, momentum=0.9)

        def step(x: Any, y: Any) -> Any:
            loss = losses.softmax_cross_entropy(made(x, training=True), y)
            optimizer.minimize(loss)
            return loss

        if compiled:
            step = nabi.compile(step, state=(made, optimizer), engine="reference")
        found = [step(x, y).item() for _ in range(3)]
        return found, {name: t.numpy() for name, t in nn.tensors(made).items()}

    (eager, weights), (compiled, same) = run(False), run(True)
    assert eager == compiled
    assert eager[-1] < eager[0]
    for name, array in weights.items():
        np.testing.assert_array_equal(array, same[name])


def test_three_layer_network_of_the_lecture() -> None:
    """sigmoid(W1 x + b1), sigmoid(W2 h1 + b2), W3 h2 + b3, with x (3,), hidden 4 and 4, output 1."""
    model = models.three_layer((3,), 1, hidden=(4, 4), seed=3)
    rng = np.random.default_rng(0)
    for tensor in nn.parameters(model).values():
        tensor.assign(rng.normal(size=tensor.shape).astype(np.float32))
    w1, b1, w2, b2, w3, b3 = (t.numpy() for t in nn.parameters(model).values())
    assert [w.shape for w in (w1, w2, w3)] == [(3, 4), (4, 4), (4, 1)]
    x = rng.normal(size=(3, 1)).astype(np.float32)

    def f(x: Any) -> Any:
        return 1.0 / (1.0 + np.exp(-x))

    h1 = f(np.dot(w1.T, x) + b1[:, None])
    h2 = f(np.dot(w2.T, h1) + b2[:, None])
    out = np.dot(w3.T, h2) + b3[:, None]
    np.testing.assert_allclose(model(x.T).numpy(), out.T, rtol=1e-5)


def test_mlp_settings() -> None:
    names = [name for name, _ in models.mlp((4,), 2, hidden=(8, 8), activation="tanh", dropout=0.5).items()]
    expected = "standardize flatten linear1 tanh1 dropout1 linear2 tanh2 dropout2 linear3"
    assert names == expected.split()
    with pytest.raises(SettingError, match="'cube' is not one of"):
        models.mlp((4,), 2, activation="cube")


def test_masks_and_weights_are_drawn_from_different_keys() -> None:
    """From one key, the first mask would be made of the very numbers that the weights are made of."""
    model = models.mlp((4,), 2, hidden=(8, 8), dropout=0.5)
    layers = (model.linear1, model.linear2, model.linear3)
    for mask in (model.dropout1, model.dropout2):
        for layer in layers:
            for initializer in (nn.initializers.he_uniform, nn.initializers.glorot_uniform):
                assert (initializer(mask.key, layer.weight.shape) != layer.weight.numpy()).any()
    assert (model.dropout1.key.numpy() != model.dropout2.key.numpy()).any()


def test_convnet_leaves_out_pools_that_do_not_fit() -> None:
    def pools(*shape: int) -> int:
        return sum(isinstance(layer, nn.MaxPool2d) for layer in models.convnet(shape, 2, channels=(2, 2, 2, 2)))

    assert (pools(16, 16, 1), pools(8, 8, 1), pools(16, 4, 1), pools(1, 5, 1)) == (3, 2, 1, 0)
    assert models.convnet((3, 3, 1), 2)(bytes_(2, 3, 3, 1)).shape == (2, 2)
    with pytest.raises(ShapeError, match=r"\(H, W, C\), not \(64,\)"):
        models.convnet((64,), 2)


@pytest.mark.parametrize(
    ("form", "side", "parameters", "multiply_adds"),
    [("2012", 227, 60_965_224, 724_406_816), ("single-tower", 224, 61_100_840, 714_188_480)],
)
def test_alexnet_has_the_known_size(form: str, side: int, parameters: int, multiply_adds: int) -> None:
    model = models.alexnet(form=form)
    table = nn.summary(model, (side, side, 3), dtype=np.uint8)
    assert table.parameters == parameters
    assert table.multiply_adds == multiply_adds
    assert table.rows[-1].output_shape == (1000,)


def test_alexnet_refuses() -> None:
    with pytest.raises(SettingError, match="form '2014' is not one of 2012, single-tower"):
        models.alexnet(form="2014")
