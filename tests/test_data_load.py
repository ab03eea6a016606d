"""``load`` on folders and archives of pictures, and ``pictures`` for prediction."""

import os
import subprocess
import sys
import threading
import time
import tracemalloc
import unicodedata

import numpy as np
import pytest

from made_files import encoded, hash_of, pets, pixels, tar, write_tree, zipped
from nabi import cache, data, threads
from nabi.data import gather, stream
from nabi.data.decode import decode
from nabi.data.files import Member
from nabi.data.layout import layout
from nabi.data.resize import fit
from nabi.errors import DataError, FormatError, PictureError, SettingError


def as_folder(path, tree):
    return write_tree(path / "folder", tree)


def as_archive(ending, make):
    def write(path, tree):
        (path / f"set.{ending}").write_bytes(make(tree))
        return path / f"set.{ending}"

    return write


FORMS = {
    "folder": as_folder,
    "tar": as_archive("tar", tar),
    "tar.gz": as_archive("tar.gz", lambda tree: tar(tree, "w:gz")),
    "tar.xz": as_archive("tar.xz", lambda tree: tar(tree, "w:xz")),
    "zip": as_archive("zip", zipped),
}


@pytest.fixture(params=sorted(FORMS))
def written(request, tmp_path):
    """A function that writes a tree as a folder or an archive and gives its path."""
    return lambda tree: FORMS[request.param](tmp_path, tree)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("NABI_CACHE", str(tmp_path_factory.mktemp("cache")))


def test_splits_and_an_empty_class(written):
    found = data.load(written(pets()))
    assert found.classes == ("cat", "dog", "snake")
    assert found.train.names == ["train/cat/0.png", "train/cat/1.png", "train/dog/0.png", "train/dog/1.png"]
    np.testing.assert_array_equal(found.train.labels, [0, 0, 1, 1])
    assert found.validation.names == ["val/cat/2.png", "val/dog/2.png"]
    assert found.test.names == ["test/cat/3.png", "test/dog/3.png"]
    for split in (found.train, found.validation, found.test):
        for image, name in zip(split.images, split.names, strict=True):
            np.testing.assert_array_equal(image, pixels(hash_of(name)))
    assert found.skipped == []


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_validation_by_each_of_its_names(tmp_path, name):
    tree = {file.replace("val/", f"{name}/"): content for file, content in pets().items()}
    assert len(data.load(write_tree(tmp_path, tree)).validation) == 2


def test_splits_in_other_letters(tmp_path):
    tree = {file.replace("train/", "Train/").replace("test/", "TEST/"): content for file, content in pets().items()}
    found = data.load(write_tree(tmp_path, tree))
    assert found.classes == ("cat", "dog", "snake")
    assert found.test.names == ["TEST/cat/3.png", "TEST/dog/3.png"]
    with pytest.raises(DataError, match="has more than one train folder: Train, train"):
        data.load(write_tree(tmp_path, tree | {"train/cat/9.png": pets()["train/cat/0.png"]}))


def test_a_class_may_be_called_train(written):
    tree = {f"{name}/{number}.png": content for name in ("Bus", "Car", "Train") for number, content in enumerate(
        [pets()["train/cat/0.png"], pets()["train/dog/0.png"]]
    )}  # fmt: skip
    assert data.load(written(tree)).classes == ("Bus", "Car", "Train")
    deeper = {name.replace("/", "/more/", 1): content for name, content in tree.items()}
    assert data.load(written(deeper)).classes == ("Bus", "Car", "Train")


def test_classes_alone_are_all_for_training(written):
    tree = {name.removeprefix("train/"): content for name, content in pets().items() if name.startswith("train")}
    found = data.load(written(tree))
    assert found.classes == ("cat", "dog", "snake")
    assert found.train.names == ["cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png"]
    assert found.test is found.validation is None


def test_the_order_in_an_archive_does_not_matter(tmp_path):
    (tmp_path / "a.tar").write_bytes(tar(pets()))
    (tmp_path / "b.tar").write_bytes(tar(dict(reversed(pets().items()))))
    first, second = data.load(tmp_path / "a.tar"), data.load(tmp_path / "b.tar")
    np.testing.assert_array_equal(first.train.images, second.train.images)
    assert first.train.names == second.train.names


def test_one_common_top_folder_is_taken_off(written):
    found = data.load(written({f"pets-v1/{name}": content for name, content in pets().items()}))
    assert found.classes == ("cat", "dog", "snake")
    assert len(found.test) == 2


def test_a_name_for_people(written, tmp_path):
    assert data.load(written(pets())).name in ("folder", "set")


def test_class_names_match_composed_and_decomposed(written):
    name = "고양이"
    tree = {
        f"train/{unicodedata.normalize('NFC', name)}/1.png": encoded(pixels(1)),
        f"test/{unicodedata.normalize('NFD', name)}/2.png": encoded(pixels(2)),
    }
    found = data.load(written(tree))
    assert found.classes == (unicodedata.normalize("NFC", name),)
    assert len(found.train) == len(found.test) == 1


def test_files_that_are_passed_over_are_named(written):
    tree = pets() | {
        "train/cat/notes.txt": b"not a picture",
        "train/dog/half.png": encoded(pixels(9, 50, 50))[:2000],
        "LICENSE": b"free",
        "train/loose.png": encoded(pixels(8)),
        "extra/cat/1.png": encoded(pixels(7)),
        "train/.hidden/1.png": encoded(pixels(6)),
    }
    found = data.load(written(tree))
    reasons = dict(found.skipped)
    assert sorted(reasons) == [
        "LICENSE",
        "extra/cat/1.png",
        "train/cat/notes.txt",
        "train/dog/half.png",
        "train/loose.png",
    ]
    assert reasons["LICENSE"] == reasons["extra/cat/1.png"] == reasons["train/loose.png"] == "not in a class folder"
    assert reasons["train/cat/notes.txt"] == "not a picture of a known format"
    assert "cut short: begins as a PNG" in reasons["train/dog/half.png"]
    assert len(found.skipped) == 5
    assert found.classes == ("cat", "dog", "snake")
    assert len(found.train) == 4


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs and links")
def test_links_and_pipes_are_passed_over(tmp_path):
    root = write_tree(tmp_path / "root", pets())
    write_tree(tmp_path, {"secret.png": encoded(pixels(1))})
    os.mkfifo(root / "train/cat/pipe.png")
    (root / "train/dog/out.png").symlink_to(tmp_path / "secret.png")
    (root / "train/dog/in.png").symlink_to(root / "train/dog/0.png")
    found = data.load(root)
    assert found.skipped == [
        ("train/cat/pipe.png", "not a regular file"),
        ("train/dog/out.png", "a link that leads outside the folder"),
    ]
    assert len(found.train) == 5


# --- sizes and channels


def sized(*sizes, channels=3):
    return {f"a/{number}.png": encoded(pixels(number, *size, channels)) for number, size in enumerate(sizes)}


def test_pictures_of_one_size_stay_as_they_are(written):
    assert data.load(written(sized((5, 9), (5, 9)))).train.images.shape == (2, 5, 9, 3)


def test_pictures_of_mixed_sizes_become_32(written):
    found = data.load(written(sized((40, 60), (40, 60), (64, 64), (5, 9))))
    assert found.train.images.shape == (4, 32, 32, 3)
    for row, size in enumerate(((40, 60), (40, 60), (64, 64), (5, 9))):
        np.testing.assert_array_equal(found.train.images[row], fit(pixels(row, *size), (32, 32)))


def test_only_pictures_in_classes_count_as_mixed(written):
    tree = sized((5, 9), (5, 9)) | {"preview.png": encoded(pixels(5, 50, 50))}
    found = data.load(written(tree))
    assert found.train.images.shape == (2, 5, 9, 3)
    assert found.skipped == [("preview.png", "not in a class folder")]


def test_a_size_that_was_asked_for(written):
    path = written(sized((40, 60), (16, 16)))
    assert data.load(path, size=16).train.images.shape == (2, 16, 16, 3)
    assert data.load(path, size=(8, 20)).train.images.shape == (2, 8, 20, 3)
    np.testing.assert_array_equal(data.load(path, size=16).train.images[1], pixels(1, 16, 16))


def test_grey_pictures_have_one_channel_if_all_are_grey(written):
    tree = sized((5, 9), (5, 9), channels=1)
    tree["a/2.png"] = encoded(pixels(2, 5, 9, 1).repeat(3, axis=2))  # grey in content, not in name
    grey = data.load(written(tree))
    assert grey.train.images.shape == (3, 5, 9, 1)
    np.testing.assert_array_equal(grey.train.images[2], pixels(2, 5, 9, 1))


def test_one_picture_in_colour_makes_all_three_channels(written):
    mixed = data.load(written(sized((5, 9), channels=1) | {"b/1.png": encoded(pixels(1, 5, 9))}))
    np.testing.assert_array_equal(mixed.train.images[0], pixels(0, 5, 9, 1).repeat(3, axis=2))


def test_the_side_of_a_picture_does_not_depend_on_the_size(written):
    path = written(
        {f"{label}/{n}.png": encoded(pixels(n + 100 * (label == "b"), 20, 30)) for label in "ab" for n in range(20)}
    )
    sides = [data.complete_splits(data.load(path, size=size)) for size in (None, 8, 16)]
    assert len({tuple(found.test.names) for found in sides}) == 1
    assert len(sides[0].test) == 6


def test_more_threads_give_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(gather, "SMALL", 0)
    path = write_tree(tmp_path, {f"a/{n}.png": encoded(pixels(n, 9 + n % 3, 12)) for n in range(150)})
    results = []
    for count in (1, 4):
        threads.set_num_threads(count)
        try:
            results.append(data.load(path))
        finally:
            threads.set_num_threads(None)
        assert cache.clear() > 0
    np.testing.assert_array_equal(results[0].train.images, results[1].train.images)


def test_files_that_are_large_go_to_the_threads():
    def where(group):
        return sum(member.size for member in group), threading.current_thread() is threading.main_thread()

    large, small = Member("large", gather.SMALL + 1), Member("small", gather.SMALL)
    groups = [[small, Member("folder/")], [large], [large, small], [large, small, small], [], [large]]
    threads.set_num_threads(2)
    try:
        sizes, here = zip(*gather.side_by_side(where, iter(groups), gather.are_small), strict=True)
    finally:
        threads.set_num_threads(None)
    assert sizes == tuple(sum(member.size for member in group) for group in groups)
    assert here == (True, False, False, False, False, False)  # of no files nothing is known


def test_progress_is_told(written):
    heard = []
    data.load(written(pets()), progress=lambda done, total: heard.append((done, total)))
    assert heard
    assert heard[-1][0] == heard[-1][1]
    assert heard == sorted(heard)


# --- what is no data set


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({}, "no class folders"),
        ({"1.png": b""}, "no class folders"),
        ({"train/": b""}, "no class folders"),
        ({"test/cat/1.png": b"", "val/cat/1.png": b""}, "has test, val but no train folder"),
        (
            {"train/cat/1.png": b"", "val/cat/1.png": b"", "valid/cat/1.png": b""},
            "more than one validation folder: val, valid",
        ),
        ({"cat/": b"", "dog/": b""}, "no picture in any class folder$"),
        ({"cat/1.png": b"x"}, "the first of 1 skipped files is cat/1.png: not a picture"),
    ],
)
def test_what_is_no_data_set(tmp_path, tree, message):
    (tmp_path / "folder").mkdir()
    path = as_folder(tmp_path, tree)
    with pytest.raises(DataError, match=rf"^{path}: [^\n]*{message}"):
        data.load(path)


def test_mixed_sizes_without_a_class_folder(written):
    path = written({"1.png": encoded(pixels(1, 5, 9)), "2.png": encoded(pixels(2, 9, 5))})
    with pytest.raises(DataError, match=rf"^{path}: has no class folders"):
        data.load(path)


def test_idx_files_further_down_do_not_make_it_idx(tmp_path):
    write_tree(tmp_path, pets() | {"train/cat/train-images-idx3-ubyte.gz": b"x"})
    assert data.load(tmp_path).skipped == [("train/cat/train-images-idx3-ubyte.gz", "not a picture of a known format")]


@pytest.mark.parametrize("path", ["nothing-here", "/nothing/here", "cifar11", ""])
def test_a_path_that_is_nothing_lists_the_known_names(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"^[^\n]*(digits, cifar10|no class folders)[^\n]*$"):
        data.load(path)


def test_a_file_that_is_no_data_set(tmp_path):
    (tmp_path / "cat.png").write_bytes(encoded(pixels(1)))
    with pytest.raises(DataError, match="neither an archive"):
        data.load(tmp_path / "cat.png")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
def test_a_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="not a regular file"):
        data.load(tmp_path / "pipe")


def test_a_truncated_archive_leaves_nothing_behind(tmp_path):
    content = tar(pets(), "w:gz")
    (tmp_path / "x.tar.gz").write_bytes(content[:-20])
    with pytest.raises(FormatError, match=r"x\.tar\.gz: damaged or cut short"):
        data.load(tmp_path / "x.tar.gz")
    assert cache.entries() == []
    assert [path.name for path in tmp_path.iterdir()] == ["x.tar.gz"]


def test_a_size_for_what_has_its_own(tmp_path):
    with pytest.raises(SettingError, match="digits has a size of its own"):
        data.load("digits", size=8)
    with pytest.raises(SettingError, match="size is 0"):
        data.load(tmp_path, size=0)


# --- the layout by itself


def test_layout_ignores_files_beside_the_top_folder():
    found = layout(["README", "pets/cat/1.png", "pets/dog/2.png"])
    assert found.classes == ("cat", "dog")
    assert found.place("README") is None


def test_layout_of_nested_folders_takes_the_first_as_the_class():
    found = layout(["cat/tabby/young/1.png", "dog/1.png"])
    assert found.classes == ("cat", "dog")
    assert found.place("cat/tabby/young/1.png").label == "cat"


def test_layout_with_a_class_called_test():
    assert layout(["test/1.png", "control/1.png"]).classes == ("control", "test")


# --- pictures to predict


def test_pictures_of_files_and_folders(tmp_path):
    write_tree(
        tmp_path,
        {
            "b.png": encoded(pixels(1)),
            "f/c/2.png": encoded(pixels(2)),
            "f/1.png": encoded(pixels(3)),
            "f/.x.png": b"",
            "f/bad.png": b"x",
        },
    )
    result = dict(data.pictures([tmp_path / "b.png", str(tmp_path / "f"), tmp_path / "none.png"]))
    assert list(result) == [str(tmp_path / name) for name in ("b.png", "f/1.png", "f/bad.png", "f/c/2.png", "none.png")]
    np.testing.assert_array_equal(result[str(tmp_path / "b.png")], pixels(1))
    np.testing.assert_array_equal(result[str(tmp_path / "f/c/2.png")], pixels(2))
    for name, message in (("f/bad.png", "not a picture of a known format"), ("none.png", "no such file or directory")):
        error = result[str(tmp_path / name)]
        assert isinstance(error, PictureError)
        assert str(error) == f"{tmp_path / name}: {message}"


def test_pictures_at_a_size_and_in_grey(tmp_path):
    write_tree(tmp_path, {"1.png": encoded(pixels(1, 30, 40))})
    ((_, picture),) = data.pictures(tmp_path, size=(16, 8), channels=1)
    assert picture.shape == (16, 8, 1)
    np.testing.assert_array_equal(picture, data.decode.grey(fit(pixels(1, 30, 40), (16, 8))))


def test_a_picture_to_predict_is_as_it_was_in_training(tmp_path):
    write_tree(tmp_path, sized((40, 60), (64, 64)))
    trained = data.load(tmp_path, size=24).train
    for (_, picture), image in zip(data.pictures(tmp_path, size=24), trained.images, strict=True):
        np.testing.assert_array_equal(picture, image)


def test_pictures_keep_their_order_whoever_decodes_them(tmp_path, monkeypatch):
    """Small files are decoded in the thread that asks, the others in those of the pool."""
    monkeypatch.setattr(gather, "SMALL", 300)
    sides = [4, 40, 4, 4, 40, 40, 4]
    write_tree(tmp_path, {f"{number}.png": encoded(pixels(number, side, side)) for number, side in enumerate(sides)})
    assert {path.stat().st_size <= 300 for path in tmp_path.iterdir()} == {True, False}
    seen = []
    decoded = stream._picture
    monkeypatch.setattr(
        stream, "_picture", lambda *given: (seen.append(threading.current_thread().name), decoded(*given))[1]
    )
    threads.set_num_threads(2)
    try:
        found = list(data.pictures(tmp_path))
    finally:
        threads.set_num_threads(None)
    assert [name for name, _ in found] == [str(tmp_path / f"{number}.png") for number in range(len(sides))]
    for number, (_, picture) in enumerate(found):
        np.testing.assert_array_equal(picture, pixels(number, sides[number], sides[number]))
    assert seen.count(threading.current_thread().name) == sides.count(4)


def test_pictures_are_decoded_lazily(tmp_path):
    path = tmp_path / "1.png"
    path.write_bytes(encoded(pixels(1)))
    asked = 0

    def endless():
        nonlocal asked
        while True:
            asked += 1
            yield path

    stream = data.pictures(endless())
    next(stream)
    assert asked <= 4 * threads.get_num_threads() + 1
    stream.close()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
def test_pictures_do_not_wait_for_pipes(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    ((_, error),) = data.pictures(tmp_path / "pipe.png")
    assert isinstance(error, PictureError)
    ((_, error),) = data.pictures(tmp_path)
    assert isinstance(error, PictureError)


def test_pictures_refuses_what_is_no_setting(tmp_path):
    with pytest.raises(SettingError, match="channels is 4"):
        data.pictures(tmp_path, channels=4)
    with pytest.raises(SettingError, match="size is -1"):
        data.pictures(tmp_path, size=-1)


def test_importing_is_light():
    """In a fresh process: heavy libraries are imported where they are used."""
    code = "import sys, nabi.data; print([m for m in ('PIL', 'pooch', 'sklearn', 'requests') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- what takes much memory


def peak_of_loading(path, monkeypatch, **options) -> int:
    """Without the pictures that are ready, which are in a file."""
    monkeypatch.setattr(gather, "MAX_IN_MEMORY", 1)
    monkeypatch.setattr(gather, "SMALL", 0)
    tracemalloc.start()
    try:
        data.load(path, **options)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("ending", ["folder", "zip"])
@pytest.mark.parametrize(("sides", "size"), [([800], None), ([800, 900], None), ([10], 800)])
def test_small_files_of_large_pictures_do_not_wait_all_at_once(tmp_path, monkeypatch, ending, sides, size):
    """60 of 2 MB each, whether of one size, of mixed sizes or made large."""
    monkeypatch.setattr(gather, "MAX_AHEAD", 8 << 20, raising=False)
    pictures = [encoded(np.full((side, side, 3), 255, np.uint8)) for side in sides]
    tree = {f"a/{number}.png": pictures[number % len(sides)] for number in range(60)}
    assert peak_of_loading(FORMS[ending](tmp_path, tree), monkeypatch, size=size) < 60 << 20


def test_large_files_in_an_archive_do_not_wait_all_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(gather, "MAX_AHEAD", 8 << 20, raising=False)
    slow = gather.decode_and_fit
    monkeypatch.setattr(gather, "decode_and_fit", lambda *given: time.sleep(0.05) or slow(*given))
    path = tmp_path / "set.tar"
    path.write_bytes(tar({"a/1.png": encoded(pixels(1))} | {f"a/{number}.bin": bytes(6 << 20) for number in range(12)}))
    assert peak_of_loading(path, monkeypatch) < 40 << 20


@pytest.mark.parametrize("first", [(32, 32), (50, 40), (1, 1)])
def test_mixed_sizes_become_the_same_in_whatever_order_they_are_decoded(written, monkeypatch, first):
    tree = {"a/0.png": encoded(pixels(0, *first))}
    tree |= {f"a/{number}.png": encoded(pixels(number, 30 + number % 5, 40)) for number in range(1, 40)}
    monkeypatch.setattr(gather, "SMALL", 0)
    found = data.load(written(tree))
    assert found.train.images.shape == (40, 32, 32, 3)
    for name, image in zip(found.train.names, found.train.images, strict=True):
        np.testing.assert_array_equal(image, fit(decode(tree[name], name), (32, 32)))
