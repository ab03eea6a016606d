"""A backbone as it came: a classifier of ImageNet's 1,000 classes."""

import os

import numpy as np

from nabi import nn
from nabi.classifiers.features import FeatureExtractor, trained
from nabi.classifiers.linear import LinearClassifier
from nabi.classifiers.photo import PhotoClassifier
from nabi.models import features, imagenet_classes


def pretrained(backbone: str = "efficientnet_lite0", weights: str | os.PathLike[str] | None = None) -> PhotoClassifier:
    """The classifier of photos that a backbone was before: fitted, on ImageNet.

    Parameters
    ----------
    backbone : str
        One of `nabi.models.BACKBONES`.
    weights : str or path, optional
        Where its weights are: see `FeatureExtractor`.

    Returns
    -------
    PhotoClassifier
        Its head is the backbone's own last layer; ``classes_`` are the names of `nabi.models.imagenet_classes`.

    Raises
    ------
    SettingError, ModelFileError
        As `FeatureExtractor.fit`.

    Examples
    --------
    >>> pretrained().predict(["cat.jpg"])  # doctest: +SKIP
    array(['tabby'], dtype='<U30')
    """
    model = trained(backbone, weights)
    last = model[-1]
    assert isinstance(last, nn.Linear)
    assert last.bias is not None
    names = np.array(imagenet_classes())
    order = np.argsort(names)  # classifiers have their classes sorted
    last.weight.assign(last.weight.numpy()[:, order])
    last.bias.assign(last.bias.numpy()[order])

    made = PhotoClassifier(backbone=backbone, weights=weights)
    made.extractor_ = FeatureExtractor(backbone, weights)
    made.extractor_._take(features(model))
    length = made.extractor_.n_features_out_
    made.head_ = head = LinearClassifier(loss="softmax")
    head.input_shape_, head.input_dtype_, head.n_features_in_ = (length,), np.dtype(np.float32), length
    head._take(nn.Sequential({"standardize": nn.Standardize.identity((length,)), "linear": last}))
    made.classes_ = head.classes_ = names[order]
    made.input_shape_ = (made.extractor_.size, made.extractor_.size, 3)
    made.input_dtype_, made.n_features_in_ = np.dtype(np.uint8), made.extractor_.size
    made.alpha_, made.tried_ = None, {}
    made.temperature_, made.threshold_ = 1.0, None
    weight = last.weight.numpy().T
    made.centroids_ = weight / np.linalg.norm(weight, axis=1, keepdims=True)  # of its photos nothing is left but this
    return made
