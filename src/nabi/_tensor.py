"""The tensor: an array that remembers where it came from; and the eager interpreter, which computes at once."""

import html
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nabi import ops
from nabi.errors import CompileError, DTypeError, GraphError, ShapeError
from nabi.graph import namespace
from nabi.graph.backward import VALUES, pull_back
from nabi.graph.interpreter import scope, set_base, stack
from nabi.graph.node import Node, numbers
from nabi.graph.operation import DTYPES, AsIs, Integer, Operation, operations
from nabi.graph.shapes import Axis, explain, infer
from nabi.graph.whiteboard import Graph

Array = npt.NDArray[Any]

_FLOAT32 = np.dtype(np.float32)


class Tensor(Node):
    """An array of numbers that remembers the operation it came from.

    Made by `tensor`, by operations, and by Python's operators. Axis order of pictures is (N, H, W, C).

    Attributes
    ----------
    value : ndarray or NumPy scalar
        The numbers as they are held, not to be changed in place; `numpy` gives a copy.
    grad : Tensor or None
        What `backward` has added up so far.
    """

    __slots__ = ("grad", "held", "operands")
    weak: type | None = None  # for a Python number that became a symbol: it yields to the arrays beside it

    def __init__(
        self,
        value: Any,
        operation: Operation | None = None,
        inputs: tuple["Tensor", ...] = (),
        settings: dict[str, Any] | None = None,
        requires_grad: bool = False,
        name: str | None = None,
        operands: list[Any] | None = None,
    ) -> None:
        self.held = value
        self.operands = operands  # the inputs' values as they were: a leaf may have been assigned since
        self.operation = operation
        self.inputs = inputs
        self.settings = settings  # type: ignore[assignment]
        self.requires_grad = requires_grad
        self.name = name
        self.scopes = stack.scopes
        self.serial = next(numbers)
        self.grad: Tensor | None = None

    @property
    def value(self) -> Any:
        return self._read("value")

    @property
    def shape(self) -> tuple[int, ...]:
        return self.held.shape  # type: ignore[no-any-return]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.held.dtype  # type: ignore[no-any-return]

    @property
    def T(self) -> "Tensor":
        """The transpose of a matrix."""
        if self.ndim != 2:
            raise ShapeError(f"T: x {self.shape} is not a matrix; permute_dims names the order of any axes")
        return ops.permute_dims(self, (1, 0))  # type: ignore[no-any-return]

    @property
    def mT(self) -> "Tensor":
        """The transpose of the last two axes."""
        return ops.matrix_transpose(self)  # type: ignore[no-any-return]

    def parts(self) -> Any:
        """What a formula sees of this node: itself, or a tuple of tensors where its operation gives a tuple."""
        if type(self.held) is not tuple:
            return self
        return tuple(Tensor(v, part, (self,), {"index": i}, self.requires_grad) for i, v in enumerate(self.held))

    # --- out into the world ---

    def numpy(self) -> Array:
        """A copy of the numbers as a NumPy array."""
        return np.array(self._read("numpy()"))

    def item(self) -> Any:
        """The one number in it, as a Python number."""
        return self._read("item()").item()

    def __float__(self) -> float:
        return float(self._read("float()"))

    def __int__(self) -> int:
        return int(self._read("int()"))

    def __index__(self) -> int:
        return int(self._read("an index").__index__())

    def __bool__(self) -> bool:
        return bool(self._read("bool()"))

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a tensor without axes has no length")
        return self.shape[0]

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        value = np.asarray(self._read("a NumPy array"))
        if copy is False and dtype is not None and np.dtype(dtype) != value.dtype:
            raise ValueError("another dtype needs a copy")
        return np.array(value, dtype=dtype)

    def __dlpack__(self, **options: Any) -> Any:
        return self.numpy().__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)

    def _read(self, what: str) -> Any:
        if stack.recording:
            raise CompileError(
                f"{what} of {self._called()} inside a compiled function would freeze its value: "
                "compute with the tensor itself, or return it"
            )
        return self.held

    def _called(self) -> str:
        return f"tensor {self.name!r}" if self.name else f"a tensor of shape {self.shape}"

    def __repr__(self) -> str:
        body = np.array2string(np.asarray(self.held), separator=", ", prefix="tensor(", threshold=100, edgeitems=3)
        parts = [body]
        if self.dtype != _FLOAT32:
            parts.append(f"dtype={self.dtype}")
        if self.name:
            parts.append(f"name={self.name!r}")
        if self.requires_grad and self.operation is None:
            parts.append("requires_grad=True")
        return f"tensor({', '.join(parts)})"

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(repr(self))}</pre>"

    def __reduce__(self) -> Any:
        # A copy is a node of its own, with a number of its own; what it was made from stays behind.
        return _rebuild, (self._read("a copy"), self.requires_grad and self.operation is None, self.name)

    # --- gradients ---

    def backward(self) -> None:
        """Add the gradient of this number to ``.grad`` of every leaf that requires one.

        Raises
        ------
        GraphError
            Where this tensor is not a single floating-point number, or nothing requires a gradient.
        """
        if stack.recording:
            raise GraphError("backward() keeps gradients on tensors; inside a compiled function use nabi.gradients()")
        self.starts("backward")
        if not self.requires_grad:
            raise GraphError("backward: nothing that this tensor was made from requires a gradient")
        for leaf, g in pull_back(self, self.dtype.type(1), VALUES):
            leaf.grad = Tensor(np.array(g)[()] if leaf.grad is None else leaf.grad.held + g)

    def starts(self, what: str) -> None:
        """Raise unless a gradient can start from this tensor; ``what`` is who asks."""
        if self.shape != ():
            raise GraphError(
                f"{what}: a gradient starts from one number, but this tensor has shape {self.shape}: sum or average it"
            )
        if self.dtype.kind != "f":
            raise DTypeError(f"{what}: gradients flow through floating-point numbers only, not {self.dtype}")

    def graph(self, depth: int | None = None, *, limit: int = 30, timed: bool = False) -> Graph:
        """The graph that this tensor was made by, to look at: drawn, priced, and walked back step by step.

        Parameters
        ----------
        depth : int, optional
            How many levels of layers to open: 0 draws each outermost layer as one box. By default as many as fit.
        limit : int
            How many boxes to draw at most.
        timed : bool
            Run every node again and write the times beside the multiply-adds.

        Returns
        -------
        Graph
            Notebooks show it; it has ``svg()``, ``dot()``, ``save(path)``, ``steps()`` and ``costs()``.
        """
        return Graph(self, depth, limit, timed)

    def detach(self) -> "Tensor":
        """The same numbers as a constant."""
        return Tensor(self._read("detach()"), name=self.name)

    def assign(self, value: Any) -> None:
        """Replace the numbers of this leaf: the one mutation that a compiled function records.

        Raises
        ------
        ShapeError, DTypeError
            Where the new value has another shape or dtype.
        GraphError
            Where the tensor was made by an operation.
        """
        if self.operation is not None:
            raise GraphError(f"assign: {self._called()} was made by {self.operation.name}; only leaves can be assigned")
        stack.top.assign(self, value)  # type: ignore[union-attr]

    # --- methods for what one does most ---

    def astype(self, dtype: Any) -> "Tensor":
        """In another dtype."""
        return ops.astype(self, dtype=np.dtype(dtype))  # type: ignore[no-any-return]

    def reshape(self, *shape: Any) -> "Tensor":
        """In another shape; -1 stands for what is left."""
        given = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
        return ops.reshape(self, tuple(given))  # type: ignore[no-any-return]

    def sum(self, axis: Axis = None, keepdims: bool = False) -> "Tensor":
        """Sum over axes."""
        return ops.sum(self, axis=axis, keepdims=keepdims)  # type: ignore[no-any-return]

    def mean(self, axis: Axis = None, keepdims: bool = False) -> "Tensor":
        """Mean over axes."""
        return ops.mean(self, axis=axis, keepdims=keepdims)  # type: ignore[no-any-return]

    def max(self, axis: Axis = None, keepdims: bool = False) -> "Tensor":
        """Largest over axes."""
        return ops.max(self, axis=axis, keepdims=keepdims)  # type: ignore[no-any-return]

    def min(self, axis: Axis = None, keepdims: bool = False) -> "Tensor":
        """Smallest over axes."""
        return ops.min(self, axis=axis, keepdims=keepdims)  # type: ignore[no-any-return]


def tensor(data: Any, name: str | None = None, *, requires_grad: bool = False, dtype: Any = None) -> Tensor:
    """Make a tensor.

    Parameters
    ----------
    data : array_like
        Python numbers and lists become float32 where they hold any float, int64 where they hold integers, bool where
        they hold truth values. NumPy arrays keep their dtype (float64 too); other floats become float32.
    name : str, optional
        What messages and drawings call it.
    requires_grad : bool
        Whether gradients are wanted on it. Integers given with it become float32.
    dtype : optional
        One of bool, uint8, uint32, int32, int64, float32, float64.

    Examples
    --------
    >>> tensor([[1.0, 2.0], [3.0, 4.0]]).sum(axis=0)
    tensor([4., 6.])
    """
    if isinstance(data, Tensor):
        data = data._read("a copy")
    keeps = hasattr(data, "__array__")  # an array's own dtype is meant, and a NumPy scalar's
    array = np.array(data)
    if dtype is not None:
        array = array.astype(dtype)
    elif array.dtype.kind == "f":
        array = array.astype(np.float64 if keeps and array.dtype == np.float64 else _FLOAT32)
    elif requires_grad and array.dtype.kind in "iub":
        array = array.astype(_FLOAT32)
    if array.dtype not in DTYPES:
        raise DTypeError(f"tensor: dtype {array.dtype} is not one of {', '.join(map(str, DTYPES))}")
    if requires_grad and array.dtype.kind != "f":
        raise DTypeError(f"tensor: gradients flow through floating-point numbers only, not {array.dtype}")
    made = Tensor(array[()], requires_grad=requires_grad, name=name)
    stack.top.made(made)  # type: ignore[union-attr]
    return made


def from_dlpack(array: Any) -> Tensor:
    """A tensor with a copy of the numbers of any array that speaks DLPack (PyTorch, JAX, CuPy and others)."""
    return tensor(np.from_dlpack(array))


def _rebuild(value: Any, requires_grad: bool, name: str | None) -> Tensor:
    return Tensor(np.array(value)[()], requires_grad=requires_grad, name=name)


# --- promotion: once, before the formula ---


def coerce(operation: Operation, arguments: Sequence[Any], lift: Any) -> list[Any]:
    """Arguments as tensors of one dtype where the operation promotes them.

    Python numbers are weak: they take the dtype of the arrays beside them. An integer array with a floating one gives
    the floating dtype, whatever the widths; an operation that divides or takes roots makes float32 of integers.
    """
    holds = operation.holds + (operation.rest_holds,) * (len(arguments) - len(operation.holds))
    dtype = _promote(operation, [a for a, held in zip(arguments, holds, strict=True) if held is None])
    result = []
    for i, (argument, held) in enumerate(zip(arguments, holds, strict=True)):
        one = lift(argument, dtype if held is None else None)
        if held is None:
            if one.dtype != dtype:
                one = operations.astype(one, dtype=dtype)
        elif held is not AsIs and one.dtype.kind not in ("iu" if held is Integer else "b"):
            name = operation.arrays[i] if i < len(operation.arrays) else "an index"
            wanted = "integers" if held is Integer else "truth values"
            raise DTypeError(f"{operation.name}: {name} must hold {wanted}, not {one.dtype}")
        result.append(one)
    return result


def _promote(operation: Operation, arguments: Sequence[Any]) -> np.dtype[Any]:
    strong: np.dtype[Any] | None = None
    weak = 0
    for argument in arguments:
        kind = weak_kind(argument)
        if kind is not None:
            weak = max(weak, _RANKS[kind])
            continue
        dtype = np.dtype(argument.dtype if hasattr(argument, "dtype") else np.asarray(argument).dtype)
        if dtype not in DTYPES:
            raise DTypeError(f"{operation.name}: dtype {dtype} is not one of {', '.join(map(str, DTYPES))}")
        if strong is None or strong == dtype:
            strong = dtype
        elif (strong.kind == "f") != (dtype.kind == "f"):
            strong = strong if strong.kind == "f" else dtype
        else:
            strong = np.result_type(strong, dtype)
    if strong is not None and strong.kind in "iu" and weak == 1:
        literal = (a for a in arguments if type(a) is int)
        if not all(_fitting(a, strong) for a in literal):
            strong = np.dtype(np.int64)
    if strong is None or weak > "bif".index("i" if strong.kind == "u" else strong.kind):
        strong = _WEAK_DTYPES[weak]
    if operation.floating and strong.kind != "f":
        strong = _FLOAT32
    return strong


def weak_kind(argument: Any) -> type | None:
    """bool, int or float for a Python number, which yields to the arrays beside it; None for all else.

    NumPy's float64 is a Python float, too.
    """
    if isinstance(argument, Tensor):
        return argument.weak
    if isinstance(argument, float):
        return float
    return type(argument) if type(argument) in (bool, int) else None


_RANKS = {bool: 0, int: 1, float: 2}


def _fitting(number: int, dtype: np.dtype[Any]) -> bool:
    """Whether an integer dtype can hold a Python number."""
    return np.iinfo(dtype).min <= number <= np.iinfo(dtype).max


_WEAK_DTYPES = (np.dtype(bool), np.dtype(np.int64), _FLOAT32)


# --- the eager interpreter ---


class Eager:
    """Computes each operation at once with NumPy, and remembers it where a gradient may be asked for."""

    def apply(self, operation: Operation, arguments: tuple[Any, ...], settings: dict[str, Any]) -> Any:
        if operation.composite:
            return self._composite(operation, arguments, settings)
        dtype: Any = None
        wanted = False
        values: list[Any] = []
        for argument in arguments:  # in one pass where there is nothing to promote: small graphs spend their time here
            if type(argument) is not Tensor:
                if type(argument) is not float or len(values) != 1 or len(arguments) != 2 or dtype.kind != "f":
                    break
                argument = Tensor(dtype.type(argument))  # a number beside floats: x * 0.5
                arguments = (arguments[0], argument)
            value = argument.held
            if dtype is None:
                dtype = value.dtype
            elif value.dtype != dtype:
                break
            if argument.requires_grad:
                wanted = True
            values.append(value)
        if (
            dtype is None
            or len(values) != len(arguments)
            or not operation.plain
            or (operation.floating and dtype.kind != "f")
        ):
            arguments = tuple(coerce(operation, arguments, self.lift))
            values = [a.held for a in arguments]
            wanted = any(a.requires_grad for a in arguments)
        if operation.checker is not None:
            operation.checker(*arguments, **settings)
        try:
            value = operation.forward(_numpy, *values, **settings) if settings else operation.forward(_numpy, *values)
        except (ValueError, IndexError, TypeError) as error:
            infer(operation, [a.spec for a in arguments], settings)  # says it in our words
            if isinstance(error, TypeError):
                raise
            if isinstance(error, IndexError):  # a value was at fault, not a shape
                raise IndexError(f"{operation.name}: {error}") from None
            raise explain(operation, arguments, error) from None
        wanted = wanted and operation.differentiable and stack.remember
        if type(value) is tuple:
            if wanted:
                return Tensor(value, operation, arguments, settings, True, None, values).parts()
            return tuple(map(Tensor, value))
        if wanted and (operation.plain or value.dtype.kind == "f"):
            return Tensor(value, operation, arguments, settings, True, None, values)
        return Tensor(value)

    def _composite(self, operation: Operation, arguments: tuple[Any, ...], settings: dict[str, Any]) -> Any:
        lifted = coerce(operation, arguments, self.lift)
        if operation.checker is not None:
            operation.checker(*lifted, **settings)
        with scope(operation.name):
            return operation.forward(operations, *lifted, **settings)

    def lift(self, argument: Any, dtype: Any) -> Tensor:
        """A tensor of an argument that is none yet."""
        if isinstance(argument, Tensor):
            return argument
        if dtype is not None and isinstance(argument, (int, float)):
            return Tensor(dtype.type(argument))
        return tensor(argument)

    def made(self, constant: Tensor) -> None:
        """Take note of a tensor made from data."""

    def versions(self, target: Tensor) -> list[Tensor]:
        """Every node that stood for a tensor: here only itself."""
        return [target]

    def assign(self, target: Tensor, value: Any) -> None:
        """Replace the numbers of a leaf."""
        new = self.lift(value, target.dtype)
        if new.shape != target.shape:
            raise ShapeError(f"assign: {target._called()} has shape {target.shape}, the new value {new.shape}")
        if new.dtype != target.dtype:
            raise DTypeError(f"assign: {target._called()} has dtype {target.dtype}, the new value {new.dtype}")
        target.held = new.held


_numpy = namespace.numpy

part = Operation(lambda xp, x, *, index: x[index], "projection", False, True)
part.name = "part"
part.mathematics = "y = one part of a tuple"

eager = Eager()
set_base(eager)


def _direct(operation: Operation) -> Any:
    none: dict[str, Any] = {}
    return lambda x, y: stack.top.apply(operation, (x, y), none)  # type: ignore[union-attr]


# The commonest operators go straight to the interpreter: small graphs spend their time on the way there.
Tensor.__add__ = Tensor.__radd__ = _direct(operations.add)  # type: ignore[method-assign]
Tensor.__mul__ = Tensor.__rmul__ = _direct(operations.multiply)  # type: ignore[method-assign]
Tensor.__sub__ = _direct(operations.subtract)  # type: ignore[method-assign]
Tensor.__truediv__ = _direct(operations.divide)  # type: ignore[method-assign]
