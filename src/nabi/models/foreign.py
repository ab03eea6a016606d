"""Weights that other libraries trained, under the names that they have there.

PyTorch keeps a convolution's weight as (out, in / groups, kh, kw), and here it is (kh, kw, in / groups, out), so that a
first filter is a picture; a fully connected layer's is (out, in) there and (in, out) here. A batch normalisation's
``running_var`` is called ``running_variance`` here, and its ``num_batches_tracked`` is nothing that a network computes
with. Everything else is a matter of names: a `Naming` says what each layer of a model is called.
"""

import functools
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from nabi import nn, weights
from nabi.errors import ModelFileError

Weights = str | os.PathLike[str] | Mapping[str, Any] | None
"""A file or a name that `nabi.weights.find` takes, or arrays by the names that another library gives them."""

Naming = Callable[[nn.Sequential], Iterator[tuple[str, str]]]
"""Pairs of the path of a layer in a model and of its name in another library, for every layer that has weights."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the training pictures' channels, red, green and blue, where white is 1: what most networks are trained with."""


class Source(NamedTuple):
    """Where a tensor comes from.

    Attributes
    ----------
    name : str
        What the other library calls it.
    axes : tuple of int
        Which of its axes come first, second and so on in ours.
    """

    name: str
    axes: tuple[int, ...]

    def shape(self, ours: tuple[int, ...]) -> tuple[int, ...]:
        """The shape there of what has the shape ``ours`` here."""
        return tuple(ours[self.axes.index(axis)] for axis in range(len(ours)))


_SOURCES: dict[type[nn.Layer], dict[str, Source]] = {
    nn.Conv2d: {"weight": Source("weight", (2, 3, 1, 0)), "bias": Source("bias", (0,))},
    nn.Linear: {"weight": Source("weight", (1, 0)), "bias": Source("bias", (0,))},
    nn.BatchNorm: {
        "weight": Source("weight", (0,)),
        "bias": Source("bias", (0,)),
        "running_mean": Source("running_mean", (0,)),
        "running_variance": Source("running_var", (0,)),
    },
}
LONGEST = 80
"""Characters of a name that a message shows."""
_IGNORED = ".num_batches_tracked"


def sources(model: nn.Sequential, naming: Naming) -> dict[str, Source]:
    """For every tensor of a model that is learnt from pictures, by its path: where it comes from.

    Examples
    --------
    >>> from nabi import models
    >>> found = sources(models.resnet18(), models.BACKBONES["resnet18"].namings["torchvision and timm"])
    >>> found["stage1.block1.residual.body.conv1.weight"]
    Source(name='layer1.0.conv1.weight', axes=(2, 3, 1, 0))
    """
    found = {}
    for path, name in naming(model):
        layer = functools.reduce(getattr, path.split("."), model)
        for field, source in _SOURCES[type(layer)].items():
            if getattr(layer, field) is not None:
                found[f"{path}.{field}"] = source._replace(name=f"{name}.{source.name}")
    return found


def fill(model: nn.Sequential, namings: Mapping[str, Naming], given: Weights, name: str) -> nn.Sequential:
    """The model, its tensors set to what is given; nothing is changed unless all of it fits.

    Parameters
    ----------
    model : Sequential
    namings : mapping of str to Naming
        By whose they are; the one is taken of which most names are there.
    given : str, path, mapping or None
        None leaves the model as it is.
    name : str
        What messages call the model.

    Raises
    ------
    ModelFileError
        Where arrays are missing, unknown, of another shape or not of floating point; the message names the first.
    """
    if given is None:
        return model
    arrays, where = (given, name) if isinstance(given, Mapping) else _read(given)
    tables = {whose: sources(model, naming) for whose, naming in namings.items()}
    whose = max(tables, key=lambda whose: sum(source.name in arrays for source in tables[whose].values()))
    table = tables[whose]
    tensors = nn.tensors(model)

    missing = [source.name for source in table.values() if source.name not in arrays]
    if missing:
        raise ModelFileError(
            f"{where}: lacks {len(missing)} of the {len(table)} arrays that {name} has in {whose}, "
            f"the first being {_shown(missing[0])}"
        )
    known = {source.name for source in table.values()}
    unknown = [other for other in arrays if other not in known and not other.endswith(_IGNORED)]
    if unknown:
        raise ModelFileError(
            f"{where}: holds {_arrays(unknown)} that {name} does not have in {whose}, "
            f"the first being {_shown(unknown[0])}"
        )
    unfit = list(_unfit(table, tensors, arrays))
    if unfit:
        raise ModelFileError(f"{where}: holds {_arrays(unfit)} that {name} cannot take, the first being {unfit[0]}")

    for path, source in table.items():
        array = np.asarray(arrays[source.name]).transpose(source.axes)
        tensors[path].assign(array.astype(np.float32, order="C"))
    return model


def _read(given: str | os.PathLike[str]) -> tuple[Mapping[str, Any], str]:
    path = weights.find(given)
    return weights.read(path), str(path)


def _unfit(table: Mapping[str, Source], tensors: Mapping[str, Any], arrays: Mapping[str, Any]) -> Iterator[str]:
    """What is of another shape or of whole numbers, and what it should be."""
    for path, source in table.items():
        array, shape = np.asarray(arrays[source.name]), source.shape(tensors[path].shape)
        if array.shape != shape:
            yield f"{source.name!r}, which is {array.shape} and not {shape}"
        elif array.dtype.kind != "f":
            yield f"{source.name!r}, which is {array.dtype} and not floating point"


def _arrays(names: list[str]) -> str:
    return "1 array" if len(names) == 1 else f"{len(names)} arrays"


def _shown(name: str) -> str:
    """A name out of a file: it may be anything."""
    return repr(name if len(name) <= LONGEST else name[: LONGEST - 1] + "…")
