"""Splits by content: stratified, independent of order and names, and no picture on two sides."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from made_files import pixels
from nabi import data
from nabi.data import Dataset, Split, complete_splits, content_keys, split_by_content
from nabi.data.splits import content_key
from nabi.errors import DataError, SettingError

# few different pictures in few classes, so that copies abound
sets = st.integers(0, 60).flatmap(
    lambda count: st.tuples(
        arrays.arrays(np.uint64, count, elements=st.integers(0, 25)),
        arrays.arrays(np.int64, count, elements=st.integers(0, 3)),
    )
)
fractions = st.lists(st.sampled_from([0, 0.1, 0.15, 0.3, 0.45]), min_size=1, max_size=2)


@given(sets, fractions)
def test_the_parts_are_a_partition_and_copies_stay_together(labelled, parts):
    keys, labels = labelled
    result = split_by_content(keys, labels, parts)
    assert len(result) == len(parts) + 1
    assert sorted(np.concatenate(result).tolist()) == list(range(len(keys)))
    on_sides = [set(keys[part].tolist()) for part in result]
    assert sum(map(len, on_sides)) == len(set().union(*on_sides))
    for part, fraction in zip(result, parts, strict=False):
        assert fraction > 0 or len(part) == 0


@given(sets, fractions, st.randoms(use_true_random=False))
def test_the_order_of_the_pictures_does_not_matter(labelled, parts, random):
    keys, labels = labelled
    order = list(range(len(keys)))
    random.shuffle(order)
    before = [sorted(keys[part].tolist()) for part in split_by_content(keys, labels, parts)]
    after = [sorted(keys[order][part].tolist()) for part in split_by_content(keys[order], labels[order], parts)]
    assert before == after


@given(st.lists(st.integers(1, 200), min_size=1, max_size=4), st.integers(0, 2**32))
def test_every_class_has_its_share(counts, seed):
    labels = np.repeat(np.arange(len(counts)), counts)
    keys = np.random.default_rng(seed).permutation(len(labels)).astype(np.uint64) * 10**15
    test, validation, rest = split_by_content(keys, labels)
    for label, count in enumerate(counts):
        expected = max(round(0.15 * count), 1) if count >= 3 else 0
        assert (labels[test] == label).sum() == expected
        assert (labels[validation] == label).sum() == expected
        assert (labels[rest] == label).sum() >= 1


def test_adding_pictures_moves_only_those_at_the_border():
    keys = np.random.default_rng(0).permutation(10**6)[:1000].astype(np.uint64)
    few, many = keys[:990], keys
    sides = [
        {
            key: side
            for side, part in enumerate(split_by_content(some, np.zeros(len(some), np.int64)))
            for key in some[part]
        }
        for some in (few, many)
    ]
    assert sum(sides[0][key] != sides[1][key] for key in few) <= 10


def test_a_picture_in_two_classes_is_on_one_side():
    keys = np.tile(np.arange(20, dtype=np.uint64), 2)
    labels = np.repeat([0, 1], 20)
    test, validation, rest = (set(keys[part].tolist()) for part in split_by_content(keys, labels))
    assert min(len(test), len(validation), len(rest)) > 0
    assert len(test | validation | rest) == len(test) + len(validation) + len(rest)


@pytest.mark.parametrize("wrong", [(1.0,), (0.5, 0.5), (-0.1, 0.2), (float("nan"),)])
def test_fractions_that_leave_nothing(wrong):
    with pytest.raises(SettingError, match="fractions"):
        split_by_content(np.arange(9, dtype=np.uint64), np.zeros(9, np.int64), wrong)


def test_the_key_is_of_the_content():
    picture = pixels(1)
    assert content_key(picture) == content_key(np.asfortranarray(picture))
    assert content_key(picture) != content_key(picture.reshape(7, 6, 3))
    changed = picture.copy()
    changed[3, 3, 1] ^= 1
    assert content_key(picture) != content_key(changed)
    assert content_keys(np.empty((0, 2, 2, 3), np.uint8)).shape == (0,)
    many = np.random.default_rng(0).integers(0, 256, (37, 300, 200, 3), np.uint8)  # several blocks, of which one is cut
    assert content_keys(many).tolist() == [content_key(image) for image in many]


def test_the_key_of_a_picture_is_the_same_for_ever():
    """Were it to change, everybody's test pictures would become training pictures."""
    assert content_key(np.arange(12, dtype=np.uint8).reshape(2, 2, 3)) == 14_032_154_254_355_451_984


def some(count, name="some", **splits):
    images = pixels(0, count * 4, 4, 1).reshape(count, 4, 4, 1)
    split = Split(images, np.arange(count) % 3, [str(place) for place in range(count)])
    return Dataset(name, ("a", "b", "c"), split, **splits)


def test_what_is_missing_is_made_and_what_is_there_stays():
    everything = some(60)
    whole = complete_splits(everything)
    assert [len(whole.test), len(whole.validation), len(whole.train)] == [9, 9, 42]
    names = [name for split in (whole.train, whole.validation, whole.test) for name in split.names]
    assert sorted(names, key=int) == everything.train.names
    for split in (whole.train, whole.validation, whole.test):
        np.testing.assert_array_equal(split.images, everything.train.images[[int(name) for name in split.names]])
        np.testing.assert_array_equal(split.labels, everything.train.labels[[int(name) for name in split.names]])
    official = some(60, test=everything.train)
    assert complete_splits(official).test is official.test
    assert len(complete_splits(official).validation) == 9
    assert complete_splits(official, validation=0) is official
    assert complete_splits(whole) is whole
    assert complete_splits(everything, test=0).test is None


def test_of_many_pictures_enough_are_kept_aside():
    count = 70_000
    images = np.arange(count, dtype=np.uint32).view(np.uint8).reshape(count, 2, 2, 1)
    many = Dataset("many", ("a", "b"), Split(images, np.arange(count) % 2))
    whole = complete_splits(many)
    assert [len(part) for part in (whole.test, whole.validation, whole.train)] == [10_000, 5_000, 55_000]
    assert len(complete_splits(many, validation=0.3).validation) == 21_000


def test_digits():
    digits = data.load("digits")
    again = data.load("digits")
    assert sum(len(split) for split in (digits.train, digits.validation, digits.test)) == 1797
    assert digits.train.images.shape[1:] == (8, 8, 1)
    assert (digits.train.images.min(), digits.train.images.max()) == (0, 255)
    assert digits.classes == tuple("0123456789")
    for name in ("validation", "test"):
        shares = np.bincount(getattr(digits, name).labels) / 1797 * 10
        assert np.abs(shares - 0.15).max() < 0.01
        np.testing.assert_array_equal(getattr(digits, name).images, getattr(again, name).images)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 3, 3, 3)), [0, 0], "uint8"),
        (np.zeros((2, 3, 3), np.uint8), [0, 0], "uint8 of shape"),
        (np.zeros((2, 3, 3, 4), np.uint8), [0, 0], "uint8 of shape"),
        (np.zeros((2, 3, 3, 3), np.uint8), [0], "labels must be int64 of shape"),
        (np.zeros((2, 3, 3, 3), np.uint8), [0.0, 1.0], "labels must be int64"),
    ],
)
def test_a_split_of_something_else(images, labels, message):
    with pytest.raises(DataError, match=message):
        Split(images, np.array(labels))


def test_a_split_needs_a_name_and_a_key_for_every_picture():
    images, labels = np.zeros((2, 3, 3, 3), np.uint8), np.zeros(2, np.int64)
    with pytest.raises(DataError, match="1 names for 2 pictures"):
        Split(images, labels, ["a"])
    with pytest.raises(DataError, match="3 keys for 2 pictures"):
        Split(images, labels, None, np.zeros(3, np.uint64))


@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_without_a_name(label):
    split = Split(np.zeros((1, 3, 3, 3), np.uint8), np.array([label]))
    with pytest.raises(DataError, match=f"label {label} has no name"):
        Dataset("x", ("a", "b"), split)


def test_a_data_set_shows_itself_in_one_line():
    assert repr(some(60)) == "Dataset('some', 3 classes, train=Split(60 pictures, 4x4x1))"
