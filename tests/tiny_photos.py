"""A quick backbone in place of a real one, and photos that it can tell apart."""

from pathlib import Path

import numpy as np
import pytest

from nabi import models, nn
from nabi.models import BACKBONES, Backbone

NAMES = np.array(["cat", "나비", "ship"])


def tiny(n_classes: int = 10, *, weights=None, seed: int = 0) -> nn.Sequential:
    """A network that is quick, and untrained: its random filters tell colours apart."""
    return models.convnet((64, 64, 3), n_classes, channels=(8, 16), seed=seed)


def put_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    small = Backbone(tiny, 16, {}, packaged="packaged:efficientnet_lite0", size=64)
    monkeypatch.setitem(BACKBONES, "efficientnet_lite0", small)
    monkeypatch.setattr("nabi.weights.find", lambda where: Path(where))


def photos(n: int = 60, seed: int = 0):
    """Noise, in which another colour is strong for each class."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, n)
    images = random.integers(0, 120, (n, 64, 64, 3))
    images[np.arange(n), :, :, labels] += 100
    return images.astype(np.uint8), NAMES[labels]
