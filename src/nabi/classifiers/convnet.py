"""Convolutional networks: a small one, AlexNet, or one's own."""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from nabi import models, nn
from nabi.classifiers.base import Arrays
from nabi.classifiers.network import NetworkClassifier, dense_weights
from nabi.classifiers.registry import register
from nabi.classifiers.settings import check_choice, check_sizes
from nabi.errors import ShapeError

ALEXNET_SIDE = 224
ALEXNET_WEIGHTS = 56_994_496  # without the last layer's and the biases

MAX_NUMBERS = 2**27  # that a layer may make of one picture

ARCHITECTURES = {"convnet": models.convnet, "alexnet": models.alexnet}


def _reaches(layer: nn.Layer) -> Iterator[int]:
    """How far the windows of all convolutions reach: what is padded by as much takes memory."""
    for field in vars(layer).values():
        if isinstance(field, nn.Layer):
            yield from _reaches(field)
    if isinstance(layer, nn.Conv2d):
        yield max(np.multiply(layer.dilation, np.array(layer.weight.shape[:2]) - 1).tolist())


@register("convnet")
@dataclass(eq=False, repr=False)
class ConvNetClassifier(NetworkClassifier):
    """Filters that look for the same thing everywhere in a picture, and for patterns of what was found.

    Rows of numbers (N, features) are taken as pictures of ``image_shape``, or of one line of pixels: (1, features, 1).
    Source: the lecture, chapter 6.

    Parameters
    ----------
    architecture : str or nabi.nn.Sequential
        "convnet", "alexnet" (pictures of 224×224×3, in the form "single-tower"), or a network of one's own from
        pictures to scores, of which each fit trains a copy.
    channels : sequence of int
        Of the "convnet": for each block (3×3 convolution, batch normalisation, rectifier, 2×2 max-pooling) how many
        filters it has. A pool is left out where less than 2×2 is left.
    image_shape : (H, W, C), optional
        Of the picture that a row of numbers is.
    alpha, max_iter, learning_rate, augment, random_state and all others
        As for `nabi.classifiers.NetworkSettings`.

    Examples
    --------
    >>> from nabi import data
    >>> digits = data.load("digits")
    >>> classifier = ConvNetClassifier(channels=(8, 16), max_iter=8, random_state=0)
    >>> classifier.fit(digits.train.images, digits.train.labels).score(digits.test.images, digits.test.labels) > 0.8
    True
    """

    rates: ClassVar[Mapping[str, float]] = {"sgd": 0.1, "rmsprop": 0.001, "adam": 0.002, "adamw": 0.003}

    architecture: Any = "convnet"
    _: KW_ONLY
    channels: Sequence[int] = (32, 64, 128)
    image_shape: tuple[int, int, int] | None = None
    alpha: float = 5e-4
    schedule: str = "one-cycle"

    def _network(self, seed: int) -> Any:
        shape = self._picture_shape()
        if isinstance(self.architecture, nn.Sequential):
            model = copy.deepcopy(self.architecture)
            if not isinstance(next(iter(model), None), nn.Standardize):
                model = nn.Sequential({"standardize": nn.Standardize.identity(shape), **dict(model.items())})
            rows = nn.summary(model, shape).rows
            if rows[-1].output_shape != (len(self.classes_),):
                raise ShapeError(
                    f"architecture gives {rows[-1].output_shape} for a picture, not scores ({len(self.classes_)},)"
                )
            if max(math.prod(row.output_shape) for row in rows) > MAX_NUMBERS:
                raise ShapeError(f"architecture makes more than {MAX_NUMBERS:,} numbers of a picture")
            if max(_reaches(model), default=0) > 4 * max(shape):
                raise ShapeError(f"architecture looks further than pictures {shape} are wide")
        elif self.architecture == "alexnet":
            if shape != (ALEXNET_SIDE, ALEXNET_SIDE, 3):
                raise ShapeError(f"alexnet takes pictures of (224, 224, 3), these are {shape}")
            model = models.alexnet(len(self.classes_), form="single-tower", seed=seed)
        else:
            model = models.convnet(shape, len(self.classes_), channels=tuple(map(int, self.channels)), seed=seed)
        if len(self.input_shape_) == 3:
            return model
        (_, standardize), *layers = model.items()
        picture: list[tuple[str, nn.Layer]] = [("picture", nn.Reshape(shape)), ("standardize", standardize)]
        if self.image_shape is None:  # numbers of which each has a scale of its own
            picture = [("standardize", nn.Standardize.identity(self.input_shape_)), picture[0]]
        return nn.Sequential(dict(picture + layers))

    def _standardize(self, images: NDArray[Any]) -> None:
        if images.ndim == 2 and self.image_shape is not None:
            images = images.reshape(len(images), *self._picture_shape())
        super()._standardize(images)

    def _rate(self, batch_size: int) -> float:
        rate = super()._rate(batch_size)
        # What has no batch normalisation, or is not known to have it, takes a tenth of the steps.
        return rate if self.architecture == "convnet" or self.learning_rate != "auto" else rate / 10

    def _restore(self, arrays: Arrays) -> None:
        super()._restore(arrays)
        if isinstance(self.architecture, nn.Sequential):
            self.architecture = self.model_  # the initial weights of the one that was given are not in the file

    def _picture_shape(self) -> tuple[int, ...]:
        if len(self.input_shape_) == 3:
            return self.input_shape_
        (features,) = self.input_shape_
        shape = (1, features, 1) if self.image_shape is None else tuple(map(int, self.image_shape))
        if np.prod(shape) != features:
            raise ShapeError(f"image_shape {shape} has {np.prod(shape)} numbers, and an input {features}")
        return shape

    def _weight_count(self) -> int:
        if isinstance(self.architecture, nn.Sequential):
            return sum(t.size for t in nn.parameters(self.architecture).values() if t.ndim > 1)
        if self.architecture == "alexnet":
            return ALEXNET_WEIGHTS + dense_weights(4096, len(self.classes_))
        widths = (self._picture_shape()[-1], *self.channels)
        return 9 * dense_weights(*widths) + dense_weights(widths[-1], len(self.classes_))

    def check_settings(self) -> None:
        super().check_settings()
        if not isinstance(self.architecture, nn.Sequential):
            check_choice("architecture", self.architecture, ARCHITECTURES)
        check_sizes("channels", self.channels)
        if self.image_shape is not None:
            check_sizes("image_shape", self.image_shape, count=3)
