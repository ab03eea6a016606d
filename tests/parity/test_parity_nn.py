"""Layers, losses, optimisers and whole models against PyTorch."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits
from threadpoolctl import threadpool_limits

import nabi
from nabi import losses, models, nn, optim

torch = pytest.importorskip("torch")
functional = torch.nn.functional

pytestmark = pytest.mark.parity

KEY = nabi.random.key(0)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Two libraries' threads that wait for each other's cores make these small problems ten times as slow."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(before)


def numbers(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape)


def as_float64(model: Any) -> Any:
    """The same model in float64, where rounding is far below what is compared."""
    for tensor in nn.tensors(model).values():
        if tensor.dtype == np.float32:
            tensor.held = np.float64(tensor.value)
    return model


def to_torch(array: Any) -> Any:
    return torch.from_numpy(np.array(array))


def weight_to_torch(weight: Any) -> Any:
    """A weight in PyTorch's order of axes: (out, in) or (out, in / groups, kh, kw)."""
    return to_torch(np.transpose(weight, {1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}[weight.ndim]))


def pictures_to_torch(x: Any) -> Any:
    """Pictures (N, H, W, C) as (N, C, H, W); rows as they are."""
    return to_torch(np.transpose(x, (0, 3, 1, 2)) if x.ndim == 4 else x)


def pictures_from_torch(y: Any) -> Any:
    y = y.detach().numpy()
    return np.transpose(y, (0, 2, 3, 1)) if y.ndim == 4 else y


class FlattenOurs(torch.nn.Module):
    """(N, C, H, W) laid out in the order of (N, H, W, C), so that the weights that follow are the same."""

    def forward(self, x: Any) -> Any:
        return x.permute(0, 2, 3, 1).flatten(1)


def give_weights(model: Any, twin: Any) -> None:
    """Give a twin our weights; both name them in the order in which they are used."""
    ours = list(nn.parameters(model).values())
    theirs = list(twin.parameters())
    assert len(ours) == len(theirs)
    with torch.no_grad():
        for mine, other in zip(ours, theirs, strict=True):
            other.copy_(weight_to_torch(mine.numpy()))


def close(found: Any, expected: Any, tolerance: float = 1e-9) -> None:
    """Equal up to a tolerance relative to the largest magnitude."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * max(1.0, np.abs(expected).max()))


# --- layers: values and gradients in float64 ---

LAYERS: dict[str, tuple[Callable[[], Any], Callable[[], Any], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(5, 3, key=KEY), lambda: torch.nn.Linear(5, 3), (4, 5)),
    "linear without bias": (
        lambda: nn.Linear(5, 3, key=KEY, bias=False),
        lambda: torch.nn.Linear(5, 3, bias=False),
        (4, 5),
    ),
    "convolution": (
        lambda: nn.Conv2d(3, 4, 3, key=KEY, stride=2, padding=1),
        lambda: torch.nn.Conv2d(3, 4, 3, stride=2, padding=1),
        (2, 7, 6, 3),
    ),
    "convolution with all settings": (
        lambda: nn.Conv2d(4, 6, (3, 2), key=KEY, stride=(1, 2), padding=(2, 1), dilation=(2, 1), groups=2),
        lambda: torch.nn.Conv2d(4, 6, (3, 2), stride=(1, 2), padding=(2, 1), dilation=(2, 1), groups=2),
        (2, 8, 7, 4),
    ),
    "depthwise convolution, same": (
        lambda: nn.Conv2d(4, 4, 3, key=KEY, padding="same", groups=4, bias=False),
        lambda: torch.nn.Conv2d(4, 4, 3, padding="same", groups=4, bias=False),
        (2, 5, 6, 4),
    ),
    "max pool": (lambda: nn.MaxPool2d(3, 2, 1), lambda: torch.nn.MaxPool2d(3, 2, 1), (2, 7, 6, 3)),
    "average pool": (lambda: nn.AvgPool2d(3, 2, 1), lambda: torch.nn.AvgPool2d(3, 2, 1), (2, 7, 6, 3)),
    "global average pool": (
        nn.GlobalAvgPool,
        lambda: torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()),
        (2, 4, 5, 3),
    ),
    "batch norm": (lambda: nn.BatchNorm(3), lambda: torch.nn.BatchNorm2d(3), (4, 3, 3, 3)),
    "batch norm of rows": (
        lambda: nn.BatchNorm(3, momentum=0.3, epsilon=1e-3),
        lambda: torch.nn.BatchNorm1d(3, momentum=0.3, eps=1e-3),
        (6, 3),
    ),
    # PyTorch divides α by the size of the window, the paper of 2012 does not.
    "response norm": (
        lambda: nn.LocalResponseNorm(5, alpha=0.1),
        lambda: torch.nn.LocalResponseNorm(5, alpha=0.5, k=2.0),
        (2, 3, 3, 8),
    ),
    "response norm over an even number": (
        lambda: nn.LocalResponseNorm(4, alpha=0.2, beta=0.6, k=1.0),
        lambda: torch.nn.LocalResponseNorm(4, alpha=0.8, beta=0.6, k=1.0),
        (2, 2, 2, 6),
    ),
    "relu": (nn.ReLU, torch.nn.ReLU, (4, 50)),
    "relu6": (nn.ReLU6, torch.nn.ReLU6, (4, 50)),
    "leaky relu": (lambda: nn.LeakyReLU(0.2), lambda: torch.nn.LeakyReLU(0.2), (4, 50)),
    "elu": (lambda: nn.ELU(0.7), lambda: torch.nn.ELU(0.7), (4, 50)),
    "gelu": (nn.GELU, torch.nn.GELU, (4, 50)),
    "silu": (nn.SiLU, torch.nn.SiLU, (4, 50)),
    "hard swish": (nn.HardSwish, torch.nn.Hardswish, (4, 50)),
    "sigmoid": (nn.Sigmoid, torch.nn.Sigmoid, (4, 50)),
    "tanh": (nn.Tanh, torch.nn.Tanh, (4, 50)),
    "softplus": (nn.Softplus, torch.nn.Softplus, (4, 50)),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("make", "make_twin", "shape"), LAYERS.values(), ids=LAYERS)
def test_layer(make: Any, make_twin: Any, shape: tuple[int, ...], training: bool) -> None:
    layer, twin = as_float64(make()), make_twin().double().train(training)
    parameters = nn.parameters(layer)
    for seed, parameter in enumerate(parameters.values()):
        parameter.assign(numbers(*parameter.shape, seed=seed))
    give_weights(layer, twin)
    x = nabi.tensor(2 * numbers(*shape), requires_grad=True)
    theirs = pictures_to_torch(x.numpy()).requires_grad_()
    for _ in range(2):  # a second time, so that running statistics have moved
        y, expected = layer(x, training=training), twin(theirs)
        close(y.numpy(), pictures_from_torch(expected))
    weights = numbers(*y.shape, seed=9)
    found = nabi.gradients((y * weights).sum(), [x, *parameters.values()])
    (expected * pictures_to_torch(weights)).sum().backward()
    close(found[0].numpy(), pictures_from_torch(theirs.grad))
    for mine, other in zip(found[1:], twin.parameters(), strict=True):
        close(weight_to_torch(mine.numpy()).numpy(), other.grad.numpy())
    if isinstance(layer, nn.BatchNorm):
        close(layer.running_mean.numpy(), twin.running_mean.numpy())
        close(layer.running_variance.numpy(), twin.running_var.numpy())


# --- losses: values and gradients in float64 ---


def their_perceptron(scores: Any, labels: Any, reduction: str) -> Any:
    each = torch.relu(scores.amax(dim=1) - scores.gather(1, labels[:, None])[:, 0])
    return {"none": each, "sum": each.sum(), "mean": each.mean()}[reduction]


LOSSES: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    # PyTorch divides the hinge loss by the number of classes.
    "hinge": (
        losses.multiclass_hinge,
        lambda s, y, reduction: 7 * functional.multi_margin_loss(s, y, reduction=reduction),
    ),
    "hinge with a margin": (
        lambda s, y, **how: losses.multiclass_hinge(s, y, margin=0.3, **how),
        lambda s, y, reduction: 7 * functional.multi_margin_loss(s, y, margin=0.3, reduction=reduction),
    ),
    "softmax": (losses.softmax_cross_entropy, functional.cross_entropy),
    "softmax with smoothing": (
        lambda s, y, **how: losses.softmax_cross_entropy(s, y, label_smoothing=0.2, **how),
        lambda s, y, reduction: functional.cross_entropy(s, y, label_smoothing=0.2, reduction=reduction),
    ),
    "perceptron": (losses.perceptron, their_perceptron),
    "squares": (
        lambda s, y, **how: losses.mean_squared_error(s, numbers(20, 7, seed=5), **how),
        lambda s, y, reduction: functional.mse_loss(s, to_torch(numbers(20, 7, seed=5)), reduction=reduction),
    ),
}


@pytest.mark.parametrize("reduction", losses.REDUCTIONS)
@pytest.mark.parametrize(("ours", "theirs"), LOSSES.values(), ids=LOSSES)
def test_loss(ours: Callable[..., Any], theirs: Callable[..., Any], reduction: str) -> None:
    labels = np.arange(20) % 7
    scores = nabi.tensor(3 * numbers(20, 7), requires_grad=True)
    twins = to_torch(scores.numpy()).requires_grad_()
    loss, expected = ours(scores, labels, reduction=reduction), theirs(twins, to_torch(labels), reduction=reduction)
    close(loss.numpy(), expected.detach().numpy())
    weights = numbers(*loss.shape, seed=3)
    (expected * to_torch(weights)).sum().backward()
    close(nabi.gradients((loss * weights).sum(), [scores])[0].numpy(), twins.grad.numpy())


# --- optimisers: the same way through a narrow valley, in float64 ---

OPTIMIZERS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "sgd": (lambda p: optim.SGD(p, 0.02), lambda p: torch.optim.SGD(p, 0.02)),
    "sgd with decay": (
        lambda p: optim.SGD(p, 0.02, weight_decay=0.1),
        lambda p: torch.optim.SGD(p, 0.02, weight_decay=0.1),
    ),
    "momentum": (
        lambda p: optim.SGD(p, 0.01, momentum=0.9, weight_decay=0.05),
        lambda p: torch.optim.SGD(p, 0.01, momentum=0.9, weight_decay=0.05),
    ),
    "nesterov": (
        lambda p: optim.SGD(p, 0.01, momentum=0.8, nesterov=True, weight_decay=0.05),
        lambda p: torch.optim.SGD(p, 0.01, momentum=0.8, nesterov=True, weight_decay=0.05),
    ),
    "rmsprop": (
        lambda p: optim.RMSProp(p, 0.02, decay=0.9, epsilon=1e-6, weight_decay=0.05),
        lambda p: torch.optim.RMSprop(p, 0.02, alpha=0.9, eps=1e-6, weight_decay=0.05),
    ),
    "rmsprop with momentum": (
        lambda p: optim.RMSProp(p, 0.005, momentum=0.7),
        lambda p: torch.optim.RMSprop(p, 0.005, momentum=0.7),
    ),
    "adam": (lambda p: optim.Adam(p, 0.05), lambda p: torch.optim.Adam(p, 0.05)),
    "adam with all settings": (
        lambda p: optim.Adam(p, 0.05, beta1=0.8, beta2=0.95, epsilon=1e-5, weight_decay=0.1),
        lambda p: torch.optim.Adam(p, 0.05, betas=(0.8, 0.95), eps=1e-5, weight_decay=0.1),
    ),
    "adamw": (lambda p: optim.AdamW(p, 0.05), lambda p: torch.optim.AdamW(p, 0.05)),
    "adamw with all settings": (
        lambda p: optim.AdamW(p, 0.05, beta1=0.8, beta2=0.95, epsilon=1e-5, weight_decay=0.3),
        lambda p: torch.optim.AdamW(p, 0.05, betas=(0.8, 0.95), eps=1e-5, weight_decay=0.3),
    ),
}


@pytest.mark.parametrize(("ours", "theirs"), OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_optimiser(ours: Callable[..., Any], theirs: Callable[..., Any]) -> None:
    x, labels = numbers(12, 5) * [1, 2, 4, 8, 0.1], np.arange(12) % 3
    weight, bias = numbers(5, 3, seed=1), numbers(3, seed=2)
    mine = [nabi.tensor(weight, requires_grad=True), nabi.tensor(bias, requires_grad=True)]
    others = [to_torch(weight).requires_grad_(), to_torch(bias).requires_grad_()]
    optimizer, twin = ours(mine), theirs(others)
    for number in range(20):
        rate = 0.05 / (1 + number)
        if number >= 10:  # changed on the way, as a schedule does
            optimizer.learning_rate.assign(rate)
            twin.param_groups[0]["lr"] = rate
        optimizer.minimize(losses.softmax_cross_entropy(nabi.tensor(x) @ mine[0] + mine[1], labels))
        twin.zero_grad()
        functional.cross_entropy(to_torch(x) @ others[0] + others[1], to_torch(labels)).backward()
        twin.step()
        for parameter, other in zip(mine, others, strict=True):
            close(parameter.numpy(), other.detach().numpy(), 1e-11)


@pytest.mark.parametrize("name", ["cosine", "one cycle", "step decay"])
def test_schedule(name: str) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    if name == "cosine":
        ours = optim.cosine(0.3, 50, floor=0.01)
        theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50, eta_min=0.01)
    elif name == "one cycle":
        ours = optim.one_cycle(0.3, 50)
        theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.3, total_steps=50, cycle_momentum=False)
    else:
        ours = optim.step_decay(0.3, 20, 0.5)
        theirs = torch.optim.lr_scheduler.StepLR(optimizer, 20, 0.5)
    for step in range(49):
        assert ours(step) == pytest.approx(theirs.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        theirs.step()


# --- whole models ---


def alexnet_of_2012() -> Any:
    from torch.nn import Conv2d, Linear, LocalResponseNorm, MaxPool2d, ReLU, Sequential

    return Sequential(
        *(Conv2d(3, 96, 11, stride=4), ReLU(), LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0), MaxPool2d(3, 2)),
        *(Conv2d(96, 256, 5, padding=2, groups=2), ReLU()),
        *(LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0), MaxPool2d(3, 2)),
        *(Conv2d(256, 384, 3, padding=1), ReLU()),
        *(Conv2d(384, 384, 3, padding=1, groups=2), ReLU()),
        *(Conv2d(384, 256, 3, padding=1, groups=2), ReLU(), MaxPool2d(3, 2)),
        *(FlattenOurs(), Linear(9216, 4096), ReLU(), Linear(4096, 4096), ReLU(), Linear(4096, 1000)),
    )


def alexnet_of_torchvision() -> Any:
    from torch.nn import Conv2d, Linear, MaxPool2d, ReLU, Sequential

    return Sequential(
        *(Conv2d(3, 64, kernel_size=11, stride=4, padding=2), ReLU(), MaxPool2d(kernel_size=3, stride=2)),
        *(Conv2d(64, 192, kernel_size=5, padding=2), ReLU(), MaxPool2d(kernel_size=3, stride=2)),
        *(Conv2d(192, 384, kernel_size=3, padding=1), ReLU()),
        *(Conv2d(384, 256, kernel_size=3, padding=1), ReLU()),
        *(Conv2d(256, 256, kernel_size=3, padding=1), ReLU(), MaxPool2d(kernel_size=3, stride=2)),
        *(FlattenOurs(), Linear(256 * 6 * 6, 4096), ReLU(), Linear(4096, 4096), ReLU(), Linear(4096, 1000)),
    )


@pytest.mark.parametrize(
    ("form", "side", "make_twin"), [("2012", 227, alexnet_of_2012), ("single-tower", 224, alexnet_of_torchvision)]
)
def test_alexnet(form: str, side: int, make_twin: Callable[[], Any]) -> None:
    """Scores and every gradient in float32, on two pictures.

    Sums of up to 9,216 products, added in another order, differ by about √9216·2⁻²⁴ = 6e-6 of their size in each of
    eight layers; and where that turns one rectifier or pool in a million the other way, a whole term. So the whole of
    each gradient is compared, in the Euclidean norm, to 1e-4 of its own.
    """
    model = models.alexnet(form=form)
    with torch.device("meta"):  # the initial weights are ours
        twin = make_twin()
    twin = twin.to_empty(device="cpu")
    give_weights(model, twin)
    x = numbers(2, side, side, 3).astype(np.float32)
    labels = np.array([3, 998])
    scores, expected = model(x), twin(pictures_to_torch(x))
    near(scores.numpy(), expected.detach().numpy(), 1e-5)
    functional.cross_entropy(expected, to_torch(labels)).backward()
    parameters = nn.parameters(model)
    found = nabi.gradients(losses.softmax_cross_entropy(scores, labels), list(parameters.values()))
    for mine, other in zip(found, twin.parameters(), strict=True):
        near(weight_to_torch(mine.numpy()).numpy(), other.grad.numpy(), 1e-4)


def near(found: Any, expected: Any, tolerance: float) -> None:
    assert np.linalg.norm(found - expected) <= tolerance * np.linalg.norm(expected)


def convnet_twin() -> Any:
    from torch.nn import AdaptiveAvgPool2d, BatchNorm2d, Conv2d, Flatten, Linear, MaxPool2d, ReLU, Sequential

    return Sequential(
        *(Conv2d(1, 16, 3, padding=1, bias=False), BatchNorm2d(16), ReLU(), MaxPool2d(2)),
        *(Conv2d(16, 32, 3, padding=1, bias=False), BatchNorm2d(32), ReLU(), MaxPool2d(2)),
        *(AdaptiveAvgPool2d(1), Flatten(), Linear(32, 10)),
    )


def test_convnet_learns_256_pictures_by_heart_as_its_twin_does() -> None:
    """50 steps on all of them, in float64: rounding grows on the way, yet the losses agree to 1e-8."""
    pictures, labels = load_digits(return_X_y=True)
    x = (pictures[:256].reshape(256, 8, 8, 1) / 16).astype(np.float64)
    y = labels[:256].astype(np.int64)
    standardize = nn.Standardize([x.mean()], [x.std()])
    model = as_float64(models.convnet((8, 8, 1), 10, channels=(16, 32), standardize=standardize))
    twin = convnet_twin().double()
    give_weights(model, twin)
    optimizer = optim.SGD(nn.parameters(model), 0.3, momentum=0.9)
    their_optimizer = torch.optim.SGD(twin.parameters(), 0.3, momentum=0.9)

    @nabi.compile(state=(model, optimizer))
    def step(x: Any, y: Any) -> Any:
        loss = losses.softmax_cross_entropy(model(x, training=True), y)
        optimizer.minimize(loss)
        return loss

    standard = pictures_to_torch(standardize(x).numpy())
    for _ in range(50):
        loss = step(x, y).item()
        expected = functional.cross_entropy(twin(standard), to_torch(y))
        their_optimizer.zero_grad()
        expected.backward()
        their_optimizer.step()
        assert loss == pytest.approx(expected.item(), rel=1e-8)
    assert loss < 0.02
    scores = model(x)
    assert (scores.numpy().argmax(axis=1) == y).all()
    close(scores.numpy(), twin.eval()(standard).detach().numpy(), 1e-8)
