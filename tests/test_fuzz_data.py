"""Damaged and hostile files thrown at the loaders.

Whatever is in a file: only nabi's own errors come out, each of one line; memory and time stay bounded; nothing is
written but in the cache, no program is started, nothing is fetched.

``--long`` (or ``NABI_FUZZ``) multiplies the examples.
"""

import gzip
import itertools
import lzma
import os
import shutil
import sys
import time
import tracemalloc
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from fuzzing import examples
from made_files import cifar_tree, encoded, idx, idx_pair, pets, pixels, python2, tar, zipped
from nabi import cache, data
from nabi.data.decode import decode
from nabi.data.idx import read_idx
from nabi.data.unpickle import unpickle
from nabi.errors import DataError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="measures memory as Linux counts it")


def fuzz(count):
    return settings(
        max_examples=examples(count),
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    )


# --- mutations

NUMBERS = [0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 10**12, 2**63 - 1, 2**64 - 1]
places = st.floats(0, 1, exclude_max=True)
pieces = st.one_of(
    st.binary(min_size=1, max_size=8),
    st.builds(
        lambda number, width, order: (number % 256**width).to_bytes(width, order),
        st.sampled_from(NUMBERS),
        st.sampled_from([1, 2, 4, 8]),
        st.sampled_from(["big", "little"]),
    ),
)
changes = st.lists(
    st.tuples(st.sampled_from(["flip", "put", "insert", "cut", "end", "repeat"]), places, places, pieces),
    min_size=1,
    max_size=6,
)


def mutated(content, steps):
    """The content after some changes, each at a place that is a fraction of its length."""
    for kind, first, second, piece in steps:
        at = int(first * len(content))
        to = at + int(second**4 * (len(content) - at))  # mostly short
        if kind == "flip" and content:
            content = content[:at] + bytes([content[at] ^ (1 << piece[0] % 8)]) + content[at + 1 :]
        elif kind == "put":
            content = content[:at] + piece + content[at + len(piece) :]
        elif kind == "insert":
            content = content[:at] + piece + content[at:]
        elif kind == "cut":
            content = content[:at] + content[to:]
        elif kind == "end":
            content = content[:at]
        elif kind == "repeat":
            content = content[:at] + content[at:to] * (1 + piece[0] % 4) + content[to:]
    return content


# --- what must hold


class Watch:
    """Hears what Python does: files opened to write, programs started, connections made."""

    def __init__(self):
        self.allowed = ""
        self.active = False
        self.seen = []
        sys.addaudithook(self.hear)

    def hear(self, event, arguments):
        if not self.active:
            return
        if event == "open":
            path, _, flags = arguments
            written = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if written and not (isinstance(path, (str, bytes, Path)) and os.fsdecode(path).startswith(self.allowed)):
                self.seen.append((event, arguments))
        elif event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.chmod"):
            if not os.fsdecode(arguments[0] if event != "os.symlink" else arguments[1]).startswith(self.allowed):
                self.seen.append((event, arguments))
        elif event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect"):
            self.seen.append((event, arguments))


WATCH = Watch()


@pytest.fixture
def arena(tmp_path, monkeypatch):
    """A function that writes a file under a new name; only the cache may be written to by nabi."""
    monkeypatch.setenv("NABI_CACHE", str(tmp_path / "cache"))
    WATCH.allowed = str(tmp_path / "cache")
    numbers = itertools.count()
    (tmp_path / "files").mkdir()

    def write(name, content):
        number = next(numbers)
        if number % 100 == 99:
            cache.clear()
        if number >= 10:  # a pair of files may be in use; ten thousand folders would take minutes to remove
            shutil.rmtree(tmp_path / "files" / str(number - 10))
        folder = tmp_path / "files" / str(number)
        folder.mkdir()
        (folder / name).write_bytes(content)
        return folder / name

    cache.private_folder("pictures")
    yield write
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "files"}


def resident(field):
    """``"VmRSS"``: the memory of the process, C libraries included, or ``"VmHWM"``: the most since it was forgotten."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


@contextmanager
def bounded_memory(limit):
    """What the process takes at its peak, whoever takes it, is less than ``limit`` bytes more than before."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the earlier peak
    before = resident("VmRSS")
    yield
    assert resident("VmHWM") - before < limit


@contextmanager
def only_documented_errors(memory=None):
    """Only :class:`DataError` of one line; what Python allocates stays under ``memory`` bytes."""
    message = "none"
    if memory is not None:
        tracemalloc.start()
    WATCH.active = True
    started = time.process_time()
    try:
        yield
    except DataError as error:
        message = str(error)
    finally:
        WATCH.active = False
        taken = time.process_time() - started
        if memory is not None:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
    assert message
    assert "\n" not in message
    assert WATCH.seen == []
    assert taken < 10  # seconds of the processor, so that a busy machine is no failure
    if memory is not None:
        assert peak < memory


def check(found):
    assert found.train.images.dtype == np.uint8
    assert all("\n" not in reason for _, reason in found.skipped)


# --- the loaders

IDX = idx(pixels(0, 3, 20, 1).reshape(3, 5, 4))


@fuzz(200)
@given(changes, st.booleans(), st.booleans())
def test_idx(arena, steps, packed, inside):
    if inside:
        content = mutated(IDX, steps)
        content = gzip.compress(content, 1) if packed else content
    else:
        content = mutated(gzip.compress(IDX, 1) if packed else IDX, steps)
    path = arena("x", content)
    with only_documented_errors(8 << 20):
        assert read_idx(path).dtype == np.uint8


PAIR = idx_pair(4)


@fuzz(100)
@given(changes, st.sampled_from(sorted(PAIR)))
def test_a_pair_of_idx_files(arena, steps, changed):
    for name, content in PAIR.items():
        if name == changed:
            content = gzip.compress(mutated(gzip.decompress(content), steps), 1)
        path = arena(name, content)
        if name == changed:
            folder = path.parent
    for name, content in PAIR.items():
        if name != changed:
            (folder / name).write_bytes(content)
    with only_documented_errors(8 << 20):
        check(data.load(folder))


CIFAR = {form: cifar_tree(2, form) for form in ("binary", "python", "python2")}


@fuzz(250)
@given(changes, st.sampled_from(sorted(CIFAR)), st.integers(0, 6))
def test_cifar(arena, steps, form, number):
    tree = dict(CIFAR[form])
    name = sorted(tree)[number]
    tree[name] = mutated(tree[name], steps)
    path = arena("x.tar", tar(tree))
    with only_documented_errors(16 << 20):
        check(data.load(path))


PICKLES = [python2({b"data": np.arange(12, dtype=np.uint8).reshape(3, 4), b"labels": [1, 2, 3]})]
PICKLES.append(PICKLES[0].replace(b"numpy.core", b"numpy._core"))
PICKLES.append(b"\x80\x02}c_codecs\nencode\nX\x01\0\0\0aX\x06\0\0\0latin1\x86R]K\x01as.")
OPCODES = st.sampled_from(
    [bytes([code]) for code in range(256)]
    + [b"cnumpy.core.multiarray\n_reconstruct\n", b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"c_codecs\nencode\n"]
    + [b"U\x02u1", b"U\x01b", b"K\x00", b"K\x01", b"(", b"t", b"R", b"b", b"}", b"]", b"s", b"u", b"e", b"\x85"]
    + [b"X\x06\0\0\0latin1", b"cbuiltins\neval\n", b"cos\nsystem\n", b"J\xff\xff\xff\x7f", b"r\xff\xff\xff\x7f"]
)


@fuzz(250)
@given(
    st.one_of(
        st.builds(mutated, st.sampled_from(PICKLES), changes),
        st.lists(OPCODES, max_size=25).map(lambda codes: b"\x80\x02" + b"".join(codes) + b"."),
    )
)
@example(b"\x80\x02}r\xff\xff\xff\x7f.")
@example(b"\x80\x02\x96\xff\xff\xff\xff\xff\xff\xff\x7f.")
@example(b"\x80\x02T\xff\xff\xff\x7f.")
@example(b"\x80\x02X\xff\xff\xff\xff.")
@example(b"\x80\x02cn\\mpy\ndtype\n.")  # of which pickletools warns
def test_pickles(content):
    with only_documented_errors(4 << 20):
        assert isinstance(unpickle(content, "x"), dict)


def _pictures():
    picture = pixels(1, 9, 11)
    grey16 = Image.fromarray((pixels(2, 9, 11, 1)[..., 0].astype(np.uint16) * 257).astype(np.uint16))
    exif = Image.Exif()
    exif[274] = 6
    made = [
        encoded(picture, "JPEG"),
        encoded(picture, "JPEG", exif=exif, progressive=True),
        encoded(Image.fromarray(picture).convert("CMYK"), "JPEG"),
        encoded(picture, "PNG"),
        encoded(grey16, "PNG", transparency=257),
        encoded(Image.fromarray(picture).convert("RGBA"), "PNG"),
        encoded(Image.fromarray(picture).quantize(16), "PNG", transparency=3),
        encoded(Image.fromarray(picture).quantize(16), "GIF", transparency=3),
        encoded(picture, "BMP"),
        encoded(picture, "PPM"),
        encoded(picture, "TIFF", compression="tiff_lzw"),
        encoded(grey16, "TIFF"),
    ]
    if "WEBP" in Image.SAVE:
        made.append(encoded(picture, "WEBP"))
    return made


PICTURES = _pictures()


@fuzz(400)
@given(st.sampled_from(range(len(PICTURES))), changes)
def test_pictures(number, steps):
    content = mutated(PICTURES[number], steps)
    with bounded_memory(400 << 20), only_documented_errors():
        picture = decode(content, "x")
        assert picture.dtype == np.uint8
        assert picture.ndim == 3
        assert picture.shape[2] == 3


ARCHIVES = {
    "tar": tar(pets()),
    "zip": zipped(pets()),
    "pax": tar({"train/" + "고양이" * 40 + "/1.png": encoded(pixels(1)), "train/b/2.png": b""}),
}
PACKERS = {
    "": bytes,
    "gz": lambda content: gzip.compress(content, 1),
    "xz": lambda content: lzma.compress(content, preset=0),
}


@fuzz(300)
@given(st.sampled_from(sorted(ARCHIVES)), st.sampled_from(sorted(PACKERS)), changes, st.booleans())
def test_archives(arena, kind, packer, steps, inside):
    pack = PACKERS[packer]
    content = pack(mutated(ARCHIVES[kind], steps)) if inside else mutated(pack(ARCHIVES[kind]), steps)
    path = arena("x", content)
    with only_documented_errors(48 << 20):
        check(data.load(path))


STARTS = [
    b"",
    b"\x1f\x8b\x08",
    b"\xfd7zXZ\0",
    b"PK\x03\x04",
    b"PK\x05\x06",
    b"\0\0\x08\x03",
    b"\x80\x02}",
    b"\x89PNG\r\n\x1a\n",
]


@fuzz(100)
@given(st.sampled_from(STARTS), st.binary(max_size=600), st.sampled_from(["x", "train-images-idx3-ubyte", "x.tar.gz"]))
def test_anything(arena, start, rest, name):
    path = arena(name, start + rest)
    with only_documented_errors(24 << 20):
        check(data.load(path))


def test_the_watch_hears(tmp_path):
    """The tests above would pass with a deaf watch."""
    WATCH.allowed, WATCH.active = str(tmp_path / "cache"), True
    try:
        (tmp_path / "outside").write_bytes(b"x")
        (tmp_path / "folder").mkdir()
        os.system("true")
    finally:
        WATCH.active = False
    heard = [event for event, _ in WATCH.seen]
    WATCH.seen.clear()
    assert heard == ["open", "os.mkdir", "os.system"]


def test_the_errors_are_watched():
    with pytest.raises(KeyError), only_documented_errors():
        raise KeyError("x")
    with pytest.raises(AssertionError), only_documented_errors():
        raise DataError("two\nlines")
    with pytest.raises(AssertionError), only_documented_errors(1 << 20):
        bytes(2 << 20)
    with pytest.raises(AssertionError), bounded_memory(64 << 20):
        np.ones(128 << 20, np.uint8).sum()
    with bounded_memory(64 << 20):
        np.ones(16 << 20, np.uint8).sum()
