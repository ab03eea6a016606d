"""Folders and archives made to harm: every command names what it skips, goes on, never leaves the folder, never hangs.

A fork that takes longer than a minute is ended, and so is one that opens what lies outside (see `forks`).
"""

import contextlib
import io
import json
import os
import socket
import stat
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from forks import HANGS, Forks
from made_files import encoded, pixels, write_tree
from nabi import container

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="files of every kind as Linux has them")

QUICK = ["--model", "linear", "--epochs", "2", "--batch-size", "8"]


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    with Forks() as made:
        yield made


def shade(number: int, low: int) -> bytes:
    return encoded((pixels(number) // 2 + low).astype(np.uint8))


# What there is to learn from, in each of the folders and archives below.
GOOD = {
    f"{label}/{number}.png": shade(number, low) for label, low in (("dark", 0), ("light", 100)) for number in range(9)
}
DEEP = "/".join(["d"] * 300)
STRANGE = {
    "dark/copy.png": GOOD["dark/0.png"],  # in the hostile folder a link, which stays inside
    f"dark/{DEEP}/1.png": shade(20, 0),
    os.fsdecode(b"light/\xff.png"): shade(21, 100),
    "light/new\nline \x1b[31m.png": shade(22, 100),
    "light/-rf.png": shade(23, 100),
}


def bomb(side: int) -> bytes:
    """A PNG of a few bytes that says it has side² pixels, all black."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((side // 8 + 1) * side), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


JPEG = encoded(pixels(0, 64, 64), "JPEG")
BAD = {
    "README.txt": (b"beside the classes", "not in a class folder"),
    "dark/broken.png": (b"\x89PNG\r\n\x1a\n and no more", "cut short: begins as a PNG, but its end is missing"),
    "dark/cut.png": (GOOD["dark/0.png"][:-60], "cut short: begins as a PNG, but its end is missing"),
    "dark/cut.jpg": (JPEG[: len(JPEG) // 2], "cut short: begins as a JPEG, but its end is missing"),
    "dark/empty.png": (b"", "an empty file"),
    "dark/zeros.jpg": (bytes(10_000), "not a picture of a known format"),
    "dark/bomb.png": (bomb(13_000), "13000x13000 is too large for a file of "),
    "dark/Thumbs.db": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "not a picture of a known format"),
    "dark/page.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture but SVG, a drawing: save it as PNG"),
    "dark/print.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture of a known format"),
    os.fsdecode(b"dark/\xfe.png"): (b"no", "not a picture of a known format"),
    "dark/two\nlines \x1b[31m\r.png": (b"no", "not a picture of a known format"),
}
HIDDEN = {"dark/.DS_Store": b"no", "dark/.hidden.png": GOOD["light/0.png"], ".git/light/1.png": GOOD["light/0.png"]}


@pytest.fixture(scope="module")
def expected(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The weights that the good files give."""
    home = tmp_path_factory.mktemp("good")
    write_tree(home / "data", GOOD | STRANGE)
    ended = forks.run(["train", "data", *QUICK, "--out", "run"], home)
    assert (ended.code, ended.err) == (0, "")
    return weights(home / "run")


@pytest.fixture(scope="module")
def model(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> str:
    home = tmp_path_factory.mktemp("model")
    write_tree(home / "good", GOOD)
    assert forks.run(["train", "good", *QUICK, "--out", "run"], home, figures=False).code == 0
    return str(home / "run" / "model.safetensors")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """The folder, beside one called ``outside``; and what in it is to be skipped, for which reason."""
    home = tmp_path_factory.mktemp("hostile")
    data = home / "data"
    content = GOOD | STRANGE | HIDDEN | {name: content for name, (content, _) in BAD.items()}
    del content["dark/copy.png"]
    write_tree(data, content)
    write_tree(home, {"outside/secret.png": GOOD["light/1.png"], "outside/light/2.png": GOOD["light/1.png"]})
    skipped = {name: reason for name, (_, reason) in BAD.items()}
    dark = data / "dark"
    (dark / "copy.png").symlink_to("0.png")
    for name, target, reason in (
        ("absolute.png", home / "outside/secret.png", "a link that leads outside the folder"),
        ("climbing.png", "../../outside/secret.png", "a link that leads outside the folder"),
        ("system.png", "/etc/passwd", "a link that leads outside the folder"),
        ("zero.png", "/dev/zero", "a link that leads outside the folder"),
        ("folder", home / "outside", "a link that leads outside the folder"),
        ("above", "../..", "a link that leads outside the folder"),
        ("round", ".", "a link to a folder"),
        ("nowhere.png", "nothing", "no such file or directory"),
        ("self.png", "self.png", ""),  # in words that differ between versions
        ("there.png", "back.png", ""),
        ("back.png", "there.png", ""),
    ):
        (dark / name).symlink_to(target)
        skipped[f"dark/{name}"] = reason
    (data / "class").symlink_to(home / "outside")
    skipped["class"] = "a link that leads outside the folder"
    os.mkfifo(dark / "pipe.png")
    skipped["dark/pipe.png"] = "not a regular file"
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(dark)  # a socket's path is short
        try:
            server.bind("socket.png")
        finally:
            os.chdir(here)
    skipped["dark/socket.png"] = "not a regular file"
    try:
        os.mknod(dark / "device.png", stat.S_IFCHR | 0o666, os.makedev(1, 5))  # /dev/zero
        skipped["dark/device.png"] = "not a regular file"
    except PermissionError:
        pass
    (dark / "locked.png").write_bytes(GOOD["dark/1.png"])
    (dark / "locked.png").chmod(0)
    skipped["dark/locked.png"] = "permission denied"
    (dark / "endless.png").touch()
    os.truncate(dark / "endless.png", 1 << 40)  # all of it a hole
    skipped["dark/endless.png"] = "larger than 256 MiB"
    (dark / "room").mkdir(mode=0)
    skipped["dark/room/"] = "permission denied"
    too_deep = dig(data / "light", 30)
    skipped[f"light/{too_deep}/"] = "file name too long"
    yield data, skipped
    (dark / "room").chmod(0o700)  # whoever removes it all need not be root


def dig(folder: Path, levels: int) -> str:
    """Folders in folders of long names: the first whose path is longer than the system takes."""
    name = "n" * 200
    here = os.open(folder, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    path = name
    while len(os.fsencode(folder / path)) < 4096:
        path += f"/{name}"
    return path


def weights(run: Path) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in container.read(run / "model.safetensors")[0].items()}


def check_named(said: str, skipped: dict[str, str], prefix: str = "") -> None:
    """Each skipped file is named on a line of its own, once, with the reason."""
    lines = said.splitlines()
    assert len(lines) == len(skipped), said
    for name, reason in skipped.items():
        shown = name.encode("utf-8", "backslashreplace").decode()
        for letter in "\n\r\x1b":
            shown = shown.replace(letter, letter.encode("unicode_escape").decode())
        found = [line for line in lines if line.startswith(f"nabi: skipped {prefix}{shown}: {reason}")]
        assert len(found) == 1, (name, reason, said)
    assert all(letter.isprintable() for letter in said.replace("\n", ""))


def everything(home: Path) -> dict[str, tuple[int, int]]:
    """All that lies in a folder, as far as its paths can be said."""
    found = {}
    for folder, folders, files in os.walk(home):
        for path in (Path(folder, name) for name in folders + files):
            with contextlib.suppress(OSError):
                found[str(path)] = (path.lstat().st_mode, path.lstat().st_mtime_ns)
    return found


def test_training_names_what_it_skips_and_goes_on(forks: Forks, hostile, expected, tmp_path: Path) -> None:
    """The second time from the cache, to which a file that could not be read must not have gone as one that cannot."""
    data, skipped = hostile
    before = everything(data.parent)
    guarded = {"ordinary": True, "closed": str(data.parent / "outside"), "figures": False}
    for number in range(2):
        ended = forks.run(["train", str(data), *QUICK, "--out", f"run-{number}"], tmp_path, **guarded)
        assert ended.code == 0, ended
        check_named(ended.err, skipped)
        assert "\x1b" not in ended.out
        assert weights(tmp_path / f"run-{number}") == expected
    assert everything(data.parent) == before


def test_strict_training_stops_at_what_it_would_skip(forks: Forks, hostile, tmp_path: Path) -> None:
    data, skipped = hostile
    ended = forks.run(["train", str(data), *QUICK, "--strict", "--out", "run"], tmp_path, ordinary=True)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == (
        f"nabi: {data}: of {len(skipped)} files to skip the first is README.txt: not in a class folder\n"
    )
    assert not (tmp_path / "run").exists()
    write_tree(tmp_path / "good", GOOD)
    assert forks.run(["train", "good", *QUICK, "--strict", "--out", "run"], tmp_path).code == 0


def test_predicting_and_measuring_skip_the_same(forks: Forks, model: str, hostile, tmp_path: Path) -> None:
    data, skipped = hostile
    guarded = {"ordinary": True, "closed": str(data.parent / "outside")}
    ended = forks.run(["predict", model, str(data), "--json"], tmp_path, **guarded)
    assert ended.code == 0
    of_no_class = {"README.txt": "not a picture of a known format"}
    check_named(ended.err, {name.rstrip("/"): why for name, why in (skipped | of_no_class).items()}, f"{data}/")
    answered = {os.path.relpath(answer["path"], data) for answer in json.loads(ended.out)}
    assert answered == {*GOOD, *STRANGE}
    ended = forks.run(["evaluate", model, str(data), "--split", "all"], tmp_path, **guarded)
    assert ended.code == 0
    check_named(ended.err, skipped)
    assert f": {len(GOOD | STRANGE):,} of {len(GOOD | STRANGE):,} right" in ended.out


@pytest.mark.parametrize("name", ["pipe.png", "socket.png", "self.png", "locked.png", "room", "empty.png", "bomb.png"])
def test_what_is_no_picture_given_by_itself(name: str, forks: Forks, model: str, hostile, tmp_path: Path) -> None:
    """And what is no model and no data set."""
    data, _ = hostile
    path = str(data / "dark" / name)
    write_tree(tmp_path / "good", GOOD)
    for command in (
        ["predict", model, path],
        ["predict", path, "good"],
        ["evaluate", model, path],
        ["evaluate", path, "good"],
        ["train", path, *QUICK],
        ["train", "good", *QUICK, "--out", path],
    ):
        ended = forks.run(command, tmp_path, ordinary=True)
        assert (ended.code, ended.out) == (2, ""), (command, ended)
        *before, last = ended.err.splitlines()
        assert last.startswith("nabi: ")
        assert path in last, (command, ended)
        assert all(line.startswith(f"nabi: skipped {path}: ") for line in before)
    assert {path.name for path in tmp_path.iterdir()} - {"cache"} == {"good"}


def test_a_file_that_vanishes_is_skipped(forks: Forks, tmp_path: Path) -> None:
    write_tree(tmp_path / "data", GOOD)
    vanishing = "data/dark/8.png"
    ended = forks.run(["train", "data", *QUICK, "--backbone", "none", "--out", "run"], tmp_path, vanishing=vanishing)
    assert (ended.code, ended.err) == (0, "nabi: skipped dark/8.png: no such file or directory\n")
    assert forks.run(["train", "data", *QUICK, "--out", "again"], tmp_path).err == ""
    write_tree(tmp_path, {vanishing: GOOD["dark/8.png"]})
    ended = forks.run(["predict", "run/model.safetensors", "data"], tmp_path, vanishing=vanishing)
    assert (ended.code, ended.err) == (0, f"nabi: skipped {vanishing}: no such file or directory\n")


def test_a_file_that_becomes_a_link_is_not_followed(forks: Forks, tmp_path: Path) -> None:
    write_tree(tmp_path / "data", GOOD)
    train = ["train", "data", *QUICK, "--backbone", "none", "--out", "run"]
    ended = forks.run(train, tmp_path, vanishing="data/dark/8.png", becoming="../light/8.png")
    assert (ended.code, ended.err) == (0, "nabi: skipped dark/8.png: too many levels of symbolic links\n")


def test_a_file_that_can_be_read_again_is_read(forks: Forks, model: str, tmp_path: Path) -> None:
    """Its size and its time are as they were when it could not."""
    locked = write_tree(tmp_path / "data", GOOD) / "dark" / "1.png"
    train = ["train", "data", *QUICK, "--out"]
    locked.chmod(0)
    for number in range(2):
        ended = forks.run([*train, f"locked-{number}"], tmp_path, ordinary=True, figures=False)
        assert (ended.code, ended.err) == (0, "nabi: skipped dark/1.png: permission denied\n")
    locked.chmod(0o644)
    ended = forks.run([*train, "open"], tmp_path, ordinary=True)
    assert (ended.code, ended.err) == (0, "")
    assert weights(tmp_path / "open") == weights(Path(model).parent) != weights(tmp_path / "locked-0")


def test_classes_of_strange_names(forks: Forks, tmp_path: Path) -> None:
    names = ["-rf", "new\nline", "red \x1b[31m", "<b>&amp;", "밝은", "up∕..", "a" * 200]
    tree = {f"{name}/{n}.png": shade(n + 9 * k, 20 * k) for k, name in enumerate(names) for n in range(9)}
    write_tree(tmp_path / "data", tree)
    ended = forks.run(["train", "data", *QUICK, "--out", "run"], tmp_path)
    assert (ended.code, ended.err) == (0, "")
    for command in ("predict", "evaluate"):
        ended = forks.run([command, "run/model.safetensors", "data"], tmp_path)
        assert (ended.code, ended.err) == (0, "")
        assert all(letter.isprintable() for letter in ended.out.replace("\n", ""))
    assert {*json.loads((tmp_path / "run/metrics.json").read_text())["test_classes"]} == {*names}


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "data_batch_1.bin"])
def test_a_data_set_that_is_a_link_out(name: str, forks: Forks, tmp_path: Path) -> None:
    write_tree(tmp_path, {f"outside/{name}": b"secret"})
    data = write_tree(tmp_path / "data", {"batches.meta.txt": b"cat\ndog\n", "train-labels-idx1-ubyte": b""})
    (data / name).symlink_to(tmp_path / "outside" / name)
    if "idx" not in name:
        (data / "train-labels-idx1-ubyte").unlink()
    ended = forks.run(["train", "data", *QUICK], tmp_path, closed=str(tmp_path / "outside"))
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.endswith(f"{name}: a link that leads outside the folder\n")


# --- archives

Made = tuple[bytes, dict[str, str]]


def evil_tar(compression: str) -> Made:
    buffer, skipped = io.BytesIO(), {}
    with tarfile.open(fileobj=buffer, mode=f"w:{compression}", format=tarfile.GNU_FORMAT) as archive:

        def add(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, target: str = "") -> None:
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, target, len(content)
            member.mode = 0o6777
            archive.addfile(member, io.BytesIO(content))

        add("light/8.png", GOOD["dark/0.png"])  # and again below, as it should be
        skipped["light/8.png"] = "stands in the archive again, further on"
        ways = ["/", "../", "../../../", "./../", ""]
        for number, (name, content) in enumerate((GOOD | STRANGE).items()):
            add(ways[number % len(ways)] + name, content)
        for name, (content, reason) in BAD.items():
            add(name, content)
            skipped[name] = reason
        for name, content in HIDDEN.items():
            add(name, content)
        for name, kind, target in (
            ("soft.png", tarfile.SYMTYPE, "/etc/passwd"),
            ("climbing.png", tarfile.SYMTYPE, "../../outside/secret.png"),
            ("hard.png", tarfile.LNKTYPE, "/etc/passwd"),
            ("same.png", tarfile.LNKTYPE, "dark/0.png"),
            ("pipe.png", tarfile.FIFOTYPE, ""),
            ("zero.png", tarfile.CHRTYPE, ""),
            ("disk.png", tarfile.BLKTYPE, ""),
            ("holes.png", tarfile.GNUTYPE_SPARSE, ""),
            ("unknown.png", b"Z", ""),
        ):
            add(f"dark/{name}", kind=kind, target=target)
            skipped[f"dark/{name}"] = "not a regular file"
        add("light", kind=tarfile.SYMTYPE, target="/etc")  # as if what follows were to be written there
        skipped["light"] = "not in a class folder"
        add("light/passwd", b"root::0:0::/:/bin/sh\n")
        skipped["light/passwd"] = "not a picture of a known format"
    return buffer.getvalue(), skipped


UTF8 = str.maketrans("\udcfe\udcff", "힢힣")  # as all names in a zip are; these sort as those do


def evil_zip() -> Made:
    buffer, skipped = io.BytesIO(), {}
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:

        def add(name: str, content: bytes, mode: int = 0, packed: int = zipfile.ZIP_DEFLATED) -> None:
            member = zipfile.ZipInfo(name.translate(UTF8))
            member.external_attr = mode << 16
            archive.writestr(member, content, packed)

        ways = ["/", "../", "../../../", "./../", "..\\", ""]
        for number, (name, content) in enumerate((GOOD | STRANGE).items()):
            add(ways[number % len(ways)] + name, content)
        for name, (content, reason) in BAD.items():
            add(name, content)
            skipped[name.translate(UTF8)] = reason
        for name, content in HIDDEN.items():
            add(name, content)
        add("__MACOSX/dark/._0.png", b"no")
        for kind in ("LNK", "IFO", "CHR", "BLK", "SOCK"):
            add(f"dark/{kind}.png", b"/etc/passwd", getattr(stat, f"S_IF{kind}") | 0o777)
            skipped[f"dark/{kind}.png"] = "not a regular file"
        add("dark/bz2.png", GOOD["dark/0.png"], packed=zipfile.ZIP_BZIP2)
        skipped["dark/bz2.png"] = "packed in a way other than zip's usual one"
    return buffer.getvalue(), skipped


ARCHIVES: dict[str, Callable[[], Made]] = {
    "data.tar": lambda: evil_tar(""),
    "data.tar.gz": lambda: evil_tar("gz"),
    "data.tar.xz": lambda: evil_tar("xz"),
    "data.zip": evil_zip,
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_archives(name: str, forks: Forks, expected, tmp_path: Path) -> None:
    content, skipped = ARCHIVES[name]()
    write_tree(tmp_path, {f"home/{name}": content, "outside/secret.png": GOOD["light/1.png"]})
    home, before = tmp_path / "home", {*tmp_path.rglob("*")}
    ended = forks.run(["train", name, *QUICK, "--out", "run"], home, closed=str(tmp_path / "outside"), figures=False)
    assert ended.code == 0, ended
    check_named(ended.err, skipped)
    assert weights(home / "run") == expected
    new = {path.relative_to(home).parts[0] for path in {*tmp_path.rglob("*")} - before}
    assert new == {"run", "cache"}
    ended = forks.run(["train", name, *QUICK, "--strict", "--out", "strict"], home)
    assert ended.code == 2
    assert ended.err.startswith(f"nabi: {home}/{name}: of {len(skipped)} files to skip the first is README.txt: ")
    ended = forks.run(["evaluate", "run/model.safetensors", name, "--split", "all"], home)
    assert ended.code == 0
    check_named(ended.err, skipped)


def test_the_command_itself_with_its_threads(hostile, expected, tmp_path: Path) -> None:
    """Not a fork: several threads decode at once. What only root may read it may read here, if root runs it."""
    data, _ = hostile
    command = [sys.executable, "-m", "nabi", "train", str(data), *QUICK, "--strict"]
    environment = os.environ | {"NABI_NUM_THREADS": "3", "NABI_CACHE": str(tmp_path / "cache")}
    ended = subprocess.run(command, env=environment, cwd=tmp_path, timeout=HANGS, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"nabi: {data}: of ")
    assert not (tmp_path / "runs").exists()
