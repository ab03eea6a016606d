"""A model as plain data: what JSON can say of it, and the model again."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from nabi._tensor import Tensor, tensor
from nabi.errors import ModelFileError, SettingError
from nabi.nn.layer import Layer


def describe(layer: Layer) -> dict[str, Any]:
    """What a layer is, without the values of its tensors.

    Parameters
    ----------
    layer : Layer
        One of `nabi.nn`, whose fields are tensors, layers, numbers, words, None and sequences of these.

    Raises
    ------
    SettingError
        A layer that is not of `nabi.nn`, or a field that is something else.

    Examples
    --------
    >>> import nabi
    >>> describe(nabi.nn.MaxPool2d(2))
    {'layer': 'MaxPool2d', 'fields': [['kernel_size', [2, 2]], ['stride', [2, 2]], ['padding', 0]]}
    """
    twice = [path for path, count in Counter(id(one) for one in _all(layer)).items() if count > 1]
    if twice:
        raise SettingError("a layer stands in the model twice: a file cannot say that the two are one")
    return _of_layer(layer)


def _all(layer: Layer) -> Iterator[Layer]:
    """A layer and all in it, as often as they stand there."""
    yield layer
    for field in vars(layer).values():
        for part in field if isinstance(field, list | tuple) else (field,):
            if isinstance(part, Layer):
                yield from _all(part)


def _of_layer(layer: Layer) -> dict[str, Any]:
    name = type(layer).__name__
    if _layers().get(name) is not type(layer):
        raise SettingError(f"{name} is not a layer of nabi.nn: a file cannot say what it is")
    # In pairs: JSON does not promise to keep the order of names, and the order of fields is that of the layers.
    return {"layer": name, "fields": [[field, _described(name, field, value)] for field, value in vars(layer).items()]}


def build(description: Mapping[str, Any], most: int) -> Layer:
    """The layer that `describe` described, its tensors filled with zeros.

    Nothing in it can run but the layers of `nabi.nn`.

    Parameters
    ----------
    description : mapping
    most : int
        How many numbers its tensors may hold together.

    Raises
    ------
    ModelFileError
        It describes no layer, or one with more numbers than that.

    Examples
    --------
    >>> import nabi
    >>> build(describe(nabi.nn.MaxPool2d(2)), most=0)
    MaxPool2d(kernel_size=(2, 2), stride=(2, 2), padding=0)
    """
    needed = sum(math.prod(shape) for shape in _shapes(description))
    if needed > most:
        raise ModelFileError(f"its layers ask for {needed:,} numbers, and its arrays hold {most:,}")
    made: Layer = _built(description)
    return made


def _layers() -> dict[str, type[Layer]]:
    """Every layer of `nabi.nn` by name."""
    found: dict[str, type[Layer]] = {}
    waiting = Layer.__subclasses__()
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        if kind.__module__.startswith("nabi.nn."):
            found[kind.__name__] = kind
    return found


def _described(owner: str, field: str, value: Any) -> Any:
    match value:
        case Layer():
            return _of_layer(value)
        case Tensor():
            return {"tensor": value.dtype.name, "shape": list(value.shape), "trained": value.requires_grad}
        case list() | tuple():
            return [_described(owner, field, item) for item in value]
        case None | bool() | int() | float() | str():
            return value
        case np.generic():
            return value.item()
        case _:
            raise SettingError(f"{owner}: {field} is a {type(value).__name__}: a file cannot say what it is")


def _shapes(value: Any) -> Iterator[list[int]]:
    """The shapes of all tensors in a description."""
    if isinstance(value, Mapping):
        if "tensor" in value:
            shape = value.get("shape")
            if not isinstance(shape, list | tuple) or not all(type(n) is int and n >= 0 for n in shape):
                raise ModelFileError("one of its tensors has no shape")
            yield list(shape)
            return
        value = value.values()
    elif not isinstance(value, list | tuple):
        return
    for item in value:
        yield from _shapes(item)


def _built(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(map(_built, value))
    if not isinstance(value, Mapping):
        return value
    if "tensor" in value:
        if value["tensor"] not in ("float32", "float64", "int64", "uint32"):
            raise ModelFileError(f"a tensor of the unknown kind {str(value['tensor'])[:40]!r}")
        trained = value.get("trained") is True
        return tensor(np.zeros(tuple(value["shape"]), value["tensor"]), requires_grad=trained)
    kind = _layers().get(str(value.get("layer")))
    if kind is None:
        raise ModelFileError(f"{str(value.get('layer'))[:40]!r} is not a layer of nabi.nn")
    made = kind.__new__(kind)
    for field, content in value["fields"]:
        if not isinstance(field, str) or not field.isidentifier() or hasattr(kind, field):
            raise ModelFileError(f"a layer cannot have a field {str(field)[:40]!r}")
        vars(made)[field] = _built(content)
    return made
