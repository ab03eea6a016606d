"""Every operation, by its name in the Array API standard where it has one there.

Each is declared once, in the file of its kind; see `nabi.graph.operation` for how. This module looks names up in the
registry, so that declaring an operation is all there is to adding one.

Examples
--------
>>> import nabi
>>> nabi.ops.relu(nabi.tensor([-1.0, 2.0])).numpy()
array([0., 2.], dtype=float32)
"""

from nabi.graph.operation import Operation, registry
from nabi.ops import arithmetic, contract, convolve, move, random, reduce

_declarations = (arithmetic, contract, convolve, move, random, reduce)

DECLARED = dict(registry)
"""Those that are declared here: more may be added later."""


def __getattr__(name: str) -> Operation:
    if name in registry:
        return registry[name]
    raise AttributeError(f"no operation is named {name!r}")


def __dir__() -> list[str]:
    return sorted(registry)
