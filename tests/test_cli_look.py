"""``nabi look`` from the outside: each form, what it prints and draws, and how every bad input ends."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import nabi
from nabi import classifiers, look
from nabi.cli import main
from nabi.cli.look_picture import look_at_picture
from nabi.cli.look_table import aligned, table

CLASSES = ["cat", "dog", "나비"]
SHAPE = (6, 8, 3)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small models of every kind, and pictures in folders of their classes: one as the models take it, one larger."""
    home = tmp_path_factory.mktemp("home")
    random = np.random.default_rng(0)
    labels = np.repeat(CLASSES, 12)
    images = random.integers(0, 256, (36, *SHAPE), np.uint8)
    for place, name in enumerate(CLASSES):
        images[labels == name, :, :, place] //= 3
    settings: dict[str, Any] = {"max_iter": 2, "random_state": 0}
    made = {
        "linear": classifiers.LinearClassifier(**settings),
        "softmax": classifiers.LinearClassifier("softmax", **settings),
        "perceptron": classifiers.Perceptron(**settings),
        "mlp": classifiers.MLPClassifier((7,), **settings),
        "convnet": classifiers.ConvNetClassifier(channels=(4, 5), convolutions=1, whitening=False, **settings),
        "knn": classifiers.KNNClassifier(3),
    }
    for name, classifier in made.items():
        classifier.fit(images, labels).save(home / f"{name}.safetensors", {"data": "shades", "best_epoch": 2})
    (home / "run").mkdir()
    (home / "run" / "model.safetensors").write_bytes((home / "linear.safetensors").read_bytes())
    classifiers.LinearClassifier(max_iter=1).fit([[0.0, 1.0], [1.0, 0.0]], ["a", "b"]).save(home / "rows.safetensors")
    grey = images[:, :, :, 0].reshape(36, 6, 8, 1)
    classifiers.LinearClassifier(max_iter=1, random_state=0).fit(grey, labels).save(home / "grey.safetensors")
    for name in CLASSES:
        (home / name).mkdir()
        Image.fromarray(images[labels == name][0]).save(home / name / "small.png")
    photo = np.asarray(Image.fromarray(images[0]).resize((60, 45), Image.Resampling.BICUBIC))
    Image.fromarray(photo).save(home / "photo.png")
    Image.fromarray(images[0, :, :, 0]).save(home / "grey.png")
    Image.new("RGB", (5, 5), "red").save(home / "red.png")
    (home / "text.txt").write_text("no picture")
    (home / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    return home


def told(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    """What a command that goes well prints, when nothing stands on standard error."""
    code = main(["look", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    return out


def refused(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    """The one line of a command that goes wrong."""
    code = main(["look", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.startswith("nabi: ")
    assert err.count("\n") == 1
    return err


def size(path: str | Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        picture.load()
        return picture.size


def numbers(text: str) -> list[list[int]]:
    return [[int(word) for word in line.split()] for line in text.splitlines() if re.fullmatch(r"[ \d]+", line)]


# --- a picture ---


def test_a_picture_is_printed_as_its_numbers(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = home / "cat" / "small.png"
    out = told(capsys, path)
    assert out.startswith(f"{path}: 8x6 pixels, red green blue, uint8\n\nred\n")
    expected = np.asarray(Image.open(path))
    assert (np.reshape(numbers(out), (3, 6, 8)) == np.moveaxis(expected, 2, 0)).all()
    assert "\x1b" not in out


def test_a_grey_picture_has_one_channel(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = told(capsys, home / "grey.png")
    assert "8x6 pixels, grey, uint8\n\ngrey\n" in out
    assert numbers(out) == np.asarray(Image.open(home / "grey.png")).tolist()


def test_a_part_of_a_picture(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pixels = np.asarray(Image.open(home / "photo.png"))
    out = told(capsys, home / "photo.png", "--crop", "10,20,4,5")
    assert "of these the 4x5 from x=10, y=20\n" in out
    assert (np.reshape(numbers(out), (3, 5, 4)) == np.moveaxis(pixels[20:25, 10:14], 2, 0)).all()
    out = told(capsys, home / "photo.png", "--zoom", "9")
    assert "of these the 7x5 from x=26, y=20\n" in out
    assert (np.reshape(numbers(out), (3, 5, 7)) == np.moveaxis(pixels[20:25, 26:33], 2, 0)).all()


def test_a_large_picture_is_shrunk_and_that_is_said(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = told(capsys, home / "photo.png")
    assert "60x45 pixels, red green blue, uint8; shrunk to 32x24, each number the mean of 1.88x1.88 pixels" in out
    assert len(numbers(out)) == 3 * 24
    out = told(capsys, home / "photo.png", "--size", "6")
    pixels = np.asarray(Image.open(home / "photo.png"))
    expected = look.view(pixels, most=6).numbers
    assert (np.reshape(numbers(out), (3, *expected.shape[:2])) == np.moveaxis(expected, 2, 0)).all()


def test_a_picture_as_json_is_whole(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(told(capsys, home / "photo.png", "--json"))
    pixels = np.asarray(Image.open(home / "photo.png"))
    assert (found["width"], found["height"], found["shrunk"]) == (60, 45, False)
    assert list(found["channels"]) == ["red", "green", "blue"]
    assert (np.array(list(found["channels"].values())) == np.moveaxis(pixels, 2, 0)).all()
    found = json.loads(told(capsys, home / "photo.png", "--json", "--crop", "1,2,3,4", "--size", "2"))
    assert found["crop"] == {"x": 1, "y": 2, "width": 3, "height": 4}
    assert found["shrunk"] is True


def test_a_page_escapes_names(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "<b>&나비.png"
    path.write_bytes((home / "photo.png").read_bytes())
    out = told(capsys, path.name, "--html", "page.html")
    assert out.endswith("page: page.html\n")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;&amp;나비.png" in page
    assert "<b>" not in page
    assert page.count("<td") == 3 * 60 * 45


def test_numbers_are_coloured_on_a_terminal(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "24")
    monkeypatch.delenv("NO_COLOR", raising=False)
    look_at_picture(home / "cat" / "small.png", None, 1, None, None, False)
    out = capsys.readouterr().out
    assert "\x1b[" in out
    assert "48;2;" in out
    assert "shrunk to 6x4" in out  # six numbers fit into 24 letters
    monkeypatch.setenv("NO_COLOR", "1")
    look_at_picture(home / "cat" / "small.png", None, 1, None, None, False)
    assert "48;2;" not in capsys.readouterr().out


# --- a model ---


@pytest.mark.parametrize(
    ("name", "drawn"),
    [
        ("linear", "the template of each class"),
        ("perceptron", "the template of each class"),
        ("mlp", "what the first layer looks for, 7 units"),
        ("convnet", "what the first layer looks for, 4 filters"),
        ("knn", "the first 10 of each class that it remembers"),
    ],
)
def test_a_model(name: str, drawn: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = told(capsys, home / f"{name}.safetensors")
    assert ", trained on shades, best in epoch 2\ntakes pictures of 6x8x3, uint8\n" in out
    assert "answers with one of 3 classes: cat, dog, 나비\n" in out
    assert out.endswith(f"\n{drawn}: weights.png\n")
    assert min(size("weights.png")) > 100
    if name == "knn":
        assert "remembers 36: cat 12, dog 12, 나비 12\n" in out
    else:
        assert "total" in out
    found = json.loads(told(capsys, home / f"{name}.safetensors", "--json", "--out", "w.svg"))
    assert (found["classes"], found["drawn"], found["figure"]) == (CLASSES, drawn, "w.svg")
    assert found["input_shape"] == list(SHAPE)
    figure = Path("w.svg").read_text(encoding="utf-8")
    assert ("나비" in figure) == (name in ("linear", "perceptron", "knn"))
    if name == "linear":
        assert found["parameters"] == 6 * 8 * 3 * 3 + 3
        assert [row["name"] for row in found["layers"]] == ["standardize", "flatten", "linear"]


def test_a_run_folder_is_its_model(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = told(capsys, home / "run")
    assert out.startswith(f"{home / 'run' / 'model.safetensors'}: LinearClassifier")
    assert "figure of the scores" in told(capsys, home / "run", home / "cat" / "small.png")


def test_a_model_of_rows_has_no_pictures(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = told(capsys, home / "rows.safetensors")
    assert "takes rows of 2 numbers, float32\n" in out
    assert out.endswith("no figure: it takes rows of numbers, not pictures\n")
    assert list(Path().iterdir()) == []


# --- a model and pictures ---


def test_scores_softmax_and_loss(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [home / name / "small.png" for name in CLASSES]
    classifier = nabi.load(home / "linear.safetensors")
    images = np.stack([np.asarray(Image.open(path)) for path in paths])
    scores = classifier.scores(images).astype(float)
    losses = [sum(term.loss for term in look.hinge_terms(row, place)) for place, row in enumerate(scores)]

    found = json.loads(told(capsys, home / "linear.safetensors", *paths, "--json"))
    assert found["classes"] == CLASSES
    assert found["hinge_loss"] == pytest.approx(np.mean(losses), abs=1e-5)
    for place, picture in enumerate(found["pictures"]):
        assert picture["path"] == str(paths[place])
        assert picture["right"] == CLASSES[place]
        assert picture["prediction"] == classifier.predict(images)[place]
        assert list(picture["scores"].values()) == pytest.approx(scores[place], abs=1e-5)
        assert list(picture["softmax"].values()) == pytest.approx(look.softmax(scores[place]), abs=1e-5)
        assert picture["hinge_loss"] == pytest.approx(losses[place], abs=1e-5)
        assert sum(picture["hinge_terms"].values()) == pytest.approx(losses[place], abs=1e-5)
        assert len(picture["hinge_terms"]) == 2

    out = told(capsys, home / "linear.safetensors", *paths)
    lines = out.splitlines()
    (head,) = [line for line in lines if line.startswith("scores")]
    assert head.split() == ["scores", "cat/small.png", "dog/small.png", "나비/small.png"]
    rows = lines[lines.index(head) + 1 :]
    for place, name in enumerate(CLASSES):
        cells = [f"{score:.2f}" + ("*" if number == place else "") for number, score in enumerate(scores[:, place])]
        assert rows[place].split() == [name, *cells]
    assert rows[3].split() == ["hinge", "loss", *(f"{loss:.2f}" for loss in losses)]
    assert f"mean of 3: L = ({' + '.join(f'{loss:.2f}' for loss in losses)}) / 3 = {np.mean(losses):.2f}\n" in out
    assert out.endswith("figure of the scores: look.png\n")
    assert {path.name for path in Path().iterdir()} == {"look.png", "look-1.png", "look-2.png", "look-3.png"}


def test_the_hinge_loss_is_written_out_as_in_the_lecture(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = told(capsys, home / "linear.safetensors", home / "cat" / "small.png")
    scores = nabi.load(home / "linear.safetensors").scores(np.asarray(Image.open(home / "cat" / "small.png"))[None])[0]
    assert f"small.png is cat (its folder): s_y = {scores[0]:.2f}\n" in out
    cat = f"({scores[0]:.2f})" if scores[0] < 0 else f"{scores[0]:.2f}"
    for name, score in (("dog", scores[1]), ("나비", scores[2])):
        term = float(score) - float(scores[0]) + 1
        line = next(line for line in out.splitlines() if f"max(0, {score:.2f} - {cat} + 1)" in line)
        assert line.split()[0] == name
        assert line.endswith(f"= {max(0, term):.2f}")


def test_the_right_class_can_be_named(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, photo, small = home / "mlp.safetensors", home / "photo.png", home / "dog" / "small.png"
    out = told(capsys, model, photo)
    assert f"no hinge loss:\nphoto.png: its folder, {home.name}, is no class of the model; --label names" in out
    assert "hinge loss: L" not in out
    found = json.loads(told(capsys, model, photo, "--json"))
    assert found["hinge_loss"] is None
    assert found["pictures"][0]["right"] is None
    assert "is no class of the model" in found["pictures"][0]["why_no_hinge"]
    found = json.loads(told(capsys, model, photo, small, "--json"))
    assert [picture["right"] for picture in found["pictures"]] == [None, "dog"]
    assert found["hinge_loss"] == found["pictures"][1]["hinge_loss"]
    found = json.loads(told(capsys, model, photo, small, "--json", "--label", "cat"))
    assert [picture["right"] for picture in found["pictures"]] == ["cat", "cat"]
    decomposed = "\u1102\u1161\u1107\u1175"  # as macOS writes it
    found = json.loads(told(capsys, model, photo, small, "--json", "--label", decomposed, "--label", "cat"))
    assert [picture["right"] for picture in found["pictures"]] == ["나비", "cat"]
    assert "'bird' is no class of the model: it knows cat, dog, 나비" in refused(
        capsys, model, photo, "--label", "bird"
    )
    assert "given 2 times; once for all, or for each of 1 pictures" in refused(
        capsys, model, photo, "--label", "cat", "--label", "dog"
    )


def test_a_picture_of_another_size_is_seen_as_by_predict(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for model in ("softmax", "grey"):
        found = json.loads(told(capsys, home / f"{model}.safetensors", home / "photo.png", "--json"))
        assert main(["predict", str(home / f"{model}.safetensors"), str(home / "photo.png"), "--json"]) == 0
        (predicted,) = json.loads(capsys.readouterr().out)
        best = predicted["predictions"][0]
        assert found["pictures"][0]["prediction"] == best["class"]
        kind = "softmax" if predicted["kind"] == "probability" else "scores"
        assert found["pictures"][0][kind][best["class"]] == pytest.approx(best["score"], abs=2e-6)


def test_inside_a_convnet(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = home / "cat" / "small.png"
    picture = np.asarray(Image.open(path))
    classifier = nabi.load(home / "convnet.safetensors")
    found = json.loads(told(capsys, home / "convnet.safetensors", path, "--json", "--out", "seen.svg"))["pictures"][0]
    inside = found["inside"]
    names = [name for name, _ in classifier.model_.items()]
    assert [layer["name"] for layer in inside["layers"]] == names
    place = int(classifier.scores(picture[None]).argmax())
    gradient = np.abs(look.saliency(classifier.model_, picture, place)).max(axis=2)
    assert np.array(inside["gradient"]) == pytest.approx(gradient, rel=1e-4)
    hidden = look.occlusion(classifier.scores, picture, place)
    assert np.array(inside["occlusion"]["map"]) == pytest.approx(hidden.map, rel=1e-4, abs=1e-7)
    assert inside["grad_cam"]["layer"] == "relu2"
    assert np.shape(inside["grad_cam"]["map"]) == (3, 4)
    figure = Path("seen-1.svg").read_text(encoding="utf-8")
    for text in ("small.png", "Grad-CAM, relu2", "gradient", "score falls if hidden", "나비", "conv1: 6 × 8 × 4"):
        assert text in figure
    out = told(capsys, home / "convnet.safetensors", path)
    assert "Grad-CAM of relu2: " in out
    assert re.search(r"\n  relu1 +6 × 8 × 4 +\d+\.\d{3} +\d+%\n", out)


def test_inside_a_net_without_convolution(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("mlp", "perceptron"):
        out = told(capsys, home / f"{name}.safetensors", home / "photo.png")
        assert "no Grad-CAM: there is no convolution in this net\n" in out
        assert "gradient of the score: strongest at x=" in out
        assert min(size("look-1.png")) > 300


def test_nearest_neighbours(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [home / "cat" / "small.png", home / "dog" / "small.png"]
    classifier = nabi.load(home / "knn.safetensors")
    out = told(capsys, home / "knn.safetensors", *paths, "--neighbors", "2")
    assert "cat/small.png: " in out
    assert out.count("L2 distance") == 4
    found = json.loads(told(capsys, home / "knn.safetensors", *paths, "--json"))
    distances, places = classifier.kneighbors(np.stack([np.asarray(Image.open(path)) for path in paths]))
    for row, picture in enumerate(found["pictures"]):
        assert [n["number"] for n in picture["neighbors"]] == places[row].tolist()
        assert [n["distance"] for n in picture["neighbors"]] == pytest.approx(distances[row])
        assert picture["neighbors"][0] == {"number": places[row][0], "class": ("cat", "dog")[row], "distance": 0}
    assert min(size("look.png")) > 100
    assert "--neighbors 37: from 1 to the 36 pictures" in refused(
        capsys, home / "knn.safetensors", paths[0], "--neighbors", 37
    )
    assert "--label: nearest neighbours have no scores" in refused(
        capsys, home / "knn.safetensors", paths[0], "--label", "cat"
    )


def test_many_classes_and_many_pictures(tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(0)
    names = np.array([f"class {number:03}" for number in range(40)])
    images = random.integers(0, 256, (80, 4, 4, 3), np.uint8)
    classifiers.LinearClassifier(max_iter=1, random_state=0).fit(images, np.tile(names, 2)).save("many.safetensors")
    (tmp_path / "class 007").mkdir()
    for number in range(10):
        Image.fromarray(images[number]).save(tmp_path / "class 007" / f"{number}.png")
    out = told(capsys, "many.safetensors", "class 007", "--top", "3")
    assert "classes that score best; --top shows more" in out
    assert "class 007" in out
    assert "more terms, in all " in out
    assert "(the insides of the first 8 pictures only)" in out
    assert all(len(line) <= 100 for line in out.split("hinge loss: L")[0].splitlines()[2:])
    assert not Path("look-9.png").exists()
    for number in range(10, 65):
        Image.fromarray(images[number]).save(tmp_path / "class 007" / f"{number}.png")
    assert "more than 64 pictures: nabi predict answers for any number" in refused(
        capsys, "many.safetensors", "class 007"
    )


# --- one distance ---


def test_three_pictures_at_one_distance(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(told(capsys, "--distances", home / "photo.png", "--json", "--out", "d.svg"))
    assert found["exact"] is True
    assert [version["name"] for version in found["versions"]] == ["boxed", "shifted", "tinted"]
    assert len({version["squared_distance"] for version in found["versions"]}) == 1
    assert "boxed" in Path("d.svg").read_text(encoding="utf-8")
    out = told(capsys, home / "photo.png", "--distances")
    square = found["versions"][0]["squared_distance"]
    assert f"all three at the squared distance {square:,}, exactly\nfigure: distances.png\n" in out
    wide, high = size("distances.png")
    assert wide > 2.5 * high  # side by side


def test_a_large_picture_is_shrunk_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.linear_gradient("L").resize((1024, 700)).save("large.png")
    assert main(["look", "--distances", "large.png"]) == 0
    out, err = capsys.readouterr()
    assert err == "nabi: large.png: 1024x700 pixels shrunk to at most 512 a side\n"
    assert out.startswith("large.png: 512x350 pixels\n")


# --- names, errors ---


@pytest.mark.skipif(sys.platform != "linux", reason="names that are not UTF-8 are Linux's")
def test_names_that_are_no_text(home: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    (tmp_path / name).write_bytes((home / "cat" / "small.png").read_bytes())
    for arguments in (
        [name, "--html", "page.html", "--json"],
        ["--distances", name],
        [str(home / "convnet.safetensors"), name, "--json"],
    ):
        done = subprocess.run([sys.executable, "-m", "nabi", "look", *arguments], capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b""), done.stderr
        assert b"caf\\udce9.png" in done.stdout
        if "--json" in arguments:
            json.loads(done.stdout)
    assert "caf\\udce9.png" in (tmp_path / "page.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("arguments", [["--help"], ["look", "--help"], ["look", "photo.png"]])
def test_what_needs_no_model_loads_none(arguments: list[str], home: Path) -> None:
    source = (
        f"import sys; from nabi.cli import main; main({arguments}); print('sklearn' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True, cwd=home)
    assert done.stderr == "False\n"
    assert "look" in done.stdout or "red" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "look: name what to look at: a picture; a model"),
        (["nothing.png"], "nothing.png: no such file"),
        (["text.txt"], "text.txt: not a picture of a known format"),
        (["broken.png"], "broken.png: "),
        (["cat"], "cat: a folder without model.safetensors in it"),
        (["photo.png", "--crop", "1,2,3"], "--crop '1,2,3': write X,Y,W,H, four whole numbers, as in 10,20,8,8"),
        (["photo.png", "--crop", "50,0,20,5"], "photo.png: crop 50,0,20,5 does not lie in a picture of 60x45"),
        (["photo.png", "--zoom", "0"], "--zoom 0: it must be 1 or more"),
        (["photo.png", "--zoom", "nan"], "--zoom nan: it must be 1 or more"),
        (["photo.png", "--size", "0"], "--size 0: it must be 1 or more"),
        (["photo.png", "--out", "x.png"], "--out: does not go with a picture"),
        (["photo.png", "--label", "cat"], "--label: does not go with a picture"),
        (["photo.png", "--html", "no/page.html"], "no"),
        (["photo.png", "red.png"], "photo.png: a PNG picture, not a model file"),
        (["linear.safetensors", "--html", "x.html"], "--html: does not go with a model"),
        (["linear.safetensors", "--out", "x.pdf"], "x.pdf: a figure is written as .svg or .png"),
        (["linear.safetensors", "photo.png", "--crop", "0,0,1,1"], "--crop: does not go with a model and pictures"),
        (["linear.safetensors", "photo.png", "--neighbors", "3"], "--neighbors: LinearClassifier has none"),
        (["linear.safetensors", "photo.png", "--top", "0"], "--top 0: it must be 1 or more"),
        (["linear.safetensors", "photo.png", "--out", "x.gif"], "x.gif: a figure is written as .svg or .png"),
        (["linear.safetensors", "nothing.png"], "nothing.png: no such file or folder"),
        (
            ["rows.safetensors", "photo.png"],
            "rows.safetensors: was fitted on rows of 2 floating-point numbers, not on uint8 pictures as files hold",
        ),
        (["nothing.safetensors"], "nothing.safetensors: no such file"),
        (["--distances"], "look: name what to look at"),
        (["--distances", "red.png"], "red.png: a picture of a single colour: shifted it is still the same"),
        (["--distances", "photo.png", "red.png"], "--distances takes one picture, not 2"),
        (["--distances", "text.txt"], "text.txt: not a picture of a known format"),
        (["--distances", "photo.png", "--top", "3"], "--top: does not go with --distances"),
        (["--graph", "x*2", "x=1", "--zoom", "2"], "--zoom: does not go with --graph"),
        (["--graph", "x*2", "x=1", "--distances"], "--distances: does not go with --graph"),
    ],
)
def test_bad_input_ends_in_one_line(
    arguments: list[str], said: str, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name for path in home.iterdir()}
    monkeypatch.chdir(home)
    assert f"nabi: {said}" in refused(capsys, *arguments)
    assert {path.name for path in home.iterdir()} == before


def test_what_is_no_picture_among_pictures_is_skipped(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["look", str(home / "mlp.safetensors"), str(home / "text.txt"), str(home / "photo.png"), "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == f"nabi: skipped {home / 'text.txt'}: not a picture of a known format\n"
    assert [picture["path"] for picture in json.loads(out)["pictures"]] == [str(home / "photo.png")]
    assert main(["look", str(home / "mlp.safetensors"), str(home / "text.txt")]) == 2
    assert "no picture that can be read" in capsys.readouterr().err


def test_a_damaged_model_is_told_as_one(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = bytearray((home / "linear.safetensors").read_bytes())
    content[-3] ^= 1
    (tmp_path / "model").write_bytes(content)  # without the usual ending: told by its first bytes
    assert "nabi: model: damaged" in refused(capsys, "model")


# --- tables ---


def test_tables_line_up_in_any_script() -> None:
    from rich.cells import cell_len

    lines = aligned([("나비", "1.00", "x"), ("cat", "-10.00", "고양이")], right=2)
    assert len({cell_len(line) for line in lines}) == 1


def test_a_table_is_cut_into_blocks_as_wide_as_the_screen() -> None:
    heads = [f"{number}.png" for number in range(7)]
    text = table("scores", heads, ["cat"], [[f"{number}.00"] for number in range(7)], [None] * 7, [], 40)
    blocks = text.strip().split("\n\n")
    assert len(blocks) == 2
    assert all(len(line) <= 40 for line in text.splitlines())
    assert [word for block in blocks for word in block.splitlines()[0].split()[1:]] == heads


@pytest.mark.parametrize(
    ("shape", "dtype", "fitted_on"),
    [
        ((8, 8, 1), np.float32, "pictures of 8x8x1 floating-point numbers"),
        ((64,), np.float64, "rows of 64 floating-point numbers"),
        ((64,), np.uint8, "rows of 64 uint8 pixels"),
    ],
)
def test_a_model_of_other_things_than_picture_files_says_what_it_was_fitted_on(
    shape: tuple[int, ...], dtype: Any, fitted_on: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = np.arange(4 * np.prod(shape)).reshape(4, *shape).astype(dtype)
    classifiers.LinearClassifier(max_iter=1).fit(inputs, ["a", "b", "a", "b"]).save("model.safetensors")
    for command in ("look", "predict", "evaluate"):
        assert main([command, "model.safetensors", str(home / "photo.png")]) == 2
        said = f"nabi: model.safetensors: was fitted on {fitted_on}, not on uint8 pictures as files hold\n"
        assert capsys.readouterr() == ("", said)
