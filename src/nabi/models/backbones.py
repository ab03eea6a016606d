"""Networks that others have trained on ImageNet, and what one needs to know to use them."""

from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

from nabi import nn
from nabi.errors import SettingError
from nabi.models.foreign import Naming, Source, sources
from nabi.models.mobile import EFFICIENTNET_LITE0_NAMINGS, MOBILENET_V2_NAMINGS, efficientnet_lite0, mobilenet_v2
from nabi.models.residual import RESNET_NAMINGS, resnet18, resnet50

FEATURES = "global_avg_pool"
"""The layer that gives a picture's features."""


class Backbone(NamedTuple):
    """A network that tells a thousand classes apart, and so sees much in any photo.

    How it scales pixels is its own first layer, ``model.standardize``.

    Attributes
    ----------
    build : callable
        Of `nabi.models`: takes n_classes, ``weights=`` and ``seed=``.
    n_features : int
        How many numbers `features` gives of a picture.
    namings : mapping of str to Naming
        What its layers are called elsewhere, by whose names they are.
    packaged : str or None
        The ``weights=`` that an install of ``nabi[pretrained]`` brings.
    size : int
        Height and width of the pictures that it is trained for.
    """

    build: Callable[..., nn.Sequential]
    n_features: int
    namings: Mapping[str, Naming]
    packaged: str | None = None
    size: int = 224

    def sources(self, whose: str) -> dict[str, Source]:
        """For every tensor that is learnt from pictures, by its path: where it comes from.

        Examples
        --------
        >>> BACKBONES["mobilenet_v2"].sources("timm")["first.conv.weight"]
        Source(name='conv_stem.weight', axes=(2, 3, 1, 0))
        """
        return sources(self.build(), self.namings[whose])

    def foreign_names(self) -> set[str]:
        """What the arrays in a file of its weights are called, by whosever names."""
        model = self.build()
        return {source.name for naming in self.namings.values() for source in sources(model, naming).values()}


BACKBONES: dict[str, Backbone] = {
    "efficientnet_lite0": Backbone(
        efficientnet_lite0, 1280, EFFICIENTNET_LITE0_NAMINGS, packaged="packaged:efficientnet_lite0"
    ),
    "resnet18": Backbone(resnet18, 512, RESNET_NAMINGS),
    "resnet50": Backbone(resnet50, 2048, RESNET_NAMINGS),
    "mobilenet_v2": Backbone(mobilenet_v2, 1280, MOBILENET_V2_NAMINGS),
    "efficientnet_lite0_timm": Backbone(  # the same network in another form, by the same names
        partial(efficientnet_lite0, form="timm"), 1280, {"timm": EFFICIENTNET_LITE0_NAMINGS["timm"]}
    ),
}
"""By name; the first is the one that is taken where nobody says which."""


def features(model: nn.Sequential) -> nn.Sequential:
    """A network without its head: from pictures (N, H, W, 3) to features (N, n_features).

    It is made of the same layers: what one learns, the other knows.

    Parameters
    ----------
    model : Sequential
        One that takes the mean over its last picture, as all of `BACKBONES` and `convnet` do.

    Raises
    ------
    SettingError
        It does not.

    Examples
    --------
    >>> import numpy as np
    >>> from nabi import models
    >>> features(models.resnet18())(np.zeros((2, 64, 64, 3), np.uint8)).shape
    (2, 512)
    """
    names = [name for name, _ in model.items()]
    if FEATURES not in names:
        raise SettingError(f"features: the network has no layer {FEATURES!r}, whose output they are")
    return model[: names.index(FEATURES) + 1]


@cache
def imagenet_classes() -> tuple[str, ...]:
    """The names of ImageNet's 1,000 classes, in the order of the scores; no two are alike.

    Each is the first lemma of the class's synset in WordNet 3.0, but where that stands for two classes. The file that
    they are in has WordNet's licence.

    Examples
    --------
    >>> imagenet_classes()[770]
    'running shoe'
    """
    lines = Path(__file__).with_name("imagenet_classes.txt").read_text(encoding="utf-8").splitlines()
    return tuple(line for line in lines if not line.startswith("#"))
