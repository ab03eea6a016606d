"""ONNX as ``xp``: a formula that is run over this namespace is written down as nodes.

What ONNX has an operator for is one declaration each, in `nabi.onnx.to_onnx`. Everything else writes itself: an
operation that is not in that table is its own formula, run over this namespace. What is made of constants alone is
computed at once, by NumPy.

ONNX has pictures as (N, C, H, W). A `Value` says how it lies, so that a convolution's result stays as it is until
somebody asks for channels last: between convolutions nothing is turned round.
"""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nabi.errors import GraphError
from nabi.graph import namespace
from nabi.graph.operation import registry
from nabi.graph.operators import Operators
from nabi.graph.shapes import Spec, shapes
from nabi.onnx.protobuf import Message, encode
from nabi.onnx.tensors import CODES, STRING, to_message

OPSET, IR_VERSION = 18, 8
"""The first opset whose Resize and reductions are as they are now, and the file version that came with it."""

PICTURES = 97
"""The number of pictures that a function is recorded for, a prime; the file leaves it open."""

FIRST, LAST = (0, 3, 1, 2), (0, 2, 3, 1)
"""How axes are turned from channels last to channels first, and back."""

Builder = Callable[..., "Value"]
BUILDERS: dict[str, Builder] = {}
"""By the name of an operation: what writes it, as ``build(xp, *values, **settings)``."""


class Product(NamedTuple):
    """A convolution or a product with a matrix, not written yet: what is added or multiplied to it, it takes in.

    Attributes
    ----------
    operator : str
        "Conv" or "Gemm".
    x : Value
    weight : array, (kh, kw, C / groups, out) or (features, out)
    bias : array, (out,), or None
    attributes : mapping
    """

    operator: str
    x: "Value"
    weight: NDArray[Any]
    bias: NDArray[Any] | None
    attributes: Mapping[str, Any]


class Value(Operators):
    """A tensor of the file being written.

    Attributes
    ----------
    shape : tuple of int
        With channels last, whatever the file has; the first axis of what depends on the pictures is their number.
    dtype : dtype
    held : array or None
        What it is, where it is a constant.
    first : bool
        Whether the file has it with channels first.
    many : bool
        Whether its first axis is the number of pictures, which the file leaves open.
    pending : Product or None
        How it is made, as long as it is not written.
    """

    __slots__ = ("_name", "_xp", "dtype", "first", "held", "many", "pending", "shape", "turned")

    def __init__(
        self,
        xp: "Writer",
        spec: Any,
        name: str | None = None,
        *,
        held: NDArray[Any] | None = None,
        first: bool = False,
        many: bool = False,
        pending: Product | None = None,
    ) -> None:
        self._xp = xp
        self.shape: tuple[int, ...] = tuple(spec.shape)
        self.dtype: np.dtype[Any] = np.dtype(spec.dtype)
        self._name = name
        self.held = held
        self.first = first
        self.many = many
        self.pending = pending
        self.turned: Value | None = None  # the same, lying the other way

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=object))

    @property
    def spec(self) -> Spec:
        """Shape and dtype."""
        return Spec(self.shape, self.dtype)

    @property
    def name(self) -> str:
        """What the file calls it; it is written if it is not yet."""
        if self._name is None:
            if self.pending is not None:
                self._name = self._xp.write_product(self.pending)
            else:
                assert self.held is not None
                self._name = self._xp.initializer(self.held)
        return self._name

    def __bool__(self) -> bool:
        raise GraphError("a formula asks for the value of a tensor: it cannot be written as ONNX")


class Writer:
    """A graph being written, and the namespace whose functions write into it."""

    def __init__(self) -> None:
        self.nodes: list[Message] = []
        self.initializers: list[Message] = []
        self.scope = ""
        self._taken: set[str] = set()
        self._constants: dict[Any, str] = {}

    # --- names and nodes ---

    def unique(self, wanted: str) -> str:
        """A name that nothing has yet."""
        for number in itertools.count():
            name = f"{wanted}_{number}" if number else wanted
            if name not in self._taken:
                self._taken.add(name)
                return name
        raise AssertionError

    def node(self, operator: str, inputs: Sequence[str], name: str | None = None, **attributes: Any) -> str:
        """Write a node, and give the name of its output."""
        output = self.unique(name or f"{self.scope}/{operator}".lstrip("/"))
        told = [_attribute(key, value) for key, value in attributes.items() if value is not None]
        self.nodes.append(
            {"input": list(inputs), "output": [output], "name": output, "op_type": operator, "attribute": told}
        )
        return output

    def initializer(self, array: Any, name: str | None = None) -> str:
        """The name of a constant, which is written once however often it is used."""
        array = np.asarray(array)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self.unique(name or f"{self.scope}/constant".lstrip("/"))
            self.initializers.append(to_message(self._constants[key], array))
        return self._constants[key]

    def constant(self, array: Any) -> Value:
        """An array as a value."""
        array = np.asarray(array)
        return Value(self, array, held=array)

    def made(self, spec: Any, operator: str, inputs: Sequence[Any], first: bool = False, **attributes: Any) -> Value:
        """A node's output as a value; inputs are values, or names."""
        name = self.node(operator, [one.name if isinstance(one, Value) else one for one in inputs], **attributes)
        return Value(self, spec, name, first=first, many=any(isinstance(one, Value) and one.many for one in inputs))

    # --- how values lie ---

    def last(self, x: Value) -> Value:
        """A value with channels last."""
        return self._turn(x, LAST) if x.first else x

    def channels_first(self, x: Value) -> Value:
        """A value (N, H, W, C) as the file's (N, C, H, W)."""
        return x if x.first else self._turn(x, FIRST)

    def _turn(self, x: Value, order: tuple[int, ...]) -> Value:
        if x.turned is None:
            if x.held is not None:
                name = self.initializer(x.held.transpose(order))
            else:
                name = self.node("Transpose", [x.name], perm=list(order))
            x.turned = Value(self, x.spec, name, first=not x.first, many=x.many)
            x.turned.turned = x
        return x.turned

    # --- products that take in what follows ---

    def write_product(self, made: Product) -> str:
        """Write a convolution or product with all that it has taken in."""
        bias = [] if made.bias is None else [self.initializer(made.bias, self._of_scope("bias"))]
        weight = made.weight.transpose(3, 2, 0, 1) if made.operator == "Conv" else made.weight
        operator = "MatMul" if made.operator == "Gemm" and made.bias is None else made.operator
        inputs = [made.x.name, self.initializer(weight, self._of_scope("weight")), *bias]
        return self.node(operator, inputs, **made.attributes)

    def _of_scope(self, what: str) -> str:
        return f"{self.scope}/{what}".lstrip("/")

    def takes_in(self, operation: str, left: Any, right: Any) -> Value | None:
        """The product with an addition or multiplication of constants taken in; None where there is nothing to take.

        Computed in float64 and rounded once.
        """
        swapped = not (isinstance(left, Value) and left.pending is not None)
        product, other = (right, left) if swapped else (left, right)
        if not isinstance(product, Value) or product.pending is None or (swapped and operation == "divide"):
            return None
        made = product.pending
        constant = _per_channel(other, made.weight.shape[-1])
        if constant is None or product.dtype != np.float32:
            return None
        weight = made.weight.astype(np.float64)
        bias = np.zeros(weight.shape[-1]) if made.bias is None else made.bias.astype(np.float64)
        match operation:
            case "add":
                bias = bias + constant
            case "subtract":
                bias, weight = (constant - bias, -weight) if swapped else (bias - constant, weight)
            case "multiply":
                bias, weight = bias * constant, weight * constant
            case "divide":
                bias, weight = bias / constant, weight / constant
        new = made._replace(weight=weight.astype(np.float32), bias=bias.astype(np.float32))
        return Value(self, product.spec, first=product.first, many=product.many, pending=new)

    # --- the namespace ---

    def __getattr__(self, name: str) -> Any:
        if name not in BUILDERS and name not in registry:
            raise GraphError(f"{name} cannot be written as ONNX")
        return functools.partial(self.call, name)

    def call(self, name: str, *arrays: Any, **settings: Any) -> Any:
        """Write one operation, or compute it where everything that it is given is constant."""
        given = list(_flat(arrays))
        if all(value.held is not None for value in given):
            made = getattr(namespace.numpy, name)(*_held(arrays), **settings)
            return tuple(map(self.constant, made)) if isinstance(made, tuple) else self.constant(made)
        if name in BUILDERS:
            return BUILDERS[name](self, *arrays, **settings)
        operation = registry[name]
        if operation.native:
            raise GraphError(f"{name} cannot be written as ONNX")
        return operation.forward(self, *arrays, **settings)

    # --- the whole ---

    def model(
        self,
        inputs: Sequence[tuple[str, Any, Sequence[int | str]]],
        outputs: Sequence[tuple[str, Any, Sequence[int | str]]],
        metadata: Mapping[str, str],
        version: str,
    ) -> bytes:
        """The file: inputs and outputs are names, dtypes (str for text) and shapes, whose open axes are names."""
        graph = {
            "node": self.nodes,
            "name": "nabi",
            "initializer": self.initializers,
            "input": [_value_info(*one) for one in inputs],
            "output": [_value_info(*one) for one in outputs],
        }
        return encode(
            {
                "ir_version": IR_VERSION,
                "producer_name": "nabi",
                "producer_version": version,
                "graph": graph,
                "opset_import": [{"domain": "", "version": OPSET}],
                "metadata_props": [{"key": key, "value": value} for key, value in metadata.items()],
            }
        )


def _flat(arrays: Sequence[Any]) -> Any:
    for one in arrays:
        if isinstance(one, Value):
            yield one
        elif isinstance(one, list | tuple):
            yield from _flat(one)


def _held(arrays: Sequence[Any]) -> list[Any]:
    return [
        one.held if isinstance(one, Value) else type(one)(_held(one)) if isinstance(one, list | tuple) else one
        for one in arrays
    ]


def _per_channel(other: Any, channels: int) -> Any:
    """A constant as one number for each channel, in float64; None where it is none."""
    array = other.held if isinstance(other, Value) else np.asarray(other) if isinstance(other, int | float) else None
    if array is None or array.size not in (1, channels) or (array.ndim and array.shape[-1] != array.size):
        return None
    return np.broadcast_to(array.reshape(-1).astype(np.float64), channels)


def _attribute(name: str, value: Any) -> Message:
    """An attribute: an integer, a float, a text, or a list of integers."""
    match value:
        case bool() | int():
            return {"name": name, "i": int(value), "type": 2}
        case float():
            return {"name": name, "f": value, "type": 1}
        case str():
            return {"name": name, "s": value.encode(), "type": 3}
    return {"name": name, "ints": [int(item) for item in value], "type": 7}


def _value_info(name: str, dtype: Any, shape: Sequence[int | str]) -> Message:
    dims = [{"dim_param": n} if isinstance(n, str) else {"dim_value": n} for n in shape]
    kind = STRING if dtype is str else CODES[np.dtype(dtype)]
    return {"name": name, "type": {"tensor_type": {"elem_type": kind, "shape": {"dim": dims}}}}


def infer(name: str, *arrays: Any, **settings: Any) -> Spec:
    """Shape and dtype of what an operation gives."""
    found: Spec = getattr(shapes, name)(*_specs(arrays), **settings)
    return found


def _specs(arrays: Sequence[Any]) -> list[Any]:
    return [one.spec if isinstance(one, Value) else _specs(one) if isinstance(one, list) else one for one in arrays]
