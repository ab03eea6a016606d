"""Explanations against the lecture's numbers, closed formulas and plain loops."""

import html.parser
import itertools
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import nabi
from nabi import look, losses, models, nn
from nabi.errors import DataError, SettingError, ShapeError
from nabi.look.exactly import exactly, squared_distance
from nabi.look.layers import layers

KEY = nabi.random.key(0)


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def pictures(channels: tuple[int, ...] = (1, 3), largest: int = 12) -> st.SearchStrategy[np.ndarray]:
    """Of every kind: of one colour, of two, of noise."""
    sides = st.integers(1, largest)
    shapes = st.tuples(sides, sides, st.sampled_from(channels))
    return shapes.flatmap(lambda shape: arrays.arrays(np.uint8, shape))


# --- scores ---

LECTURE = [([3.2, 5.1, -1.7], 0, 2.9), ([1.3, 4.9, 2.0], 1, 0.0), ([2.2, 2.5, -3.1], 2, 12.9)]


def test_the_lectures_losses() -> None:
    found = [sum(term.loss for term in look.hinge_terms(scores, label)) for scores, label, _ in LECTURE]
    assert found == pytest.approx([loss for _, _, loss in LECTURE])
    assert round(float(np.mean(found)), 2) == 5.27


def test_the_lectures_terms() -> None:
    car, frog = look.hinge_terms(*LECTURE[0][:2])
    assert (car.place, frog.place) == (1, 2)
    assert (car.short, car.loss) == pytest.approx((2.9, 2.9))
    assert (frog.short, frog.loss) == pytest.approx((-3.9, 0))


@given(arrays.arrays(np.float64, st.integers(1, 8), elements=st.floats(-100, 100)), st.data())
def test_terms_add_up_to_the_loss(scores: np.ndarray, data: st.DataObject) -> None:
    label = data.draw(st.integers(0, len(scores) - 1))
    terms = look.hinge_terms(scores, label, margin=0.5)
    assert [term.place for term in terms] == [place for place in range(len(scores)) if place != label]
    assert sum(term.loss for term in terms) == pytest.approx(
        losses.multiclass_hinge(scores[None], np.array([label]), margin=0.5).item()
    )


def test_terms_of_what_is_no_score() -> None:
    with pytest.raises(SettingError, match="label 3 is not one of 3 classes"):
        look.hinge_terms([1.0, 2.0, 3.0], 3)
    with pytest.raises(ShapeError, match="one row"):
        look.hinge_terms([[1.0]], 0)
    assert np.isnan(look.hinge_terms([float("nan"), 1.0], 1)[0].loss)


def test_softmax_is_what_the_loss_takes_the_logarithm_of() -> None:
    scores = np.array([[1000.0, 999.0, -1000.0], [0.0, 0.0, 0.0]])
    shares = look.softmax(scores)
    assert shares.sum(axis=1) == pytest.approx([1, 1])
    taken = losses.softmax_cross_entropy(scores, np.array([1, 2]), reduction="none").numpy()
    assert -np.log(shares[[0, 1], [1, 2]]) == pytest.approx(taken)


# --- the grid ---


def test_a_picture_as_it_is() -> None:
    picture = pixels(5, 7, 3)
    shown = look.view(picture)
    assert shown.numbers is picture or (shown.numbers == picture).all()
    assert (shown.crop, shown.size, shown.shrunk) == ((0, 0, 7, 5), (7, 5), False)
    assert shown.channels == ("red", "green", "blue")
    for channel in range(3):
        text = np.array([row.split() for row in shown.rows(channel)], dtype=int)
        assert (text == picture[:, :, channel]).all()


def test_crop_and_zoom() -> None:
    picture = pixels(20, 30, 1)
    assert (look.view(picture, crop=(3, 4, 5, 6)).numbers == picture[4:10, 3:8]).all()
    closer = look.view(picture, zoom=5)
    assert closer.crop == (12, 8, 6, 4)
    assert (closer.numbers == picture[8:12, 12:18]).all()
    assert look.view(picture, crop=(10, 10, 10, 10), zoom=100).crop == (14, 14, 1, 1)


@given(pictures(), st.integers(1, 12))
def test_shrinking_takes_means(picture: np.ndarray, most: int) -> None:
    shown = look.view(picture, most=most)
    rows, columns, channels = shown.numbers.shape
    assert max(rows, columns) == min(most, max(picture.shape[:2]))
    assert channels == picture.shape[2]
    bounds = [[i * side // parts for i in range(parts + 1)] for side, parts in zip(picture.shape, (rows, columns))]  # noqa: B905
    for row, column in itertools.product(range(rows), range(columns)):
        part = picture[bounds[0][row] : bounds[0][row + 1], bounds[1][column] : bounds[1][column + 1]]
        assert shown.numbers[row, column].tolist() == np.rint(part.mean(axis=(0, 1))).tolist()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"crop": (0, 0, 8, 4)}, "crop 0,0,8,4 does not lie in a picture of 7x5"),
        ({"crop": (-1, 0, 2, 2)}, "does not lie"),
        ({"crop": (0, 0, 0, 2)}, "does not lie"),
        ({"zoom": 0.5}, "zoom 0.5: it must be 1 or more"),
        ({"zoom": float("nan")}, "zoom nan"),
        ({"most": 0}, "size 0"),
    ],
)
def test_what_cannot_be_shown(settings: dict, told: str) -> None:
    with pytest.raises(SettingError, match=re.escape(told)):
        look.view(pixels(5, 7, 3), **settings)


def test_a_view_of_no_picture() -> None:
    for wrong in (np.zeros((2, 2), np.uint8), np.zeros((2, 2, 2), np.uint8), np.zeros((2, 2, 3)), pixels(0, 2, 1)):
        with pytest.raises(ShapeError):
            look.view(wrong)


class Page(html.parser.HTMLParser):
    """What stands in the cells of each table, the texts, and every address."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[list[int]] = []
        self.texts: list[str] = []
        self.addresses: list[str] = []
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.inside = tag
        self.addresses += [value for name, value in attributes if name in ("src", "href", "action", "srcset")]
        if tag == "table":
            self.tables.append([])

    def handle_data(self, text: str) -> None:
        if self.inside == "td" and text.strip():
            self.tables[-1].append(int(text))
        elif text.strip():
            self.texts.append(text.strip())


def test_a_page_holds_every_number_and_asks_nobody() -> None:
    picture = pixels(3, 4, 3)
    text = look.page(look.view(picture), "<script>alert(1)</script> & 나비", "three & four")
    found = Page(text)
    assert [np.reshape(table, (3, 4)).tolist() for table in found.tables] == np.moveaxis(picture, 2, 0).tolist()
    assert "<script>alert(1)</script> & 나비" in found.texts
    assert "<script" not in text
    assert len(found.addresses) == 1
    assert found.addresses[0].startswith("data:image/png;base64,")
    assert "http" not in text
    assert "url(" not in text


# --- one distance ---


@given(pictures())
def test_three_pictures_at_one_distance(picture: np.ndarray) -> None:
    if (picture == picture[0, 0]).all():
        with pytest.raises(DataError, match="a picture of a single colour"):
            look.same_distance(picture)
        return
    versions = look.same_distance(picture)
    assert [version.name for version in versions] == ["boxed", "shifted", "tinted"]
    for version in versions:
        assert version.picture.shape == picture.shape
        assert version.picture.dtype == np.uint8
        true = int(((version.picture.astype(int) - picture.astype(int)) ** 2).sum())
        assert version.squared_distance == true > 0
        assert version.distance == pytest.approx(true**0.5)
    if picture.size >= 100:  # enough numbers for sums of squares to meet
        assert len({version.squared_distance for version in versions}) == 1


@pytest.mark.parametrize("seed", range(5))
def test_a_boxed_picture_is_changed_in_its_box_only_and_a_shifted_one_is_shifted(seed: int) -> None:
    from PIL import Image

    rough = Image.fromarray(pixels(6, 8, 3, seed=seed))
    picture = np.asarray(rough.resize((40, 30), Image.Resampling.BICUBIC))  # as smooth as photos are
    boxed, shifted, tinted = look.same_distance(picture)
    rows, columns = np.nonzero((boxed.picture != picture).any(axis=2))
    box = boxed.picture[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].astype(int)
    assert box.max() - box.min() <= 8  # of one colour, as far as one can see
    assert len(rows) < picture.shape[0] * picture.shape[1] / 3
    pixel = int(shifted.how.split()[0])
    assert (shifted.picture[:, pixel:] == picture[:, :-pixel]).all()
    assert np.mean(tinted.picture[..., 2].astype(int) - picture[..., 2]) > 0
    assert boxed.squared_distance == shifted.squared_distance == tinted.squared_distance


def test_a_picture_that_changes_downwards_only_is_shifted_downwards() -> None:
    picture = np.repeat(np.arange(0, 240, 10, dtype=np.uint8)[:, None, None], 24, axis=1)
    _, shifted, _ = look.same_distance(picture)
    assert shifted.how.endswith("down")


def test_same_distance_of_no_picture() -> None:
    with pytest.raises(ShapeError):
        look.same_distance(np.zeros((4, 4), np.uint8))
    with pytest.raises(ShapeError):
        look.same_distance(np.zeros((4, 4, 3)))


@given(pictures(largest=8), st.integers(0, 5000))
def test_exactly_moves_only_what_it_may(picture: np.ndarray, more: int) -> None:
    allowed = pixels(*picture.shape, seed=more) < 128
    changed = np.where(allowed, 255 - picture, picture)
    target = max(0, squared_distance(picture, changed) - more)
    moved = exactly(picture, changed, allowed, target)
    assert (moved[~allowed] == picture[~allowed]).all()
    before, after = (abs(target - squared_distance(picture, one)) for one in (changed, moved))
    assert after <= before


# --- models ---


def convnet() -> nn.Sequential:
    return models.convnet((8, 8, 3), 4, channels=(5, 6), seed=1)


def test_activations_end_with_the_scores() -> None:
    net, picture = convnet(), pixels(8, 8, 3)
    found = look.activations(net, picture)
    assert [a.name for a in found] == [name for name, _ in net.items()]
    y = nabi.tensor(picture[None])
    for activation, layer in zip(found, net, strict=True):
        y = layer(y, training=False)
        assert (activation.value == y.numpy()[0]).all()
        assert activation.mean == pytest.approx(float(y.numpy().mean()), abs=1e-6)
        assert activation.zeros == pytest.approx(float((y.numpy() == 0).mean()))
    assert found[-1].value.shape == (4,)
    relu = next(a for a in found if a.layer == "ReLU")
    assert 0 < relu.zeros < 1


def test_a_net_within_a_net_is_opened() -> None:
    inner = nn.Sequential(nn.Conv2d(3, 4, 3, key=KEY), nn.ReLU())
    net = nn.Sequential(nn.Standardize(0.5, 0.5), inner, nn.GlobalAvgPool(), nn.Linear(4, 2, key=KEY))
    assert [name for name, _ in layers(net)] == [
        "standardize", "sequential.conv", "sequential.relu", "global_avg_pool", "linear",
    ]  # fmt: skip
    found = look.grad_cam(net, pixels(8, 8, 3), 0)
    assert found is not None
    assert (found.layer, found.map.shape) == ("sequential.relu", (6, 6))


@pytest.mark.parametrize("container", [nn.Sequential, nn.MultiCrop])
def test_saliency_is_the_slope_of_the_score(container: type[nn.Sequential]) -> None:
    """Against central differences, on a net without corners, in float64; of all looks, if it looks more than once."""
    net = container(dict(models.three_layer((3, 4, 1), 5, hidden=(6, 6), seed=3).items()))
    for tensor in nn.tensors(net).values():
        tensor.held = np.float64(tensor.value)
    picture = pixels(3, 4, 1)
    found = look.saliency(net, picture, 2)
    assert found.shape == picture.shape
    x = picture / 255.0
    for place in np.ndindex(x.shape):
        more, less = x.copy(), x.copy()
        more[place] += 1e-5
        less[place] -= 1e-5
        slope = (net(more[None]).numpy()[0, 2] - net(less[None]).numpy()[0, 2]) / 2e-5
        assert found[place] == pytest.approx(slope, rel=1e-4, abs=1e-7)


def test_saliency_leaves_the_model_as_it_was() -> None:
    net = convnet()
    before = {name: tensor.numpy() for name, tensor in nn.tensors(net).items()}
    look.saliency(net, pixels(8, 8, 3), 0)
    assert look.grad_cam(net, pixels(8, 8, 3), 0) is not None
    for name, tensor in nn.tensors(net).items():
        assert tensor.grad is None
        assert (tensor.numpy() == before[name]).all()


@pytest.mark.parametrize("place", range(4))
def test_grad_cam_before_a_global_mean_is_the_class_activation_map(place: int) -> None:
    """There the gradient is the class's weights, shared out over the pixels (Selvaraju and others, section 3.1)."""
    net = nn.Sequential(
        nn.Standardize(0.5, 0.25),
        nn.Conv2d(3, 6, 3, key=KEY, padding="same"),
        nn.ReLU(),
        nn.GlobalAvgPool(),
        nn.Linear(6, 4, key=KEY),
    )
    picture = pixels(7, 5, 3)
    found = look.grad_cam(net, picture, place)
    assert found is not None
    maps = net[:3](picture[None]).numpy()[0]
    expected = np.maximum((maps * net.linear.weight.numpy()[:, place]).sum(axis=2), 0) / (7 * 5)
    assert found.layer == "relu"
    assert found.map == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert found.over(14, 10).shape == (14, 10)


def test_the_layer_of_grad_cam_is_chosen() -> None:
    chosen = look.grad_cam(models.alexnet(3, form="single-tower"), pixels(64 + 160, 224, 3), 1)
    assert chosen is not None
    assert (chosen.layer, chosen.map.shape) == ("relu5", (13, 13))
    residual = nn.Sequential(
        nn.Residual(nn.Conv2d(3, 3, 3, padding=1, key=KEY)), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(12, 2, key=KEY),
    )  # fmt: skip
    chosen = look.grad_cam(residual, np.ones((4, 4, 3), np.float32), 0)
    assert chosen is not None
    assert chosen.layer == "relu"


def test_no_convolution_no_grad_cam() -> None:
    assert look.grad_cam(models.mlp((4, 4, 1), 3, hidden=(5,)), pixels(4, 4, 1), 0) is None


def test_a_class_that_is_not_there() -> None:
    net, picture = convnet(), pixels(8, 8, 3)
    for explain in (look.saliency, look.grad_cam):
        with pytest.raises(SettingError, match="class 4 is not one of 4 classes"):
            explain(net, picture, 4)
    with pytest.raises(SettingError, match="class 4 is not one of 4 classes"):
        look.occlusion(lambda x: net(x).numpy(), picture, 4)


# --- occlusion ---


@pytest.mark.parametrize(("patch", "stride"), [(3, 2), (1, 1), (5, 5), (2, 1), (None, None)])
def test_occlusion_is_a_loop(patch: int | None, stride: int | None) -> None:
    picture = pixels(9, 6, 3)
    weight = np.random.default_rng(1).normal(size=(9 * 6 * 3, 4))
    scores = lambda x: np.tanh(x.reshape(len(x), -1) / 255 @ weight)
    found = look.occlusion(scores, picture, 2, patch=patch, stride=stride, fill=100)
    high, wide = found.patch
    assert (high, wide) == ((patch, patch) if patch else (2, 1))
    step = stride or 1
    tops = sorted({*range(0, 9 - high, step), 9 - high})
    lefts = sorted({*range(0, 6 - wide, step), 6 - wide})
    total, count = np.zeros((9, 6)), np.zeros((9, 6))
    falls = []
    for top, left in itertools.product(tops, lefts):
        hidden = picture.copy()
        hidden[top : top + high, left : left + wide] = 100
        fall = scores(picture[None])[0, 2] - scores(hidden[None])[0, 2]
        falls.append(fall)
        for row in range(top, top + high):
            for column in range(left, left + wide):
                total[row, column] += fall
                count[row, column] += 1
    assert found.corners.tolist() == [list(corner) for corner in itertools.product(tops, lefts)]
    assert found.falls == pytest.approx(np.array(falls))
    assert count.min() > 0
    assert found.map == pytest.approx(total / count)
    assert found.score == pytest.approx(scores(picture[None])[0, 2])


def test_occlusion_says_how_far_it_is_and_changes_nothing() -> None:
    picture = pixels(32, 32, 3)
    before = picture.copy()
    told: list[tuple[int, int]] = []
    look.occlusion(lambda x: x.reshape(len(x), -1)[:, :2], picture, 0, progress=lambda *step: told.append(step))
    assert told[-1] == (169, 169)
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert len(told) > 1
    assert (picture == before).all()


@pytest.mark.parametrize("settings", [{"patch": 0}, {"patch": 9}, {"patch": 2, "stride": 3}, {"stride": 0}])
def test_occlusion_refuses(settings: dict) -> None:
    with pytest.raises(SettingError, match=r"occlusion: a (patch|stride) of"):
        look.occlusion(lambda x: np.zeros((len(x), 2)), pixels(8, 8, 1), 0, **settings)
