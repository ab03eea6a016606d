"""A linear model: one template a class."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from nabi import models
from nabi.classifiers.trained import TrainedClassifier


class TemplateClassifier(TrainedClassifier):
    """A classifier whose model is s = W·x + b, whatever it learns by.

    Attributes
    ----------
    templates_ : ndarray of float32, (K, H, W, C) or (K, features)
        What each class looks for.
    """

    @property
    def templates_(self) -> NDArray[np.float32]:
        """Each class's weights in the shape of an input: (K, H, W, C), or (K, features)."""
        check_is_fitted(self, "classes_")
        weight = self.model_.linear.weight.numpy()
        templates: NDArray[np.float32] = np.moveaxis(weight.reshape(*self.input_shape_, -1), -1, 0)
        return templates

    def _network(self, seed: int) -> Any:
        model = models.linear(self.input_shape_, len(self.classes_), seed=seed)
        # Nothing has to break a symmetry here, and random weights would stay in the templates as noise.
        model.linear.weight.assign(np.zeros(model.linear.weight.shape, np.float32))
        return model
