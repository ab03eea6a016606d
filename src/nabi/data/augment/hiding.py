"""A part of a picture hidden, so that a network learns to do without it."""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from nabi.data.augment.colour import mean_colour, rounded
from nabi.data.augment.declaration import augmentation
from nabi.data.augment.draws import Keys, integers
from nabi.data.augment.pictures import Pictures, require_below_side


@augmentation("cutout", size=range(10_000))
def cutout(images: Pictures, keys: Keys, size: int | None = None) -> Pictures:
    """Cover a square of ``size`` pixels a side.

    Source: DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout" (2017). By
    default half the shorter side: 16 of 32, the paper's number for CIFAR-10. The square's centre is uniform over the
    picture, so that a part of it may lie outside. The paper covers with zeros after standardising, that is with the
    mean of the training set; this covers with the mean colour of the picture, which the picture alone can tell.
    """
    count, height, width, channels = images.shape
    size = min(height, width) // 2 if size is None else size
    require_below_side("cutout", "size", size, images)
    row, column = integers(keys, 2, [[height], [width]])
    margin = (size + 1) // 2
    padded = np.pad(images, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    if size:
        rows = padded.reshape(count, height + 2 * margin, (width + 2 * margin) * channels)  # of bytes, as in crop
        squares = sliding_window_view(rows, (size, size * channels), axis=(1, 2), writeable=True)
        start = margin - size // 2
        colours = np.tile(rounded(mean_colour(images)), size)
        squares[np.arange(count), start + row, (start + column) * channels] = colours[:, None]
    return padded[:, margin : margin + height, margin : margin + width]
