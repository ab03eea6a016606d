"""A disk that is full or fails: one line and exit code 2, every file old or new but whole, and a run to go on with."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from forks import RESULTS, Ended, Forks, in_parallel, results, write_shades
from nabi import container

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc and limits as Linux has them")

TINY = ["--model", "linear", "--batch-size", "8", "--epochs", "1", "--out", "run", "--resume"]


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    with Forks() as made:
        yield made


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return ["train", str(write_shades(tmp_path_factory.mktemp("data"))), *TINY]


@pytest.fixture(scope="module")
def expected(forks: Forks, train: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What comes out of a run on a good disk."""
    home = tmp_path_factory.mktemp("good")
    assert forks.run(train, home).code == 0
    return results(home / "run")


def check_whole(home: Path, ended: Ended) -> None:
    """After a fault: one line and the code for it, or success; and what bears a name is whole."""
    if ended.code:
        assert ended.code == 2, ended
        assert ended.err.startswith("nabi: "), ended
        assert len(ended.err.splitlines()) == 1, ended
    run = home / "run"
    assert "all in run" not in ended.out or (run / "metrics.json").exists(), ended
    names = {path.name for path in run.iterdir()} if run.exists() else set()
    assert names <= RESULTS | {"checkpoint"}, names
    for name in names & {"model.safetensors", "checkpoint"}:
        container.read(run / name)
    for name in names & {"run.json", "metrics.json"}:
        json.loads((run / name).read_text())


def check_to_the_end(forks: Forks, train: list[str], home: Path, expected: dict[str, Any]) -> None:
    """On a good disk the run goes on to the same bits."""
    assert forks.run(train, home, figures=False).code == 0
    assert results(home / "run") == expected


def test_any_call_that_changes_a_file_may_fail(forks: Forks, train, expected, tmp_path: Path) -> None:
    calls = forks.run(train, tmp_path / "all", act="list", figures=False).err.splitlines()

    def check(number: int) -> None:
        home = tmp_path / str(number)
        ended = forks.run(train, home, act="fail", at=number, figures=False)
        check_whole(home, ended)
        if ended.code == 0:
            assert results(home / "run") == expected, calls[number - 1]
        check_to_the_end(forks, train, home, expected)
        shutil.rmtree(home)

    in_parallel(check, range(1, len(calls) + 1))


def test_a_disk_that_fills_up_leaves_the_files_that_were_there(forks: Forks, train, expected, tmp_path: Path) -> None:
    """Of a run that was killed before its last file, and goes on: it would write all but the first anew."""
    killed = tmp_path / "killed"
    kill_before(forks, train, killed, "metrics.json")
    there = {path.name for path in (killed / "run").iterdir() if not path.name.startswith(".")}
    assert there == RESULTS - {"metrics.json"} | {"checkpoint"}
    shutil.copytree(killed, tmp_path / "all")
    calls = forks.run(train, tmp_path / "all", act="list", figures=False).err.splitlines()
    needing_room = [number for number, call in enumerate(calls, 1) if call.split()[1] in ("open", "write", "mkdir")]

    def check(number: int) -> None:
        home = tmp_path / str(number)
        shutil.copytree(killed, home)
        ended = forks.run(train, home, act="full", at=number, figures=False)
        assert ended.code == 2, (calls[number - 1], ended)
        check_whole(home, ended)
        assert {path.name for path in (home / "run").iterdir()} == there
        assert weights(home) == expected["weights"]
        check_to_the_end(forks, train, home, expected)
        shutil.rmtree(home)

    in_parallel(check, needing_room)


def kill_before(forks: Forks, train: list[str], home: Path, name: str) -> None:
    """Have a run killed before it has put a file in its place."""
    calls = forks.run(train, home.with_name("listed"), act="list", figures=False).err.splitlines()
    at = next(number for number, call in enumerate(calls, 1) if "rename" in call and call.endswith(f"/run/{name}"))
    assert forks.run(train, home, act="kill", at=at, figures=False).code == -signal.SIGKILL


def weights(home: Path) -> dict[str, Any]:
    arrays, _ = container.read(home / "run" / "model.safetensors")
    return {name: (array.dtype.str, array.shape, array.tobytes()) for name, array in arrays.items()}


def test_event_files_of_tensorboard_that_cannot_be_written(forks: Forks, train, tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    train = [*train, "--tensorboard"]
    calls = forks.run(train, tmp_path / "all", act="list", figures=False).err.splitlines()
    at = next(number for number, call in enumerate(calls, 1) if "write" in call and "tfevents" in call)
    ended = forks.run(train, tmp_path / "fail", act="fail", at=at, figures=False)
    assert (ended.code, ended.err) == (2, "nabi: run: Input/output error\n")


# --- limits of the system itself, with nothing played


def test_files_that_may_not_be_long(forks: Forks, train, expected, tmp_path: Path) -> None:
    """The system ends each file at a limit, as it ends all at once where a disk is full."""
    failed = []
    for largest in (1000, 5000, 12_000, 10**6):
        home = tmp_path / str(largest)
        ended = forks.run(train, home, largest=largest)
        check_whole(home, ended)
        failed += [ended.err.partition(": ")[2].partition(": ")[0]] if ended.code else []
        check_to_the_end(forks, train, home, expected)
    assert ended.code == 0
    # The cache of decoded pictures is one of them, but does without: the pictures are decoded again.
    assert {Path(path).name for path in failed} == {"checkpoint", "curves.svg"}


@pytest.mark.parametrize("size", [8, 16, 32])
def test_a_small_disk(size: int, forks: Forks, train, expected, tmp_path: Path) -> None:
    """A file system of so many KiB in memory, where the system lets us have one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "nabi", disk], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        ended = forks.run([*train, "--out", str(disk / "run")], tmp_path / "home")
        assert ended.code == 2
        assert re.fullmatch(rf"nabi: {disk}/run/[a-z.-]+: No space left on device\n", ended.err)
        check_whole(disk, ended)
        subprocess.run(["mount", "-o", "remount,size=1m", disk], check=True)
        check_to_the_end(forks, [*train, "--out", str(disk / "run")], disk, expected)
    finally:
        subprocess.run(["umount", disk], check=True)


def test_output_that_nobody_can_store(forks: Forks, train, expected, tmp_path: Path) -> None:
    """As in ``nabi train > log`` on a full disk."""
    ended = forks.run(train, tmp_path, out="/dev/full")
    assert (ended.code, ended.err) == (2, "nabi: standard output: No space left on device\n")
    ended = forks.run(["train", "nowhere"], tmp_path, err="/dev/full")
    assert (ended.code, ended.out) == (2, "")
    check_to_the_end(forks, train, tmp_path, expected)


@pytest.mark.parametrize("buffered", ["", "1"])
def test_the_command_itself_says_that_its_output_is_lost(buffered: str) -> None:
    with Path("/dev/full").open("w") as full:
        run = subprocess.run(
            [sys.executable, "-m", "nabi", "--version"],
            env=os.environ | {"PYTHONUNBUFFERED": buffered}, stdout=full, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert (run.returncode, run.stderr) == (2, "nabi: standard output: No space left on device\n")


def test_warnings_that_nobody_can_store(forks: Forks, train, tmp_path: Path) -> None:
    data = shutil.copytree(train[1], tmp_path / "shades")
    (data / "dark" / "letter.txt").write_text("no picture")
    ended = forks.run(["train", str(data), *TINY], tmp_path, err="/dev/full")
    assert (ended.code, ended.err) == (2, "")
    assert "to train on" not in ended.out
    assert not (tmp_path / "run").exists()


# --- folders that may not be written to


def test_a_folder_that_is_read_only(forks: Forks, train, expected, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o555)
    ended = forks.run(train, tmp_path, ordinary=True)
    assert (ended.code, ended.err) == (2, "nabi: run/run.json: Permission denied\n")
    ended = forks.run([*train, "--out", "run/deeper"], tmp_path, ordinary=True)
    assert (ended.code, ended.err) == (2, "nabi: run/deeper: Permission denied\n")
    assert not list((tmp_path / "run").iterdir())
    (tmp_path / "run").chmod(0o755)
    check_to_the_end(forks, train, tmp_path, expected)


@pytest.mark.parametrize("name", ["checkpoint", "trained-on.npy", "model.safetensors", "curves.svg", "metrics.json"])
def test_a_folder_that_has_become_read_only(name: str, forks: Forks, train, expected, tmp_path: Path) -> None:
    home = tmp_path / "home"
    kill_before(forks, train, home, name)
    for half in (home / "run").glob(".nabi-*"):
        half.unlink()
    before = {path.name: path.read_bytes() for path in (home / "run").iterdir()}
    (home / "run").chmod(0o555)
    ended = forks.run(train, home, ordinary=True, figures=False)
    assert ended.code == 2
    assert re.fullmatch(r"nabi: run/[a-z.-]+: Permission denied\n", ended.err)
    assert {path.name: path.read_bytes() for path in (home / "run").iterdir()} == before
    (home / "run").chmod(0o755)
    check_to_the_end(forks, train, home, expected)


@pytest.mark.parametrize("mode", [0o555, 0o000])
def test_a_cache_that_is_closed_is_done_without(mode: int, forks: Forks, train, expected, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(mode)
    ended = forks.run(train, tmp_path, ordinary=True)
    (tmp_path / "cache").chmod(0o755)
    assert (ended.code, ended.err) == (0, "")
    assert results(tmp_path / "run") == expected
    assert not list((tmp_path / "cache").iterdir())
