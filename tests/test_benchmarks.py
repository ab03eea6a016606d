"""The benchmarks themselves: who is measured, how ratios are made, what is written. Nothing here depends on a speed."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks import __main__ as command
from benchmarks import accuracy, apart, in_nabi, networks, rounds, suite, tables, worker
from benchmarks.apart import Apart, Failed
from benchmarks.suite import Built, Case, Contender, LeftOut, Settings
from benchmarks.workloads import elsewhere

import nabi

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")  # the children do next to nothing

ROOT = Path(__file__).parent.parent
QUICK = Settings(quick=True)


def gives(*values: float, called: Callable[[], Any] = lambda: None) -> Callable[[], Built]:
    """A contender that does nothing but give one value after another, over and over."""

    def build() -> Built:
        place = iter(range(10**6))

        def work() -> float:
            called()
            return values[next(place) % len(values)]

        return Built(work)

    return build


def measured(*contenders: Contender, **how: Any) -> suite.Row:
    return rounds.measure(Case("nothing", list(contenders), **{"unit": "MB", "timed": False, **how}), Settings())


def test_all_take_their_turn_in_every_round() -> None:
    order: list[str] = []
    turns = {name: lambda calls, name=name: order.append(name) or 0.0 for name in "ABC"}
    case = Case("nothing", [], timed=False, rounds=4)
    samples, calls = rounds.in_turn(turns, case, Settings())
    assert "".join(order) == "ABC" * 4
    assert all(len(one) == 4 for one in samples.values())
    assert calls == {"A": 1, "B": 1, "C": 1}


def test_short_work_is_repeated_until_a_sample_can_be_timed() -> None:
    turns = {"A": lambda calls: calls * 2.0**-20, "B": lambda calls: 0.5 * calls}
    samples, calls = rounds.in_turn(turns, Case("nothing", [], rounds=1), Settings())
    assert samples == {"A": [2.0**-20], "B": [0.5]}
    assert calls["A"] * 2.0**-20 >= rounds.SHORTEST
    assert calls["B"] == 1


def test_before_several_units_of_work_one_is_not_timed() -> None:
    done: list[None] = []
    apart.lasts(lambda: done.append(None), 1)
    assert len(done) == 1
    apart.lasts(lambda: done.append(None), 3)
    assert len(done) == 5


def test_contenders_have_a_process_each() -> None:
    def build() -> Built:
        return Built(lambda: None, os.getpid)

    with Apart(build) as first, Apart(build, [first]) as second:
        assert [one.answers for one in (first, second)] == [[first.process.pid], [second.process.pid]]
        assert first.lasts(2) > 0
        first.pipe.close()  # as it is when who started them is killed: nothing must be left
        first.process.join(60)
        assert first.process.exitcode == 0
        assert second.lasts(1) > 0
    assert second.process.exitcode == 0


def killed() -> Built:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def dies_later() -> Built:
    calls = iter(range(10**6))
    return Built(lambda: 1.0 if next(calls) < 4 else os._exit(3))


def test_a_process_that_dies_is_reported_with_its_exit_code() -> None:
    with Apart(lambda: Built(lambda: 1.0)) as idle:
        os.kill(idle.process.pid or 0, signal.SIGTERM)
        with pytest.raises(Failed, match=r"its process ended with -15"):
            idle.lasts(1)
    ours = Contender("nabi", gives(1), ours=True)
    row = rounds.measure(Case("work", [ours, Contender("A", killed)]), QUICK)
    assert row["left_out"] == {"A": "failed: its process ended with -9"}
    for contenders in ([Contender("nabi", killed, ours=True)], [ours, Contender("A", dies_later)]):
        with pytest.raises(Failed, match=r"its process ended with (-9|3)"):
            rounds.measure(Case("work", contenders), QUICK)


def test_a_ratio_is_the_median_within_rounds_and_the_best_peer_the_fastest() -> None:
    row = measured(
        Contender("nabi", gives(1, 2, 4, 1, 2), ours=True),
        Contender("slow", gives(10)),
        Contender("fast", gives(3, 3, 3, 4, 4)),
        Contender("no choice", gives(0.5), beside=True),
        rounds=5,
    )
    assert row["ours"] == {"name": "nabi", "median": 2, "least": 1}
    assert row["best"] == "fast"
    assert row["ratio"] == 2  # of 3, 3/2, 3/4, 4, 2: not 3/2, the ratio of the medians
    assert {peer["name"]: peer["ratio"] for peer in row["peers"]} == {"slow": 5, "fast": 2, "no choice": 0.25}


@pytest.mark.parametrize("timed", [False, True])
def test_who_cannot_take_part_is_left_out_by_name(timed: bool) -> None:
    def missing() -> Built:
        import a_module_that_is_not_there  # type: ignore[import-not-found]  # noqa: F401

        raise AssertionError

    def refuses() -> Built:
        raise LeftOut("it needs a C++ compiler")

    def fails() -> Built:
        raise RuntimeError("of its own\nand more")

    ours = Contender("nabi", gives(1), ours=True)
    peers = [Contender("A", missing), Contender("B", refuses), Contender("C", fails), Contender("D", gives(1))]
    row = measured(ours, *peers, timed=timed, rounds=1)
    assert row["left_out"] == {
        "A": "a_module_that_is_not_there is not installed",
        "B": "it needs a C++ compiler",
        "C": "failed: RuntimeError: of its own",
    }
    assert [peer["name"] for peer in row["peers"]] == ["D"]
    with pytest.raises(Failed, match="RuntimeError: of its own"):
        measured(Contender("nabi", fails, ours=True), *peers, timed=timed)


def test_peers_can_be_chosen() -> None:
    case = Case("nothing", [Contender(name, gives(1), ours=name == "nabi") for name in ("nabi", "PyTorch, a", "JAX")])
    row = rounds.measure(case, Settings(quick=True, only=("PyTorch",)))
    assert [peer["name"] for peer in row["peers"]] == ["PyTorch, a"]
    assert row["left_out"] == {"JAX": "not among --peers"}


def test_without_ours_the_peers_are_still_measured() -> None:
    def refuses() -> Built:
        raise LeftOut("no bfloat16")

    row = measured(Contender("nabi", refuses, ours=True), Contender("A", gives(3)))
    assert (row["ours"], row["best"], row["ratio"]) == (None, "A", None)
    assert tables.summary([{"workload": "none", **row}]).splitlines()[-1] == "| nothing | - | A | 3 MB | - |"


@pytest.mark.parametrize(
    ("precision", "apart", "agree"), [("float32", 5e-5, True), ("float32", 3e-4, False), ("bfloat16", 0.03, True)]
)
def test_contenders_must_compute_the_same(precision: str, apart: float, agree: bool) -> None:
    case = Case(
        "work", [Contender("nabi", gives(2.0), ours=True), Contender("A", gives(2 + 2 * apart))], precision=precision
    )
    if agree:
        (peer,) = rounds.measure(case, QUICK)["peers"]
        assert peer["difference"] == pytest.approx(apart, rel=1e-6)
    else:
        with pytest.raises(ArithmeticError, match=r"work: nabi and A differ by 0\.0003"):
            rounds.measure(case, QUICK)


def test_the_third_answer_counts_too() -> None:
    """An optimiser that does nothing shows in the second loss, one without momentum in the third."""
    case = Case("work", [Contender("nabi", gives(3, 2, 1), ours=True), Contender("A", gives(3, 2, 1.1))])
    with pytest.raises(ArithmeticError):
        rounds.measure(case, QUICK)


def test_other_shapes_and_nan_are_no_agreement() -> None:
    assert rounds.distance(np.zeros(2), np.zeros(3)) == np.inf
    case = Case("work", [Contender("nabi", gives(1), ours=True), Contender("A", gives(float("nan")))])
    with pytest.raises(ArithmeticError):
        rounds.measure(case, QUICK)


def test_every_workload_is_declared_once_and_listed(capsys: pytest.CaptureFixture[str]) -> None:
    known = suite.load()
    assert {"mlp", "convnet", "alexnet", "small", "latency", "mobilenet", "linear", "scalars"} < set(known)
    with pytest.raises(ValueError, match="'mlp' is declared twice"):
        suite.workload("mlp")(lambda size, settings: iter(()))
    assert command.main(["--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(known)
    for workload in known.values():
        doubled = workload.doubling
        assert all(b == 2 * a for a, b in itertools.pairwise(doubled)), workload.name
        assert not doubled or set(workload.sizes) <= set(doubled), workload.name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mlp", "nonsense"], "no workload is called nonsense; there are mlp, "),
        (["--threads", "1,1000"], "cores, not 1,1000"),
        (["--threads", "0"], "cores, not 0"),
        (["--from", "a.json"], "--from needs --markdown"),
    ],
)
def test_what_is_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_sizes_that_are_measured() -> None:
    given = lambda *arguments: command.sizes(suite.load()["mlp"], command.parse(list(arguments)))
    assert given() == [256]
    assert given("--sizes") == [64, 128, 256, 512]
    assert given("--quick", "--sizes") == [8]


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0123456, "s", "12.3 ms"),
        (1.5, "s", "1.5 s"),
        (4.2e-5, "s", "42 µs"),
        (0.9996, "s", "1,000 ms"),
        (1234.5, "MB", "1,234 MB"),
        (86.49, "MB", "86.5 MB"),
        (None, "s", "-"),
        (-0.002, "s", "-2 ms"),
    ],
)
def test_quantities_are_written_in_units_that_can_be_read(value: float | None, unit: str, text: str) -> None:
    assert tables.quantity(value, unit) == text


def entry(ours: float, theirs: float, **more: Any) -> suite.Row:
    """A row as `rounds.measure` gives it."""
    row = measured(
        Contender("nabi", gives(ours), ours=True), Contender("PyTorch", gives(theirs)), unit="s", timed=False
    )
    return {"workload": "mlp", **row, "size": 256, "threads": 2, "others": 0.0, **more}


MACHINE = {
    "processor": {"name": "A Processor", "cores": 2, "caches": ["L1 32K"], "flags": ["avx2"], "MHz": 2600},
    "memory GB": 8.0,
    "system": "Linux",
    "versions": {"python": "3.11"},
    "date": "2026-01-01",
    "threads": 2,
    "matrix product GFLOP/s": 100.0,
    "memory GB/s": 20.0,
}


def test_a_document_says_everything_that_was_measured() -> None:
    rows = [
        entry(0.002, 0.004),
        entry(0.003, 0.004, threads=1),
        entry(0.001, 0.0025, size=128),
        entry(0.1, 0.3, workload="alexnet", what="AlexNet", size=128, others=0.3, left_out={"JAX": "not installed"}),
    ]
    result = {"machine": MACHINE, "command": "python -m benchmarks", "rows": rows, "errors": {"knn": "no data"}}
    other = {**result, "machine": {**MACHINE, "processor": {**MACHINE["processor"], "name": "Another Processor"}}}
    text = tables.document([result, other])
    assert text.count("## A Processor") == text.count("## Another Processor") == 1
    whole = text.partition("### All contenders")
    assert "| nothing, batch 256 | 2 ms | PyTorch | 4 ms | 2.00 |" in whole[0]
    assert "batch 128 | 1 ms" not in whole[0]  # a size of --sizes alone is no headline
    assert "- JAX: not installed (alexnet (float32))" in text
    assert "- `knn`: no data" in text
    assert "others took part of the cores' time: alexnet 30%." in text
    assert "    python -m benchmarks  # 2026-01-01\n" in text
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({line.count("|") for line in block.splitlines()}) == 1, block


def test_a_machine_is_shown_once_with_what_was_measured_last() -> None:
    first = {"machine": {**MACHINE, "others": 0.5}, "command": "first", "errors": {"knn": "no data"}}
    first["rows"] = [entry(0.002, 0.004, workload="alexnet", what="AlexNet"), entry(0.002, 0.004), entry(1, 2, size=64)]
    again = {"machine": {**MACHINE, "date": "2026-01-02"}, "command": "again", "errors": {}}
    again["rows"] = [entry(0.001, 0.004), entry(0.003, 0.004, threads=1)]
    (whole,) = tables.merged([first, again])
    assert [(row["workload"], row["size"], row["threads"], row["ours"]["median"]) for row in whole["rows"]] == [
        ("mlp", 64, 2, 1),
        ("mlp", 256, 2, 0.001),
        ("mlp", 256, 1, 0.003),
        ("alexnet", 256, 2, 0.002),
    ]
    assert whole["commands"] == ["    first  # 2026-01-01", "    again  # 2026-01-02"]
    assert "others" not in whole["machine"]  # whose rates were measured with the least disturbance
    assert whole["errors"] == {"knn": "no data"}


def test_how_cost_grows() -> None:
    rows = [entry(0.001, 0.004), entry(0.0005, 0.002, size=64), entry(0.002, 0.004, size=1024)]
    assert tables.growth(rows).splitlines() == [
        "| nothing; batch | 64 | 256 | 1,024 | exponent |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| nabi | 500 µs | 1 ms | 2 ms | 0.50 |",
        "| PyTorch | 2 ms | 4 ms | 4 ms | 0.25 |",
        "| times the best peer | 4.00 | 4.00 | 2.00 |  |",
    ]
    assert tables.growth([*rows, entry(1, 2, what="AlexNet")]) == tables.growth(rows)  # one size does not grow
    assert tables.exponent([1, 2, 4], [None, 3.0, 12.0]) == pytest.approx(2)
    assert tables.exponent([1, 2], [None, 3.0]) is None
    assert tables.growth(entry(1, 2, size=size, precision="bfloat16") for size in (1, 2)).startswith(
        "| nothing, bfloat16; batch |"
    )


def test_of_a_speed_more_is_better() -> None:
    """What is done in a second, where its time is in proportion: it does not grow with the size."""
    rows = [entry(400, 100, unit="pictures/s"), entry(400, 200, unit="pictures/s", size=64)]
    assert [line.split("|")[-2].strip() for line in tables.growth(rows).splitlines()[2:4]] == ["1.00", "1.50"]
    rows = [entry(400, 100, unit="pictures/s"), entry(250, 100, unit="pictures/s", threads=1)]
    assert [line.split("|")[-2].strip() for line in tables.scaling(rows).splitlines()[2:]] == ["1.60", "1.00"]


def test_how_contenders_scale() -> None:
    rows = [entry(0.002, 0.004), entry(0.003, 0.004, threads=1), entry(0.001, 0.002, size=128)]
    assert tables.scaling(rows).splitlines() == [
        "| what | who | 1 thread | 2 threads | times |",
        "| --- | --- | ---: | ---: | ---: |",
        "| nothing, batch 256 | nabi | 3 ms | 2 ms | 1.50 |",
        "|  | PyTorch | 4 ms | 4 ms | 1.00 |",
    ]
    assert tables.scaling(rows[1:]) == ""
    assert [row["threads"] for row in tables.widest(rows)] == [2, 2]
    alone = {**rows[1], "ours": None, "peers": [{**rows[1]["peers"][0], "name": "JAX"}]}
    assert tables.scaling([rows[0], alone]).splitlines()[2:] == [
        "| nothing, batch 256 | nabi | - | 2 ms | - |",
        "|  | PyTorch | - | 4 ms | - |",
        "|  | JAX | 4 ms | - | - |",
    ]


def test_the_convnet_is_the_one_that_people_train() -> None:
    network = networks.convnet()
    ours = nabi.nn.describe(in_nabi.model(network, networks.weights(network)))
    whole = nabi.nn.describe(nabi.models.convnet((32, 32, 3), 10, channels=(64, 128, 256))[1:])
    same_padding = json.loads(json.dumps(whole).replace('["padding", "same"]', '["padding", 1]'))
    assert json.loads(json.dumps(ours)) == same_padding


@pytest.mark.parametrize(
    ("network", "shape", "parameters", "multiply_adds"),
    [
        (networks.mobilenet(), (224, 224, 3), 4_231_976, 568_740_352),  # Howard and others (2017), table 8: 4.2, 569
        (networks.convnet(), (32, 32, 3), 373_834, 39_520_768),
    ],
)
def test_the_networks_cost_what_they_should(
    network: networks.Network, shape: tuple[int, ...], parameters: int, multiply_adds: int
) -> None:
    found = nabi.nn.summary(in_nabi.model(network, networks.weights(network)), shape)
    assert (found.parameters, found.multiply_adds) == (parameters, multiply_adds)


def test_nobody_is_told_to_install_gigabytes() -> None:
    """From PyPI, torch is a build for CUDA."""
    documents = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "pyproject.toml", *(ROOT / "docs").glob("*.md")]
    documents += (ROOT / "benchmarks").rglob("*.py")
    for path in documents:
        for line in path.read_text(encoding="utf-8").splitlines():
            for pinned in re.findall(r"\btorch(?:vision)?\s*[=>~]=\S*", line):
                assert "+cpu" in pinned, f"{path.name}: {line}"
            if "which a plain" not in line and "`pip install torch`" not in line:
                assert not re.search(r"pip install .*\btorch\b", line), f"{path.name}: {line}"


def quick(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_suite_runs(tmp_path: Path) -> None:
    """The smallest of each of two workloads, and the files; a peer that is not installed is no failure."""
    found, written = tmp_path / "found.json", tmp_path / "benchmarks.md"
    done = quick("small", "scalars", "--threads", "1", "--json", str(found), "--peers", "none")
    assert done.returncode == 0, done.stderr
    result = json.loads(found.read_text(encoding="utf-8"))
    assert {row["workload"] for row in result["rows"]} == {"small", "scalars"}
    assert all(row["threads"] == 1 and row["engine"] == "auto" for row in result["rows"])
    assert all(row["ours"]["median"] > 0 for row in result["rows"] if row["precision"] == "float32")
    assert result["machine"]["matrix product GFLOP/s"] > 0
    assert result["command"] == "python -m benchmarks --quick small scalars --threads 1 --peers none"
    assert "| scalar graph, forward and backward, operations 100 |" in done.stdout
    assert command.main(["--from", str(found), "--markdown", str(written)]) == 0
    assert "**These figures are of `--quick`" in written.read_text(encoding="utf-8")


def test_the_document_is_what_the_kept_results_say(tmp_path: Path) -> None:
    kept = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
    written = tmp_path / "benchmarks.md"
    assert command.main(["--from", *map(str, kept), "--markdown", str(written)]) == 0
    assert written.read_text(encoding="utf-8") == (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")


def test_a_failure_is_told_and_does_not_stop_the_others(tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    done = quick("small", "size", "--engine", "nonsense", "--json", str(found), "--peers", "none")
    assert done.returncode == 1
    result = json.loads(found.read_text(encoding="utf-8"))
    assert "engine 'nonsense'" in result["errors"]["small"]
    assert [row["workload"] for row in result["rows"]] == ["size"]


def test_rows_of_a_file_of_its_own_are_rows_like_others() -> None:
    timed = {"what": "first epoch", "who": "nabi, on demand", "ours": 300.0, "peer": 100.0, "ratio": 3.1}
    named = {"what": "kNN", "ours": 1.0, "peer": "FAISS", "theirs": 2.0, "ratio": 2.0, "unit": "s"}
    other = named | {"peer": "scikit-learn", "theirs": 3.0, "ratio": 3.0}
    alone = {"what": "peak memory", "ours": 220.0, "unit": "MiB", "limit MiB": 900}
    rows = elsewhere.together(
        elsewhere.row(one, "DataLoader", "pictures/s", Settings()) for one in (timed, other, named, alone)
    )
    assert [(row["best"], row["ratio"]) for row in rows] == [("DataLoader", 3.1), ("FAISS", 2.0), (None, None)]
    text = tables.everything({"workload": "pipeline", **row} for row in rows)
    assert text.splitlines()[2:] == [
        "| first epoch (on demand) | nabi | 300 pictures/s | - |  |  |",
        "|  | DataLoader | 100 pictures/s | - | 3.10 |  |",
        "| kNN | nabi | 1 s | - |  |  |",
        "|  | scikit-learn | 3 s | - | 3.00 |  |",
        "|  | FAISS | 2 s | - | 2.00 |  |",
        "| peak memory | nabi | 220 MiB | - |  |  |",
    ]


def test_a_file_of_its_own_that_cannot_be_run_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    (row,) = elsewhere.run("benchmarks.nothing", [], "peer", "s", Settings())
    assert row["left_out"] == {"nabi": "there is no benchmarks.nothing"}
    monkeypatch.delenv("NABI_DATA", raising=False)
    assert "NABI_DATA" in elsewhere.missing("benchmarks.neighbors", Settings())
    assert "--quick" in elsewhere.missing("benchmarks.neighbors", QUICK)


def epochs(*ends: tuple[float, float]) -> list[accuracy.Epoch]:
    return [accuracy.Epoch(n + 1, len(ends), seconds, 1.0, share) for n, (seconds, share) in enumerate(ends)]


def test_time_to_accuracy() -> None:
    """The first epoch counts, with all that comes before it, but not for how long an epoch takes."""
    ours = epochs((30, 0.5), (50, 0.86), (70, 0.84), (90, 0.91))
    assert accuracy.reached(ours, 0.85) == 50
    assert accuracy.reached(ours, 0.92) is None
    assert accuracy.per_epoch(ours) == 20
    assert accuracy.per_epoch(ours[:1]) == 30
    found = accuracy.rows(
        {"nabi": ours, "pytorch": epochs((40, 0.5), (80, 0.7), (120, 0.85), (160, 0.89))}, [0.85, 0.9]
    )
    assert tables.summary(found).splitlines()[2:] == [
        "| CIFAR-10 (JPEG copy), 4 epochs: training to 85% on test | 50 s | PyTorch, channels last | 120 s | 2.40 |",
        "| CIFAR-10 (JPEG copy), 4 epochs: training to 90% on test | 90 s | - | - | - |",
        "| CIFAR-10 (JPEG copy), 4 epochs: training for one epoch | 20 s | PyTorch, channels last | 40 s | 2.00 |",
        "| CIFAR-10 (JPEG copy), 4 epochs: test accuracy in the end | 0.91 | PyTorch, channels last | 0.89 | - |",
    ]
    assert tables.left_out(found) == "- PyTorch, channels last: never reached (accuracy (float32))"
    (alone, *_) = accuracy.rows({"nabi": ours}, [0.95])
    assert alone["left_out"] == {"nabi": "never reached"}
    assert (alone["ours"], alone["peers"]) == (None, [])


def side(count: int, seconds: float = 40.0, fails: bool = False) -> accuracy.Side:
    """Trains in no time."""

    def epochs(given: Any) -> Iterator[accuracy.Epoch]:
        for epoch in range(1, count + 1):
            if fails and epoch == 2:
                os._exit(5)
            yield accuracy.Epoch(epoch, count, seconds * epoch, 1.0, epoch / 10)

    return epochs


def test_sides_take_their_epochs_in_turn(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("NABI_DATA", str(tmp_path))
    monkeypatch.setattr(accuracy, "SIDES", {"nabi": side(2), "pytorch": side(3)})
    found, failed = accuracy.in_turn(accuracy.parse([]))
    told = [" ".join(line.split()[::2][:2]) for line in capsys.readouterr().err.splitlines()]
    assert told == ["nabi 1/2", "pytorch 1/3", "nabi 2/2", "pytorch 2/3", "pytorch 3/3"]
    assert {which: len(epochs) for which, epochs in found.items()} == {"nabi": 2, "pytorch": 3}
    assert not failed
    found, _ = accuracy.in_turn(accuracy.parse(["--only", "pytorch", "--minutes", "1"]))
    assert {which: len(epochs) for which, epochs in found.items()} == {"pytorch": 2}
    monkeypatch.setattr(accuracy, "SIDES", {"nabi": side(3), "pytorch": side(3, fails=True)})
    found, failed = accuracy.in_turn(accuracy.parse([]))
    assert {which: len(epochs) for which, epochs in found.items()} == {"nabi": 3, "pytorch": 1}
    assert failed == {"pytorch": "its process ended with 5"}


def test_time_to_accuracy_needs_its_pictures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("NABI_DATA", raising=False)
    with pytest.raises(SystemExit):
        accuracy.main([])
    assert "NABI_DATA names no folder" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.skipif("NABI_DATA" not in os.environ, reason="needs the pictures in NABI_DATA")
def test_time_to_accuracy_runs(tmp_path: Path) -> None:
    file = tmp_path / "accuracy.json"
    pytest.importorskip("torch")
    assert accuracy.main(["--quick", "--epochs", "2", "--targets", "0.01", "--json", str(file)]) == 0
    found = json.loads(file.read_text(encoding="utf-8"))
    assert {which: len(each) for which, each in found["epochs"].items()} == {"nabi": 2, "pytorch": 2}
    assert found["rows"][0]["ratio"] > 0
    assert found["command"] == "python -m benchmarks.accuracy --quick --epochs 2 --targets 0.01"


def test_a_process_that_dies_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {**worker.environment(1), "PYTHONHOME": "/nowhere"}  # it does not even start
    monkeypatch.setattr(worker, "environment", lambda threads: environment)
    assert worker.start("small", [8], QUICK) == {"rows": [], "error": "the process ended with 1"}


def test_a_process_has_the_threads_that_it_was_given() -> None:
    assert worker.environment(1)["OMP_NUM_THREADS"] == "1"
    assert worker.environment(2)["NABI_NUM_THREADS"] == "2"


@pytest.mark.long
def test_every_workload_runs(tmp_path: Path) -> None:
    done = quick("--json", str(tmp_path / "found.json"))
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))["rows"]
    assert {row["workload"] for row in rows} == set(suite.load())
