"""The pictures for one step of training, taken out of a data set, changed and mixed."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nabi.data.augment.blocks import in_blocks
from nabi.data.augment.draws import children, keys
from nabi.data.augment.pictures import Pictures, as_pictures
from nabi.data.augment.pipeline import Pipeline
from nabi.data.ondemand import OnDemand

_PARTNER = 2**32 - 1  # the number under which mixup's second picture gets a key; parts of a pipeline have those below


def batch(
    pipeline: Pipeline | None, images: Pictures | OnDemand, positions: ArrayLike, epoch_key: NDArray[np.uint32]
) -> tuple[Pictures, NDArray[np.int64] | None, NDArray[np.float32] | None]:
    """Pictures out of a data set, changed and mixed for one step of training.

    Parameters
    ----------
    pipeline : Pipeline or None
        ``None`` takes the images out and leaves them as they are, whatever they are.
    images : array of uint8, (M, H, W, C)
        All pictures of the training set, in memory or a memory map, or :class:`~nabi.data.OnDemand`.
    positions : array_like of int, (N,)
        Which of them to take.
    epoch_key : array of uint32, (2,)
        From :mod:`nabi.random`; another one for each epoch.

    Returns
    -------
    images : array of uint8, (N, H, W, C)
    others : array of int64, (N,), or None
        With mixup, the positions of the pictures that were mixed in.
    share : array of float32, (N,), or None
        With mixup, the weight of each picture's own label; the label at ``others`` has the rest, 1 - share.

    Raises
    ------
    SettingError
        If the images are not pictures.

    Examples
    --------
    >>> from nabi.data.augment import parse
    >>> from nabi import random
    >>> images = np.arange(10 * 8 * 8, dtype=np.int64).astype(np.uint8).reshape(10, 8, 8, 1)
    >>> changed, others, share = batch(parse("flip,crop:1,mixup"), images, [9, 0, 4], random.key(7))
    >>> changed.shape, others.shape, share.shape
    ((3, 8, 8, 1), (3,), (3,))
    >>> bool((batch(parse("flip,crop:1,mixup"), images, [4], random.key(7))[0] == changed[2]).all())
    True
    """
    if not isinstance(images, OnDemand):
        images = np.asarray(images)
    positions = np.asarray(positions, np.int64)
    if pipeline is None:
        return images[positions], None, None
    if isinstance(images, np.ndarray):
        as_pictures(images, None, pipeline)
    own = keys(epoch_key, positions)
    changed = np.empty((len(positions), *images.shape[1:]), np.uint8)

    def change(block: slice) -> None:
        changed[block] = pipeline(images[positions[block]], own[block])

    mixup = pipeline.mixup
    if mixup is None:
        in_blocks(change, len(positions), math.prod(images.shape[1:]))
        return changed, None, None

    others, share = mixup.partners(own, len(images))
    (partner_keys,) = children(own, [_PARTNER])

    def change_and_mix(block: slice) -> None:
        change(block)
        partners = pipeline(images[others[block]], partner_keys[block])
        changed[block] = mixup.mix(changed[block], partners, share[block])

    in_blocks(change_and_mix, len(positions), math.prod(images.shape[1:]))
    return changed, others, share
