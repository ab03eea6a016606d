"""What a picture looks like, as few numbers: those that stay when it is resized, compressed again or mirrored.

A perceptual hash keeps the lowest frequencies of a picture's cosine transform, one bit each (Zauner, "Implementation
and benchmarking of perceptual image hash functions", 2010, section 3.2.1). Here they stay numbers: 255 of them, each
multiplied by its frequency, since natural pictures have ever less of the higher ones, and scaled to length 1. The
product of two such fingerprints is then a correlation: 1 for the same picture, about 0 for two that have nothing to do
with each other. And since a cosine of odd frequency changes its sign where a picture is mirrored, and one of even
frequency does not, the fingerprint of the mirrored picture is had without mirroring it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nabi import cache, threads
from nabi.data.files import Progress

SIDE = 64  # of the thumbnails
SMALLEST = 32  # pixels of the short side: among smaller pictures, those that are not the same look the same
SOME = 16  # pictures that a thread makes small at a time
KEPT = 16  # frequencies in each direction
PLAINEST = 2.0  # levels of standard deviation: with less, there is nothing to compare
TOGETHER = 1024  # thumbnails that become fingerprints at a time

Floats = NDArray[np.float32]


def thumbnail(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture (H, W, 1 or 3) in grey, antialiased, squeezed to a square: uint8 of shape (64, 64)."""
    from PIL import Image

    image = Image.fromarray(picture[..., 0]) if picture.shape[2] == 1 else Image.fromarray(picture).convert("L")
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX))


def all_thumbnails(
    parts: Sequence[NDArray[np.uint8]], report: Progress = lambda done, total: None
) -> NDArray[np.uint8]:
    """The thumbnails of arrays of pictures (N, H, W, C), one array after another; ``report(done, total)`` hears of it.

    The arrays may be of those that decode pictures when they are asked for them.
    """
    count = sum(map(len, parts))
    found = np.empty((count, SIDE, SIDE), np.uint8)
    blocks = [(part, start) for part in parts for start in range(0, len(part), SOME)]
    small = lambda block: [thumbnail(picture) for picture in block[0][block[1] : block[1] + SOME]]
    done = 0
    for (part, _), some in zip(blocks, threads.map_in_order(small, blocks), strict=True):
        found[done : done + len(some)] = some
        cache.release(part)
        done += len(some)
        report(done, count)
    return found


def cosines(cells: int, kept: int) -> Floats:
    """The first rows of the orthonormal cosine transform (DCT-II) of so many cells: (kept, cells)."""
    angles = np.arange(kept)[:, None] * (np.arange(cells) + 0.5) * np.pi / cells
    rows: Floats = (np.cos(angles) * np.sqrt(2 / cells)).astype(np.float32)
    rows[0] /= np.float32(np.sqrt(2))
    return rows


def scaled(transformed: NDArray[Any]) -> Floats:
    """Cosine transforms (..., K, K) without their mean, times their frequency, at length 1: (..., K²-1); 0 if plain."""
    kept = transformed.shape[-1]
    flat = transformed.reshape(*transformed.shape[:-2], kept * kept)[..., 1:]
    plain = np.square(flat).sum(-1, keepdims=True) < (SIDE * PLAINEST) ** 2
    weighted = flat * _frequencies(kept)
    length = np.linalg.norm(weighted, axis=-1, keepdims=True)
    found: Floats = np.where(plain, np.float32(0), weighted / np.maximum(length, np.float32(1e-6)))
    return found


def fingerprints(thumbnails: NDArray[np.uint8]) -> Floats:
    """Fingerprints of thumbnails (N, S, S) of any one side of 16 or more: float32 of shape (N, 255), of length 1 or 0.

    Examples
    --------
    >>> ramp = np.add.outer(np.arange(64), 2 * np.arange(64)).astype(np.uint8)
    >>> both = fingerprints(np.stack([ramp, ramp[:, ::-1]]))
    >>> bool(np.allclose(both[1], both[0] * mirror(), atol=1e-5))
    True
    """
    side = thumbnails.shape[1]
    rows = cosines(side, KEPT) * np.float32(SIDE / side)  # levels, not energy: as of a thumbnail of the usual side
    found = np.empty((len(thumbnails), KEPT * KEPT - 1), np.float32)
    for start in range(0, len(thumbnails), TOGETHER):
        block = thumbnails[start : start + TOGETHER].astype(np.float32)
        found[start : start + TOGETHER] = scaled(rows @ block @ cosines(side, KEPT).T)
    return found


def mirror(kept: int = KEPT) -> Floats:
    """What a fingerprint is multiplied with to be that of the mirrored picture: -1 at odd horizontal frequencies."""
    signs = np.where(np.arange(kept) % 2, -1, 1)
    return np.broadcast_to(signs, (kept, kept)).reshape(-1)[1:].astype(np.float32)


def coarser(prints: Floats, kept: int) -> Floats:
    """The lowest frequencies of fingerprints alone, at length 1 again: (N, kept²-1)."""
    whole = np.concatenate([np.zeros((len(prints), 1), np.float32), prints], axis=1)
    low = whole.reshape(-1, KEPT, KEPT)[:, :kept, :kept].reshape(-1, kept * kept)[:, 1:]
    found: Floats = low / np.maximum(np.linalg.norm(low, axis=1, keepdims=True), np.float32(1e-6))
    return found


def _frequencies(kept: int) -> Floats:
    steps = np.arange(kept, dtype=np.float32)
    return np.hypot(steps[:, None], steps).reshape(-1)[1:]
