"""``nabi compare``: one table of all classifiers, within a time."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import nabi
from nabi.cli import main
from nabi.cli.choices import MODELS


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
        assert row["pictures_per_second"] > 0
        path = Path(f"compared/{name}.safetensors")
        assert path.stat().st_size == row["bytes"]
        model = nabi.load(path)
        digits = nabi.data.complete_splits(nabi.data.load("digits"))
        right = model.predict(digits.test.images).astype(int) == digits.test.labels
        assert (int(right.sum()), len(right)) == (row["correct"], row["total"])
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
