"""Classifiers as ONNX files, from pictures as files hold them to the names of classes."""

import functools
import json
from typing import Any

import numpy as np

from nabi import __version__, nn
from nabi.classifiers.base import Classifier
from nabi.classifiers.knn import KNNClassifier
from nabi.classifiers.photo import PhotoClassifier
from nabi.classifiers.trained import TrainedClassifier
from nabi.errors import SettingError
from nabi.graph.shapes import Spec
from nabi.onnx import neighbors, pictures
from nabi.onnx.namespace import PICTURES, Value, Writer
from nabi.onnx.writing import write_function

LONGEST = 2**31 - 1
"""Bytes that a protocol buffer can have."""


def to_onnx(classifier: Any) -> bytes:
    """A classifier as the content of an ONNX file.

    One that was fitted on uint8 pictures takes ``pictures``, uint8 (N, H, W, 3) of any size, as files hold them: what
    `nabi.data` does to them, to the bit, is in the file. Others take ``inputs`` as they were fitted on. It gives
    ``labels`` (N,), and ``probabilities`` or, where it has none, ``scores``, (N, K) in the order of its classes. The
    metadata say the classes, as JSON, and what else whoever deploys it may want to know.

    Raises
    ------
    SettingError
        It is too large for an ONNX file.
    GraphError
        It computes what ONNX cannot.
    """
    xp = Writer()
    for name in ("labels", "probabilities", "scores", pictures.INPUT, "inputs"):
        xp.unique(name)
    taken, x = _input(xp, classifier)
    scores, probabilities = _answers(classifier, xp, x)
    answer = "scores" if probabilities is None else "probabilities"
    classes = classifier.classes_
    xp.scope = ""
    place = xp.node("ArgMax", [scores.name], "place", axis=1, keepdims=0)
    named = _named(classes)
    labels = xp.node("Gather", [xp.initializer(named, "classes"), place], "label")
    given: Value = scores if probabilities is None else probabilities
    if given.dtype != np.float32:
        given = xp.call("astype", given, np.float32)
    for name, made in (("labels", labels), (answer, given.name)):
        xp.nodes.append({"input": [made], "output": [name], "name": name, "op_type": "Identity"})
    metadata = {
        "nabi.version": __version__,
        "nabi.classifier": classifier.registered_name,
        "nabi.classes": json.dumps(classes.tolist(), ensure_ascii=False),
        "nabi.classes_dtype": classes.dtype.str,
        "nabi.input_shape": json.dumps(list(classifier.input_shape_)),
        "nabi.output": "score" if probabilities is None else "probability",
        "nabi.scores": scores.name,
    }
    content = xp.model(
        [taken],
        [("labels", str if named.dtype.kind == "U" else named.dtype, ["N"]), (answer, np.float32, ["N", len(classes)])],
        metadata,
        __version__,
    )
    if len(content) > LONGEST:
        raise SettingError(f"{len(content):,} bytes: an ONNX file has at most {LONGEST:,}")
    return content


def takes_pictures(classifier: Any) -> bool:
    """Whether its ONNX file takes pictures of any size."""
    return len(classifier.input_shape_) == 3 and classifier.input_dtype_ == np.uint8 and _channels(classifier) == 3


def _channels(classifier: Any) -> int:
    """Of the pictures that its ONNX file takes: grey ones come in three equal channels, as files are decoded."""
    channels: int = classifier.input_shape_[2]
    return 3 if channels == 1 else channels


def _input(xp: Writer, classifier: Any) -> tuple[tuple[str, Any, list[int | str]], Value]:
    """What the file takes, and what the classifier sees of it."""
    shape = classifier.input_shape_
    if takes_pictures(classifier):
        return (pictures.INPUT, np.uint8, ["N", "H", "W", 3]), pictures.sized(xp, *shape)
    spec = Spec((PICTURES, *shape), classifier.input_dtype_)
    return ("inputs", spec.dtype, ["N", *shape]), Value(xp, spec, "inputs", many=True)


def _named(classes: Any) -> Any:
    """The classes as ONNX has them: whole numbers, numbers, or text."""
    if classes.dtype.kind in "biu":
        return classes.astype(np.int64)
    return classes.astype(np.float64) if classes.dtype.kind == "f" else classes.astype(str)


@functools.singledispatch
def _answers(classifier: Classifier, xp: Writer, x: Value) -> tuple[Value, Value | None]:
    """Scores, and probabilities where there are some."""
    raise SettingError(f"{type(classifier).__name__} cannot be written as ONNX")


@_answers.register
def _(classifier: TrainedClassifier, xp: Writer, x: Value) -> tuple[Value, Value | None]:
    scores = _network(classifier.model_, xp, x)
    return scores, xp.call("softmax", scores, axis=-1) if hasattr(classifier, "predict_proba") else None


@_answers.register
def _(classifier: PhotoClassifier, xp: Writer, x: Value) -> tuple[Value, Value | None]:
    scores, probabilities = _answers(classifier.head_, xp, _network(classifier.extractor_.model_, xp, x))
    if probabilities is not None and classifier.temperature_ != 1.0:
        probabilities = xp.call("softmax", xp.call("divide", scores, np.float32(classifier.temperature_)), axis=-1)
    return scores, probabilities


@_answers.register
def _(classifier: KNNClassifier, xp: Writer, x: Value) -> tuple[Value, Value | None]:
    votes = neighbors.votes(
        xp,
        x,
        classifier.images_,
        classifier.labels_,
        len(classifier.classes_),
        n_neighbors=classifier.n_neighbors,
        metric=classifier.metric,
        weights=classifier.weights,
    )
    return votes, votes / xp.call("sum", votes, axis=1, keepdims=True)


def _network(model: nn.Layer, xp: Writer, x: Value) -> Value:
    (y,) = write_function(xp, lambda images: model(images, training=False), model, nn.tensors(model), x)
    return y
