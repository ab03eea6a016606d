"""The convolutional classifier with AlexNet, with a network of one's own, and on rows of numbers."""

import numpy as np
import pytest
from sklearn.base import clone

from nabi import container, models, nn, random
from nabi.classifiers import ConvNetClassifier, load
from nabi.errors import ModelFileError, SettingError, ShapeError
from nabi.nn import build, describe

KEY = random.key(0)


def own(outputs: int = 2, **more: nn.Layer) -> nn.Sequential:
    return nn.Sequential(
        {
            "conv": nn.Conv2d(1, 4, 3, key=KEY, padding="same", bias=False),
            "norm": nn.BatchNorm(4),
            "relu": nn.LeakyReLU(0.1),
            "residual": nn.Residual(nn.Sequential(nn.Conv2d(4, 4, 1, key=KEY), nn.ReLU())),
            "pool": nn.GlobalAvgPool(),
            "drop": nn.Dropout(0.1, key=KEY),
            **more,
            "linear": nn.Linear(4, outputs, key=KEY),
        }
    )


def stripes(n: int = 60):
    """Upright and level stripes."""
    r = np.random.default_rng(0)
    labels = r.integers(0, 2, n)
    images = r.integers(0, 100, (n, 6, 6, 1))
    images[labels == 0, ::2] += 150
    images[labels == 1, :, ::2] += 150
    return images.astype(np.uint8), np.array(["level", "upright"])[labels]


def made(architecture, **changes) -> ConvNetClassifier:
    settings = {"max_iter": 15, "batch_size": 16, "random_state": 0, "learning_rate": 0.02} | changes
    return ConvNetClassifier(architecture, **settings)


def test_a_network_of_ones_own_is_trained_and_left_as_it_was(tmp_path) -> None:
    images, labels = stripes()
    network = own()
    before = {path: t.numpy() for path, t in nn.tensors(network).items()}
    classifier = made(network).fit(images, labels)
    assert classifier.score(images, labels) > 0.9
    assert all(np.array_equal(before[path], t.numpy()) for path, t in nn.tensors(network).items())
    assert [name for name, _ in classifier.model_.items()] == ["standardize", "network"]
    again = made(network).fit(images, labels)
    assert np.array_equal(again.scores(images), classifier.scores(images))

    classifier.save(tmp_path / "model")
    other = load(tmp_path / "model")
    assert np.array_equal(other.scores(images), classifier.scores(images))
    # Its argument is the network as it was before it learnt anything, as the first one's is.
    assert np.array_equal(clone(other).fit(images, labels).scores(images), classifier.scores(images))
    other.partial_fit(images, labels)
    assert all(np.array_equal(before[path], t.numpy()) for path, t in nn.tensors(other.architecture).items())


def test_a_network_that_standardises_by_itself_keeps_its_first_layer() -> None:
    images, labels = stripes()
    network = nn.Sequential({"standardize": nn.Standardize.identity((6, 6, 1)), **dict(own().items())})
    classifier = made(network, max_iter=1).fit(images, labels)
    assert [name for name, _ in classifier.model_.items()].count("standardize") == 1
    assert classifier.model_.standardize.mean.numpy() == pytest.approx(images.mean() / 255, abs=1e-6)


@pytest.mark.parametrize("rows", [False, True])
def test_layers_may_be_called_what_one_likes(rows: bool) -> None:
    images, labels = stripes()
    network = nn.Sequential(
        {
            "first": nn.Standardize(0.5, 0.5),
            "picture": nn.Dropout(0.1, key=KEY),
            "standardize": nn.Flatten(),
            "initial": nn.Linear(36, 2, key=KEY),
        }
    )
    given = images.reshape(60, 36) if rows else images
    shape = {"image_shape": (6, 6, 1)} if rows else {}
    classifier = made(network, learning_rate=0.1, **shape).fit(given, labels)
    assert classifier.score(given, labels) > 0.9
    inner = classifier.model_.network if rows else classifier.model_
    assert [name for name, _ in inner.items()] == ["first", "picture", "standardize", "initial"]
    assert inner.first.mean.numpy() == pytest.approx(images.mean() / 255, abs=1e-6)


def test_weights_that_do_not_see_the_picture_are_not_shown_as_one() -> None:
    images, labels = stripes()
    network = nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(9, 2, key=KEY))
    classifier = made(network).fit(images, labels)
    assert classifier.weight_pictures() is None
    assert "ConvNetClassifier" in classifier._repr_html_()


def test_a_layer_that_stands_twice_is_trained_but_cannot_be_written(tmp_path) -> None:
    images, labels = stripes()
    shared = nn.Linear(36, 36, key=KEY)
    network = nn.Sequential({"flat": nn.Flatten(), "a": shared, "b": shared, "c": nn.Linear(36, 2, key=KEY)})
    classifier = made(network, max_iter=1).fit(images, labels)
    with pytest.raises(SettingError, match="a layer stands in the model twice"):
        classifier.save(tmp_path / "model")


def test_a_network_that_does_not_fit_is_refused() -> None:
    images, labels = stripes()
    with pytest.raises(ShapeError, match=r"architecture: the network makes \(3,\) of an input, and not 2 scores"):
        made(own(outputs=3)).fit(images, labels)
    with pytest.raises(ShapeError, match="conv"):
        made(own()).fit(np.repeat(images, 3, axis=3), labels)
    with pytest.raises(SettingError, match="architecture 'resnet' is not one of convnet, alexnet"):
        made("resnet").fit(images, labels)


def test_a_network_with_a_layer_of_ones_own_cannot_be_written(tmp_path) -> None:
    class Twice(nn.Layer):
        def forward(self, x, training):
            return 2 * x

    images, labels = stripes()
    classifier = made(own(twice=Twice()), max_iter=1).fit(images, labels)
    with pytest.raises(SettingError, match=r"Twice is not a layer of nabi\.nn: a file cannot say what it is"):
        classifier.save(tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_rows_are_pictures_of_one_line_or_of_the_shape_that_is_given() -> None:
    images, labels = stripes()
    rows = images.reshape(60, -1)
    line = made("convnet", channels=(4,), max_iter=1).fit(rows / 255, labels)
    assert [name for name, _ in line.model_.items()] == ["standardize", "picture", "network"]
    assert "max_pool" not in dict(line.model_.network.items())  # which does not fit
    assert line.model_.standardize.mean.shape == (36,)
    square = made("convnet", channels=(4,), image_shape=(6, 6, 1)).fit(rows, labels)
    assert square.score(rows, labels) > 0.9
    assert [name for name, _ in square.model_.items()] == ["picture", "network"]
    assert np.array_equal(square.predict(rows), made("convnet", channels=(4,)).fit(images, labels).predict(images))
    with pytest.raises(ShapeError, match=r"image_shape \(5, 7, 1\) has 35 numbers, and an input 36"):
        made("convnet", image_shape=(5, 7, 1)).fit(rows, labels)
    with pytest.raises(SettingError, match="there must be 3 of them"):
        made("convnet", image_shape=(6, 6)).fit(rows, labels)


def test_alexnet_takes_pictures_of_its_size_only() -> None:
    with pytest.raises(ShapeError, match=r"alexnet takes pictures of \(224, 224, 3\), these are \(6, 6, 1\)"):
        made("alexnet").fit(*stripes())


# --- models as plain data ---


@pytest.mark.parametrize(
    "model",
    [own(), models.alexnet(3), models.mlp((4, 4, 1), 3), models.convnet((8, 8, 3), 3), models.three_layer((5,), 3)],
    ids=["own", "alexnet", "mlp", "convnet", "three-layer"],
)
def test_a_described_model_is_built_again(model) -> None:
    numbers = sum(t.size for t in nn.tensors(model).values())
    again = build(describe(model), numbers)
    assert describe(again) == describe(model)
    shapes = {path: (t.shape, t.dtype, t.requires_grad) for path, t in nn.tensors(model).items()}
    assert {path: (t.shape, t.dtype, t.requires_grad) for path, t in nn.tensors(again).items()} == shapes
    with pytest.raises(ModelFileError, match=f"ask for {numbers:,} numbers, and its arrays hold {numbers - 1:,}"):
        build(describe(model), numbers - 1)


@pytest.mark.parametrize(
    "description",
    [
        {},
        {"layer": "os"},
        {"layer": ["Linear"]},
        {"layer": "Layer"},
        {"layer": "Linear", "fields": [["forward", 1]]},
        {"layer": "Linear", "fields": [["__class__", 1]]},
        {"layer": "Linear", "fields": [["a b", 1]]},
        {"layer": "Linear", "fields": [[1, 1]]},
        {"layer": "Linear", "fields": [["weight", {"tensor": "O", "shape": [3]}]]},
        {"layer": "Linear", "fields": [["weight", {"tensor": "float32", "shape": [-3]}]]},
        {"layer": "Linear", "fields": [["weight", {"tensor": "float32", "shape": 3}]]},
        {"layer": "Linear", "fields": [["weight", {"tensor": "float32", "shape": [10**12]}]]},
        {"layer": "Sequential", "fields": [["a", {"layer": "Sequential", "fields": [["a", {"layer": "nothing"}]]}]]},
    ],
    ids=str,
)
def test_a_description_that_makes_no_sense_is_refused(description) -> None:
    with pytest.raises(ModelFileError):
        build(description, 1000)


def fields(description, *path):
    """The fields of a layer inside of a description, as a dict; written back by the caller."""
    for name in path:
        description = dict(description["fields"])[name]
    return description["fields"]


def without(description, name: str, *path) -> None:
    pairs = fields(description, *path)
    pairs[:] = [pair for pair in pairs if pair[0] != name]


def changed(description, name: str, value, *path) -> None:
    pairs = fields(description, *path)
    pairs[:] = [[name, value] if pair[0] == name else pair for pair in pairs]


POOL = [["kernel_size", [40001, 40001]], ["stride", [9, 9]], ["padding", 20000]]


@pytest.mark.parametrize(
    "change",
    [
        lambda a: without(a, "stride", "conv"),
        lambda a: changed(a, "stride", "wide", "conv"),
        lambda a: changed(a, "padding", 10**6, "conv"),
        lambda a: changed(a, "dilation", 10**9, "conv"),
        lambda a: without(a, "weight", "linear"),
        lambda a: changed(a, "weight", {"tensor": "float32", "shape": [2, 4]}, "linear"),
        lambda a: changed(a, "body", 7, "residual"),
        lambda a: changed(a, "pool", {"layer": "MaxPool2d", "fields": POOL}),
        lambda a: changed(a, "padding", 20000, "conv"),
        lambda a: changed(a, "relu", {"layer": "Linear", "fields": []}),
        lambda a: changed(a, "key", {"tensor": "uint32", "shape": [0]}, "drop"),
        lambda a: without(a, "linear"),
        lambda a: a.update(fields=3),
        lambda a: a.clear(),
    ],
)
def test_a_file_whose_network_makes_no_sense_is_refused_in_one_line(tmp_path, change) -> None:
    images, labels = stripes()
    path = tmp_path / "model"
    made(own(), max_iter=1).fit(images, labels).save(path)
    arrays, header = container.read(path)
    for name in ("digest", "format"):
        header.pop(name, None)
    change(dict(header["model"]["fields"])["network"])
    container.write(path, arrays, header)
    with pytest.raises(ModelFileError, match=str(path)) as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_weights_of_classes_come_back_from_a_file(tmp_path) -> None:
    images, labels = stripes()
    weights = {"level": 1.0, "upright": 2.5}
    listen = lambda event: None
    made("convnet", channels=(2,), max_iter=1, class_weight=weights, callbacks=[listen]).fit(images, labels).save(
        tmp_path / "model"
    )
    again = load(tmp_path / "model")
    assert again.class_weight == weights
    assert again.callbacks is None


def test_alexnet_learns_eight_photographs_by_heart() -> None:
    """Of 224×224 pixels: noise, of which half is darker."""
    labels = np.arange(8) % 2
    images = np.random.default_rng(0).integers(0, 120, (8, 224, 224, 3)) + 130 * labels[:, None, None, None]
    classifier = ConvNetClassifier("alexnet", max_iter=4, batch_size=8, random_state=0, learning_rate=0.001)
    classifier.fit(images.astype(np.uint8), labels)
    assert classifier.loss_curve_[-1] < classifier.loss_curve_[0]
    assert classifier.score(images.astype(np.uint8), labels) == 1
