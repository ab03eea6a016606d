"""Two pictures blended, and their labels likewise."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nabi.data.augment.declaration import AUGMENTATIONS, within_limits, written
from nabi.data.augment.draws import Keys, unit, words
from nabi.data.augment.pictures import Pictures


@dataclass(frozen=True)
class Mixup:
    """Blend a picture with another, and its label likewise.

    Source: Zhang and others, "mixup: Beyond Empirical Risk Minimization" (ICLR 2018). The other is any picture of the
    training set, drawn by the picture's own key, not one that happens to share its batch. The share λ is drawn from
    Beta(α, α) and max(λ, 1 - λ) goes to the picture itself. As the other is drawn uniformly, that changes nothing in
    how often which two are mixed in which shares, but an epoch shows every picture once as the larger part of a
    mixture.

    Parameters
    ----------
    alpha : float
        α, from 0.01 (hardly ever a visible mixture) to 100 (nearly always half and half).
    """

    alpha: float = 0.2

    def __post_init__(self) -> None:
        object.__setattr__(self, "alpha", within_limits("mixup", "alpha", self.alpha, (0.01, 100)))

    def __str__(self) -> str:
        return written("mixup", (self.alpha,))

    def partners(self, keys: Keys, count: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The other picture for each of N, and the share that the picture itself keeps.

        Parameters
        ----------
        keys : array of uint32, (N, 2)
        count : int
            How many pictures there are to choose from.

        Returns
        -------
        positions : array of int64, (N,)
            Each below ``count``.
        share : array of float32, (N,)
            From 0.5 to 1.

        Examples
        --------
        >>> from nabi.data.augment import keys
        >>> positions, share = Mixup(1.0).partners(keys(np.zeros(2, np.uint32), range(1000)), 10)
        >>> np.bincount(positions).size, bool((share >= 0.5).all())
        (10, True)
        """
        from scipy.special import betaincinv

        choice, place = words(keys, 2)
        # Beta(α, α) is symmetric: the larger of λ and 1 - λ is what the upper half of its quantiles gives.
        share = betaincinv(self.alpha, self.alpha, 0.5 + unit(place).astype(np.float64) / 2)
        return choice % np.int64(count), share.astype(np.float32)

    def mix(self, images: Pictures, others: Pictures, share: NDArray[np.float32]) -> Pictures:
        """``share * images + (1 - share) * others``, picture by picture, rounded to nearest.

        Parameters
        ----------
        images, others : array of uint8, (N, H, W, C)
        share : array of float32, (N,)

        Examples
        --------
        >>> black = np.zeros((1, 1, 1, 1), np.uint8)
        >>> Mixup().mix(black + np.uint8(255), black, np.float32([0.6])).item()
        153
        """
        mixed = images.astype(np.float32)  # step by step, as pictures to mix are many and memory is slow
        mixed -= others
        mixed *= np.asarray(share, np.float32)[:, None, None, None]
        mixed += others
        return np.rint(mixed, out=mixed).astype(np.uint8)


AUGMENTATIONS["mixup"] = Mixup
