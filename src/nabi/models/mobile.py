"""Networks for small devices: depthwise convolutions between narrow layers."""

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, NamedTuple

from nabi import nn, ops
from nabi.errors import SettingError
from nabi.models.foreign import IMAGENET_MEAN, IMAGENET_STD, Naming, Weights, fill
from nabi.ops.convolve import Padding
from nabi.random import key

Keys = Iterator[Any]


class Stage(NamedTuple):
    """Blocks of one width, of which the first may make the picture smaller.

    Attributes
    ----------
    blocks : int
    kernel_size : int
        Of the depthwise convolutions.
    stride : int
        Of the first block's.
    expansion : int
        How many times as wide a block is inside; where it is 1, the block has nothing that widens it.
    width : int
        What its blocks give.
    """

    blocks: int
    kernel_size: int
    stride: int
    expansion: int
    width: int


class How(NamedTuple):
    """What the convolutions of a network have in common.

    Attributes
    ----------
    padding : callable
        The padding of a convolution with windows of a size.
    momentum, epsilon : float
        Of the batch normalisation.
    mean, std : tuple of float
        Of pixels, channel by channel, where white is 1.
    """

    padding: Callable[[int], Padding]
    momentum: float = 0.1
    epsilon: float = 1e-5
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD


_FIRST, _LAST = 32, 1280

_MOBILENET_V2 = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(3, 3, 2, 6, 32),
    Stage(4, 3, 2, 6, 64),
    Stage(3, 3, 1, 6, 96),
    Stage(3, 3, 2, 6, 160),
    Stage(1, 3, 1, 6, 320),
)
_EFFICIENTNET_LITE0 = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)

_PYTORCH = How(lambda kernel_size: kernel_size // 2)
_TENSORFLOW = How(lambda kernel_size: "same", 0.01, 1e-3, mean=(127 / 255,) * 3, std=(128 / 255,) * 3)

FORMS = {"tensorflow": _TENSORFLOW, "timm": _PYTORCH}


def mobilenet_v2(n_classes: int = 1000, *, weights: Weights = None, seed: int = 0) -> nn.Sequential:
    """Seventeen blocks that widen, look around channel by channel, and narrow again; 3,504,872 parameters.

    Source: Sandler and others, "MobileNetV2: inverted residuals and linear bottlenecks" (2018), table 2.

    Parameters
    ----------
    n_classes : int
        For 1,000 there are that many parameters.
    weights : str, path or mapping, optional
        Where trained weights are, as torchvision or timm (``mobilenetv2_100``) names them: what `nabi.weights.find`
        takes, or arrays by name.
    seed : int
        What the initial weights are drawn from.

    Returns
    -------
    Sequential
        From a batch (N, H, W, 3) to scores (N, n_classes); trained ones expect about 224×224 pixels.

    Raises
    ------
    ModelFileError
        The weights are not those of such a network.

    Examples
    --------
    >>> [name for name, _ in mobilenet_v2(10).items()]  # doctest: +NORMALIZE_WHITESPACE
    ['standardize', 'first', 'stage1', 'stage2', 'stage3', 'stage4', 'stage5', 'stage6', 'stage7', 'last',
     'global_avg_pool', 'dropout', 'linear']
    """
    model = _mobile(_MOBILENET_V2, _PYTORCH, n_classes, seed)
    return fill(model, MOBILENET_V2_NAMINGS, weights, "mobilenet_v2")


def efficientnet_lite0(
    n_classes: int = 1000, *, weights: Weights = None, form: str = "tensorflow", seed: int = 0
) -> nn.Sequential:
    """Sixteen blocks as in `mobilenet_v2`, some with 5×5 windows; 4,652,008 parameters for 1,000 classes.

    EfficientNet-B0 without what small devices are slow at: its squeezing, and its swish, which is a rectifier up to 6
    here. Blocks are not left out at random in training. Sources: Tan and Le, "EfficientNet: rethinking model scaling
    for convolutional neural networks" (2019), table 1; Liu, "Higher accuracy on vision models with EfficientNet-Lite"
    (2020).

    Parameters
    ----------
    n_classes : int
    weights : str, path or mapping, optional
        Where trained weights are, as efficientnet-lite-pytorch or timm names them: what `nabi.weights.find` takes,
        ``"packaged:efficientnet_lite0"`` among it, or arrays by name.
    form : str
        "tensorflow": as its authors trained it, on pixels (x - 127) / 128, an odd border lying below and to the right;
        so are the packaged weights, and timm's ``tf_efficientnet_lite0``.
        "timm": as timm's own ``efficientnet_lite0`` was trained: with ImageNet's mean and deviation, the same border
        on all sides, and a smaller ε in batch normalisation. The names in a file are the same, so that it cannot tell.
    seed : int
        What the initial weights are drawn from.

    Returns
    -------
    Sequential
        From a batch (N, H, W, 3) to scores (N, n_classes); trained ones expect 224×224 pixels.

    Raises
    ------
    SettingError
        There is no such form.
    ModelFileError
        The weights are not those of such a network.
    """
    if form not in FORMS:
        raise SettingError(f"efficientnet_lite0: form {form!r} is not one of {', '.join(FORMS)}")
    model = _mobile(_EFFICIENTNET_LITE0, FORMS[form], n_classes, seed)
    return fill(model, EFFICIENTNET_LITE0_NAMINGS, weights, "efficientnet_lite0")


def _mobile(stages: tuple[Stage, ...], how: How, n_classes: int, seed: int) -> nn.Sequential:
    keys = (ops.fold_in(key(seed), number) for number in count())
    first = _unit(3, _FIRST, 3, how, keys, stride=2)
    standardize = nn.Standardize(how.mean, how.std)
    layers: dict[str, nn.Layer] = {"standardize": standardize, "first": nn.Sequential(*first, nn.ReLU6())}
    depth = _FIRST
    for number, stage in enumerate(stages, start=1):
        blocks: dict[str, nn.Layer] = {}
        for block in range(1, stage.blocks + 1):
            stride = stage.stride if block == 1 else 1
            body = _block(depth, stage, stride, how, keys)
            blocks[f"block{block}"] = nn.Residual(body) if stride == 1 and depth == stage.width else body
            depth = stage.width
        layers[f"stage{number}"] = nn.Sequential(blocks)
    layers["last"] = nn.Sequential(*_unit(depth, _LAST, 1, how, keys), nn.ReLU6())
    layers["global_avg_pool"] = nn.GlobalAvgPool()
    layers["dropout"] = nn.Dropout(0.2, key=next(keys))
    layers["linear"] = nn.Linear(_LAST, n_classes, key=next(keys))
    return nn.Sequential(layers)


def _block(depth: int, stage: Stage, stride: int, how: How, keys: Keys) -> nn.Sequential:
    """Widen, look around in each channel for itself, narrow."""
    inside = depth * stage.expansion
    parts: dict[str, nn.Layer] = {}
    if stage.expansion > 1:
        parts["expand"] = nn.Sequential(*_unit(depth, inside, 1, how, keys), nn.ReLU6())
    around = _unit(inside, inside, stage.kernel_size, how, keys, stride=stride, groups=inside)
    parts["depthwise"] = nn.Sequential(*around, nn.ReLU6())
    parts["project"] = nn.Sequential(*_unit(inside, stage.width, 1, how, keys))
    return nn.Sequential(parts)


def _unit(
    depth: int, width: int, kernel_size: int, how: How, keys: Keys, stride: int = 1, groups: int = 1
) -> tuple[nn.Layer, nn.Layer]:
    """A convolution and its normalisation."""
    padding = how.padding(kernel_size)
    conv = nn.Conv2d(
        depth, width, kernel_size, stride=stride, padding=padding, groups=groups, bias=False, key=next(keys)
    )
    return conv, nn.BatchNorm(width, momentum=how.momentum, epsilon=how.epsilon)


# --- names ---


class Block(NamedTuple):
    """A block of a model.

    Attributes
    ----------
    path : str
        Where its parts are.
    stage, place, number : int
        Which stage it is in, which of the stage's blocks it is, and which of all blocks: from 0.
    parts : list of str
        "expand" where there is such a part, "depthwise", "project".
    """

    path: str
    stage: int
    place: int
    number: int
    parts: list[str]


def _blocks(model: nn.Sequential) -> Iterator[Block]:
    numbers = count()
    stages = [(name, stage) for name, stage in model.items() if name.startswith("stage")]
    for number, (name, stage) in enumerate(stages):
        assert isinstance(stage, nn.Sequential)
        for place, (block, layer) in enumerate(stage.items()):
            path, body = f"{name}.{block}", layer
            if isinstance(layer, nn.Residual):
                path, body = f"{path}.body", layer.body
            yield Block(path, number, place, next(numbers), list(vars(body)))


def _unit_names(path: str, conv: str, norm: str) -> Iterator[tuple[str, str]]:
    yield f"{path}.conv", conv
    yield f"{path}.batch_norm", norm


def _torchvision_names(model: nn.Sequential) -> Iterator[tuple[str, str]]:
    yield from _unit_names("first", "features.0.0", "features.0.1")
    last = 0
    for block in _blocks(model):
        last = block.number + 1
        for place, part in enumerate(block.parts):
            # Units with an activation are sequences of their own there, the last one stands in two pieces.
            name, step = f"features.{last}.conv", f"features.{last}.conv.{place}"
            conv, norm = (step, f"{name}.{place + 1}") if part == "project" else (f"{step}.0", f"{step}.1")
            yield from _unit_names(f"{block.path}.{part}", conv, norm)
    yield from _unit_names("last", f"features.{last + 1}.0", f"features.{last + 1}.1")
    yield "linear", "classifier.1"


def _timm_names(model: nn.Sequential) -> Iterator[tuple[str, str]]:
    yield from _unit_names("first", "conv_stem", "bn1")
    for block in _blocks(model):
        name = f"blocks.{block.stage}.{block.place}"
        three = {"expand": "conv_pw", "depthwise": "conv_dw", "project": "conv_pwl"}
        called = three if "expand" in block.parts else {"depthwise": "conv_dw", "project": "conv_pw"}
        for place, part in enumerate(block.parts, start=1):
            yield from _unit_names(f"{block.path}.{part}", f"{name}.{called[part]}", f"{name}.bn{place}")
    yield from _unit_names("last", "conv_head", "bn2")
    yield "linear", "classifier"


def _efficientnet_lite_pytorch_names(model: nn.Sequential) -> Iterator[tuple[str, str]]:
    yield from _unit_names("first", "_conv_stem", "_bn0")
    norms = {"expand": "_bn0", "depthwise": "_bn1", "project": "_bn2"}
    for block in _blocks(model):
        for part in block.parts:
            name = f"_blocks.{block.number}"
            yield from _unit_names(f"{block.path}.{part}", f"{name}._{part}_conv", f"{name}.{norms[part]}")
    yield from _unit_names("last", "_conv_head", "_bn1")
    yield "linear", "_fc"


MOBILENET_V2_NAMINGS: dict[str, Naming] = {"torchvision": _torchvision_names, "timm": _timm_names}
EFFICIENTNET_LITE0_NAMINGS: dict[str, Naming] = {
    "efficientnet-lite-pytorch": _efficientnet_lite_pytorch_names,
    "timm": _timm_names,
}
