"""A run that is killed, at any moment and as often as one likes, ends with the bits of one that was not."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from forks import HANGS, Forks, in_parallel, results, write_shades
from made_files import encoded, pixels

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="signals and /proc as Linux has them")

TINY = ["--model", "mlp", "--hidden", "8", "--batch-size", "8"]


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    with Forks() as made:
        yield made


@pytest.fixture(scope="module")
def shades(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_shades(tmp_path_factory.mktemp("data")))


def never_killed(forks: Forks, train: list[str], home: Path, **settings: Any) -> tuple[dict[str, Any], float]:
    """What comes out of a run that nothing happened to, and how many seconds it takes."""
    begun = time.monotonic()
    ended = forks.run([*train, "--out", "run"], home, **settings)
    assert (ended.code, ended.err) == (0, "")
    return results(home / "run"), time.monotonic() - begun


MODELS = {
    "mlp": [*TINY, "--epochs", "1"],
    "knn": ["--model", "knn"],
    "perceptron": ["--model", "perceptron", "--epochs", "2"],
    "convnet": ["--model", "convnet", "--epochs", "1"],
}


@pytest.mark.parametrize("model", ["mlp", *(pytest.param(name, marks=pytest.mark.long) for name in [*MODELS][1:])])
def test_a_run_killed_at_any_call_that_changes_a_file(model: str, forks: Forks, shades: str, tmp_path: Path) -> None:
    """Before each such call, or in the middle of it where it writes; the figures are of a few letters."""
    train = ["train", shades, *MODELS[model]]
    expected, _ = never_killed(forks, train, tmp_path / "never")
    train += ["--out", "run", "--resume"]
    calls = forks.run(train, tmp_path / "all", act="list", syncs=False, figures=False).err.splitlines()
    renamed = Counter(Path(call.split(maxsplit=2)[2]).name for call in calls if call.split()[1] == "rename")
    assert renamed.keys() >= expected["files"]
    if model == "mlp":
        assert renamed["checkpoint"] == 3  # after each of two steps, and at the end

    def check(number: int) -> None:
        home = tmp_path / str(number)
        ended = forks.run(train, home, at=number, act="kill", syncs=False, figures=False)
        assert ended.code == -signal.SIGKILL, (calls[number - 1], ended)
        ended = forks.run(train, home, figures=False)
        assert ended.code == 0, (calls[number - 1], ended)
        assert results(home / "run") == expected, calls[number - 1]
        shutil.rmtree(home)

    in_parallel(check, range(1, len(calls) + 1))


def test_what_killed_runs_left_in_the_cache_is_gone_a_day_later(forks: Forks, shades: str, tmp_path: Path) -> None:
    train = ["train", shades, *TINY, "--epochs", "1", "--out"]
    calls = forks.run([*train, "0"], tmp_path, act="list", syncs=False, figures=False).err.splitlines()
    half_way = next(n for n, call in enumerate(calls, 1) if "write" in call and call.endswith("images.npy"))
    for number in range(1, 3):
        shutil.rmtree(tmp_path / "cache")
        forks.run([*train, str(number)], tmp_path, act="kill", at=half_way, syncs=False, figures=False)
        (left,) = (tmp_path / "cache/pictures").glob(".new-*")
        yesterday = time.time() - number * 13 * 60 * 60
        for path in (left, *left.iterdir()):
            os.utime(path, (yesterday, yesterday))
        assert forks.run([*train, str(number)], tmp_path, figures=False).code == 0
        assert left.exists() == (number == 1)


def kill_at_random(forks: Forks, shades: str, home: Path, runs: int) -> None:
    """Runs that are killed up to three times each, anywhere, while somebody reads their files again and again."""
    train = ["train", shades, *TINY, "--epochs", "10"]
    never = [never_killed(forks, train, home / f"never-{number}", figures=False) for number in range(3)]
    expected, seconds = min(never, key=lambda one: one[1])
    home = home / "killed"
    watcher = forks.start(["watch"], home)
    (home / "picture.png").write_bytes(encoded(pixels(0)))
    killed = []

    def check(number: int) -> None:
        moments = random.Random(number)
        command = [*train, "--out", f"run-{number}", "--resume"]
        settings = {"cache": f"cache-{number}", "figures": False}
        for _ in range(moments.randint(1, 3)):
            pid = forks.start(command, home, **settings)
            time.sleep(moments.uniform(0, seconds))
            os.kill(pid, signal.SIGKILL)
            killed.append(forks.wait(pid).code == -signal.SIGKILL)
        ended = forks.run(command, home, **settings)
        assert (ended.code, ended.err) == (0, ""), number
        assert results(home / f"run-{number}") == expected, number

    try:
        in_parallel(check, range(runs))
    finally:
        (home / "stop").touch()
        watched = forks.wait(watcher)
    assert sum(killed) >= runs / 4, "most of the runs had ended before they were killed"
    assert (watched.code, watched.err) == (0, "")
    *wrong, last = watched.out.splitlines()
    assert wrong == []
    assert min(json.loads(last).values()) > 0, last
    print(f"{sum(killed)} of {len(killed)} processes were killed before their end, and whole files read: {last}")


def test_runs_killed_at_random_moments(forks: Forks, shades: str, tmp_path: Path) -> None:
    kill_at_random(forks, shades, tmp_path, 20)


@pytest.mark.long
def test_a_thousand_runs_killed_at_random_moments(forks: Forks, shades: str, tmp_path: Path) -> None:
    kill_at_random(forks, shades, tmp_path, 1000)


def test_the_command_itself_killed_in_the_middle(forks: Forks, shades: str, tmp_path: Path) -> None:
    """With all its threads, and with no help from a fork."""
    train = ["train", shades, *TINY, "--epochs", "200"]
    expected, _ = never_killed(forks, train, tmp_path / "never")
    command = [sys.executable, "-m", "nabi", *train, "--out", str(tmp_path / "run"), "--resume"]
    options = {"stdout": subprocess.PIPE, "text": True, "env": os.environ | {"OPENBLAS_NUM_THREADS": "1"}}
    with subprocess.Popen(command, **options) as run:
        for line in run.stdout:
            if line.startswith("epoch  20/"):
                run.kill()
    assert run.returncode == -signal.SIGKILL
    subprocess.run(command, **options, check=True, timeout=HANGS)
    assert results(tmp_path / "run") == expected
