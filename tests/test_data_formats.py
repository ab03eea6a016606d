"""IDX and CIFAR in its four forms, and the pickles that one of them is made of."""

import gzip
import os
import pickle
import pickletools
import struct
import time
import tracemalloc

import numpy as np
import pytest

from made_files import (
    CIFAR_CLASSES,
    cifar_arrays,
    cifar_binary,
    cifar_tree,
    encoded,
    idx,
    idx_pair,
    pixels,
    planes,
    python2,
    tar,
    write_tree,
)
from nabi import data
from nabi.data import unpickle as unpickling
from nabi.data.idx import read_idx
from nabi.data.unpickle import unpickle
from nabi.errors import DataError, FormatError

# --- IDX


@pytest.mark.parametrize("pack", [gzip.compress, bytes], ids=["gz", "plain"])
def test_idx_round_trip(tmp_path, pack):
    array = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "x").write_bytes(pack(idx(array)))
    np.testing.assert_array_equal(read_idx(tmp_path / "x"), array)


def claims(*shape, content=b""):
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape) + content


@pytest.mark.parametrize("pack", [gzip.compress, bytes], ids=["gz", "plain"])
@pytest.mark.parametrize("shape", [(10**6, 10**3, 10**3), (2**32 - 1,) * 3, (2**32 - 1,)])
def test_a_small_idx_that_claims_10_to_the_12_is_refused_at_once(tmp_path, pack, shape):
    (tmp_path / "x").write_bytes(pack(claims(*shape, content=bytes(80))))
    tracemalloc.start()
    started = time.perf_counter()
    with pytest.raises(FormatError, match=r"claims \d+ bytes, 80 are there"):
        read_idx(tmp_path / "x")
    assert time.perf_counter() - started < 1
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an IDX file"),
        (b"\0\0\x08", "not an IDX file"),
        (b"\1\0\x08\x01\0\0\0\1x", "not an IDX file"),
        (b"\0\0\x0d\x01\0\0\0\1xxxx", "type 13"),
        (b"\0\0\x08\0", "0 dimensions"),
        (b"\0\0\x08\xff", "255 dimensions"),
        (b"\0\0\x08\x03\0\0\0\1", "cut short within its header"),
        (claims(3, content=b"ab"), "claims 3 bytes, 2 are there"),
        (claims(3, content=b"abcd"), "claims 3 bytes, 4 are there"),
    ],
)
def test_idx_refuses(tmp_path, content, message):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(FormatError, match=message):
        read_idx(tmp_path / "x")
    (tmp_path / "x").write_bytes(gzip.compress(content))
    with pytest.raises(FormatError, match=message):
        read_idx(tmp_path / "x")


def test_a_folder_of_idx_files(tmp_path):
    write_tree(tmp_path, idx_pair(12) | idx_pair(5, "t10k", seed=1) | {"README": b"x"})
    found = data.load(tmp_path)
    assert found.train.images.shape == (12, 5, 4, 1)
    assert found.test.images.shape == (5, 5, 4, 1)
    assert found.validation is None
    assert found.classes == ("0", "1", "2")
    np.testing.assert_array_equal(found.train.labels, np.arange(12) % 3)


def test_one_idx_file_means_its_pair(tmp_path):
    write_tree(tmp_path, idx_pair(12) | idx_pair(5, "t10k"))
    by_images = data.load(tmp_path / "t10k-images-idx3-ubyte.gz")
    by_labels = data.load(tmp_path / "t10k-labels-idx1-ubyte.gz")
    assert len(by_images.train) == len(by_labels.train) == 5
    assert by_images.test is None
    np.testing.assert_array_equal(by_images.train.images, by_labels.train.images)


def test_idx_files_that_do_not_go_together(tmp_path):
    pair = idx_pair(12)
    write_tree(tmp_path, pair | {"train-labels-idx1-ubyte.gz": gzip.compress(idx(np.zeros(11)))})
    with pytest.raises(FormatError, match="12 pictures"):
        data.load(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match="labels that belongs to it is not there"):
        data.load(tmp_path)
    with pytest.raises(DataError, match="labels that belongs to it is not there"):
        data.load(tmp_path / "train-images-idx3-ubyte.gz")


@pytest.mark.parametrize("shape", [(3,), (3, 4), (3, 0, 4), (3, 4, 4, 2)])
def test_idx_images_must_be_pictures(tmp_path, shape):
    write_tree(tmp_path, idx_pair(3) | {"train-images-idx3-ubyte.gz": gzip.compress(idx(np.zeros(shape)))})
    with pytest.raises(FormatError, match="not one of pictures"):
        data.load(tmp_path)


# --- CIFAR


@pytest.fixture(params=["binary", "python", "python2"])
def cifar(request):
    return cifar_tree(4, request.param)


def check_cifar(found, batches=(1, 2, 3, 4, 5), test=True):
    assert found.classes == CIFAR_CLASSES
    expected = [cifar_arrays(4, number) for number in batches]
    np.testing.assert_array_equal(found.train.images, np.concatenate([images for images, _ in expected]))
    np.testing.assert_array_equal(found.train.labels, np.concatenate([labels for _, labels in expected]))
    if test:
        np.testing.assert_array_equal(found.test.images, cifar_arrays(4, 0)[0])
    else:
        assert found.test is None


def test_cifar_from_an_archive(cifar, tmp_path):
    (tmp_path / "c.tar.gz").write_bytes(tar(cifar, "w:gz"))
    found = data.load(tmp_path / "c.tar.gz")
    check_cifar(found)
    assert found.name == "c"


def test_cifar_from_a_folder_or_the_folder_above(cifar, tmp_path):
    write_tree(tmp_path, cifar)
    check_cifar(data.load(tmp_path))
    (inner,) = tmp_path.iterdir()
    check_cifar(data.load(inner))


def test_cifar_without_some_of_its_batches(cifar, tmp_path):
    kept = {name: content for name, content in cifar.items() if "_2" not in name and "test" not in name}
    check_cifar(data.load(write_tree(tmp_path, kept)), batches=(1, 3, 4, 5), test=False)


def test_cifar_without_its_names_or_training_batches(cifar, tmp_path):
    (tmp_path / "x.tar").write_bytes(tar({name: content for name, content in cifar.items() if "meta" not in name}))
    with pytest.raises(DataError, match="no picture in any class folder"):
        data.load(tmp_path / "x.tar")
    (tmp_path / "x.tar").write_bytes(tar({name: content for name, content in cifar.items() if "data_" not in name}))
    with pytest.raises(FormatError, match="none of data_batch_1"):
        data.load(tmp_path / "x.tar")


@pytest.mark.parametrize("stray", ["meta", "train", "batches.meta.txt"])
def test_pictures_beside_a_file_that_is_called_as_one_of_cifar(tmp_path, stray):
    tree = {
        f"pets/{stray}": b"about the pets",
        "pets/cat/1.png": encoded(pixels(1)),
        "pets/dog/1.png": encoded(pixels(2)),
    }
    (tmp_path / "x.tar").write_bytes(tar(tree))
    found = data.load(tmp_path / "x.tar")
    assert found.classes == ("cat", "dog")
    assert [name for name, _ in found.skipped] == [f"pets/{stray}"]


def test_cifar_100(tmp_path):
    images, fine = cifar_arrays(6)
    coarse = fine // 2
    names = [f"thing{number}".encode() for number in range(10)]
    records = np.concatenate([coarse[:, None], fine[:, None], planes(images)], axis=1).astype(np.uint8).tobytes()
    batch = {b"data": planes(images), b"fine_labels": fine.tolist(), b"coarse_labels": coarse.tolist()}
    trees = {
        "binary": {
            "cifar-100-binary/train.bin": records,
            "cifar-100-binary/test.bin": records[: 2 * 3074],
            "cifar-100-binary/fine_label_names.txt": b"\n".join(names),
            "cifar-100-binary/coarse_label_names.txt": b"a\nb\n",
        },
        "python": {
            "cifar-100-python/train": python2(batch),
            "cifar-100-python/test": pickle.dumps({key: value[:2] for key, value in batch.items()}, protocol=2),
            "cifar-100-python/meta": python2({b"fine_label_names": names, b"coarse_label_names": [b"a", b"b"]}),
        },
    }
    for form, tree in trees.items():
        (tmp_path / form).write_bytes(tar(tree, "w:gz"))
        found = data.load(tmp_path / form)
        np.testing.assert_array_equal(found.train.images, images)
        np.testing.assert_array_equal(found.train.labels, fine)
        np.testing.assert_array_equal(found.test.images, images[:2])
        assert found.classes == tuple(f"thing{number}" for number in range(10))


def test_cifar_binary_of_a_wrong_size_or_label(tmp_path):
    images, labels = cifar_arrays(4)
    for content, message in (
        (cifar_binary(images, labels)[:-1], "not a whole number of pictures"),
        (cifar_binary(images, labels + 10), "not one of the 10 classes"),
    ):
        tree = cifar_tree(4, "binary") | {"cifar-10-batches-bin/data_batch_3.bin": content}
        (tmp_path / "x.tar.gz").write_bytes(tar(tree, "w:gz"))
        with pytest.raises(FormatError, match=rf"x.tar.gz: data_batch_3.bin: .*{message}"):
            data.load(tmp_path / "x.tar.gz")


IMAGES, LABELS = cifar_arrays(4)


@pytest.mark.parametrize(
    "batch",
    [
        [1, 2],
        {b"labels": LABELS.tolist()},
        {b"data": planes(IMAGES)},
        {b"data": planes(IMAGES), b"labels": LABELS.tolist()[:3]},
        {b"data": planes(IMAGES), b"labels": [b"cat"] * 4},
        {b"data": planes(IMAGES), b"labels": [300] * 4},
        {b"data": planes(IMAGES)[:, :-1], b"labels": LABELS.tolist()},
        {b"data": planes(IMAGES).ravel(), b"labels": LABELS.tolist()},
        {b"data": b"pixels", b"labels": LABELS.tolist()},
    ],
)
def test_cifar_pickles_of_something_else(tmp_path, batch):
    tree = cifar_tree(4, "python") | {"cifar-10-batches-py/data_batch_3": python2(batch)}
    (tmp_path / "x.tar.gz").write_bytes(tar(tree, "w:gz"))
    with pytest.raises(FormatError, match=r"x.tar.gz: data_batch_3: [^\n]+$"):
        data.load(tmp_path / "x.tar.gz")


def test_the_real_excerpts_are_equal_in_both_forms(real_data):
    folder = real_data / "cifar-10-mini"
    if not folder.is_dir():
        pytest.skip("real data: no cifar-10-mini")
    python = data.load(folder / "cifar-10-python.tar.gz")
    binary = data.load(folder / "cifar-10-binary.tar.gz")
    assert python.classes == binary.classes == CIFAR_CLASSES
    assert len(python.train) == 1000
    for split in ("train", "test"):
        np.testing.assert_array_equal(getattr(python, split).images, getattr(binary, split).images)
        np.testing.assert_array_equal(getattr(python, split).labels, getattr(binary, split).labels)


# --- pickles


def test_a_pickle_of_python_2_is_read_as_bytes():
    value = {b"data": np.arange(12, dtype=np.uint8).reshape(3, 4), b"labels": [1, 2, 300], b"name": b"x" * 300}
    result = unpickle(python2(value), "x")
    np.testing.assert_array_equal(result.pop(b"data"), value.pop(b"data"))
    assert result == value
    assert pickle.loads(python2(value), encoding="bytes") == value  # the hand-built file is a pickle indeed


def test_the_hand_built_pickle_calls_what_the_official_files_call():
    called = [
        argument
        for code, argument, _ in pickletools.genops(python2({b"d": np.zeros(1, np.uint8)}))
        if code.name == "GLOBAL"
    ]
    assert called == ["numpy.core.multiarray _reconstruct", "numpy ndarray", "numpy dtype"]


@pytest.mark.parametrize("protocol", range(2, 5))
@pytest.mark.parametrize("dtype", ["u1", "<i8", ">i4"])
def test_arrays_of_whole_numbers(protocol, dtype):
    array = np.arange(6).astype(dtype).reshape(2, 3)
    result = unpickle(pickle.dumps({b"a": array, b"f": np.asfortranarray(array)}, protocol), "x")
    np.testing.assert_array_equal(result[b"a"], array)
    np.testing.assert_array_equal(result[b"f"], array)


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/nabi-was-here",)


class Setting:
    def __init__(self, made):
        self.made = made

    def __reduce__(self):
        return self.made


def program(*instructions):
    return b"\x80\x02" + b"".join(instructions) + b"."


RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({b"x": Evil()}, 2), r"names (posix|nt)\.system: refused"),
        (program(b"cbuiltins\neval\nU\x011\x85R"), r"names builtins\.eval"),
        (program(b"c__builtin__\neval\nU\x011\x85R"), r"names __builtin__\.eval"),
        (program(b"cnumpy\nload\nU\x011\x85R"), r"names numpy\.load"),
        (program(b"cnumpy\nndarray.tofile\n"), r"names numpy\.ndarray\.tofile"),
        (program(b"c_codecs\ndecode\n"), r"names _codecs\.decode"),
        (program(b"c_codecs\nencode\nX\x01\0\0\0aX\x05\0\0\0rot13\x86R"), "calls encode"),
        (program(b"c_codecs\nencode\n}X\x01\0\0\0aK\x01sb"), "changes encode"),
        (program(b"cnumpy\nndarray\n(J\x00\x00\x00\x40tR"), "calls ndarray"),
        (program(RECONSTRUCT + b"cnumpy\ndtype\nK\x00\x85U\x01b\x87R"), "calls _reconstruct"),
        (pickle.dumps({b"x": np.array([object, 1], object)}, 2), "names builtins.object|array of"),
        (pickle.dumps({b"x": np.array([None, 1], object)}, 2), "'O8', only whole numbers"),
        (pickle.dumps({b"x": np.zeros(2)}, 2), "'f8', only whole numbers"),
        (pickle.dumps({b"x": np.zeros(2, "u1,u1")}, 2), "only whole numbers"),
        (pickle.dumps([1], 2), "other than a dictionary"),
        (pickle.dumps({b"x": bytearray(9)}, 5), "instruction BYTEARRAY8"),
        (pickle.dumps({b"x": {1}}, 4), "instruction EMPTY_SET"),
        (b"\x80\x02\x8b\xff\xff\xff\x7f.", "instruction LONG4|damaged"),
        (b"", "damaged pickle"),
        (b"\x80\x02}", "damaged pickle"),
        (b"\x80\x02h\x05.", "damaged pickle"),
        (b"\x80\x02}U\xffx", "damaged pickle"),
        (program(b"cos\nsystem\nU\x011\x85R"), r"names os\.system"),
        (program(b"]" * 3 + b"ss"), "damaged pickle"),
        (b"(i__main__\nx\n.", "instruction INST"),
        (b"\x80\x02Ppersistent\n.", "instruction PERSID"),
        (b"\x80\x02\x82\x01.", "instruction EXT1"),
    ],
)
def test_a_pickle_that_is_more_than_data_is_refused(content, message):
    with pytest.raises(FormatError, match=rf"^x: .*({message})[^\n]*$"):
        unpickle(content, "x")
    assert not os.path.exists("/tmp/nabi-was-here")  # noqa: PTH110


@pytest.mark.parametrize("shape", [(10**12,), (10**6, 10**6), (-1,), (1, 1, 1, 1, 1), (0, 5), [5], (b"a",)], ids=str)
def test_an_array_must_be_of_its_size(shape):
    array = np.arange(5, dtype=np.uint8)
    made = Setting((_reconstruct(), (np.ndarray, (0,), b"b"), (1, shape, np.dtype("u1"), False, array.tobytes())))
    tracemalloc.start()
    with pytest.raises(FormatError, match="a pickle with an array"):
        unpickle(pickle.dumps({b"x": made}, 2), "x")
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def _reconstruct():
    return np.arange(1).__reduce__()[0]


def test_a_memo_with_2_to_the_31_places_takes_as_much_as_one():
    tracemalloc.start()
    assert unpickle(b"\x80\x02}r\xff\xff\xff\x7f.", "x") == {}
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_a_pickle_of_too_many_instructions_is_refused(monkeypatch):
    monkeypatch.setattr(unpickling, "MAX_INSTRUCTIONS", 100)
    assert unpickle(pickle.dumps({b"x": [1] * 40}, 2), "x") == {b"x": [1] * 40}
    with pytest.raises(FormatError, match="more than 100 instructions"):
        unpickle(pickle.dumps({b"x": [1] * 200}, 2), "x")
