"""Which kernels a plan was made into by an earlier process: what they are called, so that nobody writes them anew.

Machine code is kept under the hash of its text (`nabi.machine`). But to write the texts of a hundred kernels takes a
second, which is longer than to read their code. So what was made for a plan is noted down, too, under the hash of all
that the texts follow from: the plan, the processor, and the files of nabi that write them.
"""

import functools
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nabi import machine
from nabi.engines.cpu import blas
from nabi.graph.indexing import ARRAY
from nabi.graph.node import Node
from nabi.graph.operation import BEGUN, registry
from nabi.graph.plan import Plan
from nabi.ops import DECLARED

WRITERS = ("", "graph", "ops", "engines", "engines/cpu")
"""Folders of the files that the texts of kernels follow from, and some more."""
SINGLE = (bool, int, float, complex, str, bytes, type(None), type(...))
"""Types of settings that say what they are; those that derive from them may say anything."""
SETTLED = 1.0
"""Seconds before this process began to read them in which they must not have changed."""


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
        version = [_version(), machine.name_of("")]
    except (TypeError, OSError):
        return None
    return hashlib.sha256(json.dumps([version, said]).encode()).hexdigest()[:32]


def _said(plan: Plan) -> Iterator[Any]:
    if any(registry.get(name) is not declared for name, declared in DECLARED.items()):
        raise TypeError("an operation of nabi's, which others are made of, is somebody's own")
    place = {node.serial: number for number, node in enumerate((*plan.inputs, *plan.constants, *plan.nodes))}
    yield [_plain((node.shape, node.dtype)) for node in plan.inputs]
    for node in plan.constants:
        held = np.asarray(node.held)
        if held.dtype.hasobject:
            raise TypeError("objects are not told by what they say")
        content = hashlib.sha256(np.ascontiguousarray(held).data).hexdigest()
        yield [_plain((held.shape, held.dtype, node.dtype)), content]
    for node in plan.nodes:
        settings = [[name, _plain(value)] for name, value in sorted(node.settings.items())]
        yield [_known(node), [place[source.serial] for source in node.inputs], settings]
    yield [place[output.serial] for output in plan.outputs]


def _known(node: Node) -> str:
    """The name of an operation that the files of nabi declare, and nobody else."""
    operation = node.operation
    assert operation is not None
    declared = operation.forward
    # `part` of a tuple is in no registry.
    if DECLARED.get(operation.name, operation) is not operation or not _of_nabi(declared.__module__):
        raise TypeError(f"{operation.name} is somebody's own")
    if operation.name not in DECLARED and declared.__closure__ is not None:
        raise TypeError(f"{operation.name} is made of what its file does not say")
    return f"{operation.name} of {declared.__module__}, line {declared.__code__.co_firstlineno}"


def _of_nabi(module: str | None) -> bool:
    return module is not None and module.startswith("nabi.")


def _plain(value: Any) -> Any:
    """A setting as text that tells it from all others."""
    kind = type(value)
    if value is ARRAY:
        return "an array"
    if kind in SINGLE:
        return f"{kind.__name__} {value!r}"
    if isinstance(value, np.generic) and kind.__module__ == "numpy" and not value.dtype.hasobject:
        return f"{value.dtype.str} {value.tobytes().hex()}"
    if isinstance(value, np.dtype) and not value.hasobject:
        return f"dtype {value.str}"
    if kind is type and value.__module__ in ("builtins", "numpy"):
        return f"type {value.__name__}"
    if kind is slice:
        return ["slice", _plain(value.start), _plain(value.stop), _plain(value.step)]
    if kind in (tuple, list) or (isinstance(value, tuple) and _of_nabi(kind.__module__)):
        return [f"{kind.__module__} {kind.__qualname__}", *map(_plain, value)]
    if kind is dict:
        return ["dict", *([_plain(name), _plain(each)] for name, each in value.items())]
    raise TypeError(f"a {kind.__name__} is not told by what it says")


@functools.cache
def _version() -> str:
    """A hash of the files that write kernels.

    Raises
    ------
    OSError
        Where they are not what this process runs: changed since, or not to be read, as in an archive.
    """
    home = Path(machine.__file__).parent
    files = {path for folder in WRITERS for path in (home / folder).glob("*.py")}
    modules = [module for name, module in [*sys.modules.items()] if name.partition(".")[0] == "nabi"]
    loaded = {Path(str(module.__file__)) for module in modules if _writes(module)}
    changed = max((max(path.stat().st_mtime, path.stat().st_ctime) for path in files), default=0.0)
    if not loaded <= files or changed > BEGUN - SETTLED:
        raise OSError("the files of nabi are not those that are running")
    digest = hashlib.sha256(np.__version__.encode())
    for path in sorted(files):
        digest.update(f"{path.relative_to(home)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def _writes(module: Any) -> bool:
    """Whether it is in one of those folders; those themselves are left out, which need have no file."""
    folder = "/".join(module.__name__.split(".")[1:-1])
    return folder in WRITERS and not hasattr(module, "__path__")


def recalled(name: str | None) -> list[Kernel]:
    """The kernels of a plan, or none where they are not known."""
    content = None if name is None else machine.recalled(name)
    return [] if content is None else [Kernel(*fields) for fields in json.loads(content)]


def remember(name: str | None, kernels: Sequence[Kernel]) -> None:
    """Note them down."""
    if name is not None:
        machine.remember(name, json.dumps(kernels).encode())
