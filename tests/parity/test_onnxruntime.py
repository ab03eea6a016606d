"""What is written as ONNX, beside onnxruntime; what is read from it, beside ONNX's own tests of its operators."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import nabi
from nabi import compile, data
from nabi.classifiers import (
    Classifier,
    ConvNetClassifier,
    KNNClassifier,
    LinearClassifier,
    MLPClassifier,
    Perceptron,
    ThreeLayerClassifier,
)
from nabi.classifiers.agreement import agreement
from nabi.classifiers.exporting import to_onnx
from nabi.classifiers.photo import HEADS, PhotoClassifier
from nabi.cli import main
from nabi.data.decode import fit, grey
from nabi.errors import GraphError, NabiError
from nabi.graph.operation import Draw, registry
from nabi.onnx import pictures, reading
from nabi.onnx.from_onnx import RULES, Call, compute
from nabi.onnx.namespace import Value, Writer
from nabi.onnx.running import Session
from nabi.onnx.to_onnx import UNWRITTEN
from nabi.onnx.writing import write_plan
from tiny_photos import photos, put_in_place

onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
pytestmark = pytest.mark.parity

EXAMPLES = [(name, place) for name, operation in registry.items() for place in range(len(operation.examples))]
WRITTEN = [(name, place) for name, place in EXAMPLES if name not in UNWRITTEN]


def drawn(draw: Draw, rng: np.random.Generator) -> Any:
    match draw.domain:
        case "real":
            return rng.standard_normal(draw.shape).astype(np.float32)
        case "positive":
            return rng.uniform(0.5, 2.5, draw.shape).astype(np.float32)
        case "unit":
            return rng.uniform(0, 1, draw.shape).astype(np.float32)
        case "boolean":
            return rng.uniform(size=draw.shape) < 0.5
        case "key":
            return np.array([1, 2], np.uint32)
    return rng.integers(0, draw.domain, draw.shape)


def recorded(name: str, place: int) -> tuple[Any, list[Any]]:
    operation = registry[name]
    example = operation.examples[place]
    rng = np.random.default_rng(place)
    return compile(lambda *arrays: operation(*arrays, **example.settings), engine="reference"), [
        drawn(draw, rng) for draw in example.arrays
    ]


@pytest.mark.parametrize(("name", "place"), WRITTEN)
def test_every_operation_is_what_onnxruntime_computes(name: str, place: int) -> None:
    function, arrays = recorded(name, place)
    xp = Writer()
    names = [xp.unique(f"x{number}") for number in range(len(arrays))]
    outputs = write_plan(
        xp, function.plan(*arrays), [Value(xp, array, name) for name, array in zip(names, arrays, strict=True)]
    )
    content = xp.model(
        [(name, array.dtype, array.shape) for name, array in zip(names, arrays, strict=True)],
        [(output.name, output.dtype, output.shape) for output in outputs],
        {},
        "0",
    )
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options)
    found = session.run([output.name for output in outputs], dict(zip(names, arrays, strict=True)))
    expected = function(*arrays)
    for theirs, ours in zip(found, expected if isinstance(expected, tuple) else (expected,), strict=True):
        assert theirs.dtype == ours.dtype
        assert theirs.shape == ours.shape
        np.testing.assert_allclose(theirs, ours.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", sorted(UNWRITTEN))
def test_what_cannot_be_written_says_why(name: str) -> None:
    function, arrays = recorded(name, 0)
    xp = Writer()
    with pytest.raises(GraphError, match="cannot be written as ONNX"):
        write_plan(xp, function.plan(*arrays), [Value(xp, array, "x") for array in arrays])


@pytest.mark.parametrize(("size", "channels"), [((224, 224), 3), ((32, 32), 3), ((48, 64), 1)])
def test_pictures_are_resized_to_the_bit(size: tuple[int, int], channels: int) -> None:
    xp = Writer()
    made = xp.last(pictures.sized(xp, *size, channels))
    shape = ["N", *size, channels]
    session = Session(
        xp.model([(pictures.INPUT, np.uint8, ["N", "H", "W", 3])], [(made.name, np.uint8, shape)], {}, "0")
    )
    rng = np.random.default_rng(0)
    known = [
        (300, 400),
        (400, 300),
        (376, 300),
        (377, 300),
        (32, 32),
        (224, 224),
        (333, 334),
        (7, 501),
        (501, 7),
        (1, 3),
    ]
    for height, width in known + rng.integers(1, 500, (20, 2)).tolist():
        picture = rng.integers(0, 256, (height, width, 3), np.uint8)
        ours = grey(fit(picture, size)) if channels == 1 else fit(picture, size)
        np.testing.assert_array_equal(session(picture[np.newaxis])[0][0], ours)


CLASSIFIERS: dict[str, Classifier] = {
    "linear": LinearClassifier(max_iter=2, random_state=0),
    "linear softmax": LinearClassifier("softmax", max_iter=2, random_state=0),
    "mlp": MLPClassifier((32,), max_iter=2, random_state=0),
    "three-layer": ThreeLayerClassifier(max_iter=2, random_state=0),
    "convnet": ConvNetClassifier(channels=(8, 16), max_iter=1, random_state=0),
    "convnet, mirrored": ConvNetClassifier(channels=(8, 16), augment="flip", max_iter=1, random_state=0),
    "convnet, four looks": ConvNetClassifier(channels=(8, 16), augment="flip,crop:1", max_iter=1, random_state=0),
    "perceptron": Perceptron(max_iter=2, random_state=0),
    "knn": KNNClassifier(),
    "knn l1": KNNClassifier(3, metric="l1"),
    "knn distance": KNNClassifier(weights="distance"),
}


@pytest.fixture(scope="module")
def digits() -> Any:
    return data.load("digits")


@pytest.mark.parametrize("head", HEADS)
def test_photos_are_answered_with_their_temperature(head: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_in_place(monkeypatch)
    classifier = PhotoClassifier(head, random_state=0).fit(*photos(60))
    classifier.temperature_ = 1.0 if head == "knn" else 2.5
    shown, _ = photos(20, seed=1)
    found = agreement(classifier, Session(to_onnx(classifier)), [("", picture) for picture in shown])
    assert found.pictures == 20
    assert not found.wrong
    assert not found.changed
    (tmp_path / "model.onnx").write_bytes(to_onnx(classifier))
    back = nabi.load(tmp_path / "model.onnx")
    assert back.predict(shown).tolist() == classifier.predict(shown).tolist()
    if hasattr(classifier, "predict_proba"):
        np.testing.assert_allclose(back.predict_proba(shown), classifier.predict_proba(shown), atol=1e-4)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_classifier_is_what_onnxruntime_answers_and_comes_back(name: str, digits: Any, tmp_path: Path) -> None:
    names = np.array([f"number {label}" for label in digits.classes])
    classifier = CLASSIFIERS[name].fit(digits.train.images, names[digits.train.labels])
    content = to_onnx(classifier)
    shown = np.repeat(digits.test.images[:100], 3, axis=3)
    large = [np.asarray(np.kron(picture, np.ones((3, 4, 1))), np.uint8) for picture in shown[:10]]
    found = agreement(classifier, Session(content), [("", picture) for picture in [*shown, *large]])
    assert found.pictures == 110
    assert not found.wrong
    assert not found.changed

    (tmp_path / "model.onnx").write_bytes(content)
    back = nabi.load(tmp_path / "model.onnx")
    back.save(tmp_path / "model.safetensors")
    for one in (back, nabi.load(tmp_path / "model.safetensors")):
        np.testing.assert_array_equal(one.predict(shown), classifier.predict(digits.test.images[:100]))
        np.testing.assert_allclose(one.scores(shown), classifier.scores(digits.test.images[:100]), rtol=1e-4, atol=1e-4)


def test_a_wrong_file_is_not_written(digits: Any, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    classifier = LinearClassifier(max_iter=2, random_state=0).fit(digits.train.images, digits.train.labels)
    classifier.save(tmp_path / "model.safetensors")
    target = tmp_path / "model.onnx"
    command = ["export", str(tmp_path / "model.safetensors"), "--onnx", str(target), "--check", "digits"]
    assert main(command) == 0
    assert "no prediction is another one" in capsys.readouterr().out
    target.unlink()
    monkeypatch.setattr(pictures, "ONE", 2**3)  # weights of a few bits: another picture
    monkeypatch.setattr(
        "nabi.cli.export._of",
        lambda source, split: [("one", np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8))],
    )
    assert main(command) == 2
    assert "does not answer as" in capsys.readouterr().err
    assert not target.exists()


def test_batch_normalisation_is_in_the_convolutions_and_the_classes_in_the_metadata(digits: Any) -> None:
    names = np.array([f"number {label}" for label in digits.classes])
    classifier = ConvNetClassifier(channels=(8, 16), max_iter=1, random_state=0)
    file = onnx.load_from_string(to_onnx(classifier.fit(digits.train.images, names[digits.train.labels])))
    kinds = [node.op_type for node in file.graph.node]
    assert {kinds[place + 1] for place, kind in enumerate(kinds) if kind == "Conv"} == {"Relu"}
    metadata = {entry.key: entry.value for entry in file.metadata_props}
    assert json.loads(metadata["nabi.classes"]) == sorted(names)


def test_an_import_is_measured_as_what_was_exported(digits: Any, tmp_path: Path, capsys: Any) -> None:
    classifier = MLPClassifier((32,), max_iter=6, random_state=0)
    classifier.fit(digits.train.images, np.array(digits.classes)[digits.train.labels])
    classifier.save(tmp_path / "ours.safetensors")
    onnx_file = str(tmp_path / "theirs.onnx")
    assert main(["export", str(tmp_path / "ours.safetensors"), "--onnx", onnx_file, "--check", "digits"]) == 0
    assert main(["import", onnx_file]) == 0
    capsys.readouterr()
    said = []
    for name in ("ours", "theirs"):
        assert main(["evaluate", str(tmp_path / f"{name}.safetensors"), "digits", "--json"]) == 0
        said.append(json.loads(capsys.readouterr().out))
    assert said[0]["accuracy"] == said[1]["accuracy"] > 0.7
    assert said[0]["per_class"] == said[1]["per_class"]


def test_the_pictures_of_a_split_are_compared(digits: Any, tmp_path: Path, capsys: Any) -> None:
    LinearClassifier(max_iter=2, random_state=0).fit(digits.train.images, digits.train.labels).save(
        tmp_path / "model.safetensors"
    )
    for split, count in (("train", 3), ("test", 2)):
        for name in "ab":
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for number in range(count):
                picture = np.repeat(digits.test.images[number], 3, axis=2)
                Image.fromarray(picture).save(tmp_path / "data" / split / name / f"{number}.png")
    command = ["export", str(tmp_path / "model.safetensors"), "--onnx", str(tmp_path / "model.onnx")]
    source = str(tmp_path / "data")
    assert main([*command, "--check", source]) == 0
    assert f"on 10 pictures of {source}:" in capsys.readouterr().out
    assert main([*command, "--check", source, "--split", "test"]) == 0
    assert f"on 4 pictures of {source}, test:" in capsys.readouterr().out
    assert main([*command, "--check", source, "--split", "validation"]) == 2
    assert "has no validation pictures" in capsys.readouterr().err
    assert main([*command, "--split", "test"]) == 2
    assert "of what --check names" in capsys.readouterr().err


def test_operators_pass_the_tests_of_onnx() -> None:
    """Of every operator that is read: what is not refused is right, and that is most of it."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tests = load_model_tests(kind="node")
    passed = refused = 0
    for test in tests:
        if not {node.op_type for node in test.model.graph.node} <= set(RULES):
            continue
        for given, expected in test.data_sets:
            try:
                with np.errstate(all="ignore"):  # infinities are among what is tested
                    found = run(test.model.SerializeToString(), given)
            except NabiError:
                refused += 1
                continue
            for ours, theirs in zip(found, expected, strict=True):
                assert ours.shape == theirs.shape, test.name
                assert ours.dtype == theirs.dtype, test.name
                np.testing.assert_allclose(ours, theirs, rtol=test.rtol, atol=test.atol, err_msg=test.name)
            passed += 1
    print(f"{passed} passed, {refused} refused")
    assert passed >= 800
    assert refused < passed / 2


def run(content: bytes, given: list[Any]) -> list[Any]:
    """What our operations make of arrays by a file's graph; numbers on the way may be known or not."""
    graph = reading.read(content)
    values: dict[str, Any] = {"": None, **graph.constants}
    for one, array in zip(graph.inputs, given, strict=False):
        array = np.asarray(array)
        unknown = array.ndim > 0 and array.dtype.name in ("float32", "float64", "uint8", "bool")
        values[one.name] = nabi.tensor(array) if unknown else array
    computed = [0]
    for node in graph.nodes:
        inputs = [values[name] for name in node.inputs]
        while inputs and inputs[-1] is None:
            inputs.pop()
        values.update(zip(node.outputs, compute(node, inputs, graph.opset, computed), strict=False))
    call = Call(reading.Operator("output", "", (), (), {}), graph.opset, computed)
    found = [call.plain(values[name]) for name in graph.outputs]
    return [one if isinstance(one, np.ndarray) else one.numpy() for one in found]
