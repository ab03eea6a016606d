"""Model files come back as they were written, are whole or not there, and name what else a file may be."""

import errno
import gzip
import io
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image

from nabi import container
from nabi.errors import DTypeError, ModelFileError

DTYPES = [np.float64, np.float32, np.int64, np.int32, np.uint32, np.uint8, np.bool_]

any_array = st.sampled_from(DTYPES).flatmap(
    lambda dtype: npst.arrays(dtype, npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
)
any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("container") / "model.safetensors"


def identical(array, other):
    return array.dtype == other.dtype and array.shape == other.shape and array.tobytes() == other.tobytes()


@given(
    arrays=st.dictionaries(st.text(max_size=8), any_array, max_size=5),
    header=st.dictionaries(st.text(max_size=8), any_json, max_size=5),
)
@settings(max_examples=150, deadline=None)
def test_what_was_written_comes_back(path, arrays, header):
    header = {name: value for name, value in header.items() if name not in ("format_version", "sha256")}
    container.write(path, arrays, header)
    read_arrays, read_header = container.read(path)
    assert read_arrays.keys() == arrays.keys()
    assert all(identical(read_arrays[name], arrays[name]) for name in arrays)
    assert len(read_header.pop("sha256")) == 64
    assert read_header == header | {"format_version": container.FORMAT_VERSION}


@given(arrays=st.dictionaries(st.text("abcŵ나비", min_size=1), any_array, max_size=5))
@settings(max_examples=50, deadline=None)
def test_the_safetensors_library_reads_what_we_write(path, arrays):
    container.write(path, arrays, {"name": "나비"})
    theirs = safetensors.numpy.load(path.read_bytes())
    assert theirs.keys() == arrays.keys()
    assert all(identical(theirs[name], arrays[name]) for name in arrays)
    with safetensors.safe_open(path, "numpy") as file:
        assert json.loads(file.metadata()["nabi.header"]) == {"name": "나비", "format_version": 1}


@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.bool_])
@pytest.mark.parametrize(
    "make",
    [
        lambda array: array.T,
        lambda array: array[::-2, 1:],
        lambda array: np.asfortranarray(array),
        lambda array: array.astype(array.dtype.newbyteorder(">")),
        lambda array: np.broadcast_to(array[0], (3, *array[0].shape)),
    ],
)
def test_arrays_of_any_layout(path, dtype, make):
    array = make(np.arange(24).reshape(4, 6).astype(dtype))
    container.write(path, {"array": array}, {})
    back = container.read(path)[0]["array"]
    np.testing.assert_array_equal(back, array)
    assert back.flags.c_contiguous
    assert back.flags.writeable
    assert back.flags.aligned


def test_same_content_same_bytes_in_any_order(tmp_path):
    arrays = {"b": np.arange(3.0), "a": np.float32(2) * np.ones((2, 2), np.float32), "c": np.array(True)}
    header = {"name": "linear", "classes": ["고양이", "dog"], "arguments": {"alpha": 0.1, "seed": 1}}
    container.write(tmp_path / "one", arrays, header)
    container.write(tmp_path / "two", dict(reversed(arrays.items())), dict(reversed(header.items())))
    container.write(tmp_path / "again", *container.read(tmp_path / "one"))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes() == (tmp_path / "again").read_bytes()


def test_arrays_lie_aligned(path):
    container.write(path, {"a": np.ones(3, np.uint8), "b": np.ones(3), "c": np.ones(3, np.float32)}, {})
    assert all(array.flags.aligned for array in container.read(path)[0].values())


def test_two_keys_of_the_header_are_ours(path):
    container.write(path, {}, {"format_version": 99, "sha256": "no"})
    header = container.read(path)[1]
    assert header["format_version"] == container.FORMAT_VERSION
    assert len(header["sha256"]) == 64


# What cannot be written, and leaves nothing behind.


@pytest.mark.parametrize(
    ("arrays", "header", "error", "says"),
    [
        ({"w": np.ones(2, np.float16)}, {}, DTypeError, "w: a model file holds arrays of float64, .* not float16"),
        ({"w": np.array([None])}, {}, DTypeError, "not object"),
        ({"w": np.array(["text"])}, {}, DTypeError, "not <U4"),
        ({"__metadata__": np.ones(2)}, {}, ModelFileError, "cannot be named '__metadata__'"),
        ({3: np.ones(2)}, {}, ModelFileError, "cannot be named 3"),
        ({}, {"loss": float("nan")}, ModelFileError, "cannot be written as JSON: Out of range float"),
        ({}, {"classes": {1, 2}}, ModelFileError, "cannot be written as JSON: .*set"),
        ({}, {"seed": np.int64(3)}, ModelFileError, "cannot be written as JSON: .*int64"),
        ({}, {"name": "\ud800"}, ModelFileError, "cannot be written as JSON: .*surrogates"),
        ({}, {"long": "x" * container.MAX_HEADER_BYTES}, ModelFileError, "at most 16,384, 4,194,304 and 32"),
        (dict.fromkeys(map(str, range(container.MAX_ARRAYS + 1)), np.ones(0)), {}, ModelFileError, "16,385 arrays"),
    ],
)
def test_what_cannot_be_written_says_so(tmp_path, arrays, header, error, says):
    with pytest.raises(error, match=says) as caught:
        container.write(tmp_path / "model", arrays, header)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("levels", [container.MAX_DEPTH - 1, container.MAX_DEPTH, 100_000])
def test_depth_is_limited_alike_at_writing_and_reading(tmp_path, levels):
    header = []
    for _ in range(levels - 1):
        header = [header]
    if levels < container.MAX_DEPTH:
        container.write(tmp_path / "model", {}, {"deep": header})
        assert container.read(tmp_path / "model")[1]["deep"] == header
    else:
        with pytest.raises(ModelFileError, match=r"levels deep|recursion"):
            container.write(tmp_path / "model", {}, {"deep": header})


# What is not a model file, each with its own line.


def picture(kind):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, kind)
    return buffer.getvalue()


def zip_archive():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a", "b")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "an empty file, not a model file"),
        (picture("PNG"), "a PNG picture, not a model file"),
        (picture("JPEG"), "a JPEG picture, not a model file"),
        (zip_archive(), "a zip archive"),
        (gzip.compress(b"x", mtime=0), "a gzip archive, not a model file"),
        (b"epoch,loss\n0,1\n", "a text file, not a model file"),
        ("이것은 글입니다. ".encode() * 20, "a text file, not a model file"),
        (bytes(200), "model: not a model file"),
        (b"\xff\x00\xfe" * 50, "model: not a model file"),
        (safetensors.numpy.save({"w": np.ones(3)}), "a safetensors file, but not one that nabi wrote"),
        (safetensors.numpy.save({"w": np.ones(3)}, {"nabi": "1"}), "a safetensors file, but not one that nabi wrote"),
        (safetensors.numpy.save({}), "a safetensors file, but not one that nabi wrote"),
    ],
)
def test_other_files_are_named(tmp_path, content, says):
    path = tmp_path / "model"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=says) as caught:
        container.read(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_no_file_folder_and_no_permission(tmp_path):
    with pytest.raises(ModelFileError, match="absent: no such file"):
        container.read(tmp_path / "absent")
    with pytest.raises(ModelFileError, match="a folder or device, not a model file"):
        container.read(tmp_path)
    if os.name == "posix":
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(ModelFileError, match="a folder or device, not a model file"):
            container.read(tmp_path / "pipe")


def test_an_unreadable_file(tmp_path, monkeypatch):
    container.write(tmp_path / "model", {}, {})

    def refuse(self, mode):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ModelFileError, match="model: cannot be read: Permission denied"):
        container.read(tmp_path / "model")


def test_a_newer_format_is_told_from_damage(tmp_path, monkeypatch):
    monkeypatch.setattr(container, "FORMAT_VERSION", 2)
    container.write(tmp_path / "model", {"w": np.ones(2)}, {})
    monkeypatch.undo()
    with pytest.raises(ModelFileError, match="format version 2, and this nabi reads version 1"):
        container.read(tmp_path / "model")


# Files are replaced whole or not at all.


def failing(monkeypatch, where, number):
    """Make one step of replacing a file fail."""

    def fail(*arguments, **keywords):
        raise OSError(number, os.strerror(number))

    if where == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    elif where == "rename":
        monkeypatch.setattr(Path, "replace", fail)
    elif where in ("write", "flush"):
        real_open = Path.open

        def open_failing(self, mode="r", **keywords):
            file = real_open(self, mode, **keywords)
            if "x" not in mode:
                return file

            class Full(io.BufferedWriter):
                pass

            setattr(Full, where, fail)
            if where == "flush":  # what is closed is flushed: only the call of ours is to fail
                Full.close = lambda self: self.raw.close()
            return Full(file.detach())

        monkeypatch.setattr(Path, "open", open_failing)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("where", ["write", "flush", "fsync", "rename"])
@pytest.mark.parametrize("there_before", [True, False])
def test_a_failing_disk_leaves_the_old_file(tmp_path, monkeypatch, where, number, there_before):
    path = tmp_path / "model.safetensors"
    if there_before:
        container.write(path, {"w": np.arange(3.0)}, {"state": "old"})
    before = path.read_bytes() if there_before else None
    failing(monkeypatch, where, number)
    with pytest.raises(OSError, match=r"model\.safetensors") as caught:
        container.write(path, {"w": np.arange(4.0)}, {"state": "new"})
    monkeypatch.undo()
    assert caught.value.errno == number
    assert caught.value.filename == str(path)
    if there_before:
        assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.safetensors"] * there_before


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("half way"), OSError("not about this file")])
def test_an_exception_in_the_body_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "history.csv"
    path.write_bytes(b"old")

    def stop_half_way():
        with container.replace_file(path) as file:
            file.write(b"new")
            raise error

    with pytest.raises(type(error)):
        stop_half_way()
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_errors_about_other_files_keep_their_name(tmp_path):
    with pytest.raises(FileNotFoundError, match="elsewhere"), container.replace_file(tmp_path / "file"):
        (tmp_path / "elsewhere").read_bytes()


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, container.replace_file(tmp_path / "absent" / "file"):
        pass
    assert caught.value.filename == str(tmp_path / "absent" / "file")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_read_only_folder(tmp_path):
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(PermissionError) as caught, container.replace_file(tmp_path / "file"):
            pass
    finally:
        tmp_path.chmod(0o755)
    assert caught.value.filename == str(tmp_path / "file")


@pytest.mark.skipif(os.name != "posix", reason="links and permission bits of POSIX")
def test_links_and_permissions_stay(tmp_path):
    path, link = tmp_path / "file", tmp_path / "link"
    path.write_bytes(b"old")
    path.chmod(0o640)
    link.symlink_to(path)
    with container.replace_file(link) as file:
        file.write(b"new")
    assert link.is_symlink()
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO])
def test_a_folder_that_cannot_be_synced(tmp_path, monkeypatch, number):
    real_fsync = os.fsync

    def fsync(descriptor):
        if os.path.isdir(f"/dev/fd/{descriptor}"):  # noqa: PTH112
            raise OSError(number, os.strerror(number))
        real_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    if number == errno.EINVAL:
        with container.replace_file(tmp_path / "file") as file:
            file.write(b"new")
    else:
        with pytest.raises(OSError, match="file"), container.replace_file(tmp_path / "file") as file:
            file.write(b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


def test_names_as_long_as_a_file_system_takes(tmp_path):
    path = tmp_path / ("n" * 255)
    with container.replace_file(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_a_killed_process_leaves_a_whole_file(tmp_path):
    """One process rewrites a file without pause, and is killed at 20 moments: the file always reads as valid."""
    path = tmp_path / "model.safetensors"
    script = textwrap.dedent("""
        import itertools, sys
        import numpy as np
        from nabi import container
        for number in itertools.count():
            container.write(sys.argv[1], {"w": np.full(50_000, number, np.int64)}, {"number": number})
            print(number, flush=True)
    """)
    moments = random.Random(0)
    for _ in range(20):
        process = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(moments.uniform(0, 0.02))
        process.send_signal(signal.SIGKILL)
        process.stdout.close()
        process.wait()
        arrays, header = container.read(path)
        assert (arrays["w"] == header["number"]).all()
    assert len(list(tmp_path.iterdir())) > 1, "no kill came in the middle of a file, so this showed nothing"


def test_importing_costs_only_numpy():
    code = "import sys, nabi.container; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    third_party = set(loaded) - set(sys.stdlib_module_names)
    assert {name for name in third_party if not name.startswith("_")} - {"numpy", "nabi", "sitecustomize"} == set()
