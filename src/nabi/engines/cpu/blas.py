"""The matrix products of the BLAS that NumPy has brought into this process."""

import ctypes
import functools
from typing import Any

from threadpoolctl import ThreadpoolController

from nabi.engines.cpu.contract import Blas

NAMES = (("scipy_cblas_{}64_", "i64"), ("cblas_{}64_", "i64"), ("scipy_cblas_{}", "i32"), ("cblas_{}", "i32"))


@functools.cache
def _found() -> tuple[Blas, list[int], Any] | None:
    controller: Any = ThreadpoolController()  # type: ignore[no-untyped-call]
    libraries = [library.filepath for library in controller.select(user_api="blas").lib_controllers]
    # SciPy brings another, which rounds otherwise; which of them the system lists first is chance.
    for path in sorted(libraries, key=lambda path: ("numpy" not in path, path)):
        loaded = ctypes.CDLL(path)
        for name, integer in NAMES:
            try:
                functions = [getattr(loaded, name.format(which)) for which in ("sgemm", "dgemm")]
            except AttributeError:
                continue
            addresses = [ctypes.cast(function, ctypes.c_void_p).value or 0 for function in functions]
            return Blas({"float32": 0, "float64": 1}, integer), addresses, loaded
    return None


def find() -> Blas | None:
    """How to call it, or None where there is none that can be called: then all products are written out."""
    found = _found()
    return None if found is None else found[0]


def addresses() -> list[int]:
    """The functions for float32 and float64."""
    found = _found()
    return [0, 0] if found is None else found[1]
