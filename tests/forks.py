"""Command lines of nabi in forks of one process that has everything imported: quick to start, and real to kill.

As a program it is that process: it reads lines of JSON, each of which asks it to fork or to wait, and answers each with
a line. It has one thread, since a fork has no others.
"""

import contextlib
import ctypes
import errno
import gc
import io
import json
import os
import select
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from made_files import encoded, pixels, write_tree
from nabi import container

RESULTS = {
    "trained-on.npy",
    "model.safetensors", "history.csv", "metrics.json", "run.json", "curves.svg", "confusion.svg", "weights.png",
}  # fmt: skip
HANGS = 60  # seconds after which whatever goes on is ended: nothing may hang


class Ended(NamedTuple):
    """How a fork ended: its exit code, or the negative number of the signal; and what it printed."""

    code: int
    out: str
    err: str


def ends_well(child: int) -> None:
    """Wait for a fork of this process; it must end by itself, with 0."""
    begun = time.monotonic()
    while time.monotonic() < begun + 40:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            break
        time.sleep(0.02)
    else:
        os.kill(child, 9)
        os.waitpid(child, 0)
        raise AssertionError("the fork hangs")
    assert os.waitstatus_to_exitcode(status) == 0


class Forks:
    """A process to fork from, for any number of threads; ``with`` ends it."""

    def __init__(self) -> None:
        one = {"OPENBLAS_NUM_THREADS": "1", "NABI_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        self.server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | one
        )
        self.homes: dict[int, Path] = {}
        self.lock = threading.Lock()

    def __enter__(self) -> "Forks":
        return self

    def __exit__(self, *error: object) -> None:
        self.server.stdin.close()
        self.server.wait(HANGS)
        self.server.stdout.close()

    def start(self, arguments: list[str], home: Path, **settings: Any) -> int:
        """Start a command line in a folder, its cache in there, too; its process's number. For settings see `_run`."""
        home.mkdir(exist_ok=True)
        pid = self._ask({"arguments": arguments, "home": str(home), **settings})
        self.homes[pid] = home
        return pid

    def wait(self, pid: int) -> Ended:
        """Wait for its end."""
        descriptor = os.pidfd_open(pid)  # whoever asks the process that made it has to wait, and nobody else can ask
        select.select([descriptor], [], [])
        os.close(descriptor)
        code = os.waitstatus_to_exitcode(self._ask({"wait": pid}))
        said = [self.homes[pid] / f"{pid}.{name}" for name in ("out", "err")]
        texts = [path.read_text(errors="surrogateescape") if path.exists() else "" for path in said]
        for path in said:
            path.unlink(missing_ok=True)
        return Ended(code, *texts)

    def run(self, arguments: list[str], home: Path, **settings: Any) -> Ended:
        """Start one, and wait for its end."""
        return self.wait(self.start(arguments, home, **settings))

    def _ask(self, what: dict[str, Any]) -> int:
        with self.lock:
            self.server.stdin.write(json.dumps(what) + "\n")
            self.server.stdin.flush()
            return int(self.server.stdout.readline())


def in_parallel(check: Callable[[Any], None], items: Iterable[Any]) -> None:
    """Call ``check(item)`` with every item, two at once; raises what the first that fails raises."""
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(check, item) for item in items]
        try:
            for future in waiting:
                future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def write_shades(home: Path) -> Path:
    """A data set of dark and bright pictures, which is learnt in no time."""
    tree = {}
    for number in range(24):
        label, low = [("dark", 0), ("bright", 100)][number % 2]
        tree[f"{label}/{number}.png"] = encoded((pixels(number) // 2 + low).astype(np.uint8))
    return write_tree(home / "shades", tree)


def results(run: Path) -> dict[str, Any]:
    """All that a finished run says, but for the time that it took."""
    arrays, header = container.read(run / "model.safetensors")
    metrics = json.loads((run / "metrics.json").read_text())
    del metrics["seconds"]
    rows = [line.split(",") for line in (run / "history.csv").read_text().splitlines()]
    place = rows[0].index("seconds")
    return {
        "weights": {name: (array.dtype.str, array.shape, array.tobytes()) for name, array in arrays.items()},
        "header": header,
        "metrics": metrics,
        "history": [[*row[:place], *row[place + 1 :]] for row in rows],
        "asked": json.loads((run / "run.json").read_text()),
        "files": {path.name for path in run.iterdir()},
    }


def _serve() -> None:
    import nabi.data.gather
    from made_files import pets
    from nabi.cli import evaluate, main, predict, train  # noqa: F401  # imported before anything is forked

    os.fsync = lambda file: (
        None
    )  # what a killed process wrote is not lost, and to wait for the disk takes most of the time
    nabi.data.gather.MAX_IN_MEMORY = 1000  # so that a draft that grows is met, too
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with tempfile.TemporaryDirectory() as home:  # what is imported late, or made once
        os.chdir(home)
        os.environ["NABI_CACHE"] = f"{home}/cache"
        write_tree(Path("pets"), pets())
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            main(["train", "pets", "--epochs", "1", "--out", "run"])
        os.chdir("/")
    gc.freeze()  # so that a fork's garbage collector does not touch, and so copy, all there is
    for line in sys.stdin:
        asked = json.loads(line)
        if "wait" in asked:
            answer = os.waitpid(asked["wait"], 0)[1]
        else:
            answer = os.fork()
            if not answer:
                _child(**asked)
        print(answer, file=answers, flush=True)


def _child(arguments: list[str], home: str, cache: str = "cache", **settings: Any) -> None:
    """Run a command line in this process, and end it; for settings see `_run`."""
    code = 70
    try:
        signal.alarm(HANGS)
        os.chdir(home)
        os.environ["NABI_CACHE"] = f"{home}/{cache}"
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for descriptor, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{os.getpid()}.{name}", os.O_WRONLY | os.O_CREAT), descriptor)
        code = _run(arguments, Path(home), **settings)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(code)


def _run(
    arguments: list[str],
    home: Path,
    act: str = "",
    at: int = 0,
    syncs: bool = True,
    figures: bool = True,
    largest: int | None = None,
    out: str | None = None,
    err: str | None = None,
    ordinary: bool = False,
    closed: str | None = None,
    vanishing: str | None = None,
    becoming: str | None = None,
) -> int:
    """Run a command line, or `_watch`.

    ``act`` is what happens at the call number ``at`` of those that change files (see `file_calls`): ``kill`` the
    process, ``fail`` this one, or let the disk be ``full`` from then on; ``list`` lists them on standard error. Without
    ``syncs``, those calls are not counted: what a killed process wrote is not lost. Without ``figures``, a few letters
    are written in their place. A file ends at ``largest`` bytes. Output goes to ``out`` and ``err``. What nobody but
    root may do, an ``ordinary`` process may not. A process that opens what is in the folder ``closed`` ends at once. A
    file is ``vanishing``, or ``becoming`` a link, when the first picture is opened. Training writes a checkpoint after
    every step.
    """
    import nabi.figures
    from file_calls import interpose
    from nabi.cli import main

    if arguments[0] == "watch":
        return _watch(main)
    if arguments[0] == "train":
        arguments = [*arguments, "--checkpoint-minutes", "0"]
    if ordinary:
        _drop_privileges()
    if not figures:
        for name in ("curves", "confusion", "weights"):
            setattr(nabi.figures, name, _draw_little)
    for descriptor, path in ((1, out), (2, err)):
        if path is not None:
            os.dup2(os.open(path, os.O_WRONLY), descriptor)
    if largest is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    if closed or vanishing:
        sys.addaudithook(_guarding(closed, vanishing, becoming))
    if act:
        interpose(home, _acting(at, act, syncs))
    return main(arguments)


def _drop_privileges() -> None:
    """Give up all capabilities: root may then no more than anybody who owns the same files."""
    header, none = struct.pack("Ii", 0x20080522, 0), bytes(24)  # version 3 of capset(2), this process
    if ctypes.CDLL(None).capset(header, none):
        raise OSError("the rights of root could not be given up")


def _acting(at: int, act: str, syncs: bool) -> Callable[[str, str], None]:
    made = 0

    def call(what: str, path: str) -> None:
        nonlocal made
        if what == "sync" and not syncs:
            return
        made += 1
        if made == at and act == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if made == at and act == "fail":
            raise OSError(errno.EIO, os.strerror(errno.EIO), None if what in ("write", "sync") else path)
        if made >= at and act == "full" and what in ("open", "write", "sync", "mkdir"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), None if what in ("write", "sync") else path)
        if act == "list":
            print(made, what, path, file=sys.stderr)

    return call


def _guarding(
    closed: str | None, vanishing: str | None, becoming: str | None
) -> Callable[[str, tuple[Any, ...]], None]:
    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal vanishing
        if event not in ("open", "os.scandir", "os.listdir") or not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        path = os.fsdecode(arguments[0])
        if closed and Path(os.path.realpath(path)).is_relative_to(closed):
            print(f"opened {path}", file=sys.stderr, flush=True)
            os._exit(99)
        if vanishing and path.endswith(".png"):
            gone, vanishing = Path(vanishing), None
            gone.unlink()
            if becoming:
                gone.symlink_to(becoming)

    return hear


def _draw_little(*arguments: Any, **options: Any) -> None:
    from nabi.container import replace_file

    (path,) = [argument for argument in arguments if isinstance(argument, Path)]
    with replace_file(path) as file:
        file.write(b"a figure")


def _watch(main: Callable[[list[str]], int]) -> int:
    """Read the files of all runs that are not finished, and predict, again and again until there is a file ``stop``.

    Prints how often a file was there, and every word about one that was not whole.
    """
    from nabi import container
    from nabi.errors import ModelFileError

    signal.alarm(0)
    log, sys.stdout, sys.stderr = sys.stdout, open(os.devnull, "w"), open(os.devnull, "w")  # noqa: PTH123, SIM115
    whole = {"model.safetensors": 0, "checkpoint": 0, "predict": 0}
    finished: set[Path] = set()
    last = False
    while not last:
        last = Path("stop").exists()
        for run in {*Path().glob("run-*")} - finished:
            if (run / "metrics.json").exists():
                finished.add(run)
            for name in ("model.safetensors", "checkpoint"):
                try:
                    container.read(run / name)
                    whole[name] += 1
                except ModelFileError as error:
                    if str(error) != f"{run / name}: no such file":
                        print(error, file=log)
            sys.stderr = said = io.StringIO()
            code = main(["predict", str(run / "model.safetensors"), "picture.png"])
            whole["predict"] += code == 0
            if code and said.getvalue() != f"nabi: {run}/model.safetensors: no such file\n":
                print(code, said.getvalue(), file=log)
        time.sleep(0.01)
    print(json.dumps(whole), file=log, flush=True)
    return 0


if __name__ == "__main__":
    _serve()
