"""Where the last convolution saw a class: Grad-CAM."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nabi import nn
from nabi.autodiff import grad
from nabi.errors import SettingError
from nabi.graph.interpreter import no_grad
from nabi.look.layers import Named, as_batch, layers, run, score_of

# Layers after a convolution that are still its feature map, pixel for pixel.
_STILL_THE_MAP = (nn.Activation, nn.BatchNorm, nn.LocalResponseNorm, nn.Dropout)


class GradCAM(NamedTuple):
    """Where the evidence for a class lies.

    Attributes
    ----------
    layer : str
        The path of the layer whose feature map was taken.
    map : ndarray of float32, (h, w)
        In the size of that feature map; 0 or more.
    """

    layer: str
    map: NDArray[np.float32]

    def over(self, height: int, width: int) -> NDArray[np.float32]:
        """The map scaled to a picture's height and width, bilinearly, as (height, width)."""
        from PIL import Image

        scaled = Image.fromarray(self.map).resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(scaled, dtype=np.float32)


def grad_cam(model: nn.Layer, picture: NDArray[Any], place: int) -> GradCAM | None:
    """Weigh the last convolution's feature maps by how much a class's score hangs on each, and add them up.

    L = max(0, Σₖ αₖ·Aₖ), where Aₖ is feature map k and αₖ the mean over its pixels of the score's gradient. The layer
    is the last convolution, with its norm and activation, before pooling. Source: Selvaraju and others, "Grad-CAM:
    visual explanations from deep networks via gradient-based localization" (2017), equations 1 and 2.

    Parameters
    ----------
    model : Layer
        From a batch of pictures to scores (N, K).
    picture : ndarray, (H, W, C)
        uint8, or floats as the model takes them.
    place : int
        The class's place among the scores.

    Returns
    -------
    GradCAM, or None
        None where the model has no convolution.

    Raises
    ------
    SettingError
        No such class.

    Examples
    --------
    >>> from nabi import models
    >>> net = models.convnet((8, 8, 1), 10, channels=(4, 4))
    >>> found = grad_cam(net, np.zeros((8, 8, 1), np.uint8), 0)
    >>> found.layer, found.map.shape
    ('relu2', (4, 4))
    """
    whole = layers(model)
    end = _end_of_the_map(whole)
    if end is None:
        return None
    with no_grad():
        feature_map = run(whole[:end], as_batch(picture))
    if feature_map.ndim != 4:
        raise SettingError(f"grad_cam: {whole[end - 1][0]} gives {feature_map.shape}, which is no feature map")
    gradient = grad(lambda maps: score_of(run(whole[end:], maps), place))(feature_map).value[0]
    weighted = (feature_map.value[0] * gradient.mean(axis=(0, 1))).sum(axis=2)
    return GradCAM(whole[end - 1][0], np.maximum(weighted, 0).astype(np.float32))


def _end_of_the_map(whole: Sequence[Named]) -> int | None:
    """How many layers it takes to the last feature map."""
    convolutions = [number for number, (_, layer) in enumerate(whole) if _convolves(layer)]
    if not convolutions:
        return None
    end = convolutions[-1] + 1
    while end < len(whole) and isinstance(whole[end][1], _STILL_THE_MAP):
        end += 1
    return end


def _convolves(layer: Any) -> bool:
    """Whether a layer is a convolution or, like `Residual`, made of some."""
    return isinstance(layer, nn.Conv2d) or any(
        _convolves(part) for part in vars(layer).values() if isinstance(part, nn.Layer)
    )
