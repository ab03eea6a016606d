"""Saliency and Grad-CAM against PyTorch, where hooks keep what flows through a twin with the same weights."""

from typing import Any

import numpy as np
import pytest

import nabi
from nabi import look, nn

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.parity

KEYS = [nabi.ops.fold_in(nabi.random.key(7), number) for number in range(3)]
CLASSES = 5
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def model() -> nn.Sequential:
    """Two convolutions, the last before pooling, and a fully connected layer, all in float64."""
    made = nn.Sequential(
        nn.Standardize(MEAN, STD),
        nn.Conv2d(3, 6, 3, key=KEYS[0], padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, key=KEYS[1], padding=1),
        nn.BatchNorm(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * 3 * 8, CLASSES, key=KEYS[2]),
    )
    random = np.random.default_rng(0)
    for tensor in nn.tensors(made).values():
        if tensor.dtype == np.float32:
            tensor.held = np.float64(tensor.value)
    norm = made.batch_norm
    for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_variance):
        tensor.held = random.uniform(0.5, 1.5, tensor.shape)
    return made


def to_torch(array: Any) -> Any:
    return torch.from_numpy(np.array(array, dtype=np.float64))


def twin(ours: nn.Sequential) -> Any:
    """The same net with the same weights; Flatten lays numbers out as ours does."""

    class Flatten(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return x.permute(0, 2, 3, 1).flatten(1)

    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 6, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(6, 8, 3, padding=1),
        torch.nn.BatchNorm2d(8, eps=ours.batch_norm.epsilon),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        Flatten(),
        torch.nn.Linear(4 * 3 * 8, CLASSES),
    ).double()
    with torch.no_grad():
        for theirs, layer in ((net[0], ours.conv1), (net[3], ours.conv2)):
            theirs.weight.copy_(to_torch(layer.weight.numpy()).permute(3, 2, 0, 1))
            theirs.bias.copy_(to_torch(layer.bias.numpy()))
        norm = ours.batch_norm
        net[4].weight.copy_(to_torch(norm.weight.numpy()))
        net[4].bias.copy_(to_torch(norm.bias.numpy()))
        net[4].running_mean.copy_(to_torch(norm.running_mean.numpy()))
        net[4].running_var.copy_(to_torch(norm.running_variance.numpy()))
        net[8].weight.copy_(to_torch(ours.linear.weight.numpy()).T)
        net[8].bias.copy_(to_torch(ours.linear.bias.numpy()))
    return net.eval()


@pytest.mark.parametrize("place", range(CLASSES))
def test_saliency_and_grad_cam(place: int) -> None:
    ours = model()
    theirs = twin(ours)
    picture = np.random.default_rng(place).integers(0, 256, (16, 12, 3), np.uint8)
    kept: dict[str, Any] = {}

    def keep(module: Any, inputs: Any, output: Any) -> None:
        output.retain_grad()
        kept["maps"] = output

    theirs[5].register_forward_hook(keep)
    x = to_torch(picture.astype(np.float32) / np.float32(255)).requires_grad_()
    standardised = (x - to_torch(np.float32(MEAN))) / to_torch(np.float32(STD))
    scores = theirs(standardised.permute(2, 0, 1)[None])
    assert ours(picture[None]).numpy() == pytest.approx(scores.detach().numpy(), rel=1e-5, abs=1e-6)
    scores[0, place].backward()

    assert look.saliency(ours, picture, place) == pytest.approx(x.grad.numpy(), rel=1e-4, abs=1e-6)

    alpha = kept["maps"].grad.mean(dim=(2, 3), keepdim=True)
    expected = torch.relu((alpha * kept["maps"]).sum(dim=1))[0].detach().numpy()
    found = look.grad_cam(ours, picture, place)
    assert found is not None
    assert (found.layer, found.map.shape) == ("relu2", (8, 6))
    assert found.map == pytest.approx(expected, rel=1e-4, abs=1e-6)
