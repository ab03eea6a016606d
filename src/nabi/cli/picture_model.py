"""The model that is asked about picture files: one that was fitted on anything else is refused here."""

from pathlib import Path

import numpy as np

from nabi.classifiers import Classifier, load, pretrained
from nabi.classifiers.imported import ImportedClassifier
from nabi.cli.run_folder import is_backbone, model_file
from nabi.errors import ModelFileError


def picture_model(path: Path) -> Classifier:
    """The classifier in a model file, or in the folder of a run, that takes pictures as files hold them.

    The name of one of `nabi.models.BACKBONES` stands for that network as it came, which knows ImageNet's classes.

    Raises
    ------
    ModelFileError
        It was fitted on rows of numbers, or on pictures of floating-point numbers.
    """
    if is_backbone(path):
        return pretrained(str(path))
    classifier: Classifier = load(model_file(path))
    if len(classifier.input_shape_) != 3 or classifier.input_dtype_ != np.uint8:
        theirs = isinstance(classifier, ImportedClassifier) and len(classifier.input_shape_) == 3
        how = "; to say how: nabi import FILE.onnx --mean … --std …" if theirs else ""
        raise ModelFileError(
            f"{path}: was fitted on {_fitted_on(classifier)}, not on uint8 pictures as files hold{how}"
        )
    return classifier


def _fitted_on(classifier: Classifier) -> str:
    shape = "x".join(map(str, classifier.input_shape_))
    numbers = "uint8 pixels" if classifier.input_dtype_ == np.uint8 else "floating-point numbers"
    return f"{'pictures' if len(classifier.input_shape_) == 3 else 'rows'} of {shape} {numbers}"
