"""Nearest neighbours in ONNX: distances to all training pictures, in whole numbers where pixels are."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nabi.graph.shapes import Spec
from nabi.onnx.namespace import Value, Writer
from nabi.onnx.tensors import CODES

IN_32_BITS = (2**31 - 1) // 255**2
"""Products of two pixels that a 32-bit integer adds up without going over."""
IN_FLOAT32 = 2**24 // 255
"""Differences of two pixels that float32 adds up without rounding."""
AT_ONCE = 2**22
"""Numbers of training inputs whose differences from one input are in memory together."""


def votes(
    xp: Writer,
    x: Value,
    images: NDArray[Any],
    labels: NDArray[np.int64],
    n_classes: int,
    *,
    n_neighbors: int,
    metric: str,
    weights: str,
) -> Value:
    """The votes of the nearest training inputs for each class, float64 (N, K), as `nabi.classifiers.KNNClassifier`.

    Of equally far ones ONNX's TopK takes the first, as we do.
    """
    xp.scope = "neighbors"
    node, constant = xp.node, xp.initializer
    rows = images.reshape(len(images), -1)
    queries = xp.call("reshape", x, (x.shape[0], rows.shape[1])).name
    if rows.dtype == np.uint8 and metric == "l2":
        distances = _squares_of_pixels(xp, queries, rows)
    else:
        distances = _by_differences(xp, queries, rows, metric)
    k = constant(np.array([n_neighbors], np.int64))
    nearest, places = xp.unique("neighbors/distances"), xp.unique("neighbors/places")
    xp.nodes.append(
        {
            "input": [distances, k],
            "output": [nearest, places],
            "name": nearest,
            "op_type": "TopK",
            "attribute": [{"name": name, "i": value, "type": 2} for name, value in (("axis", 1), ("largest", 0))],
        }
    )
    named = node("Gather", [constant(labels, "neighbors/labels"), places])
    theirs = node("Equal", [node("Unsqueeze", [named, constant(np.array([2]))]), constant(np.arange(n_classes))])
    ones = node("Cast", [theirs], to=CODES[np.dtype(np.float64)])
    if weights == "distance":
        ones = node("Mul", [ones, node("Unsqueeze", [_nearness(xp, nearest, metric), constant(np.array([2]))])])
    # Added up one after another, as we do: another order could round a draw away.
    so_far = node("CumSum", [ones, constant(np.array(1))])
    total = node("Gather", [so_far, constant(np.array(n_neighbors - 1))], axis=1)
    return Value(xp, Spec((x.shape[0], n_classes), np.float64), total, many=True)


def _squares_of_pixels(xp: Writer, queries: str, rows: NDArray[np.uint8]) -> str:
    """Σ(q - t)² as Σq² + Σt² - 2·Σqt, all in whole numbers: int64 (N, M)."""
    node, constant = xp.node, xp.initializer
    int64 = CODES[np.dtype(np.int64)]
    lengths = np.einsum("ij,ij->i", rows, rows, dtype=np.int64)
    wide = node("Cast", [queries], to=CODES[np.dtype(np.int32)])
    total = constant(lengths)
    own: list[str] = []
    for start in range(0, rows.shape[1], IN_32_BITS):
        part = slice(start, start + IN_32_BITS)
        cut, cut_wide = queries, wide
        if rows.shape[1] > IN_32_BITS:
            ends = [constant(np.array([n])) for n in (start, min(part.stop, rows.shape[1]), 1)]
            cut, cut_wide = node("Slice", [queries, *ends]), node("Slice", [wide, *ends])
        products = node("MatMulInteger", [cut, constant(np.ascontiguousarray(rows[:, part].T), "neighbors/pictures")])
        products = node("Cast", [products], to=int64)
        total = node("Sub", [total, node("Mul", [products, constant(np.array(2))])])
        squares = node("ReduceSum", [node("Mul", [cut_wide, cut_wide]), constant(np.array([1]))], keepdims=1)
        own.append(node("Cast", [squares], to=int64))
    for squares in own:
        total = node("Add", [total, squares])
    return total


def _by_differences(xp: Writer, queries: str, rows: NDArray[Any], metric: str) -> str:
    """Σ|q - t| or Σ(q - t)², of each input's difference from each training input: float64 (N, M)."""
    node, constant = xp.node, xp.initializer
    double = CODES[np.dtype(np.float64)]
    pixels = rows.dtype == np.uint8
    kind = CODES[np.dtype(np.float32)] if pixels else double
    asked = node("Unsqueeze", [node("Cast", [queries], to=kind), constant(np.array([1]))])
    step = max(1, AT_ONCE // rows.shape[1])
    parts = []
    for start in range(0, len(rows), step):
        some = node("Cast", [constant(rows[start : start + step], "neighbors/pictures")], to=kind)
        difference = node("Sub", [asked, some])
        size = node("Abs", [difference]) if metric == "l1" else node("Mul", [difference, difference])
        if pixels and rows.shape[1] > IN_FLOAT32:
            size = node("Cast", [size], to=double)
        total = node("ReduceSum", [size, constant(np.array([2]))], keepdims=0)
        parts.append(node("Cast", [total], to=double))
    return parts[0] if len(parts) == 1 else node("Concat", parts, axis=1)


def _nearness(xp: Writer, nearest: str, metric: str) -> str:
    """Each neighbour's vote: 1 / distance, in units of the nearest one's; where that is 0, the others have none."""
    node, constant = xp.node, xp.initializer
    distances = node("Cast", [nearest], to=CODES[np.dtype(np.float64)])
    if metric == "l2":
        distances = node("Sqrt", [distances])
    first = node("Slice", [distances, *(constant(np.array([n])) for n in (0, 1, 1))])
    at_zero = node("Not", [node("Greater", [distances, constant(np.array(0.0))])])
    return node("Where", [at_zero, constant(np.array(1.0)), node("Div", [first, distances])])
