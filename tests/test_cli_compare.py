"""``nabi compare``: one table of all classifiers, within a time."""

import csv
import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import nabi
import nabi.cli.compare
from nabi import machine
from nabi.classifiers import KNNClassifier, LinearClassifier
from nabi.cli import main
from nabi.cli.choices import MODELS
from nabi.cli.run_folder import RunFolder
from nabi.errors import SettingError
from nabi.training import Stepped, filled

TABLES = {"run.json", "compare.json", "compare.csv", "compare.svg"}


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_all_models_on_digits(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "digits", "--minutes", "0.1", "--out", "compared"]) == 0
    out = capsys.readouterr().out
    names = [name for name in MODELS if name != "alexnet"]  # which takes pictures of 224×224 only
    table = out[out.index("\nmodel ") + 1 :].splitlines()
    assert [line.split()[0] for line in table[1:7]] == names
    assert table[-1] == "all in compared"
    written = json.loads(Path("compared/compare.json").read_text())
    rows = {row["model"]: row for row in written["models"]}
    assert list(rows) == names
    for name, row in rows.items():
        low, high = row["interval"]
        assert 0 <= low < row["accuracy"] == row["correct"] / row["total"] < high <= 1
        path = Path(f"compared/{name}.safetensors")
        assert path.stat().st_size == row["bytes"]
        model = nabi.load(path)
        digits = nabi.data.complete_splits(nabi.data.load("digits"))
        # All of them, or as many, drawn at random, as this machine has the time for.
        some = np.sort(np.random.default_rng(0).permutation(len(digits.test))[: row["total"]])
        right = model.predict(digits.test.images[some]).astype(int) == digits.test.labels[some]
        assert int(right.sum()) == row["correct"]
        assert 100 <= row["total"] <= row["test_pictures"] == len(digits.test)
    assert rows["knn"]["accuracy"] > 0.95
    assert rows["linear"]["parameters"] == 650
    assert rows["knn"]["epochs"] is None
    assert rows["mlp"]["epochs"] <= rows["mlp"]["all_epochs"] == 50
    with Path("compared/compare.csv").open(newline="") as file:
        assert [row["model"] for row in csv.DictReader(file)] == names
    assert "knn" in Path("compared/compare.svg").read_text()


def test_some_models_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--models", "perceptron,knn", "--json", "--minutes", "0.2"]) == 0
    captured = capsys.readouterr()
    assert [row["model"] for row in json.loads(captured.out)] == ["perceptron", "knn"]
    assert "2 minutes" not in captured.out
    assert sorted(path.name for path in Path("runs").iterdir()) == ["digits-compared-1"]


def test_a_model_that_cannot_take_the_pictures_is_named_and_the_others_go_on(capsys) -> None:
    random = np.random.default_rng(0)
    for name in ("dark", "light"):
        Path("shades", name).mkdir(parents=True)
        for number in range(30):
            shade = random.integers(0, 90, (8, 8, 3)) + (100 if name == "light" else 0)
            Image.fromarray(shade.astype(np.uint8)).save(f"shades/{name}/{number}.png")
    assert main(["compare", "shades", "--models", "alexnet,linear", "--size", "8", "--minutes", "0.1"]) == 0
    captured = capsys.readouterr()
    assert "nabi: alexnet: alexnet takes pictures of (224, 224, 3), these are (8, 8, 3)" in captured.err
    assert "linear " in captured.out
    assert main(["compare", "shades", "--models", "alexnet", "--size", "8", "--minutes", "0.1"]) == 2
    assert "no model could be trained and tested" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--minutes 0", "--minutes 0.0: it must be more than 0"),
        ("--models knn,cnn", "--models 'cnn' is not one of knn, perceptron"),
        ("--seed -1", "--seed -1"),
        ("nowhere", "nowhere: no such file or directory"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(options: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *options.split()]) == 2
    err = capsys.readouterr().err
    assert err.startswith("nabi: ")
    assert message in err
    assert len(err.splitlines()) == 1
    assert not Path("runs").exists()


def test_a_used_folder_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine").mkdir()
    Path("mine/letter.txt").write_text("dear")
    assert main(["compare", "--models", "knn", "--out", "mine"]) == 2
    assert "mine: not empty: choose another folder with --out" in capsys.readouterr().err
    assert [path.name for path in Path("mine").iterdir()] == ["letter.txt"]


# --- time ---


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A clock that stands still but where a test moves it, for `nabi compare` alone."""
    clock = SimpleNamespace(now=1000.0, monotonic=lambda: clock.now)
    for module in ("cli.compare", "engines.cpu.program"):
        monkeypatch.setattr(f"nabi.{module}.time", clock)
    return clock


def test_the_time_is_shared_and_told_as_it_was(clock: Any, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """A step of the linear classifier takes 1/4 s, its answer 1/64 s, or 1 s more in a batch of a new size.

    The nearest neighbours answer 16 pictures a second. All are fractions of which sums are exact.
    """
    asked: list[int] = []
    sizes: set[int] = set()
    steps, answer, answer_batch = LinearClassifier.fit_events, KNNClassifier.predict, LinearClassifier._batch_scores

    def slow_steps(self, *arguments, **options):
        for event in steps(self, *arguments, **options):
            clock.now += 0.25 if isinstance(event, Stepped) else 0
            yield event

    def slow_answers(self, images):
        asked.append(len(images))
        clock.now += len(images) / 16
        return answer(self, images)

    def slow_batches(self, images):
        size = len(filled(images, 1000))
        clock.now += len(images) / 64 + (size not in sizes)
        sizes.add(size)
        return answer_batch(self, images)

    monkeypatch.setattr(LinearClassifier, "fit_events", slow_steps)
    monkeypatch.setattr(KNNClassifier, "predict", slow_answers)
    monkeypatch.setattr(LinearClassifier, "_batch_scores", slow_batches)
    for module in ("results", "compare"):
        monkeypatch.setattr(f"nabi.cli.{module}.BATCH", 90)
    assert main(["compare", "--models", "knn,linear", "--minutes", "1", "--out", "compared"]) == 0
    knn, linear = json.loads(Path("compared/compare.json").read_text())["models"]
    # A quarter of its half minute is 7.5 s, in which it answers 120; two trials come before.
    assert asked == [100, 100, 90, 30]
    assert (knn["total"], knn["test_pictures"], knn["pictures_per_second"]) == (120, 269, 16)
    assert (knn["fit_seconds"], knn["epochs"]) == (0, None)
    # 40 s are left, 30 s of them for training: 2.5 s for the trial, and of the rest 9/10 for epochs of 10 steps.
    assert (linear["epochs"], linear["all_epochs"], linear["fit_seconds"]) == (9, 50, 9 * 2.5)
    assert sizes == {128, 64, 32}
    assert (linear["total"], linear["pictures_per_second"]) == (269, 64)
    assert clock.now - 1000 <= 60
    out = capsys.readouterr().out
    assert f"knn: accuracy {knn['accuracy']:.3f} on 120 of 269 pictures, 0.0 s to train\n" in out
    head, *rows = (line.split() for line in out[out.index("\nmodel ") + 1 :].splitlines()[:3])
    assert head[4:7] == ["training", "epochs", "test"]
    assert rows[0][5:11] == ["0.0", "s", "120", "of", "269", "16"]
    assert rows[1][5:12] == ["22.5", "s", "9", "of", "50", "269", "64"]


def test_a_model_that_is_slower_than_was_thought_ends_with_its_time(clock: Any, monkeypatch) -> None:
    """All steps after the trial's take ten times as long."""
    steps = LinearClassifier.fit_events

    def slower_and_slower(self, *arguments, **options):
        for event in steps(self, *arguments, **options):
            clock.now += 0.25 if "validation" not in options else 2.5
            yield event

    monkeypatch.setattr(LinearClassifier, "fit_events", slower_and_slower)
    assert main(["compare", "--models", "linear", "--minutes", "1", "--out", "compared"]) == 0
    (row,) = json.loads(Path("compared/compare.json").read_text())["models"]
    assert row["epochs"] == 1
    assert 40 < row["fit_seconds"] < 45 + 2.5


def test_machine_code_that_has_to_be_made_is_not_counted(clock: Any, monkeypatch) -> None:
    """That takes two minutes before the first step of the trial, and before the third of training."""
    steps = LinearClassifier.fit_events

    def compiling(self, *arguments, **options):
        number = 0
        for event in steps(self, *arguments, **options):
            if isinstance(event, Stepped):
                number += 1
                clock.now += 0.25
                if number == (3 if "validation" in options else 1):
                    clock.now += 120
                    machine.spent += 120
            yield event

    monkeypatch.setattr(LinearClassifier, "fit_events", compiling)
    assert main(["compare", "--models", "linear,knn", "--minutes", "1", "--out", "compared"]) == 0
    linear, knn = json.loads(Path("compared/compare.json").read_text())["models"]
    # Of 30 s, 22.5 for training: 2.25 + 0.25 s for the trial, and of the rest 9/10 for epochs of 10 steps.
    assert (linear["epochs"], linear["all_epochs"], linear["fit_seconds"]) == (7, 50, 7 * 2.5)
    assert knn["total"] == 269


# --- Ctrl-C ---


def press_ctrl_c(monkeypatch: pytest.MonkeyPatch, in_the_trial: bool) -> None:
    """Press it in the second epoch of the linear classifier, or in the trial before."""
    steps = LinearClassifier.fit_events

    def pressed(self, *arguments, **options):
        for number, event in enumerate(steps(self, *arguments, **options)):
            if number == (3 if in_the_trial else 14) and ("validation" in options) is not in_the_trial:
                signal.raise_signal(signal.SIGINT)
            yield event

    monkeypatch.setattr(LinearClassifier, "fit_events", pressed)


@pytest.mark.parametrize("in_the_trial", [True, False])
def test_ctrl_c_ends_it_with_the_models_that_are_finished(in_the_trial: bool, monkeypatch, capsys) -> None:
    press_ctrl_c(monkeypatch, in_the_trial)
    assert main(["compare", "--models", "knn,linear,perceptron", "--minutes", "0.3", "--out", "compared"]) == 130
    out, err = capsys.readouterr()
    assert err == "nabi: stopped\n"
    assert [line.split()[0] for line in out.splitlines() if line] == ["digits:", "knn:", "model", "knn", "all"]
    assert [row["model"] for row in json.loads(Path("compared/compare.json").read_text())["models"]] == ["knn"]
    assert len(Path("compared/compare.csv").read_text().splitlines()) == 2
    assert {path.name for path in Path("compared").iterdir()} == TABLES | {"knn.safetensors"}


def test_ctrl_c_before_anything_is_finished_leaves_nothing(monkeypatch, capsys) -> None:
    press_ctrl_c(monkeypatch, in_the_trial=False)
    assert main(["compare", "--models", "linear,knn", "--minutes", "0.3"]) == 130
    assert capsys.readouterr().err == "nabi: stopped\n"
    assert list(Path("runs").iterdir()) == []


def test_ctrl_c_while_a_model_is_measured_waits_for_its_row(monkeypatch, capsys) -> None:
    measure = nabi.cli.compare.measure

    def pressed(*arguments):
        signal.raise_signal(signal.SIGINT)
        return measure(*arguments)

    monkeypatch.setattr("nabi.cli.compare.measure", pressed)
    assert main(["compare", "--models", "knn,linear", "--minutes", "0.3", "--out", "compared"]) == 130
    assert capsys.readouterr().err == "nabi: stopped\n"
    assert {path.name for path in Path("compared").iterdir()} == TABLES | {"knn.safetensors"}


# --- the folder ---


@pytest.mark.skipif(os.name != "posix", reason="locks as POSIX has them")
def test_the_folder_is_held_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    measure, tried = nabi.cli.compare.measure, []

    def try_to_hold(*arguments):
        tried.append("knn")
        with RunFolder(Path("compared")) as other, pytest.raises(SettingError, match="another nabi is at work in it"):
            other.hold()
        return measure(*arguments)

    monkeypatch.setattr("nabi.cli.compare.measure", try_to_hold)
    assert main(["compare", "--models", "knn", "--minutes", "0.1", "--out", "compared"]) == 0
    assert tried == ["knn"]
    with RunFolder(Path("compared")) as other:
        other.hold()


def test_of_two_that_begin_at_once_the_second_writes_nothing(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """The other one begins while this one reads its pictures."""
    loaded = nabi.cli.compare.loaded
    with RunFolder(Path("compared")) as other:

        def overtaken(*arguments):
            other.start({"data": "digits"})
            return loaded(*arguments)

        monkeypatch.setattr("nabi.cli.compare.loaded", overtaken)
        assert main(["compare", "--models", "knn", "--minutes", "0.1", "--out", "compared"]) == 2
        assert capsys.readouterr() == (
            "",
            "nabi: compared: has a run in it: choose another folder with --out, or go on with nabi train --resume\n",
        )
    assert [path.name for path in Path("compared").iterdir()] == ["run.json"]


def test_a_folder_inside_of_the_pictures_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("shades/dark").mkdir(parents=True)
    assert main(["compare", "shades", "--out", "shades/compared"]) == 2
    assert "shades/compared: inside of the data in " in capsys.readouterr().err
    assert not Path("shades/compared").exists()
