"""Layers: what they compute, what they keep, and what they refuse."""

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nabi
from nabi import nn, ops
from nabi.autodiff import gradients
from nabi.errors import DTypeError, ModelFileError, SettingError, ShapeError
from nabi.nn import initializers

KEY = nabi.random.key(0)


def pictures(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# --- facts of the lecture ---


def test_sigmoid_neuron() -> None:
    """w = (2, -3), bias -3, x = (-1, -2): 0.73; and what flows back to each of them."""
    neuron = nn.Sequential(nn.Linear(2, 1, key=KEY), nn.Sigmoid())
    nn.load_tensors(neuron, {"linear.weight": np.float32([[2], [-3]]), "linear.bias": np.float32([-3])})
    x = nabi.tensor([[-1.0, -2.0]], requires_grad=True)
    y = neuron(x)
    assert y.item() == pytest.approx(0.73, abs=0.005)
    wanted = [neuron.linear.weight, x, neuron.linear.bias]
    (w0, w1), (x0, x1), (bias,) = (g.numpy().ravel() for g in nabi.gradients(y.sum(), wanted))
    # The lecture rounds at every step of the way, so its last digit may be off by one.
    np.testing.assert_allclose([w0, x0, w1, x1, bias], [-0.20, 0.39, -0.39, -0.59, 0.20], atol=0.01)
    np.testing.assert_allclose(bias, y.item() * (1 - y.item()), rtol=1e-6)


def test_linear_classifier_on_four_pixels() -> None:
    """Three classes (cat, dog, ship); the course's slide prints 61.95 for the last, which leaves out the bias."""
    layer = nn.Linear(4, 3, key=KEY)
    layer.weight.assign(np.float32([[0.2, -0.5, 0.1, 2.0], [1.5, 1.3, 2.1, 0.0], [0, 0.25, 0.2, -0.3]]).T)
    layer.bias.assign(np.float32([1.1, 3.2, -1.2]))
    scores = layer(nabi.tensor([[56.0, 231.0, 24.0, 2.0]])).numpy()
    np.testing.assert_allclose(scores, [[-96.8, 437.9, 60.75]], rtol=1e-6)


@given(st.lists(st.integers(-5, 5), min_size=2, max_size=2), st.integers(-5, 5))
def test_perceptron_fires_exactly_when_the_sum_exceeds_the_threshold(x: list[int], theta: int) -> None:
    neuron = nn.Linear(2, 1, key=KEY)
    neuron.weight.assign(np.float32([[1], [2]]))
    neuron.bias.assign(np.float32([-theta]))
    fires = neuron(nabi.tensor([x], dtype=np.float32)) > 0
    assert bool(fires.numpy()[0, 0]) == (x[0] + 2 * x[1] > theta)


# --- standardise ---


def test_standardize_takes_pictures_as_they_are() -> None:
    layer = nn.Standardize([0.5, 0.25], [0.5, 0.25])
    bytes_ = np.array([[[[0, 0], [255, 255]]]], dtype=np.uint8)
    expected = [[[[-1, -1], [1, 3]]]]
    np.testing.assert_allclose(layer(bytes_).numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(layer((bytes_ / 255).astype(np.float32)).numpy(), expected, atol=1e-6)
    for dtype in (np.float32, np.float64):  # the model's own dtype, whatever comes in
        assert layer((bytes_ / 255).astype(dtype)).dtype == np.float32
    assert list(nn.tensors(layer)) == ["mean", "std"]
    assert not nn.parameters(layer)


def test_standardize_refuses() -> None:
    with pytest.raises(SettingError, match="std must be positive"):
        nn.Standardize([0.0, 0.0], [1.0, 0.0])
    with pytest.raises(SettingError, match="finite"):
        nn.Standardize(np.nan, 1.0)
    with pytest.raises(ShapeError, match="differ in shape"):
        nn.Standardize([0.0], 1.0)
    with pytest.raises(DTypeError, match="uint8 or floating point, not int64"):
        nn.Standardize(0.0, 1.0)(np.array([1, 2]))


# --- layers with weights ---


def test_linear_refuses_another_width() -> None:
    with pytest.raises(ShapeError, match=r"Linear: x \(2, 5\) must end in the 4 inputs"):
        nn.Linear(4, 3, key=KEY)(np.zeros((2, 5), np.float32))
    with pytest.raises(SettingError, match="n_outputs"):
        nn.Linear(4, 0, key=KEY)


def test_convolution_of_one_pixel_windows_is_a_linear_layer() -> None:
    convolution, linear = nn.Conv2d(3, 5, 1, key=KEY), nn.Linear(3, 5, key=KEY)
    linear.weight.assign(convolution.weight.numpy()[0, 0])
    convolution.bias.assign(np.arange(5, dtype=np.float32))
    linear.bias.assign(np.arange(5, dtype=np.float32))
    x = pictures(2, 4, 4, 3)
    np.testing.assert_allclose(convolution(x).numpy(), linear(x).numpy(), atol=1e-6)


def test_convolution_with_groups_is_convolutions_side_by_side() -> None:
    whole = nn.Conv2d(4, 6, 3, key=KEY, groups=2, bias=False, padding=1, stride=2)
    assert whole.bias is None
    assert whole.weight.shape == (3, 3, 2, 6)
    x = pictures(2, 5, 5, 4)
    halves = []
    for half in range(2):
        part = nn.Conv2d(2, 3, 3, key=KEY, bias=False, padding=1, stride=2)
        part.weight.assign(whole.weight.numpy()[..., 3 * half : 3 * half + 3])
        halves.append(part(x[..., 2 * half : 2 * half + 2]).numpy())
    np.testing.assert_allclose(whole(x).numpy(), np.concatenate(halves, axis=3), atol=1e-5)


def test_convolution_refuses() -> None:
    with pytest.raises(SettingError, match="2 groups do not divide 3 inputs"):
        nn.Conv2d(3, 4, 3, key=KEY, groups=2)
    with pytest.raises(SettingError, match="kernel_size"):
        nn.Conv2d(3, 4, 0, key=KEY)
    with pytest.raises(ShapeError, match="conv2d: x"):
        nn.Conv2d(3, 4, 3, key=KEY)(np.zeros((1, 5, 5, 2), np.float32))


# --- layers without weights ---


def test_pools() -> None:
    x = nabi.tensor(np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1))
    np.testing.assert_array_equal(nn.MaxPool2d(2)(x).numpy().ravel(), [5, 7, 13, 15])
    np.testing.assert_array_equal(nn.AvgPool2d(2)(x).numpy().ravel(), [2.5, 4.5, 10.5, 12.5])
    np.testing.assert_array_equal(nn.MaxPool2d(3, stride=1)(x).numpy().ravel(), [10, 11, 14, 15])
    np.testing.assert_array_equal(nn.GlobalAvgPool()(x).numpy(), [[7.5]])
    assert nn.Flatten()(np.zeros((0, 4, 4, 2), np.float32)).shape == (0, 32)
    assert nn.Flatten()(np.zeros((3, 5), np.float32)).shape == (3, 5)


@pytest.mark.parametrize("name", nn.ACTIVATIONS)
def test_every_activation_is_its_operation(name: str) -> None:
    x = pictures(3, 4)
    layer = nn.activation(name)
    np.testing.assert_array_equal(layer(x).numpy(), getattr(ops, name)(x).numpy())
    assert not nn.tensors(layer)
    assert layer.__doc__ is not None
    assert layer.__doc__.startswith("y = ")


def test_activations_with_settings() -> None:
    assert nn.LeakyReLU(0.5)(nabi.tensor([-1.0])).item() == -0.5
    assert nn.ELU(2.0)(nabi.tensor([-100.0])).item() == -2
    with pytest.raises(SettingError, match="'swish' is not one of relu,"):
        nn.activation("swish")


def test_local_response_norm_of_one_channel() -> None:
    y = nn.LocalResponseNorm(size=1, alpha=3.0, beta=0.5, k=1.0)(nabi.tensor([[[[1.0]]]]))
    assert y.item() == 0.5
    with pytest.raises(SettingError, match="size"):
        nn.LocalResponseNorm(0)


# --- batch normalisation ---


def test_batch_norm_standardises_each_channel_in_training() -> None:
    layer = nn.BatchNorm(3)
    y = layer(pictures(8, 4, 4, 3) * [1, 2, 3] + [5, 6, 7], training=True).numpy()  # float64, into float32 state
    np.testing.assert_allclose(y.mean(axis=(0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(y.std(axis=(0, 1, 2)), 1, atol=1e-4)


def test_batch_norm_follows_mean_and_variance() -> None:
    layer = nn.BatchNorm(2, momentum=0.25)
    x = pictures(10, 2) * 3 + 1
    before = layer(x).numpy()
    np.testing.assert_allclose(before, x / np.sqrt(1 + 1e-5), rtol=1e-6)
    layer(x, training=True)
    np.testing.assert_allclose(layer.running_mean.numpy(), 0.25 * x.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(layer.running_variance.numpy(), 0.75 + 0.25 * x.var(axis=0, ddof=1), rtol=1e-5)
    running = layer.running_mean.numpy(), layer.running_variance.numpy()
    y = layer(x[:1]).numpy()  # no training: one example alone, and nothing moves
    np.testing.assert_allclose(y, (x[:1] - running[0]) / np.sqrt(running[1] + 1e-5), rtol=1e-5)
    np.testing.assert_array_equal(layer.running_mean.numpy(), running[0])
    assert set(nn.parameters(layer)) == {"weight", "bias"}
    assert set(nn.tensors(layer)) == {"weight", "bias", "running_mean", "running_variance"}


def test_batch_norm_of_a_single_value_stays_finite() -> None:
    layer = nn.BatchNorm(2)
    assert np.isfinite(layer(pictures(1, 2), training=True).numpy()).all()
    assert np.isfinite(layer.running_variance.numpy()).all()


def test_batch_norm_refuses() -> None:
    with pytest.raises(ShapeError, match=r"x \(2, 4\) must end in 3 channels"):
        nn.BatchNorm(3)(np.zeros((2, 4), np.float32))
    with pytest.raises(SettingError, match="momentum"):
        nn.BatchNorm(3, momentum=2)


# --- dropout ---


def test_dropout_only_in_training() -> None:
    layer = nn.Dropout(0.5, key=KEY)
    x = np.ones((50, 40), np.float32)
    np.testing.assert_array_equal(np.asarray(layer(x)), x)
    assert layer.count.item() == 0
    y = layer(x, training=True).numpy()
    assert set(np.unique(y)) == {0, 2}
    assert abs(y.mean() - 1) < 0.1  # 2,000 fair coins: 4.5 standard deviations
    assert layer.count.item() == 1


def test_dropout_draws_anew_at_each_call_and_goes_on_where_it_was() -> None:
    x = np.ones((4, 8), np.float32)
    layer = nn.Dropout(0.5, key=KEY)
    first, second, third = (layer(x, training=True).numpy() for _ in range(3))
    assert (first != second).any()
    assert (second != third).any()
    again = nn.Dropout(0.5, key=nabi.random.key(99))
    nn.load_tensors(again, {"key": KEY, "count": np.int64(1)})
    np.testing.assert_array_equal(again(x, training=True).numpy(), second)


def test_dropout_compiled_gives_the_same_bits_and_is_compiled_once() -> None:
    x = np.ones((4, 8), np.float32)
    eager, layer = nn.Dropout(0.3, key=KEY), nn.Dropout(0.3, key=KEY)
    compiled = nabi.compile(lambda x: layer(x, training=True), state=layer)
    for _ in range(3):
        np.testing.assert_array_equal(compiled(x).numpy(), eager(x, training=True).numpy())
    assert len(compiled.recordings) == 1
    assert layer.count.item() == 3


def test_dropout_refuses() -> None:
    for rate in (-0.1, 1.0, float("nan")):
        with pytest.raises(SettingError, match="rate"):
            nn.Dropout(rate, key=KEY)


# --- layers of layers ---


def small() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(4, 6, key=KEY), nn.ReLU(), nn.Linear(6, 6, key=KEY), nn.ReLU(), nn.Dropout(0, key=KEY)
    )


def test_sequential_names_layers_by_what_they_are() -> None:
    model = small()
    assert [name for name, _ in model.items()] == ["linear1", "relu1", "linear2", "relu2", "dropout"]
    assert model[0] is model.linear1
    assert model[-1] is model.dropout
    assert len(model) == len(list(model)) == 5
    assert [name for name, _ in model[1:3].items()] == ["relu1", "linear2"]
    assert "linear2: Linear(weight (6, 6), bias (6,))" in repr(model)
    with pytest.raises(AttributeError, match="no layer is named 'conv1'; there are linear1,"):
        _ = model.conv1


def test_sequential_applies_one_after_another() -> None:
    model, x = small(), pictures(3, 4)
    np.testing.assert_array_equal(model(x).numpy(), model[1:](model[:1](x)).numpy())
    assert nn.Sequential()(nabi.tensor([1.0])).item() == 1


def test_sequential_refuses() -> None:
    with pytest.raises(SettingError, match="cannot be called 'items'"):
        nn.Sequential({"items": nn.ReLU()})
    with pytest.raises(SettingError, match="is str, not a layer"):
        nn.Sequential({"relu": "relu"})  # type: ignore[dict-item]


def test_models_can_be_copied_and_pickled() -> None:
    model, x = small(), pictures(3, 4)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(other(x).numpy(), model(x).numpy())
        other.linear1.weight.assign(other.linear1.weight * 2)
        assert (other(x).numpy() != model(x).numpy()).any()


def test_residual_adds_its_input_or_a_shortcut() -> None:
    x = pictures(3, 4)
    body, shortcut = nn.Linear(4, 4, key=KEY), nn.Linear(4, 4, key=nabi.random.key(1))
    np.testing.assert_array_equal(nn.Residual(body)(x).numpy(), body(x).numpy() + x)
    both = nn.Residual(body, shortcut)
    np.testing.assert_array_equal(both(x).numpy(), body(x).numpy() + shortcut(x).numpy())
    assert list(nn.parameters(both)) == ["body.weight", "body.bias", "shortcut.weight", "shortcut.bias"]


def moved(x: Any, rows: int, columns: int) -> Any:
    """Pictures whose pixels have moved so far; edges are repeated."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    return padded[:, 1 - rows : 1 - rows + x.shape[1], 1 - columns : 1 - columns + x.shape[2]]


@pytest.mark.parametrize(("container", "places"), [(nn.Mirrored, [(0, 0)]), (nn.MultiCrop, [(-1, -1), (1, 1)])])
def test_several_looks_give_their_mean(container: type[nn.Sequential], places: list[tuple[int, int]]) -> None:
    x = np.random.default_rng(0).normal(size=(3, 4, 5, 2)).astype(np.float32)
    layers = {"conv": nn.Conv2d(2, 3, 2, key=KEY), "flatten": nn.Flatten()}
    one, several = nn.Sequential(layers), container(layers)
    looks = [look.copy() for place in places for whole in [moved(x, *place)] for look in (whole, whole[:, :, ::-1])]
    expected = np.mean([one(look).numpy() for look in looks], axis=0)
    np.testing.assert_allclose(several(x).numpy(), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(several(x, training=True).numpy(), one(x, training=True).numpy())
    again = nn.build(nn.describe(several), most=100)
    nn.load_tensors(again, {path: tensor.numpy() for path, tensor in nn.tensors(several).items()})
    assert type(again) is container
    assert again(x).numpy().tobytes() == several(x).numpy().tobytes()


def test_batch_norm_learns_biases_faster_by_their_gain() -> None:
    """One step of gradient descent moves what the bias does r² times as far."""
    x = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    moved = {}
    for gain in (1.0, 8.0):
        layer = nn.BatchNorm(3, scale=False, bias_gain=gain)
        assert list(nn.parameters(layer)) == ["bias"]
        before = layer(x, training=True).numpy()
        (gradient,) = gradients(ops.sum(layer(x, training=True) * np.arange(3.0, dtype=np.float32)), [layer.bias])
        layer.bias.assign(layer.bias - 0.01 * gradient)
        moved[gain] = layer(x, training=True).numpy() - before
    np.testing.assert_allclose(moved[8.0], 64 * moved[1.0], rtol=1e-3, atol=1e-4)
    with pytest.raises(SettingError, match=r"bias_gain=0 must be above 0"):
        nn.BatchNorm(3, bias_gain=0)


def test_nodes_know_the_layers_they_were_made_in() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Residual(nn.Sequential(nn.Linear(4, 4, key=KEY))))
    plan = nabi.compile(lambda x: model(x), state=model).plan(pictures(2, 4))
    scopes = {node.operation.name: node.scopes for node in plan.nodes}
    assert scopes["matmul"] == ("sequential", "residual", "body", "linear")


# --- state ---


def test_a_tensor_that_two_layers_share_is_one_parameter() -> None:
    first, second = nn.Linear(4, 4, key=KEY), nn.Linear(4, 4, key=KEY)
    second.weight = first.weight
    assert list(nn.parameters(nn.Sequential(first, second))) == ["linear1.weight", "linear1.bias", "linear2.bias"]


def test_tensors_out_and_in_again() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3, key=KEY), nn.BatchNorm(2), nn.Dropout(0.5, key=KEY))
    x = pictures(2, 5, 5, 1)
    model(x, training=True)
    arrays = {name: t.numpy() for name, t in nn.tensors(model).items()}
    other = nn.Sequential(
        nn.Conv2d(1, 2, 3, key=nabi.random.key(5)), nn.BatchNorm(2), nn.Dropout(0.5, key=nabi.random.key(6))
    )
    nn.load_tensors(other, arrays)
    for training in (False, True):
        np.testing.assert_array_equal(other(x, training=training).numpy(), model(x, training=training).numpy())
    arrays["conv.weight"][:] = 0  # what was loaded is a copy
    assert other.conv.weight.numpy().all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"weight": None}, ModelFileError, "lack 'weight'"),
        ({"other": np.zeros(3)}, ModelFileError, "hold 'other'"),
        ({"bias": np.zeros(3, np.float32)}, ShapeError, r"bias: the array has shape \(3,\), the model \(2,\)"),
        ({"bias": np.zeros(2)}, DTypeError, "bias: the array has dtype float64, the model float32"),
    ],
)
def test_arrays_that_do_not_fit_change_nothing(change: Any, error: type[Exception], message: str) -> None:
    layer = nn.Linear(3, 2, key=KEY)
    arrays = {"weight": np.zeros((3, 2), np.float32), "bias": np.ones(2, np.float32), **change}
    with pytest.raises(error, match=message):
        nn.load_tensors(layer, {name: array for name, array in arrays.items() if array is not None})
    np.testing.assert_array_equal(layer.weight.numpy(), nn.Linear(3, 2, key=KEY).weight.numpy())


# --- initial weights ---


@pytest.mark.parametrize(
    ("initializer", "variance"),
    [("he_uniform", 2 / 300), ("he_normal", 2 / 300), ("glorot_uniform", 2 / 500), ("glorot_normal", 2 / 500)],
)
def test_initial_weights_have_the_stated_variance(initializer: str, variance: float) -> None:
    draw = getattr(initializers, initializer)
    weights = draw(KEY, (300, 200))
    assert weights.dtype == np.float32
    # The standard error of a variance from 60,000 numbers is below 0.6% of it.
    assert weights.var() == pytest.approx(variance, rel=0.025)
    assert abs(weights.mean()) < 5 * np.sqrt(variance / weights.size)
    np.testing.assert_array_equal(weights, draw(KEY, (300, 200)))
    assert (weights != draw(nabi.random.key(1), (300, 200))).any()


def test_blocks_of_initial_weights_differ() -> None:
    weights = initializers.he_uniform(KEY, (1, 3 * initializers.BLOCK))
    first, second, third = weights.reshape(3, -1)
    assert abs(np.corrcoef([first, second, third]) - np.eye(3)).max() < 0.03  # 5 standard errors


# --- summary ---


def test_summary_counts() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, key=KEY, padding=1),
        nn.Residual(nn.Sequential(nn.Conv2d(8, 8, 1, key=KEY, groups=2, bias=False), nn.BatchNorm(8))),
        nn.Sequential(nn.MaxPool2d(2), nn.Flatten()),
        nn.Linear(8 * 4 * 4, 10, key=KEY),
    )
    table = nn.summary(model, (8, 8, 3))
    assert [tuple(row) for row in table.rows] == [
        ("conv", "Conv2d", (8, 8, 8), 3 * 3 * 3 * 8 + 8, 8 * 8 * 8 * 3 * 3 * 3),
        ("residual", "Residual", (8, 8, 8), 8 * 4 + 8 + 8, 8 * 8 * 8 * 4),
        ("sequential.max_pool", "MaxPool2d", (4, 4, 8), 0, 0),
        ("sequential.flatten", "Flatten", (128,), 0, 0),
        ("linear", "Linear", (10,), 1290, 1280),
    ]
    assert table.parameters == sum(row.parameters for row in table.rows)
    assert table.multiply_adds == 13_824 + 2_048 + 1_280
    assert str(table).splitlines()[-1].split() == ["total", "1,562", "17,152"]


def test_summary_of_a_single_layer_and_of_a_shape_that_does_not_fit() -> None:
    assert nn.summary(nn.Linear(4, 2, key=KEY), (4,)).rows == [("linear", "Linear", (2,), 10, 8)]
    with pytest.raises(ShapeError, match="must end in the 4 inputs"):
        nn.summary(nn.Linear(4, 2, key=KEY), (5,))


def test_whitened_patches_are_uncorrelated_and_the_frequent_come_first() -> None:
    rng = np.random.default_rng(0)
    rough = rng.standard_normal((50, 9, 8, 3)).astype(np.float32)
    smooth = rough[:, 1:, 1:] + rough[:, :-1, 1:] + rough[:, 1:, :-1] + rough[:, :-1, :-1]
    layer = nn.Whitening(3)
    layer.learn(smooth, floor=1e-9)
    y = layer(smooth).numpy()
    assert y.shape == (50, 7, 6, 24)
    np.testing.assert_array_equal(y[..., 12:], -y[..., :12])
    np.testing.assert_allclose(np.cov(y[..., :12].reshape(-1, 12), rowvar=False), np.eye(12), atol=1e-3)
    loud = [np.square(layer.weight.numpy()[..., i]).sum() for i in range(12)]
    assert loud == sorted(loud)  # what varies most is multiplied least
    assert not nn.parameters(layer)


def test_a_whitening_layer_passes_pixels_on_until_it_has_learnt_and_constant_pictures_do_no_harm() -> None:
    layer, pictures = nn.Whitening(1, 2), np.full((3, 4, 4, 1), 0.5, np.float32)
    np.testing.assert_array_equal(layer(pictures).numpy()[0, 0, 0], [0.5] * 4 + [-0.5] * 4)
    layer.learn(pictures)
    assert np.isfinite(layer(pictures).numpy()).all()


def test_dirac_first_passes_inputs_on() -> None:
    for inputs, outputs in ((4, 8), (8, 4), (4, 4)):
        convolution = nn.Conv2d(
            inputs, outputs, 3, key=KEY, padding="same", bias=False, initializer=nn.initializers.dirac_first
        )
        x = np.random.default_rng(0).standard_normal((2, 5, 6, inputs)).astype(np.float32)
        passed = min(inputs, outputs)
        np.testing.assert_array_equal(convolution(x).numpy()[..., :passed], x[..., :passed])
    whole = nn.initializers.he_uniform(KEY, (3, 3, 4, 8))
    np.testing.assert_array_equal(nn.initializers.dirac_first(KEY, (3, 3, 4, 8))[..., 4:], whole[..., 4:])
