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
from nabi.classifiers.network import NetworkClassifier
from nabi.classifiers.registry import register
from nabi.classifiers.restoring import check_model
from nabi.classifiers.settings import check_choice, check_flag, check_sizes, check_whole
from nabi.data import augment
from nabi.errors import ModelFileError, ShapeError

ALEXNET_SIDE = 224
WHITENED = 5000
"""Training pictures that the first filters are computed from."""
INITIAL = "initial:"  # before the names of initial weights in a file; no path of a tensor begins so
ARCHITECTURES = {"convnet": models.convnet, "alexnet": models.alexnet}


@register("convnet")
@dataclass(eq=False, repr=False)
class ConvNetClassifier(NetworkClassifier):
    """Filters that look for the same thing everywhere in a picture, and for patterns of what was found.

    Rows of numbers (N, features) are taken as pictures of ``image_shape``, or of one line of pixels: (1, features, 1).
    Where pictures are flipped in training, the "convnet" answers with the mean over a picture and its mirror; where
    they are cropped as well, over both a pixel to either side. Source: the lecture, chapter 4.1.

    Parameters
    ----------
    architecture : str or nabi.nn.Sequential
        "convnet", "alexnet" (pictures of 224×224×3, in the form "single-tower"), or a network of one's own from
        pictures to scores, of which each fit trains a copy.
    channels : sequence of int
        Of the "convnet": for each block (3×3 convolution, batch normalisation, rectifier, 2×2 max-pooling) how many
        filters it has. A pool is left out where less than 2×2 would be left.
    convolutions : int
        Of the "convnet": how many convolutions each block has.
    whitening : bool
        Of the "convnet": whether its first filters are computed from the training pictures (see `nabi.nn.Whitening`).
    image_shape : (H, W, C), optional
        Of the picture that a row of numbers is.
    OTHERS

    Examples
    --------
    >>> from nabi import data
    >>> digits = data.load("digits")
    >>> classifier = ConvNetClassifier(channels=(8, 16), max_iter=8, random_state=0)
    >>> classifier.fit(digits.train.images, digits.train.labels).score(digits.test.images, digits.test.labels) > 0.8
    True
    """

    rates: ClassVar[Mapping[str, float]] = {"sgd": 0.2, "rmsprop": 0.001, "adam": 0.002, "adamw": 0.003, "muon": 0.2}

    enough_steps: ClassVar[int] = 3000
    usual_epochs: ClassVar[tuple[int, int]] = (13, 30)

    architecture: Any = "convnet"
    _: KW_ONLY
    channels: Sequence[int] = (64, 256, 256)
    convolutions: int = 2
    whitening: bool = True
    image_shape: tuple[int, int, int] | None = None
    alpha: float = 5e-4
    schedule: str = "one-cycle"

    def _network(self, seed: int) -> Any:
        shape = self._picture_shape()
        if isinstance(self.architecture, nn.Sequential):
            model = self._copy(shape)
        elif self.architecture == "alexnet":
            if shape != (ALEXNET_SIDE, ALEXNET_SIDE, 3):
                raise ShapeError(f"alexnet takes pictures of (224, 224, 3), these are {shape}: bring them to size 224")
            model = models.alexnet(len(self.classes_), form="single-tower", seed=seed)
        else:
            model = models.convnet(
                shape,
                len(self.classes_),
                channels=tuple(map(int, self.channels)),
                convolutions=self.convolutions,
                whitening=self.whitening and min(shape[:2]) > 2,
                container=_container(self.augment),
                seed=seed,
            )
        if len(self.input_shape_) == 3:
            return model
        if self.image_shape is not None:
            return nn.Sequential({"picture": nn.Reshape(shape), "network": model})
        # Numbers of which each has a scale of its own.
        standardize = nn.Standardize.identity(self.input_shape_)
        return nn.Sequential({"standardize": standardize, "picture": nn.Reshape(shape), "network": model})

    def _copy(self, shape: tuple[int, ...]) -> nn.Sequential:
        """One's own network, with a first layer that standardises where it has none."""
        model: nn.Sequential = copy.deepcopy(self.architecture)
        if not isinstance(next(iter(model), None), nn.Standardize):
            model = nn.Sequential({"standardize": nn.Standardize.identity(shape), "network": model})
        try:
            check_model(model, shape, self.input_dtype_, len(self.classes_))
        except ModelFileError as error:
            raise ShapeError(f"architecture: {error}") from None
        return model

    def _standardize(self, images: NDArray[Any]) -> None:
        if images.ndim == 2 and self.image_shape is not None:
            images = images.reshape(len(images), *self._picture_shape())
        super()._standardize(images)
        whitenings = list(_whitenings(self.model_))
        if whitenings:
            pixels = math.prod(self._picture_shape()[:2])
            most = max(1, min(WHITENED, WHITENED * 32**2 // pixels))
            _whiten(self.model_, np.asarray(images[:: max(1, len(images) // most)][:most]), whitenings[-1])

    # The weights that one's own network began with are in the file, too: it is an argument of the constructor.

    def _arrays(self) -> Arrays:
        arrays = super()._arrays()
        if isinstance(self.architecture, nn.Sequential):
            arrays |= {INITIAL + path: tensor.numpy() for path, tensor in nn.tensors(self.architecture).items()}
        return arrays

    def _restore(self, arrays: Arrays, header: Mapping[str, Any]) -> None:
        initial = {path: array for path, array in arrays.items() if path.startswith(INITIAL)}
        super()._restore({path: array for path, array in arrays.items() if path not in initial}, header)
        if isinstance(self.architecture, nn.Sequential):
            nn.load_tensors(self.architecture, {path[len(INITIAL) :]: array for path, array in initial.items()})

    def _rate(self, batch_size: int) -> float:
        rate = super()._rate(batch_size)
        # What has no batch normalisation, or is not known to have it, takes a twentieth of the steps.
        return rate if self.architecture == "convnet" or self.learning_rate != "auto" else rate / 20

    def _usual_optimizer(self) -> str:
        return "muon" if self.architecture == "convnet" else "sgd"

    def _usual_smoothing(self) -> float:
        return 0.1 if self.architecture == "convnet" else 0.0

    def _picture_shape(self) -> tuple[int, ...]:
        if len(self.input_shape_) == 3:
            return self.input_shape_
        (features,) = self.input_shape_
        shape = (1, features, 1) if self.image_shape is None else tuple(map(int, self.image_shape))
        if np.prod(shape) != features:
            raise ShapeError(f"image_shape {shape} has {np.prod(shape)} numbers, and an input {features}")
        return shape

    def check_settings(self) -> None:
        super().check_settings()
        if not isinstance(self.architecture, nn.Sequential):
            check_choice("architecture", self.architecture, ARCHITECTURES)
        check_sizes("channels", self.channels)
        check_whole("convolutions", self.convolutions)
        check_flag("whitening", self.whitening)
        if self.image_shape is not None:
            check_sizes("image_shape", self.image_shape, count=3)


def _container(augmentation: Any) -> type[nn.Sequential]:
    """What looks at a picture as it was varied in training: mirrored, and perhaps moved."""
    pipeline = augment.parse(augmentation)
    varied = {getattr(part, "name", "") for part in pipeline.parts} if pipeline else set()
    return nn.Sequential if "flip" not in varied else nn.MultiCrop if "crop" in varied else nn.Mirrored


def _whitenings(layers: nn.Sequential) -> Iterator[nn.Whitening]:
    """The layers that are computed from pictures."""
    for layer in layers:
        if isinstance(layer, nn.Sequential):
            yield from _whitenings(layer)
        elif isinstance(layer, nn.Whitening):
            yield layer


def _whiten(layers: nn.Sequential, shown: Any, last: nn.Whitening) -> Any:
    """Let every layer that is computed from pictures, to the last, see what it is given; None when it has seen it."""
    for layer in layers:
        if isinstance(layer, nn.Sequential):
            shown = _whiten(layer, shown, last)
        else:
            if isinstance(layer, nn.Whitening):
                layer.learn(shown.numpy())
            shown = None if layer is last else layer(shown)
        if shown is None:
            return None
    return shown
