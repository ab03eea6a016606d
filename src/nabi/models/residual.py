"""Residual networks: each block adds something to what it is given."""

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any

from nabi import nn, ops
from nabi.models.foreign import IMAGENET_MEAN, IMAGENET_STD, Naming, Weights, fill
from nabi.random import key

Keys = Iterator[Any]
Body = Callable[[int, int, int, Keys], nn.Sequential]

_WIDTHS = (64, 128, 256, 512)


def resnet18(n_classes: int = 1000, *, weights: Weights = None, seed: int = 0) -> nn.Sequential:
    """Eight blocks of two 3×3 convolutions; 11,689,512 parameters for 1,000 classes.

    Source: He, Zhang, Ren and Sun, "Deep residual learning for image recognition" (2016), table 1.

    Parameters
    ----------
    n_classes : int
    weights : str, path or mapping, optional
        Where trained weights are, as torchvision and timm name them: what `nabi.weights.find` takes, or arrays by name.
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
    >>> [name for name, _ in resnet18(10).items()]  # doctest: +NORMALIZE_WHITESPACE
    ['standardize', 'conv', 'batch_norm', 'relu', 'max_pool', 'stage1', 'stage2', 'stage3', 'stage4',
     'global_avg_pool', 'linear']
    """
    model = _resnet((2, 2, 2, 2), _basic, 1, n_classes, seed)
    return fill(model, RESNET_NAMINGS, weights, "resnet18")


def resnet50(n_classes: int = 1000, *, weights: Weights = None, seed: int = 0) -> nn.Sequential:
    """Sixteen blocks that narrow, look around and widen again; 25,557,032 parameters for 1,000 classes.

    A block that halves its picture does so in its 3×3 convolution, and not in the 1×1 one before as in the paper: so
    it has been trained ever since. Source: as for `resnet18`.

    Parameters are those of `resnet18`.
    """
    model = _resnet((3, 4, 6, 3), _bottleneck, 4, n_classes, seed)
    return fill(model, RESNET_NAMINGS, weights, "resnet50")


def _resnet(depths: Sequence[int], body: Body, widening: int, n_classes: int, seed: int) -> nn.Sequential:
    keys = (ops.fold_in(key(seed), number) for number in count())
    layers: dict[str, nn.Layer] = {
        "standardize": nn.Standardize(IMAGENET_MEAN, IMAGENET_STD),
        "conv": nn.Conv2d(3, _WIDTHS[0], 7, stride=2, padding=3, bias=False, key=next(keys)),
        "batch_norm": nn.BatchNorm(_WIDTHS[0]),
        "relu": nn.ReLU(),
        "max_pool": nn.MaxPool2d(3, stride=2, padding=1),
    }
    depth = _WIDTHS[0]
    for number, (blocks, width) in enumerate(zip(depths, _WIDTHS, strict=True), start=1):
        stage: dict[str, nn.Layer] = {}
        for block in range(1, blocks + 1):
            stride = 2 if number > 1 and block == 1 else 1
            inside, shortcut = body(depth, width, stride, keys), None
            if stride > 1 or depth != width * widening:
                conv = nn.Conv2d(depth, width * widening, 1, stride=stride, bias=False, key=next(keys))
                shortcut = nn.Sequential(conv, nn.BatchNorm(width * widening))
            depth = width * widening
            stage[f"block{block}"] = nn.Sequential(nn.Residual(inside, shortcut), nn.ReLU())
        layers[f"stage{number}"] = nn.Sequential(stage)
    layers["global_avg_pool"] = nn.GlobalAvgPool()
    layers["linear"] = nn.Linear(depth, n_classes, key=next(keys))
    return nn.Sequential(layers)


def _basic(depth: int, width: int, stride: int, keys: Keys) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(depth, width, 3, stride=stride, padding=1, bias=False, key=next(keys)),
        nn.BatchNorm(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1, bias=False, key=next(keys)),
        nn.BatchNorm(width),
    )


def _bottleneck(depth: int, width: int, stride: int, keys: Keys) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(depth, width, 1, bias=False, key=next(keys)),
        nn.BatchNorm(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False, key=next(keys)),
        nn.BatchNorm(width),
        nn.ReLU(),
        nn.Conv2d(width, 4 * width, 1, bias=False, key=next(keys)),
        nn.BatchNorm(4 * width),
    )


def _names(model: nn.Sequential) -> Iterator[tuple[str, str]]:
    yield from [("conv", "conv1"), ("batch_norm", "bn1")]
    for number in range(1, len(_WIDTHS) + 1):
        for place, (block, layer) in enumerate(getattr(model, f"stage{number}").items()):
            path, name = f"stage{number}.{block}.residual", f"layer{number}.{place}"
            convolutions = sum(isinstance(part, nn.Conv2d) for part in layer.residual.body)
            for part in range(1, convolutions + 1):
                yield f"{path}.body.conv{part}", f"{name}.conv{part}"
                yield f"{path}.body.batch_norm{part}", f"{name}.bn{part}"
            if layer.residual.shortcut is not None:
                yield f"{path}.shortcut.conv", f"{name}.downsample.0"
                yield f"{path}.shortcut.batch_norm", f"{name}.downsample.1"
    yield "linear", "fc"


RESNET_NAMINGS: dict[str, Naming] = {"torchvision and timm": _names}
