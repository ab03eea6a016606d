"""Which pixels a score hangs on: its gradient on the picture."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nabi import nn
from nabi.autodiff import grad
from nabi.look.layers import as_batch, score_of


def saliency(model: nn.Layer, picture: NDArray[Any], place: int) -> NDArray[np.float32]:
    """The gradient of one class's score on every number of the picture.

    Where it is large, a small change of the pixel changes the score most. Its largest absolute value over the channels
    is the saliency map of Simonyan, Vedaldi and Zisserman, "Deep inside convolutional networks" (2014), section 3. It
    is the backward pass of the lecture's chapter 4.4, walked down to the picture itself.

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
    ndarray of float32, (H, W, C)
        In score per unit, on the scale where white is 1 (as floats were given, otherwise).

    Raises
    ------
    SettingError
        No such class.

    Examples
    --------
    The score of a linear classifier grows with each pixel as its template says, wherever one stands:

    >>> from nabi import models
    >>> net = models.linear((2, 2, 1), 3)
    >>> found = saliency(net, np.zeros((2, 2, 1), np.uint8), 1)
    >>> bool(np.allclose(found.ravel(), net.linear.weight.numpy()[:, 1]))
    True
    """
    score = lambda x: score_of(model(x, training=False), place)
    found: NDArray[np.float32] = grad(score)(as_batch(picture)).numpy()[0]
    return found
