"""Larger and smaller pictures: Pillow's arithmetic, pass by pass; the kernel beside the definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nabi import machine
from nabi.data import resize

PILLOW = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
SIDES = st.one_of(st.integers(1, 20), st.integers(1, 200), st.sampled_from([16, 63, 64, 65, 128]))


def pictures(seed: int, *shape: int) -> np.ndarray:
    """With many pixels black or white, so that the bicubic filter goes beyond what a byte holds."""
    random = np.random.default_rng(seed)
    extreme = random.choice(np.array([0, 255], np.uint8), shape)
    return np.where(random.random(shape) < 0.5, extreme, random.integers(0, 256, shape, np.uint8))


def by_pillow(
    picture: np.ndarray, box: tuple[float, float, float, float], size: tuple[int, int], how: str
) -> np.ndarray:
    """Along rows first, whatever its version prefers."""
    left, top, right, bottom = box
    image = Image.fromarray(picture)
    image = image.resize((size[1], image.height), PILLOW[how], (left, 0, right, image.height))
    return np.asarray(image.resize(size[::-1], PILLOW[how], (0, top, size[1], bottom)))


def combined(images: np.ndarray, along: resize.Taps, axis: int) -> np.ndarray:
    """What a pass is: means along an axis of pictures (N, H, W, C), rounded and kept within 0 to 255."""
    made = []
    for number, image in enumerate(np.moveaxis(images.astype(np.int64), axis, 1)):
        for start, count, weights in zip(*(array[number] for array in along), strict=True):
            made.append(
                resize.ONE // 2 + np.tensordot(weights[:count].astype(np.int64), image[start : start + count], 1)
            )
    shape = np.moveaxis(images, axis, 1).shape
    found = np.array(made).reshape(len(images), -1, *shape[2:])
    return np.moveaxis(np.clip(found >> 22, 0, 255).astype(np.uint8), 1, axis)


def parts(random: np.random.Generator, size: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Where parts of an axis begin and end."""
    start, stop = np.sort(random.uniform(0, size, (2, count)), axis=0)
    whole = random.random(count) < 0.3
    return np.where(whole, 0, start), np.where(whole, size, np.minimum(stop + 0.1, size))


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), height=SIDES, width=SIDES, tall=SIDES, wide=SIDES, how=st.sampled_from([*PILLOW]))
def test_pillow_gives_the_same_bits(seed: int, height: int, width: int, tall: int, wide: int, how: str) -> None:
    random = np.random.default_rng(seed)
    image = pictures(seed, height, width, 3)
    (top,), (bottom,) = parts(random, height, 1)
    (left,), (right,) = parts(random, width, 1)
    rows, columns = resize.taps(height, top, bottom, tall, how), resize.taps(width, left, right, wide, how)
    expected = by_pillow(image, (left, top, right, bottom), (tall, wide), how)
    np.testing.assert_array_equal(resize.resize(image[None], resize.way(image.shape, rows, columns))[0], expected)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    count=st.integers(1, 3),
    height=SIDES,
    width=SIDES,
    channels=st.sampled_from([1, 3]),
    tall=SIDES,
    wide=SIDES,
    how=st.sampled_from([*PILLOW]),
    narrow=st.booleans(),
)
def test_the_kernel_follows_the_definition(
    seed: int, count: int, height: int, width: int, channels: int, tall: int, wide: int, how: str, narrow: bool
) -> None:
    """Of several pictures, each another part; by narrower registers, too."""
    random = np.random.default_rng(seed)
    images = pictures(seed, count, height, width, channels)
    rows = resize.taps(height, *parts(random, height, count), tall, how)
    columns = resize.taps(width, *parts(random, width, count), wide, how)
    expected = combined(combined(images, columns, 2), rows, 1)
    processor = machine.narrower(machine.processor()) if narrow else machine.processor()
    with machine.pretending(processor):
        found = resize.resize(images, resize.way(images.shape[1:], rows, columns))
    np.testing.assert_array_equal(found, expected)
    assert found.shape == (count, tall, wide, channels)


@pytest.mark.parametrize("how", PILLOW)
def test_the_whole_at_its_own_size_is_itself(how: str) -> None:
    images = pictures(0, 2, 70, 40, 3)
    rows, columns = (resize.taps(size, [0, 0], [size, size], size, how) for size in (70, 40))
    np.testing.assert_array_equal(resize.resize(images, resize.way(images.shape[1:], rows, columns)), images)
    assert resize.fit(images[0], (70, 40)).base is images  # as it is


@pytest.mark.parametrize(("height", "width", "size"), [(100, 40, (16, 16)), (40, 100, (20, 30)), (64, 64, (200, 100))])
def test_fitting_covers_and_crops_the_centre(height: int, width: int, size: tuple[int, int]) -> None:
    picture = pictures(1, height, width, 3)
    scale = min(height / size[0], width / size[1])
    tall, wide = size[0] * scale, size[1] * scale
    top, left = (height - tall) / 2, (width - wide) / 2
    expected = by_pillow(picture, (left, top, left + wide, top + tall), size, "bicubic")
    np.testing.assert_array_equal(resize.fit(picture, size), expected)


def test_a_picture_that_is_not_contiguous() -> None:
    picture = pictures(2, 60, 80, 4)[::-1, :, :3]
    np.testing.assert_array_equal(resize.fit(picture, (32, 32)), resize.fit(picture.copy(), (32, 32)))


def test_no_pictures() -> None:
    nothing = np.zeros((0, 20, 30, 3), np.uint8)
    rows, columns = (resize.taps(size, [], [], 16, "bilinear") for size in (20, 30))
    assert resize.resize(nothing, resize.way((20, 30, 3), rows, columns)).shape == (0, 16, 16, 3)
