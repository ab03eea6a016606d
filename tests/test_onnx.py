"""ONNX files from strangers: what is no classifier, damaged or made to harm ends in one line."""

import json
import os
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nabi
from fuzzing import examples
from nabi.classifiers import MLPClassifier
from nabi.classifiers.exporting import to_onnx
from nabi.classifiers.imported import from_onnx
from nabi.cli import main
from nabi.errors import FormatError, ModelFileError, NabiError
from nabi.onnx.protobuf import encode
from nabi.onnx.tensors import to_message

LIMIT = 200 * 2**20


def value(name: str, shape: list[Any], kind: int = 1) -> Any:
    return {
        "name": name,
        "type": {"tensor_type": {"elem_type": kind, "shape": {"dim": [{"dim_value": n} for n in shape]}}},
    }


def node(kind: str, inputs: list[str], outputs: list[str], **ints: Any) -> Any:
    attributes = [
        {"name": name, "ints": list(n), "type": 7} if isinstance(n, list | tuple) else {"name": name, "i": n, "type": 2}
        for name, n in ints.items()
    ]
    return {"op_type": kind, "name": outputs[0], "input": inputs, "output": outputs, "attribute": attributes}


def model(
    nodes: list[Any], constants: dict[str, Any] | None = None, shape: list[Any] | None = None, **more: Any
) -> bytes:
    graph = {
        "node": nodes,
        "input": [value("x", shape or [1, 4])],
        "output": [value("y", [1, 3])],
        "initializer": [to_message(name, array) for name, array in (constants or {}).items()],
    }
    return encode({"ir_version": 8, "graph": graph | more.pop("graph", {}), "opset_import": [{"version": 18}]} | more)


WEIGHT = {"w": np.eye(4, 3, dtype=np.float32)}


@pytest.fixture
def written(tmp_path: Path) -> Any:
    def write(content: bytes) -> Path:
        path = tmp_path / "model.onnx"
        path.write_bytes(content)
        return path

    return write


def test_a_product_with_a_matrix_is_a_classifier(written: Any) -> None:
    made = nabi.load(written(model([node("MatMul", ["x", "w"], ["y"])], WEIGHT)))
    np.testing.assert_array_equal(made.predict(np.float32([[0, 2, 1, 5], [3, 1, 2, 0]])), [1, 0])
    assert made.input_shape_ == (4,)
    assert not hasattr(made, "predict_proba")


def test_pictures_with_channels_first_are_taken_with_channels_last(written: Any) -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((3, 2, 3, 3)).astype(np.float32)
    nodes = [
        node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["b"]),
        node("GlobalAveragePool", ["b"], ["c"]),
        node("Flatten", ["c"], ["y"]),
    ]
    made = nabi.load(written(model(nodes, {"w": weight}, [1, 2, 5, 6])))
    assert made.input_shape_ == (5, 6, 2)
    x = rng.standard_normal((3, 5, 6, 2)).astype(np.float32)
    maps = nabi.ops.relu(nabi.ops.conv2d(x, weight.transpose(2, 3, 1, 0), padding=1)).numpy()
    np.testing.assert_allclose(made.scores(x), maps.mean(axis=(1, 2)), rtol=1e-4, atol=1e-5)


def test_pictures_with_channels_last_are_taken_as_they_are(written: Any) -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((4, 3, 3, 3)).astype(np.float32)
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]),
        node("Conv", ["t", "w"], ["a"], pads=[1, 1, 1, 1]),
        node("GlobalAveragePool", ["a"], ["b"]),
        node("Flatten", ["b"], ["y"]),
    ]
    made = nabi.load(written(model(nodes, {"w": weight}, [1, 5, 6, 3])))
    assert made.input_shape_ == (5, 6, 3)
    x = rng.standard_normal((3, 5, 6, 3)).astype(np.float32)
    maps = nabi.ops.conv2d(x, weight.transpose(2, 3, 1, 0), padding=1).numpy()
    np.testing.assert_allclose(made.scores(x), maps.mean(axis=(1, 2)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(8, 8, 1), (8, 8, 4), (1, 28, 3), (9, 8, 3)])
def test_pictures_of_numbers_come_back_as_they_were_learnt(shape: tuple[int, ...], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.standard_normal((40, *shape)).astype(np.float32)
    classifier = MLPClassifier((5,), max_iter=1, random_state=0).fit(images, np.arange(40) % 3)
    (tmp_path / "model.onnx").write_bytes(to_onnx(classifier))
    again = nabi.load(tmp_path / "model.onnx")
    assert again.input_shape_ == shape
    np.testing.assert_allclose(again.scores(images), classifier.scores(images), rtol=1e-4, atol=1e-5)


def nested(depth: int) -> bytes:
    """A graph in a graph in a graph, which is no field of a graph."""
    content = b""
    for _ in range(depth):
        length = len(content)
        prefix = bytearray(b"\x3a")
        while length > 127:
            prefix.append(length & 127 | 128)
            length >>= 7
        content = bytes([*prefix, length]) + content
    return content


EXTERNAL = {"dims": [4, 3], "data_type": 1, "name": "w", "data_location": 1}
ENTRY = b"\x0a\x08location\x12\x10../../etc/passwd"
OUTSIDE = {"dims": [4, 3], "data_type": 1, "name": "w", "raw_data": ENTRY}
HUGE = {"dims": [2**40, 2**40], "data_type": 1, "name": "w", "raw_data": b""}
SHORT = {"dims": [4, 3], "data_type": 1, "name": "w", "raw_data": b"1234"}
PRODUCT = [node("MatMul", ["x", "w"], ["y"])]
GROWING = [node("Concat", [f"a{n}", f"a{n}"], [f"a{n + 1}"], axis=1) for n in range(60)]

HOSTILE = {
    "nothing": (b"", "holds no graph"),
    "text": (b"this is a text", "."),
    "data in another file": (model(PRODUCT, graph={"initializer": [EXTERNAL]}), "lies in another file"),
    "data at a path": (
        # the same bytes as an entry of external_data, and nothing else says where the data are
        model(PRODUCT, graph={"initializer": [OUTSIDE]}).replace(b"\x4a\x1c\x0a\x08loc", b"\x6a\x1c\x0a\x08loc"),
        "lies in another file",
    ),
    "a graph in a graph in a graph": (nested(2000), "."),
    "a huge shape": (model(PRODUCT, graph={"initializer": [HUGE]}), "holds 0 bytes"),
    "too few bytes": (model(PRODUCT, graph={"initializer": [SHORT]}), "holds 4 bytes"),
    "a circle": (model([node("Add", ["x", "b"], ["a"]), node("Add", ["a", "a"], ["b"])]), "not computed before it"),
    "made twice": (model([node("Relu", ["x"], ["y"]), node("Abs", ["x"], ["y"])]), "there already"),
    "no output": (model([node("Relu", ["x"], ["z"])]), "never computed"),
    "a lacking operation": (model([node("GRU", ["x"], ["y"])]), "GRU 'y': nabi has no operation for it"),
    "another domain": (
        model([node("Relu", ["x"], ["y"]) | {"domain": "com.microsoft"}]),
        "whose operations nabi lacks",
    ),
    "a later opset": (model(PRODUCT, WEIGHT, opset_import=[{"version": 99}]), "of opset 99"),
    "no matrix for it": (model(PRODUCT, {"w": np.eye(5, dtype=np.float32)}), "MatMul 'y'"),
    "a constant of any size": (
        model([node("ConstantOfShape", ["n"], ["a"]), node("Add", ["x", "a"], ["y"])], {"n": np.array([2**20, 2**20])}),
        "would be computed from constants",
    ),
    "a tensor of any size": (
        model([node("Expand", ["x", "n"], ["a"]), node("ReduceSum", ["a"], ["y"])], {"n": np.array([2**30, 4])}),
        "numbers of an input",
    ),
    "doubled sixty times": (
        model([node("Identity", ["x"], ["a0"]), *GROWING, node("ReduceSum", ["a60"], ["y"])]),
        "numbers of an input",
    ),
    "a huge window": (
        model([node("MaxPool", ["x"], ["y"], kernel_shape=[2**20, 2**20])], shape=[1, 2, 8, 8]),
        "a window of",
    ),
    "a huge border": (
        model([node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], pads=[2**40] * 4)], shape=[1, 2, 8, 8]),
        "make no sense",
    ),
    "division by nothing": (
        model(
            [node("Div", ["n", "m"], ["a"]), node("Reshape", ["x", "a"], ["y"])],
            {"n": np.array([1, 4]), "m": np.array(0)},
        ),
        "divided by 0",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_in_one_line(name: str, written: Any, capsys: Any) -> None:
    content, message = HOSTILE[name]
    path = written(content)
    tracemalloc.start()
    began = time.monotonic()
    try:
        with pytest.raises(FormatError, match=message) as raised:
            nabi.load(path)
        assert tracemalloc.get_traced_memory()[1] < LIMIT
    finally:
        tracemalloc.stop()
    assert time.monotonic() - began < 30
    assert "\n" not in str(raised.value)
    assert str(path) in str(raised.value)
    assert main(["import", str(path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_network_for_one_input_at_a_time(written: Any) -> None:
    """As PyTorch writes them, unless it is told otherwise."""
    constants = {"w": np.eye(4, 3, dtype=np.float32), "shape": np.array([1, 4])}
    path = written(model([node("Reshape", ["x", "shape"], ["r"]), node("MatMul", ["r", "w"], ["y"])], constants))
    x = np.random.default_rng(1).normal(size=(7, 4)).astype(np.float32)
    np.testing.assert_array_equal(from_onnx(path).scores(x), x[:, :3])


def test_an_onnx_file_is_looked_at(written: Any, capsys: Any) -> None:
    path = written(model([node("MatMul", ["x", "w"], ["y"])], {"w": np.ones((4, 3), np.float32)}))
    assert main(["look", str(path)]) == 0
    assert "takes rows of 4 numbers, float32" in capsys.readouterr().out
    assert main(["look", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["arrays"] == {"graph.weights.w": [4, 3]}


def test_a_weight_may_be_large(written: Any, tmp_path: Path) -> None:
    """As in AlexNet, whose largest has 151 MB."""
    rng = np.random.default_rng(0)
    constants = {
        "v": rng.normal(size=(4, 3000)).astype(np.float32),
        "w": rng.normal(size=(3000, 1500)).astype(np.float32),
        "u": rng.integers(0, 9, (1500, 800), np.uint8),  # numbers of another kind, likewise
        "to": np.array([0, -1], np.int64),
    }
    nodes = [
        node("MatMul", ["x", "v"], ["h"]),
        node("MatMul", ["h", "w"], ["i"]),
        node("Cast", ["u"], ["f"], to=1),
        node("MatMul", ["i", "f"], ["j"]),
        node("Reshape", ["j", "to"], ["y"]),
    ]
    classifier = from_onnx(written(model(nodes, constants)))
    assert constants["w"].nbytes > 1 << 24
    x = rng.normal(size=(3, 4)).astype(np.float32)
    expected = x.astype(np.float64) @ constants["v"] @ constants["w"] @ constants["u"]
    np.testing.assert_allclose(classifier.scores(x), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    classifier.save(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(nabi.load(tmp_path / "model.safetensors").scores(x), classifier.scores(x))


def test_names_of_classes_in_any_order(written: Any, tmp_path: Path) -> None:
    weight = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    path = written(model([node("MatMul", ["x", "w"], ["s"]), node("Softmax", ["s"], ["y"])], {"w": weight}))
    x = np.random.default_rng(1).normal(size=(20, 4)).astype(np.float32)
    plain, named = from_onnx(path), from_onnx(path, classes=("ship", "cat", "dog"))
    assert named.classes_.tolist() == ["cat", "dog", "ship"]
    assert named.predict(x).tolist() == np.array(["ship", "cat", "dog"])[plain.predict(x)].tolist()
    np.testing.assert_array_equal(named.scores(x), plain.scores(x)[:, [1, 2, 0]])
    np.testing.assert_array_equal(named.predict_proba(x), plain.predict_proba(x)[:, [1, 2, 0]])
    answers = named.answers(x)
    np.testing.assert_array_equal(answers.probabilities, named.predict_proba(x))
    np.testing.assert_array_equal(answers.scores, named.scores(x))
    np.testing.assert_array_equal(named.classes_[answers.places], named.predict(x))
    named.save(tmp_path / "named.safetensors")
    assert nabi.load(tmp_path / "named.safetensors").predict(x).tolist() == named.predict(x).tolist()
    with pytest.raises(FormatError, match="two of its classes have the same name"):
        from_onnx(path, classes=("ship", "cat", "cat"))


def test_import_is_refused_in_one_line(written: Any, tmp_path: Path, capsys: Any) -> None:
    path = written(model([node("MatMul", ["x", "w"], ["y"])], {"w": np.ones((4, 3), np.float32)}))
    names = tmp_path / "names.txt"
    names.write_bytes("나비\nKöter\n".encode("utf-16"))
    assert main(["import", str(path), "--classes", str(names)]) == 2
    assert "not text in UTF-8" in capsys.readouterr().err
    assert main(["import", str(path), "--size", "-5"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    path.with_suffix(".safetensors").write_bytes(b"a model of one's own")
    assert main(["import", str(path)]) == 2
    assert "there is one already" in capsys.readouterr().err
    assert path.with_suffix(".safetensors").read_bytes() == b"a model of one's own"
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(ModelFileError, match="not a regular file"):
        nabi.load(tmp_path / "pipe.onnx")


def test_loops_branches_and_functions_are_refused(written: Any) -> None:
    graph = b"\x0a\x00" * 10  # whatever is in it is not looked at
    attribute = b"\x0a\x04body" + b"\x32" + bytes([len(graph)]) + graph
    loop = encode(node("Loop", ["x"], ["y"]), "Node") + b"\x2a" + bytes([len(attribute)]) + attribute
    inside = encode({"input": [value("x", [1, 4])], "output": [value("y", [1, 4])]}, "Graph")
    inside += b"\x0a" + bytes([len(loop)]) + loop
    content = encode({"ir_version": 8, "opset_import": [{"version": 18}]})
    content += b"\x3a" + bytes([len(inside)]) + inside
    with pytest.raises(FormatError, match="no loops and branches"):
        nabi.load(written(content))
    with pytest.raises(FormatError, match="functions of its own"):
        nabi.load(written(model(PRODUCT, WEIGHT) + b"\xca\x01\x00"))


def test_many_tiny_parts_are_refused(written: Any) -> None:
    with pytest.raises(FormatError, match="parts outside of raw data"):
        nabi.load(written(b"\x42\x00" * 2**19))


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    found = bytearray(content)
    for _ in range(int(rng.integers(1, 6))):
        place = int(rng.integers(len(found)))
        match int(rng.integers(5)):
            case 0:
                found[place] = int(rng.integers(256))
            case 1:
                found[place] ^= 1 << int(rng.integers(8))
            case 2:
                del found[place : place + int(rng.integers(1, 20))]
            case 3:
                found[place:place] = rng.bytes(int(rng.integers(1, 12)))
            case 4:
                found[place : place + 10] = b"\xff" * 9 + b"\x01"
        if not found:
            return b""
    return bytes(found)


def test_mutated_files_are_refused_or_read(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 3), np.uint8)
    small = MLPClassifier((3,), max_iter=1, random_state=0).fit(images, np.arange(20) % 2)
    seeds = [model(PRODUCT, WEIGHT), to_onnx(small)]
    count = examples(1000)
    rng = np.random.default_rng(0)
    read = 0
    path = tmp_path / "model.onnx"
    for number in range(count):
        path.write_bytes(mutated(seeds[number % 2], rng))
        began = time.monotonic()
        refused = ""
        try:
            nabi.load(path)
            read += 1
        except NabiError as error:
            refused = str(error)
        assert "\n" not in refused
        assert time.monotonic() - began < 60
    assert read < count
