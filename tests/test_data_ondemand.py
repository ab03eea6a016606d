"""Pictures of a set larger than memory: fetched in a seeded shuffle, few alive at a time, the same bits as cached."""

import contextlib
import gc
import json
import pickle
import tarfile
import threading
import weakref

import numpy as np
import pytest

from made_files import encoded, pixels, write_tree
from nabi import cache, data, threads
from nabi.classifiers import KNNClassifier, MLPClassifier
from nabi.cli import main
from nabi.data import OnDemand, augment, dataset, folders, gather
from nabi.data.ondemand import joined
from nabi.errors import DataError
from nabi.training import Examples

N, SHAPE = 60, (12, 10, 3)


@pytest.fixture
def array():
    return np.random.default_rng(0).integers(0, 256, (N, *SHAPE)).astype(np.uint8)


@pytest.fixture
def images(array):
    return OnDemand(lambda positions: array[positions], array.shape)


@contextlib.contextmanager
def using(count: int):
    threads.set_num_threads(count)
    try:
        yield
    finally:
        threads.set_num_threads(None)


@pytest.mark.parametrize(
    "index",
    [
        3,
        -1,
        np.int64(7),
        slice(5, 40, 3),
        slice(None),
        slice(0, 0),
        [4, 1, 1],
        np.array([59, 0, 7]),
        np.arange(N) % 7 == 2,
        (slice(2, 5), slice(None), 0),
        (4, ..., 1),
        (..., 2),
        np.array([], np.int64),
    ],
    ids=str,
)
def test_indexed_as_an_array(array, images, index):
    found = images[index]
    assert isinstance(found, np.ndarray)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, array[index])


def test_stands_where_an_array_would(array, images):
    assert (images.shape, images.dtype, images.ndim, len(images)) == (array.shape, array.dtype, array.ndim, N)
    assert (images.size, images.nbytes) == (array.size, array.nbytes)
    np.testing.assert_array_equal(np.asarray(images), array)
    np.testing.assert_array_equal(np.stack(list(images)), array)
    assert np.asarray(images, np.float32).dtype == np.float32
    np.testing.assert_array_equal(data.content_keys(images), data.content_keys(array))


@pytest.mark.parametrize("index", [N, -N - 1, [0, N], np.zeros((2, 2), int), 1.5])
def test_a_wrong_index_is_an_error(images, index):
    with pytest.raises(IndexError):
        images[index]


def test_taking_fetches_nothing_and_nests(array):
    asked = []
    images = OnDemand(lambda positions: asked.append(positions) or array[positions], array.shape)
    some = images.take(np.arange(N)[::-1]).take(slice(10, 20))
    assert asked == []
    assert some.shape == (10, *SHAPE)
    np.testing.assert_array_equal(some[2:4], array[::-1][12:14])
    assert len(asked) == 1


def test_more_than_there_is_memory_is_not_fetched():
    endless = OnDemand(lambda positions: np.zeros((len(positions), 1000, 1000, 3), np.uint8), (10**8, 1000, 1000, 3))
    with pytest.raises(DataError, match=r"^100000000 pictures take 279396\.8 GiB, more than there is memory"):
        np.asarray(endless)
    assert endless[[5, 99_999_999]].shape == (2, 1000, 1000, 3)


def test_a_part_of_a_large_memory_map_stays_on_the_disk(tmp_path, array, monkeypatch):
    np.save(tmp_path / "images.npy", array)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    labels = np.arange(N, dtype=np.int64) % 3
    whole = data.Dataset("set", ("a", "b", "c"), data.Split(mapped, labels))
    copied = data.complete_splits(whole)
    monkeypatch.setattr(dataset, "MAX_COPIED", 10 * array[:1].nbytes)
    mapped_still = data.complete_splits(whole)
    assert isinstance(mapped_still.train.images, OnDemand)
    assert isinstance(mapped_still.test.images, np.ndarray)
    for split in ("train", "validation", "test"):
        np.testing.assert_array_equal(getattr(copied, split).images, np.asarray(getattr(mapped_still, split).images))
        np.testing.assert_array_equal(getattr(copied, split).labels, getattr(mapped_still, split).labels)


# --- the shuffle, from files


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("NABI_CACHE", str(tmp_path / "cache"))
    tree = {f"{'ab'[n % 2]}/{n:02}.png": encoded(pixels(n, 20 + n % 5, 16)) for n in range(N)}
    return write_tree(tmp_path / "set", tree)


@pytest.fixture
def both(root, monkeypatch):
    """The same set from the cache and from the files."""
    cached = data.load(root, size=(12, 10))
    cache.clear()
    for place, limit in ((gather, "MAX_IN_MEMORY"), (folders, "MAX_UNCACHED")):
        monkeypatch.setattr(place, limit, 1000)
    monkeypatch.setattr(cache, "MAX_TOTAL", 1000)
    return cached, data.load(root, size=(12, 10))


def epoch(split, augmentations, count, **arguments):
    examples = Examples(split.images, split.labels, None, augment.parse(augmentations))
    with using(count):
        return list(examples.epoch(7, 3, 16, **arguments))


@pytest.mark.parametrize("augmentations", [None, "flip,crop:2", "resized-crop,mixup"])
@pytest.mark.parametrize("piece", [1, 1000, 2**20])
def test_batches_are_those_of_the_cache(both, augmentations, piece, monkeypatch):
    """Whether from a memory map or from files, in pieces of whatever size, on 1, 2 or 3 threads."""
    cached, files = both
    assert isinstance(cached.train.images, np.memmap)
    assert isinstance(files.train.images, OnDemand)
    expected = epoch(cached.train, augmentations, 1)
    assert len(expected) == 4
    monkeypatch.setattr("nabi.training.batches.PIECE", piece)
    for split in (cached.train, files.train):
        for count in (1, 2, 3):
            found = epoch(split, augmentations, count)
            for one, other in zip(expected, found, strict=True):
                for first, second in zip(one, other, strict=True):
                    assert first.dtype == second.dtype
                    np.testing.assert_array_equal(first, second)


def test_an_epoch_goes_on_from_any_batch(both):
    _, files = both
    expected = epoch(files.train, "flip", 2)[2:]
    found = epoch(files.train, "flip", 2, start=2)
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_array_equal(one[0], other[0])


def test_each_picture_once_in_an_order_of_the_seed(both):
    _, files = both
    label = np.concatenate([batch[1] for batch in epoch(files.train, None, 2)])
    seen = np.concatenate([batch[0] for batch in epoch(files.train, None, 2)])
    everything = np.asarray(files.train.images)
    assert sorted(map(bytes, seen)) == sorted(map(bytes, everything))
    assert not (label == files.train.labels).all()


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("augmentations", [None, "flip"])
def test_few_decoded_pictures_are_alive_at_once(both, monkeypatch, count, augmentations):
    """A batch, the next one, and a piece for each thread: however many pictures there are."""
    _, files = both
    alive, most, lock = 0, 0, threading.Lock()
    real = folders.decode

    def forgotten(number):
        nonlocal alive
        with lock:
            alive -= number

    def counted(positions):
        nonlocal alive, most
        found = fetch(positions)
        with lock:
            alive += len(found)
            most = max(most, alive)
        weakref.finalize(found, forgotten, len(found))
        return found

    images = files.train.images
    fetch, images._fetch = images._fetch, counted
    decoded = []
    monkeypatch.setattr(folders, "decode", lambda *given: decoded.append(given[1]) or real(*given))
    monkeypatch.setattr("nabi.training.batches.PIECE", 1)
    examples = Examples(images, files.train.labels, None, augment.parse(augmentations))
    with using(count):
        for number, batch in enumerate(examples.epoch(0, 0, 6), 1):
            # What was decoded so far: this batch, and what is prepared while a step is taken.
            assert len(decoded) <= 6 * number + 6 + count
            del batch
    gc.collect()
    assert len(decoded) == N
    assert most <= 2 * 6 + count
    assert alive == 0


def test_a_file_that_vanishes_stops_the_epoch_and_is_named(both, root):
    _, files = both
    (root / "a/04.png").unlink()
    for augmentations in (None, "flip"):
        for count in (1, 2):
            with pytest.raises(DataError, match=rf"^{root / 'a/04.png'}: no such file or directory$"):
                epoch(files.train, augmentations, count)


@pytest.mark.parametrize("options", [{}, {"early_stopping": True, "class_weight": "balanced"}], ids=str)
def test_classifiers_learn_and_answer_as_from_the_cache(both, options, monkeypatch):
    cached, files = both

    def everything(*_):
        raise AssertionError("all pictures were asked for")

    monkeypatch.setattr(OnDemand, "__array__", everything)
    expected, found = (
        MLPClassifier((4,), max_iter=2, batch_size=8, augment="flip", random_state=0, **options)
        .fit(split.images, split.labels)
        .scores(split.images)
        for split in (cached.train, files.train)
    )
    np.testing.assert_array_equal(expected, found)


@pytest.mark.parametrize("form", ["folder", "tar"])
def test_it_pickles_and_the_files_are_read_again(tmp_path, root, both, form):
    cached, files = both
    if form == "tar":
        with tarfile.open(tmp_path / "set.tar", "w") as tar:
            tar.add(root, ".")
        files = data.load(tmp_path / "set.tar", size=(12, 10))
    assert isinstance(files.train.images, OnDemand)
    written = pickle.dumps(files.train.images.take(np.arange(0, 20, 3)))
    assert len(written) < 5000  # none of the pictures
    np.testing.assert_array_equal(np.asarray(pickle.loads(written)), cached.train.images[0:20:3])


def test_why_a_memory_map_is_not_pickled(tmp_path, array, monkeypatch):
    np.save(tmp_path / "images.npy", array)
    monkeypatch.setattr(dataset, "MAX_COPIED", 0)
    split = data.Split(np.load(tmp_path / "images.npy", mmap_mode="r"), np.arange(N)).take(np.arange(5))
    np.testing.assert_array_equal(np.asarray(split.images), array[:5])
    with pytest.raises(TypeError, match=r"^a memory map of 0\.0 GiB is not pickled: load the data set again$"):
        pickle.dumps(split.images)


def test_joined_pictures_stand_one_after_another_and_are_fetched_when_asked_for(array, images, tmp_path):
    np.save(tmp_path / "images.npy", array[:7])
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    expected = np.concatenate([array, array[:7], array[20:30], array[:4]])
    found = joined([images, mapped, images.take(slice(20, 30)), array[:4]])
    assert isinstance(found, OnDemand)
    for index in (0, 59, 60, -1, slice(50, 75, 2), [80, 0, 66, 61, 0], np.arange(81) % 9 == 0, slice(0, 0)):
        np.testing.assert_array_equal(found[index], expected[index])
    assert isinstance(joined([array, array[:4]]), np.ndarray)
    assert isinstance(joined([mapped, array]), OnDemand)


@pytest.mark.parametrize("channels", [1, 3])
def test_evaluated_a_batch_at_a_time(root, both, channels, monkeypatch, tmp_path, capsys):
    cached, _ = both
    shown = cached.train.images if channels == 3 else cached.train.images.mean(axis=3, keepdims=True).astype(np.uint8)
    names = np.array(cached.classes)[cached.train.labels]
    MLPClassifier((4,), max_iter=1, random_state=0).fit(shown, names).save(tmp_path / "model")
    asked = []
    fetch = OnDemand.__getitem__
    monkeypatch.setattr(OnDemand, "__getitem__", lambda images, at: asked.append(fetch(images, at)) or asked[-1])
    monkeypatch.setattr(OnDemand, "__array__", None)
    monkeypatch.setattr("nabi.cli.results.BATCH", 16)
    assert main(["evaluate", str(tmp_path / "model"), str(root), "--split", "all", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["total"] == N
    assert max(map(len, asked)) == 16


def test_neighbours_are_remembered_in_memory(both):
    cached, files = both
    expected = KNNClassifier(3).fit(cached.train.images, cached.train.labels).kneighbors(cached.train.images)
    found = KNNClassifier(3).fit(files.train.images, files.train.labels).kneighbors(files.train.images)
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_array_equal(one, other)
