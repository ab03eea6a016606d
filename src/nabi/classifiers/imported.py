"""Classifiers that others made: the graph of an ONNX file as one of ours."""

import itertools
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from nabi import nn
from nabi._compile import compile
from nabi.classifiers.answering import Answering
from nabi.classifiers.base import Answers, Arrays, Classifier
from nabi.classifiers.settings import check_choice
from nabi.data.decode import checked_size
from nabi.data.files import open_regular
from nabi.engines import ENGINES
from nabi.errors import DataError, FormatError, ModelFileError, NabiError, SettingError
from nabi.onnx import reading
from nabi.onnx.network import MAX_NUMBERS, GraphNetwork, arrays
from nabi.onnx.reading import Graph, Input, Operator
from nabi.onnx.tensors import READ
from nabi.training import Event, answer_bounds, evaluation_batch, filled

MAX_CLASSES = 2**20
LARGEST = 2**31 - 1
"""Bytes of a file, which protocol buffers end at."""


def _gives_probabilities(classifier: Any) -> bool:
    if hasattr(classifier, "gives_") and not classifier.gives_:
        raise AttributeError("predict_proba: the file gives scores, and no probabilities")
    return True


class ImportedClassifier(Answering, Classifier):
    """A classifier out of an ONNX file. It answers, and can be looked at; it is not trained.

    Parameters
    ----------
    engine : str
        See `nabi.compile`.

    Attributes
    ----------
    model_ : nabi.nn.Sequential
        From inputs to scores.
    gives_ : bool
        Whether the file gives probabilities.
    """

    registered_name = "imported"  # not among what can be trained

    gives_: bool
    _classes_found: int
    _at_once: int

    def __init__(self, *, engine: str = "auto") -> None:
        self.engine = engine

    def fit(self, X: ArrayLike, y: ArrayLike, **options: Any) -> Any:
        """Not to be had: raises SettingError."""
        raise SettingError("an imported classifier is not trained: it answers as the file says")

    def fit_events(
        self, X: ArrayLike, y: ArrayLike, *, validation: tuple[ArrayLike, ArrayLike] | None = None, **options: Any
    ) -> Iterator[Event]:
        """Not to be had: raises SettingError."""
        raise SettingError("an imported classifier is not trained: it answers as the file says")

    @available_if(_gives_probabilities)
    def predict_proba(self, X: ArrayLike) -> NDArray[np.float32]:
        """The probability of each class, as the file gives them, (N, K)."""
        found: NDArray[np.float32] = self._probabilities(X)
        return found

    def scores(self, X: ArrayLike) -> NDArray[np.float32]:
        """The score of each class, as the file gives them, (N, K)."""
        return self.answers(X).scores

    def answers(self, X: ArrayLike) -> Answers:
        check_is_fitted(self, "classes_")
        scores, *probabilities = self._outputs(self._checked(X))
        return Answers(scores.argmax(axis=1), scores, probabilities[0] if probabilities else None)

    def _outputs(self, images: NDArray[Any]) -> list[NDArray[np.float32]]:
        """What the graph gives, for as many inputs at a time as it takes."""
        most = self._at_once
        bounds = itertools.pairwise(answer_bounds(len(images), most))
        parts = [self._apply(filled(np.asarray(images[start:end]), most)) for start, end in bounds]
        return [
            np.concatenate([one.value for one in ones])[: len(images)].astype(np.float32, copy=False)
            for ones in zip(*parts, strict=True)
        ]

    # --- what it is ---

    def _take(self, graph: Graph, layers: Mapping[str, nn.Layer]) -> None:
        """Answer by this graph, whose outputs are scores and, where there are some, probabilities."""
        network = GraphNetwork(graph)
        self.model_ = nn.Sequential({**layers, "graph": network})
        self.gives_ = len(graph.outputs) > 1
        self._prepare()
        example = np.broadcast_to(np.zeros((), self.input_dtype_), (1, *self.input_shape_))
        plan = self._apply.plan(example)
        shapes = [tuple(output.shape) for output in plan.outputs]
        for shape in shapes:
            if len(shape) != 2 or shape[0] != 1 or not 1 <= shape[1] <= MAX_CLASSES or shape != shapes[0]:
                raise FormatError(f"the network makes {shape} of one input, and not a row of scores")
        self._classes_found = shapes[0][1]
        self._at_once = evaluation_batch(self.input_shape_) if self._takes_two() else 1

    def _takes_two(self) -> bool:
        """Whether several inputs can go through the graph at once: many are written down for one."""
        two = np.broadcast_to(np.zeros((), self.input_dtype_), (2, *self.input_shape_))
        try:
            return all(output.shape[:1] == (2,) for output in self._apply.plan(two).outputs)
        except NabiError:
            return False

    def _prepare(self) -> None:
        model = self.model_
        *before, (_, network) = model.items()

        def answer(images: Any) -> Any:
            for _, layer in before:
                images = layer(images)
            return tuple(network.values(images))

        self._apply = compile(answer, state=model, engine=self.engine)

    def check_settings(self) -> None:
        """Raise SettingError where a constructor argument has a value that it cannot have."""
        check_choice("engine", self.engine, {"auto": None} | ENGINES)

    # --- files ---

    def _arrays(self) -> Arrays:
        found = {f"graph.{name}": array for name, array in arrays(self.model_.graph).items()}
        if hasattr(self.model_, "standardize"):
            found |= {f"standardize.{name}": t.numpy() for name, t in nn.tensors(self.model_.standardize).items()}
        return found

    def _described(self) -> dict[str, Any]:
        graph = self.model_.graph.graph
        return {
            "graph": {
                "input": [graph.inputs[0].name, graph.inputs[0].kind],
                "nodes": list(reading.described(graph)),
                "outputs": list(graph.outputs),
                "opset": graph.opset,
            }
        }

    def _restore(self, arrays: Arrays, header: Mapping[str, Any]) -> None:
        self.check_settings()
        said = header["graph"]
        parts: dict[str, Arrays] = {"graph": {}, "standardize": {}}
        for name, array in arrays.items():
            part, _, path = name.partition(".")
            parts[part][path] = array
        nodes = tuple(_operator(node) for node in said["nodes"])
        name, kind = said["input"]
        graph = Graph((Input(name, kind, ()),), parts["graph"], nodes, tuple(said["outputs"]), said["opset"], {})
        reading.check(graph)
        standardize = parts["standardize"]
        layers = {"standardize": nn.Standardize(standardize["mean"], standardize["std"])} if standardize else {}
        self._take(graph, layers)
        if self._classes_found != len(self.classes_):
            raise ModelFileError(f"{len(self.classes_)} classes, and {self._classes_found} scores")


def _operator(said: Mapping[str, Any]) -> Operator:
    """A node out of a model file."""
    attributes = {}
    for name, value in said["attributes"].items():
        if isinstance(value, dict):
            value = np.array(value["array"], value["dtype"])
        attributes[name] = tuple(value) if isinstance(value, list) else value
    return Operator(said["kind"], said["name"], tuple(said["inputs"]), tuple(said["outputs"]), attributes)


def from_onnx(
    path: str | os.PathLike[str],
    *,
    size: tuple[int, int] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    classes: tuple[str, ...] | None = None,
) -> ImportedClassifier:
    """The classifier in an ONNX file.

    Parameters
    ----------
    path : path-like
    size : (int, int), optional
        Height and width of what it takes, where the file leaves them open.
    mean, std : tuple of float, optional
        Of a network that takes standardised pictures (N, C, H, W): it then takes uint8 pictures (N, H, W, C), which
        are divided by 255, and then by these. Others take what the file says.
    classes : tuple of str, optional
        Their names, where the file has none; by default numbers.

    Raises
    ------
    FormatError
        No ONNX file, or one of another thing than a classifier, or of operations that nabi lacks.
    """
    try:
        with open_regular(Path(path)) as file:
            if os.fstat(file.fileno()).st_size > LARGEST:
                raise ModelFileError(f"{path}: more than {LARGEST:,} bytes: no ONNX file has so many")
            content = file.read()
    except DataError as error:
        raise ModelFileError(str(error)) from None
    try:
        return _imported(content, size, mean, std, classes)
    except (NabiError, RecursionError) as error:
        raise FormatError(f"{path}: {' '.join(str(error).split())[:300]}") from None


def _imported(content: bytes, size: Any, mean: Any, std: Any, classes: Any) -> ImportedClassifier:
    graph = reading.read(content)
    metadata = graph.metadata
    graph = reading.needed(graph, _outputs(graph))
    if len(graph.inputs) != 1:
        raise FormatError(f"{len(graph.inputs)} inputs, and a classifier has one")
    given = graph.inputs[0]
    said = _said_shape(metadata)
    shape: Any = said or given.shape[1:]
    # Of floating-point numbers (C, H, W), as PyTorch has them, where it is not plain that channels come last.
    last = READ[given.kind].kind != "f" or said is not None
    last = last or (len(shape) == 3 and shape[2] in (1, 3) and shape[0] not in (1, 3))
    if (wanted := checked_size(size)) is not None and len(shape) == 3:
        places = (0, 1) if last else (1, 2)
        for place, length in zip(places, wanted, strict=True):
            if shape[place] not in (None, length):
                raise SettingError(f"size {wanted}: the file takes pictures of {shape} only")
            shape = (*shape[:place], length, *shape[place + 1 :])
    if not shape or any(n is None for n in shape) or math.prod(shape) > MAX_NUMBERS:
        raise FormatError(f"the file leaves open how large pictures are ({given.shape}): say so with size")
    made = ImportedClassifier()
    kind = READ[given.kind].newbyteorder("=")
    if kind not in (np.uint8, np.float32):
        raise FormatError(f"the network takes {kind}, and nabi gives uint8 or float32")
    layers: dict[str, nn.Layer] = {}
    if len(shape) == 3 and kind == np.float32:
        if not last:
            graph = _channels_last(graph)
            shape = (shape[1], shape[2], shape[0])
        if mean is not None or std is not None:
            one = np.ones(shape[2], np.float32)
            layers["standardize"] = nn.Standardize(0 * one if mean is None else mean, one if std is None else std)
            kind = np.dtype(np.uint8)
    elif mean is not None or std is not None:
        raise SettingError("mean and std are for networks that take pictures of floating-point numbers")
    if said is not None and READ[given.kind].kind != "f" and len(shape) == 3 and shape[2] == 1:
        shape = (*shape[:2], 3)  # grey ones come in three equal channels
    made.input_shape_, made.input_dtype_ = tuple(shape), kind
    made.n_features_in_ = shape[0]
    made._take(graph, layers)
    names = _classes(metadata, classes, made._classes_found)
    order = np.argsort(names, kind="stable")  # classifiers have their classes sorted
    if (order[:-1] > order[1:]).any():
        made._take(_reordered(graph, order), layers)
    made.classes_ = names[order]
    return made


def _outputs(graph: Graph) -> tuple[str, ...]:
    """What are scores in a graph, and what are probabilities."""
    said = graph.metadata.get("nabi.scores")
    made = {name: node for node in graph.nodes for name in node.outputs if name}
    if said in made and "probabilities" in graph.outputs:
        return (said, "probabilities")
    if said in made:
        return (said,)
    named = [name for name in graph.outputs if name in made and made[name].kind not in ("ArgMax", "Gather")]
    if not named:
        raise FormatError("none of its outputs is computed from the input")
    node = made[named[0]]
    if node.kind == "Softmax" and node.inputs[0] in made:
        return (node.inputs[0], named[0])
    return (named[0],)


def _said_shape(metadata: Mapping[str, str]) -> tuple[int, ...] | None:
    try:
        said = json.loads(metadata.get("nabi.input_shape", "null"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, list) or len(said) not in (1, 3) or not all(type(n) is int and 0 < n < 2**20 for n in said):
        return None
    return tuple(said)


def _free(graph: Graph, name: str) -> str:
    """A name like this one that nothing in a graph has."""
    taken = {name for node in graph.nodes for name in (*node.inputs, *node.outputs)} | set(graph.constants)
    while name in taken:
        name += "_"
    return name


def _channels_last(graph: Graph) -> Graph:
    """The same, but for pictures (N, H, W, C)."""
    (given,) = graph.inputs
    name = _free(graph, given.name)
    turn = Operator("Transpose", "channels first", (name,), (given.name,), {"perm": (0, 3, 1, 2)})
    return graph._replace(inputs=(given._replace(name=name),), nodes=(turn, *graph.nodes))


def _reordered(graph: Graph, order: NDArray[np.intp]) -> Graph:
    """The same, with the columns of what it gives in another order."""
    places, *outputs = (_free(graph, name) for name in ("order", *(f"{name} in order" for name in graph.outputs)))
    nodes = tuple(
        Operator("Gather", made, (output, places), (made,), {"axis": 1})
        for output, made in zip(graph.outputs, outputs, strict=True)
    )
    constants = graph.constants | {places: order.astype(np.int64)}
    return graph._replace(constants=constants, nodes=(*graph.nodes, *nodes), outputs=tuple(outputs))


def _classes(metadata: Mapping[str, str], given: Any, count: int) -> NDArray[Any]:
    """Names of classes: as given, as the file says, or numbers."""
    names = given
    if names is None:
        try:
            names = json.loads(metadata.get("nabi.classes", "null"))
        except (ValueError, RecursionError):
            names = None
    if not isinstance(names, list | tuple) or not all(type(name) in (str, int, float, bool) for name in names):
        return np.arange(count)
    if len(names) != count or len({type(name) for name in names}) != 1:
        raise FormatError(f"{len(names)} names of classes for {count} scores")
    if len(set(names)) != count:
        raise FormatError("two of its classes have the same name")
    return np.array(names)
