"""The figures of ``nabi look``: what stands on them, in which colours, and what they refuse."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nabi import figures
from nabi.errors import SettingError, ShapeError

ORANGE, BLUE = (0xD5, 0x5E, 0x00), (0x00, 0x72, 0xB2)


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def texts(path: Path) -> list[str]:
    found = re.findall(r"<text[^>]*>(.*?)</text>", path.read_text(encoding="utf-8"), re.DOTALL)
    return [" ".join(re.sub(r"<[^>]*>", " ", text).split()) for text in found]


def nearest(path: Path, colour: tuple[int, int, int]) -> float:
    """How near any pixel of the figure comes to a colour."""
    with Image.open(path) as image:
        return float(np.abs(np.asarray(image.convert("RGB")).astype(int) - colour).max(axis=2).min())


def test_the_table_of_scores(tmp_path: Path) -> None:
    path = tmp_path / "scores.svg"
    figures.scores(
        [pixels(8, 8, 3)] * 3,
        ["1.png", "나비.png", "3.png"],
        ["cat", "car", "개구리"],
        [[3.2, 5.1, -1.7], [1.3, 4.9, -0.001], [2.2, 2.5, -3.1]],
        path,
        shares=np.eye(3),
        right=[0, 1, None],
        losses=[2.9, 0.0, None],
    )
    shown = texts(path)
    assert set(shown) >= {"1.png", "나비.png", "cat", "car", "개구리", "hinge loss", "?"}
    assert [text for text in shown if re.fullmatch(r"-?\d+\.\d\d", text)] == [
        "3.20", "5.10", "-1.70", "2.90", "1.30", "4.90", "0.00", "0.00", "2.20", "2.50", "-3.10",
    ]  # fmt: skip
    content = path.read_text(encoding="utf-8").lower()
    assert content.count("stroke: #d55e00") == 2  # a frame for each right class that is known


def test_the_table_of_scores_without_losses(tmp_path: Path) -> None:
    path = tmp_path / "scores.svg"
    figures.scores([pixels(4, 6, 1)] * 20, [f"{n}" for n in range(20)], ["a", "b"], np.zeros((20, 2)), path)
    shown = texts(path)
    assert "hinge loss" not in shown
    assert shown.count("a") == 3  # eight pictures a block
    assert shown.count("0.00") == 40


def test_the_table_of_scores_refuses(tmp_path: Path) -> None:
    one = [pixels(4, 4, 3)]
    for arguments in (
        (one, ["1"], ["a", "b"], [[1.0]]),
        (one, ["1", "2"], ["a"], [[1.0]]),
        ([], [], ["a"], np.zeros((0, 1))),
        ([pixels(4, 4, 2)], ["1"], ["a"], [[1.0]]),
    ):
        with pytest.raises(ShapeError):
            figures.scores(*arguments, tmp_path / "scores.png")
    with pytest.raises(SettingError, match="a figure is written as"):
        figures.scores(one, ["1"], ["a"], [[1.0]], tmp_path / "scores.pdf")
    assert list(tmp_path.iterdir()) == []


def explain(path: Path, **changes: object) -> None:
    given: dict = {
        "image": np.full((8, 10, 3), 128, np.uint8),
        "title": "나비.png\ncat",
        "heats": {"gradient": np.zeros((8, 10))},
        "classes": ["cat", "dog"],
        "values": [1.5, -0.5],
        "layers": [("conv: 4 × 5 × 30", pixels(4, 5, 30) / 255), ("linear: 300\nmean 0", np.linspace(-1, 1, 300))],
    }
    figures.explanation(**(given | changes), path=path)


def test_an_explanation(tmp_path: Path) -> None:
    explain(tmp_path / "all.svg")
    assert set(texts(tmp_path / "all.svg")) >= {"gradient", "scores", "cat", "dog", "conv: 4 × 5 × 30", "mean 0"}
    assert any("나비.png" in text for text in texts(tmp_path / "all.svg"))
    explain(tmp_path / "all.png")
    with Image.open(tmp_path / "all.png") as image:
        assert min(image.size) > 300
    explain(tmp_path / "again.png")
    assert (tmp_path / "all.png").read_bytes() == (tmp_path / "again.png").read_bytes()


@pytest.mark.parametrize(("sign", "strong", "absent"), [(1, ORANGE, BLUE), (-1, BLUE, ORANGE)])
def test_a_map_is_orange_above_zero_and_blue_below(
    sign: int, strong: tuple[int, int, int], absent: tuple[int, int, int], tmp_path: Path
) -> None:
    heat = np.zeros((8, 10))
    heat[2:5, 2:5] = sign
    explain(tmp_path / "heat.png", heats={"map": heat}, classes=[], values=[], layers=[])
    assert nearest(tmp_path / "heat.png", strong) < 30
    assert nearest(tmp_path / "heat.png", absent) > 60


def test_a_layer_is_grey_where_nothing_is_negative(tmp_path: Path) -> None:
    nothing = {"heats": {}, "classes": [], "values": []}
    explain(tmp_path / "relu.png", layers=[("relu", np.eye(6)[:, :, None])], **nothing)
    explain(tmp_path / "conv.png", layers=[("conv", np.eye(6)[:, :, None] - 0.9)], **nothing)
    assert nearest(tmp_path / "relu.png", (0, 0, 0)) == 0
    assert nearest(tmp_path / "relu.png", BLUE) > 60
    assert nearest(tmp_path / "conv.png", BLUE) < 30


@pytest.mark.parametrize(
    "layer", [np.zeros((3, 3, 2)), np.zeros(5), np.full(5, np.nan), np.ones((1, 1, 500)), np.arange(5000.0), np.ones(1)]
)
def test_layers_of_every_kind_can_be_drawn(layer: np.ndarray, tmp_path: Path) -> None:
    explain(tmp_path / "layer.png", layers=[("layer", layer)])
    with Image.open(tmp_path / "layer.png") as image:
        image.load()


def test_an_explanation_refuses(tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match=r"map is \(8, 9\), the picture \(8, 10\)"):
        explain(tmp_path / "x.png", heats={"map": np.zeros((8, 9))})
    with pytest.raises(ShapeError, match="a layer's output is"):
        explain(tmp_path / "x.png", layers=[("layer", np.zeros((2, 2)))])
    assert list(tmp_path.iterdir()) == []


def test_pictures_in_columns(tmp_path: Path) -> None:
    for columns, wider in ((4, True), (1, False)):
        figures.pictures([pixels(8, 8, 3)] * 4, None, tmp_path / "p.png", columns=columns)
        with Image.open(tmp_path / "p.png") as image:
            assert (image.size[0] > 2 * image.size[1]) == wider


def test_small_pixels_keep_their_edges_in_svg(tmp_path: Path) -> None:
    """Whoever shows an SVG blurs a picture that it has to enlarge, so small ones are written large."""
    figures.pictures([pixels(4, 4, 3)], None, tmp_path / "p.svg")
    content = (tmp_path / "p.svg").read_text(encoding="utf-8")
    encoded = re.search(r"base64,([^\"]+)", content)
    assert encoded is not None
    with Image.open(io.BytesIO(base64.b64decode(encoded[1]))) as image:
        assert min(image.size) >= 200


def test_names_are_shown_as_they_are(tmp_path: Path) -> None:
    """Neither mathematics nor a surrogate of a file name stops a figure."""
    odd = "$x_1$ \udcff <b>"
    figures.scores([pixels(4, 4, 3)], [odd], [odd], [[np.nan]], tmp_path / "s.svg", losses=[np.inf])
    explain(tmp_path / "e.svg", title=odd, classes=[odd], values=[np.inf], layers=[(odd, np.zeros(2))])
    for name in ("s.svg", "e.svg"):
        assert any("$x_1$ &lt;b&gt;" in text for text in texts(tmp_path / name))
