"""The twin that time to accuracy is measured beside: the network that our classifier trains, and how, in PyTorch."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from benchmarks import twin

import nabi
from nabi import nn
from nabi.autodiff import gradients
from nabi.cli.choices import flip_colours
from nabi.data import augment
from nabi.nn.activation import ACTIVATIONS

pytestmark = pytest.mark.parity

BATCH, STEPS, SIDE = 16, 3, 16
ROUNDING = 2.0**-24


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """What is small takes longest where two threads wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pictures(count: int = BATCH * STEPS) -> tuple[Any, Any]:
    """Blurred noise, and labels."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, 4, 4, 3)).repeat(SIDE // 4, axis=1).repeat(SIDE // 4, axis=2)
    images = np.clip(coarse + rng.normal(0, 20, coarse.shape), 0, 255).astype(np.uint8)
    return images, np.arange(count) % 10


def begun(**settings: Any) -> twin.Recipe:
    """The default classifier, about to be trained for one short epoch."""
    images, labels = pictures()
    how = {"max_iter": 1, "batch_size": BATCH, "random_state": 0, "engine": "reference"}
    classifier = nabi.ConvNetClassifier(**how | settings)
    flip_colours(classifier, images)
    return twin.begun(classifier, images, labels)


def ours(tensor: Any) -> Any:
    """A weight of PyTorch as we keep it."""
    array = tensor.detach().numpy()
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def tolerance(model: Any) -> float:
    """How far gradients may lie apart, in units of the largest of a layer.

    A weight's gradient is a sum over all pixels of a batch; in another order, its rounding errors are independent, and
    add up in squares, there and from layer to layer, on the way up and down. Of a hundred thousand numbers that are
    distributed in this way, the worst is four or five such deviations off.
    """
    return 5 * ROUNDING * math.sqrt(BATCH * SIDE**2) * math.sqrt(2 * len(model))


@pytest.mark.parametrize("optimizer", ["auto", "sgd"])
def test_loss_gradients_and_three_steps_are_ours(optimizer: str) -> None:
    """The default network and recipe, whatever they are: if this fails, the twin has to learn what is new."""
    recipe = begun(label_smoothing=0.1, optimizer=optimizer)
    model, peer = recipe.learner.model, twin.Twin(recipe)
    parameters, theirs = nn.parameters(model), dict(peer.net[1].named_parameters())
    assert {path for path, one in theirs.items() if one.requires_grad} == set(parameters)
    apart = tolerance(model)

    images, labels = recipe.examples.images, recipe.examples.labels
    batches = [slice(start, start + BATCH) for start in range(0, BATCH * STEPS, BATCH)]
    loss = recipe.loss(model(images[batches[0]], training=True), labels[batches[0]])
    of_layers: dict[str, float] = {}
    found = dict(zip(parameters, gradients(loss, list(parameters.values())), strict=True))
    for (
        path,
        gradient,
    ) in found.items():  # that of a norm's weight is nearly zero at first, as a sum of what its bias has
        layer = path.rpartition(".")[0]
        of_layers[layer] = max(of_layers.get(layer, 0.0), np.abs(gradient.numpy()).max())
    before = {path: tensor.numpy() for path, tensor in parameters.items()}
    state = {path: tensor.clone() for path, tensor in peer.net.state_dict().items()}
    scores = peer.net(torch.from_numpy(images[batches[0]]))
    their_loss = torch.nn.functional.cross_entropy(
        scores, torch.from_numpy(labels[batches[0]]), label_smoothing=peer.smoothing
    )
    their_loss.backward()
    assert their_loss.item() == pytest.approx(loss.item(), rel=apart)
    for path, gradient in found.items():
        worst = np.abs(gradient.numpy() - ours(theirs[path].grad)).max()
        assert worst <= apart * of_layers[path.rpartition(".")[0]], path
    assert not np.array_equal(state["1.batch_norm1.running_mean"], peer.net.state_dict()["1.batch_norm1.running_mean"])

    for step, batch in enumerate(batches):
        recipe.learner.learning_rate = recipe.schedule(step)
        value, _ = recipe.learner.step(images[batch], labels[batch])
        theirs_now = peer.step(torch.from_numpy(images[batch]), torch.from_numpy(labels[batch]))
        assert theirs_now.item() == pytest.approx(value.item(), rel=(step + 1) * apart)
    if optimizer == "auto":
        # Muon makes directions that a gradient of few pictures hardly has as long as the others: these are rounding.
        # Where it has all of them, `test_muon` compares filters.
        return
    moved = {path: tensor.numpy() - before[path] for path, tensor in parameters.items()}
    way = {layer: max(np.abs(moved[p]).max() for p in moved if p.rpartition(".")[0] == layer) for layer in of_layers}
    assert min(way.values()) > 1e-4  # all learn
    for path, change in moved.items():
        # What a step is off, the next one begins with; and each rounds the weight, by half of its last digit.
        allowed = STEPS * (apart * way[path.rpartition(".")[0]] + ROUNDING * np.abs(before[path]).max() * 2)
        assert np.abs(change - (ours(theirs[path]) - before[path])).max() <= allowed, path

    scores = peer.scores(torch.from_numpy(images)).numpy()
    running = np.asarray(model(images, training=False).numpy())
    assert np.abs(scores - running).max() <= STEPS * apart * np.abs(running).max()


def test_answers_are_those_that_the_classifier_gives() -> None:
    """By whatever `predict` does beside the network."""
    images, labels = pictures()
    how = {"augment": "flip,crop:1", "random_state": 0, "engine": "reference"}
    classifier = nabi.ConvNetClassifier(channels=(4, 8), max_iter=1, **how)
    recipe = twin.begun(classifier, images, labels)
    theirs = twin.Twin(recipe).scores(torch.from_numpy(images), at_once=20).numpy()
    scores = classifier.scores(images)
    assert np.abs(scores - theirs).max() <= tolerance(recipe.learner.model) * np.abs(scores).max()


def test_an_epoch_learns() -> None:
    recipe = begun(channels=(8, 16), max_iter=30)
    peer = twin.Twin(recipe)
    images, labels = (torch.from_numpy(part) for part in (recipe.examples.images, recipe.examples.labels))
    losses = [peer.epoch(images, labels) for _ in range(recipe.epochs)]
    assert peer.steps == 30 * STEPS
    assert losses[-1] < 0.8 * losses[0]


LAYERS = {
    "strided": nn.Conv2d(3, 4, (3, 5), key=nabi.random.key(0), stride=(2, 1), padding=(1, 2)),
    "dilated": nn.Conv2d(3, 6, 3, key=nabi.random.key(0), dilation=2, groups=3, padding="same", bias=False),
    "whitening": nn.Whitening(3),
    "max": nn.MaxPool2d(3, 2, 1),
    "average": nn.AvgPool2d((2, 3), padding=(1, 0)),
    "mean": nn.GlobalAvgPool(),
    "flat": nn.Sequential(nn.Flatten(), nn.Linear(8 * 6 * 3, 5, key=nabi.random.key(1))),
    "dropout": nn.Dropout(0.5, key=nabi.random.key(2)),
    "norm": nn.BatchNorm(3, momentum=0.3, epsilon=0.1),
    "norm of biases": nn.BatchNorm(3, scale=False, bias_gain=8.0),
    "mirrored": nn.Mirrored(nn.Conv2d(3, 4, 3, key=nabi.random.key(3)), nn.Flatten()),
    "multi-crop": nn.MultiCrop(nn.Conv2d(3, 4, 3, key=nabi.random.key(4)), nn.Flatten()),
} | {kind.label: kind() for kind in ACTIVATIONS.values()}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str) -> None:
    for path, tensor in nn.tensors(LAYERS[name]).items():
        if path == "bias":
            tensor.assign(np.linspace(-1, 1, tensor.size, dtype=np.float32))
    model = nn.Sequential(nn.Standardize([0.4, 0.5, 0.6], [0.2, 0.3, 0.1]), LAYERS[name])
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 6, 3)).astype(np.uint8)
    net = torch.nn.Sequential(twin.Pictures(), twin.module(model)).to(memory_format=torch.channels_last).eval()
    theirs = net(torch.from_numpy(images)).detach().numpy()
    theirs = theirs.transpose(0, 2, 3, 1) if theirs.ndim == 4 else theirs
    found = model(images).numpy()
    assert found.shape == theirs.shape
    # The longest of these sums has 144 terms of either sign.
    assert np.abs(found - theirs).max() <= 144 * ROUNDING * max(1, np.abs(found).max())


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("sgd", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
        ("sgd", {}),
        ("rmsprop", {"momentum": 0.5, "decay": 0.8, "weight_decay": 0.1}),
        ("adam", {"beta1": 0.8, "weight_decay": 0.1}),
        ("adamw", {"weight_decay": 0.1, "epsilon": 1e-3}),
    ],
)
def test_optimisers(name: str, settings: dict[str, Any]) -> None:
    layer = nn.Linear(3, 4, key=nabi.random.key(0))
    optimizer = nabi.optim.OPTIMIZERS[name](nn.parameters(layer), 0.1, **settings)
    net = twin.module(layer)
    theirs = twin.optimizer(optimizer, net)
    rng = np.random.default_rng(0)
    for _ in range(STEPS):
        weight, bias = rng.standard_normal((3, 4), np.float32), rng.standard_normal(4, np.float32)
        optimizer.update([nabi.tensor(weight), nabi.tensor(bias)])
        net.weight.grad, net.bias.grad = torch.from_numpy(weight.T.copy()), torch.from_numpy(bias)
        theirs.step()
    # A step is some twenty operations, each of which rounds numbers of order one.
    np.testing.assert_allclose(layer.weight.numpy(), net.weight.detach().numpy().T, rtol=0, atol=60 * ROUNDING)
    np.testing.assert_allclose(layer.bias.numpy(), net.bias.detach().numpy(), rtol=0, atol=60 * ROUNDING)


@pytest.mark.parametrize(("inputs", "outputs"), [(2, 24), (6, 5)], ids=["wide", "tall"])
def test_muon(inputs: int, outputs: int) -> None:
    """Theirs goes round with the matrix itself, ours with its square alone."""
    layer = nn.Conv2d(inputs, outputs, 3, key=nabi.random.key(0))
    optimizer = nabi.optim.Muon(nn.parameters(layer), 0.1, weight_decay=0.1)
    net = twin.module(layer)
    theirs = twin.optimizer(optimizer, net)
    rng = np.random.default_rng(0)
    for _ in range(STEPS):
        weight = rng.standard_normal((3, 3, inputs, outputs), np.float32)
        bias = rng.standard_normal(outputs, np.float32)
        optimizer.update([nabi.tensor(weight), nabi.tensor(bias)])
        net.weight.grad, net.bias.grad = torch.from_numpy(twin.turned(weight)), torch.from_numpy(bias)
        theirs.step()
    # Five rounds make three to five times as much of a rounding, each; lengths are about one.
    found, wanted = twin.turned(layer.weight.numpy()), net.weight.detach().numpy()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=5**5 * ROUNDING)
    np.testing.assert_allclose(layer.bias.numpy(), net.bias.detach().numpy(), rtol=0, atol=60 * ROUNDING)


def test_what_is_drawn_for_pictures_is_what_ours_may_be() -> None:
    images = torch.from_numpy(np.random.default_rng(0).integers(1, 256, (200, 6, 4, 3)).astype(np.uint8))
    generator = torch.Generator().manual_seed(0)
    flip, crop = (twin.change(part) for part in augment.parse("flip,crop:1").parts)  # type: ignore[union-attr]
    mirrored = (flip(images, generator) == images.flip(2)).flatten(1).all(1)
    assert 70 < mirrored.sum() < 130
    padded = np.pad(images.numpy(), ((0, 0), (1, 1), (1, 1), (0, 0)))
    seen = set()
    for moved, whole in zip(crop(images, generator).numpy(), padded, strict=True):
        places = [(i, j) for i in range(3) for j in range(3) if np.array_equal(moved, whole[i : i + 6, j : j + 4])]
        assert len(places) == 1
        seen.update(places)
    assert len(seen) == 9
    (cutout,) = (twin.change(part) for part in augment.parse("cutout:2").parts)  # type: ignore[union-attr]
    seen = set()
    for hidden, whole in zip(cutout(images, generator).numpy(), images.numpy(), strict=True):
        colour = np.rint(whole.mean((0, 1))).astype(np.uint8)
        places = []
        for i, j in itertools.product(range(-1, 5), range(-1, 3)):
            square = whole.copy()
            square[max(0, i) : i + 2, max(0, j) : j + 2] = colour
            places += [(i, j)] * np.array_equal(hidden, square)
        assert len(places) == 1
        seen.update(places)
    assert len(seen) == 24


class Own(nn.Layer):
    """A layer that is not of `nabi.nn`."""


def with_field(layer: Any) -> Any:
    layer.slope = 1
    return layer


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (Own(), "layer Own"),
        (nn.LocalResponseNorm(), "layer LocalResponseNorm"),
        (with_field(nn.BatchNorm(3)), "slope of layer BatchNorm"),
        (nn.MaxPool2d(2, padding="same"), r"padding 'same' of a window \(2, 2\)"),
        (nn.MaxPool2d(2, padding=((0, 1), (0, 1))), r"padding \(\(0, 1\), \(0, 1\)\)"),
    ],
)
def test_layers_that_have_no_twin(layer: Any, message: str) -> None:
    with pytest.raises(twin.NoTwin, match=message):
        twin.module(nn.Sequential(layer))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"average": 0.9}, "training keeps average"),
        ({"loss": "hinge"}, "loss multiclass_hinge"),
    ],
)
def test_recipes_that_have_no_twin(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(twin.NoTwin, match=message):
        twin.Twin(begun(channels=(4,), **settings))


@pytest.mark.parametrize(("text", "message"), [("rotation", "augmentation rotation"), ("mixup", "augmentation mixup")])
def test_augmentations_that_have_no_twin(text: str, message: str) -> None:
    recipe = begun(channels=(4,))
    recipe.examples = recipe.examples._replace(augment=augment.parse(text))
    with pytest.raises(twin.NoTwin, match=message):
        twin.Twin(recipe)


def test_settings_of_an_optimiser_that_have_no_twin() -> None:
    layer = nn.Linear(3, 4, key=nabi.random.key(0))
    optimizer = nabi.optim.SGD(nn.parameters(layer))
    optimizer.bias_rate = 64  # type: ignore[attr-defined]
    with pytest.raises(twin.NoTwin, match="bias_rate of optimiser SGD"):
        twin.optimizer(optimizer, twin.module(layer))
