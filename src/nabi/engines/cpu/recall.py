"""Which kernels a plan was made into by an earlier process: what they are called, so that nobody writes them anew.

Machine code is kept under the hash of its text (`nabi.machine`). But to write the texts of a hundred kernels takes a
second, which is longer than to read their code. So what was made for a plan is noted down, too, under the hash of all
that the texts follow from: the plan, the processor, and the files of nabi that write them.
"""

import functools
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nabi import machine
from nabi.engines.cpu import blas
from nabi.graph.indexing import ARRAY
from nabi.graph.node import Node
from nabi.graph.operation import registry
from nabi.graph.plan import Plan

WRITERS = ("*.py", "graph/*.py", "ops/*.py", "engines/**/*.py")
"""The files that the texts of kernels follow from, and some more."""
SINGLE = (bool, int, float, complex, str, bytes, type(None), type(...), np.generic, np.dtype)


class Kernel(NamedTuple):
    """What was made of a segment.

    Attributes
    ----------
    name : str
        See `nabi.machine.name_of`.
    scratch : int
        Bytes of memory that a thread needs for it.
    calls_blas : bool
    """

    name: str
    scratch: int
    calls_blas: bool


def name_of(plan: Plan, *how: object) -> str | None:
    """The hash of a plan and ``how`` it is made, or ``None`` where something in it cannot be told by what it says.

    As an operation or a setting of somebody's own, of which another process may have another of the same name.
    """
    try:
        said = [*_said(plan), *map(_plain, (how, machine.processor(), blas.find()))]
        digest = hashlib.sha256(json.dumps([_version(), said]).encode())
    except (TypeError, OSError):
        return None
    for node in plan.constants:
        digest.update(np.ascontiguousarray(node.held).data)
    return digest.hexdigest()[:32]


def _said(plan: Plan) -> Iterator[Any]:
    place = {node.serial: number for number, node in enumerate((*plan.inputs, *plan.constants, *plan.nodes))}
    yield [_plain((node.shape, node.dtype)) for node in plan.inputs]
    yield [_plain((np.shape(node.held), np.asarray(node.held).dtype, node.dtype)) for node in plan.constants]
    for node in plan.nodes:
        settings = [[name, _plain(value)] for name, value in sorted(node.settings.items())]
        yield [_known(node), [place[source.serial] for source in node.inputs], settings]
    yield [place[output.serial] for output in plan.outputs]


def _known(node: Node) -> str:
    """The name of an operation that the files of nabi declare, and nobody else."""
    operation = node.operation
    assert operation is not None
    declared = operation.forward
    of_nabi = declared.__module__.startswith("nabi.") and (
        registry.get(operation.name) is operation or declared.__closure__ is None
    )
    if not of_nabi:
        raise TypeError(f"{operation.name} is somebody's own")
    return f"{operation.name} of {declared.__module__}, line {declared.__code__.co_firstlineno}"


def _plain(value: Any) -> Any:
    """A setting as text that tells it from all others."""
    if value is ARRAY:
        return "an array"
    if isinstance(value, SINGLE):
        return f"{type(value).__name__} {value!r}"
    if isinstance(value, type) and issubclass(value, (bool, int, float, np.generic)):
        return f"type {value.__name__}"
    if isinstance(value, slice):
        return ["slice", _plain(value.start), _plain(value.stop), _plain(value.step)]
    if isinstance(value, (tuple, list)):
        return [type(value).__name__, *map(_plain, value)]
    if isinstance(value, dict):
        return ["dict", *([_plain(name), _plain(each)] for name, each in value.items())]
    raise TypeError(f"a {type(value).__name__} is not told by what it says")


@functools.cache
def _version() -> str:
    digest = hashlib.sha256(np.__version__.encode())
    home = Path(machine.__file__).parent
    for pattern in WRITERS:
        for path in sorted(home.glob(pattern)):
            digest.update(f"{path.relative_to(home)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def recalled(name: str | None) -> list[Kernel]:
    """The kernels of a plan, or none where they are not known."""
    content = None if name is None else machine.recalled(name)
    return [] if content is None else [Kernel(*fields) for fields in json.loads(content)]


def remember(name: str | None, kernels: Sequence[Kernel]) -> None:
    """Note them down."""
    if name is not None:
        machine.remember(name, json.dumps(kernels).encode())
