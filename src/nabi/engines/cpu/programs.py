"""Programs that are kept: plans that compute the same share one, however many are made."""

import os
import threading
from collections.abc import Callable, Hashable

from nabi.engines.cpu.program import Program

KEPT = 32
"""Who trains one model after another has few kinds of them."""


class _Place:
    """Where a program is, or will be: whoever comes while it is being made waits for it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.program: Program | None = None


_lock = threading.Lock()
_places: dict[Hashable, _Place] = {}  # what was asked for last comes last


def kept(key: Hashable, make: Callable[[], Program]) -> Program:
    """The program with this key, made where there is none."""
    try:
        hash(key)
    except TypeError:  # of a setting of somebody's own operation
        return make()
    with _lock:
        place = _places.pop(key, None) or _Place()
        _places[key] = place
        while len(_places) > KEPT:
            del _places[next(iter(_places))]
    with place.lock:
        if place.program is None:
            place.program = make()
        return place.program


def _forget() -> None:
    """A forked child has none of the threads that may have held a lock."""
    global _lock
    _lock = threading.Lock()
    _places.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
