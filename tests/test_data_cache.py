"""The cache of decoded pictures: quick, private, capped, and never trusted blindly."""

import os
import shutil
import stat
import time
from pathlib import Path

import numpy as np
import pytest

from made_files import encoded, hash_of, pets, pixels, tar, write_tree, zipped
from nabi import cache, data
from nabi.data import folders, gather
from nabi.data.decode import decode
from nabi.data.splits import content_key
from nabi.errors import DataError


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """The cache folder, which is not there yet."""
    monkeypatch.setenv("NABI_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path):
    return write_tree(tmp_path / "pets", pets())


@pytest.fixture
def decoded(monkeypatch):
    """Names of the pictures that are decoded, as they are."""
    names = []

    def count(decode):
        return lambda content, name, *how: names.append(name) or decode(content, name, *how)

    for place, one in ((folders, "decode"), (gather, "decode_and_fit")):  # when it is asked for again, the first look
        monkeypatch.setattr(place, one, count(getattr(place, one)))
    return names


def full(*_):
    raise OSError(28, "No space left on device")


def same(first, second):
    assert first.classes == second.classes
    assert first.skipped == second.skipped
    assert first.name == second.name
    for name in ("train", "validation", "test"):
        one, other = getattr(first, name), getattr(second, name)
        assert (one is None) == (other is None)
        if one is None:
            continue
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.labels, other.labels)
        np.testing.assert_array_equal(one.keys, other.keys)
        assert one.names == other.names
        assert one.labels.dtype == other.labels.dtype == np.int64


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_what_was_read_of_a_memory_map_is_given_back(tmp_path):
    def mapped_kib():
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssFile:"))

    pictures = np.random.default_rng(0).integers(0, 256, (64, 512, 512, 3), np.uint8)  # 48 MiB
    np.save(tmp_path / "pictures.npy", pictures)
    mapped = np.load(tmp_path / "pictures.npy", mmap_mode="r")
    before = mapped_kib()
    assert (mapped == pictures).all()
    assert mapped_kib() - before > 40_000
    cache.release(np.asarray(mapped)[3:])
    assert mapped_kib() - before < 8_000
    assert (mapped == pictures).all()
    cache.release(pictures)
    assert pictures.any()


def test_the_second_start_decodes_nothing(root, decoded):
    first = data.load(root)
    assert len(decoded) == 8
    second = data.load(root)
    assert len(decoded) == 8
    same(first, second)
    assert isinstance(second.train.images, np.memmap)
    assert not second.train.images.flags.writeable


def test_a_folder_whose_maker_was_killed_is_taken_over(home, root, decoded):
    home.mkdir()
    (home / "pictures").mkdir(mode=0o700)
    data.load(root)
    data.load(root)
    assert len(decoded) == 8
    assert len(cache.entries()) == 1


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="needs modes")
def test_an_empty_folder_that_somebody_made_is_left_alone(home, root):
    (home / "pictures").mkdir(parents=True)
    (home / "pictures").chmod(0o755)
    data.load(root)
    assert list((home / "pictures").iterdir()) == []


def test_an_archive_too(tmp_path, decoded):
    (tmp_path / "pets.tar").write_bytes(tar(pets()))
    same(data.load(tmp_path / "pets.tar"), data.load(tmp_path / "pets.tar"))
    assert len(decoded) == 8


def test_skipped_files_are_remembered(root):
    write_tree(root, {"train/cat/x.txt": b"x"})
    assert (
        data.load(root).skipped == data.load(root).skipped == [("train/cat/x.txt", "not a picture of a known format")]
    )


@pytest.mark.parametrize("change", ["content", "time", "new", "gone", "renamed"])
def test_what_has_changed_is_decoded_again(root, decoded, change):
    data.load(root)
    path = root / "train/cat/0.png"
    if change == "content":
        path.write_bytes(encoded(pixels(77)))
    elif change == "time":
        os.utime(path, ns=(0, 1))
    elif change == "new":
        (root / "train/cat/9.png").write_bytes(encoded(pixels(77)))
    elif change == "gone":
        path.unlink()
    else:
        path.rename(root / "train/cat/9.png")
    before = len(decoded)
    found = data.load(root)
    assert len(decoded) > before
    assert any((image == pixels(77)).all() for image in found.train.images) == (change in ("content", "new"))


def test_another_size_is_another_entry(root, decoded):
    assert data.load(root).train.images.shape[1:] == (6, 7, 3)
    assert data.load(root, size=4).train.images.shape[1:] == (4, 4, 3)
    assert [entry.kind for entry in cache.entries()].count("pictures") == 2
    assert data.load(root, size=4).train.images.shape[1:] == (4, 4, 3)
    assert len(decoded) == 16


def files_of(home):
    (entry,) = (entry for entry in cache.entries() if entry.kind == "pictures")
    return sorted(path for path in entry.path.iterdir())


def test_every_kind_of_damage_is_noticed_and_repaired(root, home, decoded):
    expected = data.load(root)
    kept = {split: getattr(expected, split).images.copy() for split in ("train", "validation", "test")}
    for number in range(len(files_of(home))):
        size = files_of(home)[number].stat().st_size
        for place in sorted({*range(0, size, 41), size - 1}):
            path = files_of(home)[number]
            content = bytearray(path.read_bytes())
            status = path.stat()
            content[place] ^= 4
            path.chmod(0o600)
            path.write_bytes(content)
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
            before = len(decoded)
            found = data.load(root)
            for split, images in kept.items():
                np.testing.assert_array_equal(getattr(found, split).images, images)
            assert found.classes == ("cat", "dog", "snake")
            if path.name == "about" or place >= 128:  # in the header, a changed space changes nothing
                assert len(decoded) == before + 8, (path.name, place)


@pytest.mark.parametrize("name", ["about", "images.npy"])
@pytest.mark.parametrize("damage", ["empty", "half", "missing", "folder", "more"])
def test_files_that_are_not_whole(root, home, decoded, name, damage):
    data.load(root)
    (path,) = [path for path in files_of(home) if path.name == name]
    content = path.read_bytes()
    if damage in ("missing", "folder"):
        path.unlink()
        if damage == "folder":
            path.mkdir()
    else:
        path.write_bytes({"empty": b"", "half": content[: len(content) // 2], "more": content + b"x"}[damage])
    found = data.load(root)
    assert len(found.train) == 4
    if (name, damage) != ("images.npy", "more"):
        assert len(decoded) == 16


def test_the_folders_are_the_users_own(root, home):
    if os.name != "posix":
        pytest.skip("permissions are of POSIX")
    data.load(root)
    for path in (home, home / "pictures", *(entry.path for entry in cache.entries())):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    (home / "pictures").chmod(0o777)
    data.load(root)
    assert stat.S_IMODE((home / "pictures").stat().st_mode) == 0o700


def test_entries_and_clear(root, home):
    assert cache.entries() == []
    assert cache.clear() == 0
    data.load(root)
    (entry,) = cache.entries()
    assert entry.kind == "pictures"
    assert entry.source == str(root)
    assert entry.size == sum(path.stat().st_size for path in files_of(home))
    assert abs(entry.used - time.time()) < 60
    assert cache.clear("downloads") == 0
    assert cache.clear() == entry.size
    assert cache.entries() == []
    assert len(data.load(root).train) == 4


def test_clear_touches_nothing_that_was_not_made_here(root, home):
    write_tree(home, {"pictures/holiday.jpg": b"precious", "letters/a.txt": b"precious"})
    assert len(data.load(root).train) == 4  # without a cache
    assert cache.entries() == []
    assert cache.clear() == 0
    assert (home / "pictures/holiday.jpg").read_bytes() == (home / "letters/a.txt").read_bytes() == b"precious"
    assert sorted(path.name for path in (home / "pictures").iterdir()) == ["holiday.jpg"]


def test_a_linked_folder_is_no_cache(root, home, tmp_path):
    write_tree(tmp_path, {"elsewhere/x": b"precious"})
    home.mkdir()
    (home / "pictures").symlink_to(tmp_path / "elsewhere")
    assert len(data.load(root).train) == 4
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["x"]


@pytest.mark.parametrize("trouble", ["disk", "cap", "file", "write"])
def test_without_a_cache_everything_is_in_memory(root, home, monkeypatch, trouble):
    if trouble == "disk":
        monkeypatch.setattr(cache, "KEEP_FREE", 1 << 62)
    elif trouble == "cap":
        monkeypatch.setattr(cache, "MAX_TOTAL", 100)
    elif trouble == "file":
        home.write_bytes(b"a file where the folder should be")
    else:
        monkeypatch.setattr(cache.Draft, "write", full)
    found = data.load(root)
    assert len(found.train) == 4
    assert not isinstance(found.train.images, np.memmap)
    if trouble != "file":
        assert cache.entries() == []


def test_the_least_recently_used_give_way(tmp_path, home, monkeypatch):
    roots = [write_tree(tmp_path / str(number), pets()) for number in range(3)]
    data.load(roots[0])
    size = cache.entries()[0].size
    monkeypatch.setattr(cache, "MAX_TOTAL", int(2.5 * size))
    data.load(roots[1])
    for entry in cache.entries():
        os.utime(entry.path, (1, 1) if entry.source == str(roots[1]) else (2, 2))
    data.load(roots[0])  # used again
    data.load(roots[2])
    assert {entry.source for entry in cache.entries()} == {str(roots[0]), str(roots[2])}


def test_a_process_that_was_quicker_wins(root, home, monkeypatch):
    """Two processes decode the same at once: whoever comes second finds the entry there."""
    real = cache._write_about

    def overtaken(path, about):
        real(path, about)
        monkeypatch.setattr(cache, "_write_about", real)
        data.load(root)

    monkeypatch.setattr(cache, "_write_about", overtaken)
    assert len(data.load(root).train) == 4
    assert len(cache.entries()) == 1


def test_interrupted_work_leaves_no_entry(root, home, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cache, "_write_synced", interrupted)
    with pytest.raises(KeyboardInterrupt):
        data.load(root)
    assert cache.entries() == []


def test_many_pictures_go_through_a_file(root, monkeypatch):
    monkeypatch.setattr(gather, "MAX_IN_MEMORY", 100)
    found = data.load(root)
    np.testing.assert_array_equal(found.train.images[0], pixels(hash_of("train/cat/0.png")))


def shades_and(last: np.ndarray) -> dict[str, bytes]:
    """Pictures of which all but the last are grey, and one outside that is not."""
    grey = {f"{'ab'[n // 3]}/{n}.png": encoded(pixels(n)[..., :1].repeat(3, 2)) for n in range(5)}
    return grey | {"b/5.png": encoded(last), "outside.png": encoded(pixels(9))}


@pytest.mark.parametrize("form", ["folder", "tar"])
@pytest.mark.parametrize("coloured", [False, True])
@pytest.mark.parametrize("size", [None, (6, 7), (5, 5)])
def test_channels_are_as_many_as_pictures_in_classes_need(tmp_path, monkeypatch, form, coloured, size):
    """Whether the pictures wait in memory or on the disk, where those before the first coloured one are widened."""
    tree = shades_and(pixels(5) if coloured else pixels(5)[..., :1].repeat(3, 2))
    path = write_tree(tmp_path / "set", tree) if form == "folder" else tmp_path / "set.tar"
    if form == "tar":
        path.write_bytes(tar(dict(reversed(tree.items()))))
    expected = data.load(path, size=size)
    cache.clear()
    monkeypatch.setattr(gather, "MAX_IN_MEMORY", 100)
    found = data.load(path, size=size)
    assert found.train.images.shape[1:] == (*(size or (6, 7)), 3 if coloured else 1)
    same(expected, found)
    np.testing.assert_array_equal(found.train.keys, content_keys_of(tree))


def content_keys_of(tree: dict[str, bytes]) -> list[int]:
    return [content_key(decode(tree[name], name)) for name in sorted(tree) if "/" in name]


def test_pictures_of_a_folder_are_written_once(root, monkeypatch):
    """As they come: they are the entry, which nobody fills from another file."""
    monkeypatch.setattr(gather, "MAX_IN_MEMORY", 100)
    monkeypatch.setattr(cache, "store", None)
    found = data.load(root)
    assert isinstance(found.train.images, np.memmap)
    assert [path.name for path in cache.private_folder("pictures").iterdir() if path.name != cache.TAG] == [
        entry.path.name for entry in cache.entries()
    ]
    same(found, data.load(root))


@pytest.mark.parametrize("form", ["folder", "tar", "zip"])
@pytest.mark.parametrize("failing", ["_sync", "_write_about", "_place"])
def test_pictures_are_there_though_their_entry_cannot_be_finished(tmp_path, monkeypatch, form, failing):
    tree = dict(sorted(pets().items()))
    path = tmp_path / f"pets.{form}"
    if form == "folder":
        write_tree(path, tree)
    else:
        path.write_bytes(tar(tree) if form == "tar" else zipped(tree))
    expected = data.load(path)
    cache.clear()
    monkeypatch.setattr(gather, "MAX_IN_MEMORY", 100)

    monkeypatch.setattr(cache, failing, full if failing != "_place" else lambda *_: None)
    found = data.load(path)
    assert not isinstance(found.train.images, np.memmap | data.OnDemand)
    same(expected, found)
    assert cache.entries() == []


def test_what_was_left_unfinished_is_removed_where_it_takes_the_room(root, no_room, monkeypatch):
    left = cache.private_folder("pictures") / f"{cache.NEW}left"
    left.mkdir()
    (left / "images.npy").write_bytes(b"x")
    before = shutil.disk_usage(root)
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: before._replace(free=before.free + (0 if left.exists() else 1 << 20))
    )
    assert isinstance(data.load(root).train.images, data.OnDemand)  # somebody may still write to it
    for path in (left / "images.npy", left):
        os.utime(path, (1, 1))
    assert isinstance(data.load(root).train.images, np.memmap)


def test_a_folder_that_found_no_room_while_it_was_widened_is_not_decoded_again(tmp_path, no_room, decoded, monkeypatch):
    """There would be room for the pictures, were not those in one channel still there."""
    tree = {f"a/{n:02}.png": encoded(pixels(n)[..., :1].repeat(3, 2)) for n in range(30)}
    root = write_tree(tmp_path / "mostly grey", tree | {"a/99.png": encoded(pixels(9))})
    room = shutil.disk_usage(root)

    def usage(path):
        there = sum(file.stat().st_size for file in cache.folder().rglob("images.npy"))
        return room._replace(free=cache.KEEP_FREE + 31 * 126 + 500 - there)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    found = data.load(root)
    assert isinstance(found.train.images, data.OnDemand)
    assert len(decoded) == 31
    again = data.load(root)
    assert len(decoded) == 31
    same(found, again)


def test_what_others_are_writing_is_not_removed_to_make_room(root, monkeypatch):
    with cache.Draft((6, 7, 3)) as draft:
        draft.write(np.zeros((100, 6, 7, 3), np.uint8))
        draft.file.flush()
        monkeypatch.setattr(cache, "MAX_TOTAL", 2000)
        assert len(data.load(root).train) == 4
        assert draft.path.exists()
    assert not draft.path.exists()


def test_few_pictures_need_no_room(root, monkeypatch):
    monkeypatch.setattr(cache, "BLOCK", 100)
    monkeypatch.setattr(cache, "KEEP_FREE", 1 << 62)
    assert len(data.load(root).train) == 4


@pytest.fixture
def no_room(monkeypatch):
    """A disk that is too full for what does not stay in memory."""
    monkeypatch.setattr(gather, "MAX_IN_MEMORY", 100)
    monkeypatch.setattr(folders, "MAX_UNCACHED", 100)
    monkeypatch.setattr(cache, "BLOCK", 100)
    free = cache.folder().parent if cache.folder().parent.exists() else Path("/")
    room = shutil.disk_usage(free)._replace(free=cache.KEEP_FREE + 900)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: room)


@pytest.mark.parametrize("mode", ["w:gz", "w:xz"])
def test_no_room_for_many_pictures_of_a_compressed_archive_is_said(tmp_path, no_room, mode):
    path = tmp_path / "pets.tar"
    path.write_bytes(tar(pets(), mode))
    with pytest.raises(
        DataError, match=rf"^{path}: cannot keep the decoded pictures in [^\n]*no room[^\n]*NABI_CACHE[^\n]*unpack"
    ):
        data.load(path)


def written(path, form):
    """The pets as a folder or as a tar."""
    if form == "folder":
        return write_tree(path / "pets", pets())
    (path / "pets.tar").write_bytes(tar(pets()))
    return path / "pets.tar"


def test_room_for_files_that_are_no_pictures_is_not_needed(tmp_path, monkeypatch):
    """All files are counted on until they are seen; but pictures that fit into memory are kept as many as there are."""
    monkeypatch.setattr(gather, "MAX_IN_MEMORY", 64 << 10)
    monkeypatch.setattr(cache, "has_room", lambda size: size <= 100 << 10)
    tree = {f"a/{number}.png": encoded(pixels(number, 32, 32)) for number in range(20)}
    tree |= {f"a/{number}.txt": b"of number" for number in range(80)}
    path = write_tree(tmp_path / "set", tree)
    assert isinstance(data.load(path, size=32).train.images, np.memmap)


@pytest.mark.parametrize("many", [False, True])
def test_what_is_known_to_be_much_goes_to_the_disk_at_once(tmp_path, monkeypatch, many):
    monkeypatch.setattr(gather, "MAX_IN_MEMORY", 20 * 32 * 32 * 3 - many)
    held = []
    write = cache.Draft.write
    monkeypatch.setattr(cache.Draft, "write", lambda self, some: held.append(np.size(some)) or write(self, some))
    tree = {f"a/{number}.png": encoded(pixels(number, 32, 32)) for number in range(20)}
    found = data.load(write_tree(tmp_path / "set", tree), size=32)
    assert max(held) == (32 * 32 * 3 if many else found.train.images.size)
    for number in range(20):
        np.testing.assert_array_equal(
            found.train.images[found.train.names.index(f"a/{number}.png")], pixels(number, 32, 32)
        )


@pytest.mark.parametrize("form", ["folder", "tar"])
def test_without_room_pictures_are_decoded_when_they_are_asked_for(tmp_path, no_room, decoded, monkeypatch, form):
    path = written(tmp_path, form)
    found = data.load(path)
    assert len(decoded) == 8
    assert isinstance(found.train.images, data.OnDemand)
    assert not list(cache.folder().rglob("*.npy"))  # what is kept is what is known of them
    again = data.load(path)
    assert len(decoded) == 8
    assert again.train.images[1].tobytes() == pixels(hash_of("train/cat/1.png")).tobytes()
    assert len(decoded) == 9
    same(found, again)
    monkeypatch.undo()
    monkeypatch.setenv("NABI_CACHE", str(tmp_path / "other"))
    same(found, data.load(path))


def test_when_there_is_room_again_it_is_used(root, no_room, monkeypatch):
    found = data.load(root)
    monkeypatch.setattr(cache, "KEEP_FREE", 0)
    again = data.load(root)
    assert isinstance(again.train.images, np.memmap)
    same(found, again)


@pytest.mark.parametrize("form", ["folder", "tar"])
def test_free_disk_is_looked_at_before_anything_is_written(tmp_path, no_room, monkeypatch, form):
    """That 300 pictures will not go there is known when the first would: from how many files, or from how large."""
    tree = {f"a/{number}.png": encoded(pixels(number)) for number in range(300)}
    path = write_tree(tmp_path / "many", tree) if form == "folder" else tmp_path / "many.tar"
    if form == "tar":
        path.write_bytes(tar(tree))
    on_disk = []
    real = gather.Gathered._write

    def watched(self, picture):
        kept = real(self, picture)
        if kept:
            on_disk.append(self.rows.draft is not None)
        return kept

    monkeypatch.setattr(gather, "MAX_IN_MEMORY", 2000)
    monkeypatch.setattr(gather.Gathered, "_write", watched)
    # 300 x 126 bytes are 37,800; of a tar, they may be written twice, and how many will come is guessed
    for room, expected in ((30_000, False), (50_000 if form == "folder" else 100_000, True)):
        monkeypatch.setattr(cache, "KEEP_FREE", shutil.disk_usage(path).free - room)
        data.load(path)
        assert any(on_disk) == expected


def test_more_than_the_cache_takes_is_not_cached(root, monkeypatch, no_room):
    monkeypatch.setattr(cache, "KEEP_FREE", 0)
    monkeypatch.setattr(cache, "MAX_TOTAL", 900)
    assert isinstance(data.load(root).train.images, data.OnDemand)


def test_a_disk_that_becomes_full_is_noticed(root, monkeypatch, no_room):
    monkeypatch.setattr(cache, "KEEP_FREE", 0)

    expected = data.load(root)
    cache.clear()
    monkeypatch.setattr(cache.Draft, "write", full)
    found = data.load(root)
    assert isinstance(found.train.images, data.OnDemand)
    same(expected, found)


def test_mixed_sizes_are_kept_where_there_is_room_for_what_they_become(tmp_path, monkeypatch, decoded, no_room):
    tree = {f"a/{number}.png": encoded(pixels(number, 200, 200)) for number in range(3)}
    root = write_tree(tmp_path / "mixed", tree | {"a/9.png": encoded(pixels(9, 50, 40))})
    monkeypatch.setattr(cache, "KEEP_FREE", 0)
    room = shutil.disk_usage(root)._replace(free=100_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: room)
    found = data.load(root)
    assert len(decoded) == 8
    assert isinstance(found.train.images, np.memmap)
    assert found.train.images.shape == (4, 32, 32, 3)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("gone", "no such file or directory"),
        ("replaced", "has changed since"),
        ("touched", "has changed since"),
        ("folder", "a link to a folder|not a regular file"),
        ("out", "a link that leads outside"),
    ],
)
def test_a_file_that_changes_between_epochs_is_named(root, tmp_path, no_room, change, reason):
    images = data.load(root).train.images
    path = root / "train/cat/1.png"
    images[:2]
    status = path.stat()
    if change != "touched":
        path.unlink()
    if change == "replaced":
        path.write_bytes(encoded(pixels(5)))
    elif change == "touched":
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    elif change == "folder":
        path.mkdir()
    elif change == "out":
        (tmp_path / "x.png").write_bytes(encoded(pixels(5)))
        path.symlink_to(tmp_path / "x.png")
    with pytest.raises(DataError, match=rf"^{path}: ({reason})[^\n]*$"):
        images[:2]
    assert images[0].tobytes() == pixels(hash_of("train/cat/0.png")).tobytes()


@pytest.mark.parametrize("change", ["gone", "replaced", "short"])
def test_an_archive_that_changes_between_epochs_is_named(tmp_path, no_room, change):
    path = written(tmp_path, "tar")
    images = data.load(path).train.images
    content = path.read_bytes()
    path.unlink()
    if change != "gone":
        path.write_bytes(content[:5000] if change == "short" else content)
        os.utime(path, ns=(0, 1))
    with pytest.raises(DataError, match=rf"^{path}: (no such file|has changed since)[^\n]*$"):
        images[:2]


def test_a_picture_that_can_no_longer_be_decoded_is_named(root, no_room, monkeypatch):
    images = data.load(root).train.images
    path = root / "train/cat/1.png"
    status = path.stat()
    path.write_bytes(bytes(status.st_size))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(DataError, match=rf"^{path}: has changed since[^\n]*$"):
        images[1]


@pytest.mark.long
def test_cifar_10_starts_the_second_time_in_under_a_second(real_data):
    path = real_data / "cifar10-jpeg.tar.xz"
    if not path.exists():
        pytest.skip("real data: no cifar10-jpeg.tar.xz")
    first = data.load(path)
    assert first.train.images.shape == (50_000, 32, 32, 3)
    started = time.perf_counter()
    second = data.load(path)
    assert time.perf_counter() - started < 1
    np.testing.assert_array_equal(first.test.images, second.test.images)
    shutil.rmtree(Path(os.environ["NABI_CACHE"]))


def test_changes_of_a_private_map_are_not_given_back(tmp_path: Path) -> None:
    file = tmp_path / "numbers"
    file.write_bytes(bytes(1 << 14))
    private = np.memmap(file, np.uint8, "c")
    private[:] = 5
    cache.release(private[10:])
    assert (private == 5).all()
    shared = np.memmap(file, np.uint8, "r+")
    shared[:] = 6
    cache.release(np.asarray(shared)[10:])
    assert (shared == 6).all()
