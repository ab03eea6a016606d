"""Figures come out in every case, without warnings, the same each time, with the words that belong in them."""

import subprocess
import sys
import threading
import unicodedata
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from nabi import figures
from nabi.errors import SettingError, ShapeError

KOREAN = ["고양이", "강아지", "나비"]


def words(path):
    """The text of an SVG, piece by piece."""
    return [element.text for element in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")]


def history(epochs):
    steps = np.arange(1, epochs + 1)
    falling = np.exp(-steps / 5)
    return {
        "epoch": steps,
        "train_loss": 2 * falling,
        "validation_loss": 2 * falling + 0.1,
        "train_accuracy": 1 - falling,
        "validation_accuracy": 0.9 - falling,
    }


def all_of_them(folder, suffix):
    yield folder / f"curves{suffix}", lambda path: figures.curves(history(5), path)
    yield folder / f"confusion{suffix}", lambda path: figures.confusion(np.diag([5, 0, 7]), KOREAN, path)
    templates = np.random.default_rng(0).standard_normal((3, 4, 5, 3))
    yield folder / f"weights{suffix}", lambda path: figures.weights(templates, path, KOREAN)
    images = np.arange(2 * 4 * 4, dtype=np.uint8).reshape(2, 4, 4, 1)
    yield folder / f"pictures{suffix}", lambda path: figures.pictures(images, ["고양이 → cat", "dog"], path)


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_same_content_same_bytes_whatever_the_settings(tmp_path, suffix):
    for path, draw in all_of_them(tmp_path, suffix):
        draw(path)
        first = path.read_bytes()
        before = dict(matplotlib.rcParams)
        with matplotlib.rc_context(
            {"font.size": 20, "svg.fonttype": "path", "text.usetex": True, "lines.linewidth": 9}
        ):
            draw(path)
        assert path.read_bytes() == first
        assert dict(matplotlib.rcParams) == before
        if suffix == ".png":
            Image.open(path).verify()
        else:
            assert b"<dc:date>" not in first


def test_text_of_an_svg_stays_text(tmp_path):
    for path, draw in all_of_them(tmp_path, ".svg"):
        draw(path)
    assert set(KOREAN) <= set(words(tmp_path / "confusion.svg"))
    assert {"12 of 12 right", "true class", "5", "7"} <= set(words(tmp_path / "confusion.svg"))
    assert set(KOREAN) <= set(words(tmp_path / "weights.svg"))
    assert "고양이 → cat" in words(tmp_path / "pictures.svg")
    assert {"training", "validation", "epoch", "loss"} <= set(words(tmp_path / "curves.svg"))


def test_decomposed_names_are_drawn_composed_and_dollars_are_no_mathematics(tmp_path):
    names = [unicodedata.normalize("NFD", "나비"), "$x_1$ <b>&amp;", "two\nlines\x07\u200b"]
    figures.confusion(np.eye(3, dtype=int), names, tmp_path / "confusion.svg")
    assert {"나비", "$x_1$ <b>&amp;", "two lines"} <= set(words(tmp_path / "confusion.svg"))


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_letters_without_a_font(tmp_path, monkeypatch, suffix):
    """As on a machine where nothing but Matplotlib's own font is installed."""
    monkeypatch.setattr("matplotlib.font_manager.fontManager.ttflist", [])
    figures._families.cache_clear()
    drawn = []
    real_ticks = Axes.set_xticks

    def set_xticks(axes, ticks, labels=(), **settings):
        drawn.extend(labels)
        real_ticks(axes, ticks, labels, **settings)

    monkeypatch.setattr(Axes, "set_xticks", set_xticks)
    figures.confusion(np.eye(3, dtype=int), [*KOREAN[:2], "cat"], tmp_path / f"confusion{suffix}")
    figures._families.cache_clear()
    assert drawn == (["0: □□□", "1: □□□", "cat"] if suffix == ".png" else [*KOREAN[:2], "cat"])


def test_a_font_that_has_the_letters_is_found(monkeypatch):
    from matplotlib.font_manager import FontEntry, fontManager

    def letters(font, index=0):
        return frozenset(map(ord, {"hangul": "나비", "both": "나비猫", "broken": ""}.get(font, "abc")))

    def entry(name, file):
        return FontEntry(fname=file, name=name, style="normal", weight=400, size="scalable")

    fonts = [entry("A Broken", "broken"), entry("B Both", "both"), entry("NanumGothic", "hangul")]
    monkeypatch.setattr(fontManager, "ttflist", fonts)
    monkeypatch.setattr(figures, "_letters", letters)
    figures._families.cache_clear()
    found = [figures._families(frozenset(map(ord, text))) for text in ("abc", "a나비", "나猫", "ع")]
    figures._families.cache_clear()
    assert found == [
        (["DejaVu Sans", "sans-serif"], frozenset()),
        (["DejaVu Sans", "NanumGothic", "sans-serif"], frozenset()),
        (["DejaVu Sans", "NanumGothic", "B Both", "sans-serif"], frozenset()),
        (["DejaVu Sans", "sans-serif"], frozenset({ord("ع")})),
    ]


def test_a_damaged_font_has_no_letters(tmp_path):
    (tmp_path / "font.ttf").write_bytes(b"no font")
    assert figures._letters(str(tmp_path / "font.ttf")) == frozenset()
    assert figures._letters(str(tmp_path / "absent.ttf")) == frozenset()


@pytest.mark.parametrize(
    "columns",
    [
        history(0),
        history(1),
        history(300),
        {"epoch": [1, 2], "train_loss": [1.0, 0.5]},
        history(3) | {"validation_loss": [np.nan] * 3, "validation_accuracy": [np.nan] * 3},
        history(3) | {"train_loss": [1.0, np.inf, np.nan]},
    ],
    ids=["no epoch", "one", "300", "one column", "no validation", "not finite"],
)
def test_curves_of_every_kind(tmp_path, columns):
    figures.curves(columns, tmp_path / "curves.svg")
    assert "epoch" in words(tmp_path / "curves.svg")


def test_curves_name_the_first_best_epoch(tmp_path):
    columns = history(4) | {"validation_accuracy": [0.5, 0.75, np.nan, 0.75]}
    figures.curves(columns, tmp_path / "curves.svg")
    assert "accuracy: best on validation 0.750, epoch 2" in words(tmp_path / "curves.svg")


@pytest.mark.parametrize("k", [1, 2, 30, 31, 100, 250])
def test_confusion_of_any_number_of_classes(tmp_path, k):
    names = [f"a class with the rather long name {number}" for number in range(k)]
    figures.confusion(np.full((k, k), 3), names, tmp_path / "confusion.svg")
    shown = words(tmp_path / "confusion.svg")
    assert f"{3 * k:,} of {3 * k * k:,} right" in shown
    if k <= 100:  # all names twice, each still told from the others
        assert len({word for word in shown if "…" in word}) == k
    assert all(figures._width(word) <= 32 for word in shown)


def test_confusion_of_nothing_at_all(tmp_path):
    figures.confusion(np.zeros((2, 2), int), ["cat", "dog"], tmp_path / "confusion.svg")
    assert "0 of 0 right" in words(tmp_path / "confusion.svg")


def test_weights_are_scaled_about_grey(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(figures, "_gallery", lambda images, *rest: shown.extend(images))
    values = np.array([[-4.0, 0, 2], [0, 0, 0], [np.nan, 1, -1]]).reshape(3, 1, 3, 1)
    figures.weights(values, tmp_path / "weights.svg")
    assert [image[0, :, 0].tolist() for image in shown] == [[0, 0.5, 0.75], [0.5, 0.5, 0.5], [0.5, 1, 0]]


def test_pictures_keep_their_colours_and_order(tmp_path):
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    images = [np.full((4 + number, 6, 3), colour, np.uint8) for number, colour in enumerate(colours)]
    figures.pictures(images, None, tmp_path / "pictures.png")
    pixels = np.asarray(Image.open(tmp_path / "pictures.png").convert("RGB"))
    columns = [np.flatnonzero((pixels == colour).all(axis=2).any(axis=0)) for colour in colours]
    assert all(found.size > 100 for found in columns)
    assert columns[0].max() < columns[1].min() < columns[1].max() < columns[2].min()
    assert (pixels[0] == 255).all()


def test_a_thousand_pictures_are_one_drawing(tmp_path):
    figures.weights(np.ones((1000, 4, 4, 1)), tmp_path / "weights.svg")
    assert (tmp_path / "weights.svg").read_text().count("<image") == 1


@pytest.mark.parametrize(
    ("draw", "error", "says"),
    [
        (lambda folder: figures.curves(history(1), folder / "f.pdf"), SettingError, r"f\.pdf: a figure is written as"),
        (
            lambda folder: figures.confusion(np.ones((2, 3)), ["a", "b"], folder / "f.svg"),
            ShapeError,
            r"\(2, 3\) and 2",
        ),
        (lambda folder: figures.confusion(np.ones((0, 0)), [], folder / "f.svg"), ShapeError, "0 classes"),
        (lambda folder: figures.weights(np.ones((2, 3, 3, 2)), folder / "f.svg"), ShapeError, r"\(2, 3, 3, 2\)"),
        (lambda folder: figures.weights(np.ones((0, 3, 3, 1)), folder / "f.svg"), ShapeError, r"\(0, 3, 3, 1\)"),
        (lambda folder: figures.weights(np.ones((2, 3, 3, 1)), folder / "f.svg", ["a"]), ShapeError, "2 .* 1 titles"),
        (lambda folder: figures.pictures([], None, folder / "f.svg"), ShapeError, "0 pictures"),
        (lambda folder: figures.pictures([np.ones((3, 3, 4))], None, folder / "f.svg"), ShapeError, r"\(3, 3, 4\)"),
    ],
)
def test_what_is_refused(tmp_path, draw, error, says):
    with pytest.raises(error, match=says):
        draw(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_failing_drawing_leaves_the_old_file_and_the_settings(tmp_path, monkeypatch):
    path = tmp_path / "curves.svg"
    path.write_text("old")
    before = dict(matplotlib.rcParams)

    def fail(*arguments, **keywords):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    with pytest.raises(OSError, match=r"No space left on device: .*curves\.svg"):
        figures.curves(history(2), path)
    assert path.read_text() == "old"
    assert dict(matplotlib.rcParams) == before


def test_threads_draw_one_after_another(tmp_path):
    figures.confusion(np.eye(3, dtype=int), KOREAN, tmp_path / "alone.svg")
    paths = [tmp_path / f"{number}.svg" for number in range(4)]
    threads = [threading.Thread(target=figures.confusion, args=(np.eye(3, dtype=int), KOREAN, path)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {path.read_bytes() for path in paths} == {(tmp_path / "alone.svg").read_bytes()}


def test_no_display_and_no_pyplot_are_needed(tmp_path):
    code = (
        "import sys; from nabi import figures; assert 'matplotlib' not in sys.modules;"
        "figures.confusion([[1]], ['cat'], sys.argv[1]); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code, str(tmp_path / "f.svg")], check=True)


def test_the_epoch_that_was_kept_is_marked(tmp_path):
    """Training breaks ties by the loss: what it says counts, not the first of the highest accuracies."""
    history = {"epoch": [1, 2, 3], "validation_accuracy": [0.5, 0.5, 0.4], "best": [True, True, False]}
    figures.curves(history, tmp_path / "curves.svg")
    assert "best on validation 0.500, epoch 2" in (tmp_path / "curves.svg").read_text("utf-8")
