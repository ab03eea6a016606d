"""Augmentation: each picture by its own key, each augmentation against a slow oracle, every text parsed or refused."""

import math
import pickle
from collections.abc import Callable, Iterator
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nabi import random, threads
from nabi.data import augment
from nabi.data.augment import blocks, declaration, interpolation
from nabi.errors import SettingError, ShapeError

TEXTS = [
    "flip",
    "crop:4",
    "resized-crop",
    "resized-crop:0.3:2",
    "rotation:180",
    "color-jitter:1:0.5:0.3",
    "cutout:3",
    "cutout:4",
    "flip,crop:2,rotation,color-jitter,cutout,mixup:0.5",
]
IDENTITIES = ["flip:0", "crop:0", "resized-crop:1:1", "rotation:0", "color-jitter:0:0:0", "cutout:0"]


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """At most four pictures a block, so that small batches are cut too; and the number of threads as it was."""
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1)
    monkeypatch.setattr(interpolation, "SAMPLE_PIXELS", 1)
    yield
    threads.set_num_threads(None)


def pictures(seed: int, count: int, height: int = 7, width: int = 9, channels: int = 3) -> np.ndarray:
    images = np.random.default_rng(seed).integers(0, 256, (count, height, width, channels), dtype=np.uint8)
    images.flags.writeable = False  # whoever changes them in place is found out
    return images


def some_keys(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**32, (count, 2), dtype=np.uint32)


def pipeline(text: str) -> augment.Pipeline:
    parsed = augment.parse(text)
    assert parsed is not None
    return parsed


def apply(name: str, numbers: tuple[float, ...], images: np.ndarray, keys: np.ndarray) -> np.ndarray:
    return augment.AUGMENTATIONS[name](*numbers)(images, keys)


# ---- keys and draws --------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**64 - 1), st.lists(st.integers(0, 2**32 - 1), max_size=5), st.integers(1, 5))
def test_keys_and_draws_are_those_of_the_generator(seed: int, positions: list[int], count: int) -> None:
    keys = augment.keys(random.key(seed), positions)
    assert keys.dtype == np.uint32
    assert keys.shape == (len(positions), 2)
    uniform = augment.uniform(keys, count)
    integers = augment.integers(keys, count, 11)
    assert uniform.shape == integers.shape == (count, len(positions))
    for column, (key, position) in enumerate(zip(keys, positions, strict=True)):
        assert (key == random.fold_in(np, random.key(seed), np.int64(position))).all()
        assert (uniform[:, column] == random.uniform(np, key, (count,))).all()
        assert (integers[:, column] == random.integers(np, key, (count,), 0, 11)).all()


def test_each_part_has_a_key_of_its_own() -> None:
    seen: list[np.ndarray] = []

    def spy(images: np.ndarray, keys: np.ndarray) -> np.ndarray:
        seen.append(keys)
        return images

    keys = some_keys(0, 3)
    augment.compose(spy, spy)(pictures(0, 3), keys)
    for part, given_keys in enumerate(seen):
        expected = [random.fold_in(np, key, np.int64(part)) for key in keys]
        assert (given_keys == expected).all()


# ---- a picture's own key alone ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", TEXTS)
@settings(max_examples=15)
@given(data=st.data(), seed=st.integers(0, 2**32), channels=st.sampled_from([1, 3]))
def test_what_happens_to_a_picture_follows_from_its_own_key(
    text: str, data: st.DataObject, seed: int, channels: int
) -> None:
    count = data.draw(st.integers(0, 11))
    order = np.array(data.draw(st.permutations(range(count))), np.int64)
    cut = data.draw(st.integers(0, count))
    images, keys, parts = pictures(seed, count, channels=channels), some_keys(seed, count), pipeline(text)
    together = parts(images, keys)
    assert together.dtype == np.uint8
    assert together.shape == images.shape
    assert (parts(images[order], keys[order]) == together[order]).all()
    assert (parts(images[:cut], keys[:cut]) == together[:cut]).all()
    assert (parts(images[cut:], keys[cut:]) == together[cut:]).all()


@pytest.mark.parametrize("text", TEXTS)
def test_number_of_threads_and_size_of_blocks_change_nothing(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    images = pictures(1, 83)
    results = []
    for number, block_bytes in [(1, 1), (4, 1), (4, 2000), (2, 2**30)]:
        threads.set_num_threads(number)
        monkeypatch.setattr(blocks, "BLOCK_BYTES", block_bytes)
        monkeypatch.setattr(interpolation, "SAMPLE_PIXELS", block_bytes)
        results.append(augment.batch(pipeline(text), images, np.arange(83), random.key(3)))
    for others in results[1:]:
        for mine, theirs in zip(results[0], others, strict=True):
            assert (mine is None) == (theirs is None)
            assert mine is None or (mine == theirs).all()


@pytest.mark.parametrize("text", TEXTS)
def test_a_memory_map_gives_the_same_as_an_array(text: str, tmp_path) -> None:
    images = pictures(2, 30)
    images.tofile(tmp_path / "images")
    mapped = np.memmap(tmp_path / "images", np.uint8, "r", shape=images.shape)
    positions = [29, 3, 3, 17]
    from_array, _, _ = augment.batch(pipeline(text), images, positions, random.key(5))
    from_map, _, _ = augment.batch(pipeline(text), mapped, positions, random.key(5))
    assert type(from_map) is np.ndarray
    assert (from_map == from_array).all()
    assert (from_array[1] == from_array[2]).all()
    assert (pipeline(text)(mapped, some_keys(0, 30)) == pipeline(text)(images, some_keys(0, 30))).all()


def test_epochs_differ() -> None:
    images = pictures(2, 30)
    first, second = (
        augment.batch(pipeline("crop:4"), images, range(30), random.fold_in(np, random.key(1), np.int64(epoch)))[0]
        for epoch in (0, 1)
    )
    assert (first != second).any(axis=(1, 2, 3)).sum() > 20


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("text", IDENTITIES)
def test_what_changes_nothing(text: str, channels: int) -> None:
    images = pictures(3, 20, channels=channels)
    changed = pipeline(text)(images, some_keys(3, 20))
    assert (changed == images).all()
    assert not np.shares_memory(changed, images)


@pytest.mark.parametrize("name", [name for name in augment.AUGMENTATIONS if name != "mixup"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 8, 3), (3, 1, 1), (2, 2, 3)])
def test_tiny_pictures(name: str, shape: tuple[int, int, int]) -> None:
    images = pictures(4, 10, *shape)
    assert pipeline(name)(images, some_keys(4, 10)).shape == images.shape


@pytest.mark.parametrize(("by_default", "same"), [("crop", "crop:4"), ("cutout", "cutout:16"), ("flip", "flip:0.5")])
def test_numbers_that_follow_from_the_pictures(by_default: str, same: str) -> None:
    images, keys = pictures(4, 30, 32, 40), some_keys(4, 30)
    assert (pipeline(by_default)(images, keys) == pipeline(same)(images, keys)).all()


# ---- against slow oracles, one picture and one pixel after another ---------------------------------------------------


def slow_flip(picture: np.ndarray, key: np.ndarray, probability: float) -> np.ndarray:
    return np.fliplr(picture) if random.uniform(np, key, (1,))[0] < probability else picture


def slow_crop(picture: np.ndarray, key: np.ndarray, padding: int) -> np.ndarray:
    top, left = random.integers(np, key, (2,), 0, 2 * padding + 1)
    height, width, _ = picture.shape
    result = np.zeros_like(picture)
    for y in range(height):
        for x in range(width):
            row, column = y + top - padding, x + left - padding
            if 0 <= row < height and 0 <= column < width:
                result[y, x] = picture[row, column]
    return result


def slow_resized_crop(picture: np.ndarray, key: np.ndarray, smallest: float, widest: float) -> np.ndarray:
    area, tilt, down, along = (float(number) for number in random.uniform(np, key, (4,)))
    area = smallest + (1 - smallest) * area
    ratio = math.exp((2 * tilt - 1) * math.log(widest))
    height, width, channels = picture.shape
    tall, wide = min(height, height * math.sqrt(area / ratio)), min(width, width * math.sqrt(area * ratio))
    top, left = down * (height - tall), along * (width - wide)
    box = (left, top, min(left + wide, width), min(top + tall, height))
    image = Image.fromarray(picture[..., 0] if channels == 1 else picture)
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR, box)).reshape(picture.shape)


def slow_rotation(picture: np.ndarray, key: np.ndarray, degrees: float) -> np.ndarray:
    angle = math.radians(degrees * (2 * float(random.uniform(np, key, (1,))[0]) - 1))
    height, width, _ = picture.shape
    result = np.zeros(picture.shape)
    for y in range(height):
        for x in range(width):
            # The place on the unturned picture, as a complex number with the imaginary axis upwards.
            place = complex(x - (width - 1) / 2, (height - 1) / 2 - y) * complex(math.cos(angle), -math.sin(angle))
            column = min(max(place.real + (width - 1) / 2, 0), width - 1)
            row = min(max((height - 1) / 2 - place.imag, 0), height - 1)
            for near_row in {math.floor(row), math.ceil(row)}:
                for near_column in {math.floor(column), math.ceil(column)}:
                    weight = (1 - abs(row - near_row)) * (1 - abs(column - near_column))
                    result[y, x] += weight * picture[near_row, near_column]
    return result


def slow_color_jitter(
    picture: np.ndarray, key: np.ndarray, brightness: float, contrast: float, saturation: float
) -> np.ndarray:
    drawn = random.uniform(np, key, (3,)).astype(np.float64)
    b, c, s = 1 + np.array([brightness, contrast, saturation]) * (2 * drawn - 1)
    values = picture.astype(np.float64)
    grey = values @ [0.299, 0.587, 0.114] if picture.shape[2] == 3 else values[..., 0]
    values = grey[..., None] + s * (values - grey[..., None])
    values = grey.mean() + c * (values - grey.mean())
    return np.clip(b * values, 0, 255)


def slow_cutout(picture: np.ndarray, key: np.ndarray, size: int) -> np.ndarray:
    words = random.bits(np, key, (2,))
    height, width, _ = picture.shape
    top, left = int(words[0]) % height - size // 2, int(words[1]) % width - size // 2
    result = picture.astype(np.float64)
    for y in range(top, top + size):
        for x in range(left, left + size):
            if 0 <= y < height and 0 <= x < width:
                result[y, x] = np.rint(picture.mean(axis=(0, 1)))
    return result


Oracle = Callable[..., np.ndarray]
ROUNDING = 0.5 + 1e-3  # to the nearest integer, and a little for float32
# Name: the oracle, how far a result may be from it, and numbers to try.
ORACLES: dict[str, tuple[Oracle, float, st.SearchStrategy[tuple[float, ...]]]] = {
    "flip": (slow_flip, 0, st.tuples(st.floats(0, 1))),
    "crop": (slow_crop, 0, st.tuples(st.integers(0, 4))),
    # Pillow computes in fixed point, one axis after the other, and rounds between.
    "resized-crop": (slow_resized_crop, 1, st.tuples(st.floats(0.01, 1), st.floats(1, 3))),
    "rotation": (slow_rotation, ROUNDING, st.tuples(st.floats(0, 180))),
    "color-jitter": (slow_color_jitter, ROUNDING, st.tuples(*[st.floats(0, 1)] * 3)),
    "cutout": (slow_cutout, 0, st.tuples(st.integers(0, 4))),
}


def test_every_augmentation_has_an_oracle() -> None:
    assert {*ORACLES, "mixup"} == set(augment.AUGMENTATIONS)


@pytest.mark.parametrize("name", ORACLES)
@settings(max_examples=30)
@given(
    data=st.data(),
    seed=st.integers(0, 2**32),
    height=st.integers(5, 9),
    width=st.integers(5, 9),
    channels=st.sampled_from([1, 3]),
)
def test_against_a_slow_oracle(
    name: str, data: st.DataObject, seed: int, height: int, width: int, channels: int
) -> None:
    oracle, tolerance, numbers_to_try = ORACLES[name]
    numbers = data.draw(numbers_to_try)
    images, keys = pictures(seed, 3, height, width, channels), some_keys(seed, 3)
    changed = apply(name, numbers, images, keys)
    for picture, key, result in zip(images, keys, changed, strict=True):
        assert np.abs(result - oracle(picture, key, *numbers).astype(np.float64)).max() <= tolerance


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), share=st.lists(st.floats(0.5, 1, width=32), min_size=2, max_size=2))
def test_mixing_rounds_to_nearest(seed: int, share: list[float]) -> None:
    images, others = pictures(seed, 2), pictures(seed + 1, 2)
    mixed = augment.Mixup().mix(images, others, np.array(share, np.float32))
    assert mixed.dtype == np.uint8
    for picture, other, kept, result in zip(images, others, share, mixed, strict=True):
        assert np.abs(result - (kept * picture + (1 - kept) * other)).max() <= 0.5 + 1e-4


def test_mixing_with_the_whole_or_with_itself_changes_nothing() -> None:
    images, others = pictures(0, 50), pictures(1, 50)
    assert (augment.Mixup().mix(images, others, np.ones(50, np.float32)) == images).all()
    assert (augment.Mixup().mix(images, images, np.linspace(0.5, 1, 50, dtype=np.float32)) == images).all()


def test_a_batch_is_what_one_picture_after_another_gives() -> None:
    images, parts = pictures(7, 40), pipeline("flip,crop:2,cutout:3,mixup:1")
    positions, epoch_key = [5, 39, 0, 5, 12, 33], random.key(11)
    changed, others, share = augment.batch(parts, images, positions, epoch_key)
    assert changed.dtype == np.uint8
    assert others is not None
    assert others.dtype == np.int64
    assert share is not None
    assert share.dtype == np.float32
    for row, position in enumerate(positions):
        key = random.fold_in(np, epoch_key, np.int64(position))
        assert others[row] == random.bits(np, key, (2,))[0] % 40
        partner_key = random.fold_in(np, key, np.int64(2**32 - 1))
        own = parts(images[position][None], key[None])[0].astype(np.float64)
        other = parts(images[others[row]][None], partner_key[None])[0]
        kept = float(share[row])
        assert np.abs(changed[row] - (kept * own + (1 - kept) * other)).max() <= 0.5 + 1e-4


def test_a_batch_without_mixup_or_without_anything() -> None:
    images = pictures(7, 40)
    changed, others, share = augment.batch(pipeline("flip:1"), images, [4, 2], random.key(0))
    assert (changed == images[[4, 2], :, ::-1]).all()
    assert others is share is None
    features = np.arange(12.0).reshape(4, 3)
    assert (augment.batch(None, features, [3, 1], random.key(0))[0] == features[[3, 1]]).all()
    assert augment.batch(pipeline("flip,mixup"), images, [], random.key(0))[0].shape == (0, 7, 9, 3)


# ---- distributions, with seeds that are fixed ------------------------------------------------------------------------


def test_half_of_the_pictures_are_flipped() -> None:
    keys = augment.keys(random.key(0), range(10_000))
    images = np.zeros((10_000, 1, 2, 1), np.uint8)
    images[:, 0, 0] = 1
    flipped = augment.flip()(images, keys)[:, 0, 1, 0]
    assert abs(flipped.mean() - 0.5) < 4 * 0.5 / 100  # four standard deviations


@pytest.mark.parametrize("name", ["crop", "cutout"])
def test_every_place_is_as_likely_as_the_other(name: str) -> None:
    count, side = 9_000, 9
    keys = augment.keys(random.key(1), range(count))
    images = np.zeros((count, side, side, 1), np.uint8)
    images[:, 4, 4] = 255  # where it lands tells the offset of a crop; what is not black of the rest, a cutout of one
    if name == "crop":
        row, column = np.divmod(augment.crop(4)(images, keys).reshape(count, -1).argmax(axis=1), side)
    else:
        row, column = np.divmod((augment.cutout(1)(images, keys) != images).reshape(count, -1).argmax(axis=1), side)
    for place in (row, column):
        expected = count / 9
        seen = np.bincount(place, minlength=9)
        assert ((seen - expected) ** 2 / expected).sum() < 26.1  # chi square, 8 degrees of freedom, p = 0.001


@pytest.mark.parametrize("alpha", [0.05, 0.2, 1.0, 8.0])
def test_the_share_is_the_larger_of_two_from_a_beta_distribution(alpha: float) -> None:
    from scipy.stats import ks_2samp

    keys = augment.keys(random.key(2), range(5_000))
    positions, share = augment.Mixup(alpha).partners(keys, 10)
    assert share.min() >= 0.5
    assert share.max() <= 1
    drawn = np.random.default_rng(0).beta(alpha, alpha, 5_000)
    assert ks_2samp(share, np.maximum(drawn, 1 - drawn).astype(np.float32)).pvalue > 1e-3
    seen = np.bincount(positions, minlength=10)
    assert len(seen) == 10
    assert ((seen - 500) ** 2 / 500).sum() < 27.9  # chi square, 9 degrees of freedom, p = 0.001


# ---- putting together ------------------------------------------------------------------------------------------------


def test_nesting_makes_no_difference() -> None:
    images, keys = pictures(5, 9), some_keys(5, 9)
    flat = augment.compose(augment.flip(), augment.crop(2), augment.rotation(), augment.Mixup(0.3))
    nested = augment.compose(augment.compose(augment.flip(), None, augment.crop(2)), pipeline("rotation,mixup:0.3"))
    assert flat == nested == pipeline("flip,crop:2,rotation,mixup:0.3")
    assert (flat(images, keys) == nested(images, keys)).all()
    assert nested.mixup == augment.Mixup(0.3)


def test_parts_work_in_the_order_in_which_they_are_written() -> None:
    def dark(images: np.ndarray, keys: np.ndarray) -> np.ndarray:
        return images // 2

    def inverted(images: np.ndarray, keys: np.ndarray) -> np.ndarray:
        return 255 - images

    images, keys = pictures(6, 9), some_keys(6, 9)
    assert (augment.compose(dark, inverted)(images, keys) == 255 - images // 2).all()
    assert (augment.compose(inverted, dark)(images, keys) == (255 - images) // 2).all()
    assert str(augment.compose(dark, augment.crop(1))) == "dark,crop:1"


@patch.dict(augment.AUGMENTATIONS)
@patch.dict(declaration._changes)
def test_an_augmentation_of_ones_own() -> None:
    @augment.augmentation("fade", by=range(256))
    def fade(images: np.ndarray, keys: np.ndarray, by: int = 3, power: float = 1.0) -> np.ndarray:
        return images - np.minimum(images, np.uint8(by * power))

    images = pictures(6, 9)
    assert (pipeline("fade:200")(images, some_keys(6, 9)) == images - np.minimum(images, 200)).all()
    assert pipeline("fade") == augment.compose(fade()) == augment.compose(fade(power=1))
    with pytest.raises(SettingError, match="fade's by is 256; it must be a whole number from 0 to 255"):
        augment.parse("fade:256")


def test_pipelines_survive_pickling() -> None:
    parts = pipeline(",".join(augment.AUGMENTATIONS))
    assert pickle.loads(pickle.dumps(parts)) == parts
    assert hash(parts) == hash(pipeline(str(parts)))


# ---- texts and what they cannot be -----------------------------------------------------------------------------------


@pytest.mark.parametrize("nothing", [None, "", "  ", "none", " none ", (), []])
def test_nothing_to_do(nothing: object) -> None:
    assert augment.parse(nothing) is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("flip, crop:4", ("flip", "crop:4")),
        ("crop:4", augment.crop(4)),
        ("crop:4", [augment.crop(padding=4)]),
        ("mixup", augment.Mixup()),
        ("resized-crop:1", "resized-crop:1.0:1.3333333333333333"),
        ("flip,crop", augment.compose("flip", "crop")),
        ("flip,crop", augment.compose(augment.flip(0.5), augment.crop())),
        ("rotation:1e1", "rotation:10"),
    ],
)
def test_ways_to_write_the_same(one: object, other: object) -> None:
    assert augment.parse(one) == augment.parse(other)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "flop",
            "no augmentation is named 'flop'; there are flip, crop, resized-crop, rotation, color-jitter, cutout, mix",
        ),
        ("flip,", "no augmentation is named ''"),
        ("flip,none", "no augmentation is named 'none'"),
        ("colour", "no augmentation is named 'colour'"),
        ("crop:-1", "crop's padding is -1; it must be a whole number from 0"),
        ("crop:4.5", "crop's padding is 4.5; it must be a whole number"),
        ("crop:four", "crop's padding is 'four', which is not a number"),
        ("crop:", "crop's padding is '', which is not a number"),
        ("crop:4:5", "'crop:4:5' has 2 numbers; crop has at most 1: padding"),
        ("flip:1.5", "flip's probability is 1.5; it must be a number from 0 to 1"),
        ("flip:" + "9" * 400, "flip's probability is 999"),
        ("flip:" + "9" * 5000, "flip's probability is inf"),
        ("flip:nan", "flip's probability is nan"),
        ("rotation:inf", "rotation's degrees is inf; it must be a number from 0 to 180"),
        ("mixup:0", "mixup's alpha is 0; it must be a number from 0.01 to 100"),
        ("mixup,flip", "flip:0.5 follows mixup"),
        ("mixup,mixup", "mixup:0.2 follows mixup"),
        (["flip", 3], "3 is no augmentation"),
        (7, "7 is no augmentation"),
        (b"flip", "102 is no augmentation"),
    ],
)
def test_what_is_refused(text: object, message: str) -> None:
    with pytest.raises(SettingError) as caught:
        augment.parse(text)
    assert f"augment: {message}" in str(caught.value)
    assert "\n" not in str(caught.value)


words = st.sampled_from([*augment.AUGMENTATIONS, "none", "", " "])
numbers = st.one_of(st.integers(-3, 300).map(str), st.floats().map(repr), st.text(max_size=3))
items = st.builds(lambda word, given: ":".join([word, *given]), words, st.lists(numbers, max_size=3))


@settings(max_examples=300)
@given(
    st.one_of(st.text(), st.lists(items, max_size=3).map(",".join), st.lists(st.one_of(items, st.text()), max_size=3))
)
def test_any_text_gives_a_pipeline_or_one_clear_line(text: str | list[str]) -> None:
    try:
        parsed, message = augment.parse(text), ""
    except SettingError as error:
        parsed, message = None, str(error)
    if message:
        assert message.startswith("augment: ")
        assert len(message.splitlines()) == 1
    assert augment.parse(str(parsed) if parsed else None) == parsed


# ---- what is not a picture -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((5, 12), np.uint8),
        np.zeros((5, 4, 4, 3), np.float32),
        np.zeros((5, 4, 4, 2), np.uint8),
        np.zeros((5, 4, 4), np.uint8),
        [[1, 2], [3, 4]],
    ],
)
def test_what_is_no_picture_is_refused_by_name(images: object) -> None:
    count = len(images)  # type: ignore[arg-type]
    for use in (
        lambda: augment.rotation()(images, some_keys(0, count)),
        lambda: pipeline("rotation")(images, some_keys(0, count)),
        lambda: augment.batch(pipeline("rotation"), images, [0], random.key(0)),
    ):
        with pytest.raises(SettingError, match=r"augment: rotation:15\.0 changes pictures, uint8 of shape \(N, H, W, "):
            use()


def test_one_key_for_each_picture() -> None:
    with pytest.raises(ShapeError, match=r"5 pictures need keys of shape \(5, 2\), not \(4, 2\)"):
        pipeline("flip")(pictures(0, 5), some_keys(0, 4))


@pytest.mark.parametrize(("text", "name"), [("crop:7", "crop's padding"), ("cutout:7", "cutout's size")])
def test_what_could_hide_a_whole_picture(text: str, name: str) -> None:
    with pytest.raises(SettingError, match=f"augment: {name} is 7; it must be below 7, the pictures' side"):
        pipeline(text)(pictures(0, 5), some_keys(0, 5))


@pytest.mark.parametrize(
    "wrong", [lambda images, keys: images / 255, lambda images, keys: images[:, 1:], lambda images, keys: images[:1]]
)
def test_a_part_that_makes_something_else_is_named(wrong: augment.Change) -> None:
    with pytest.raises(SettingError, match=r"augment: <lambda> made .* of uint8 of shape \(3, 7, 9, 3\), and must not"):
        augment.compose(augment.flip(), wrong)(pictures(0, 3), some_keys(0, 3))
