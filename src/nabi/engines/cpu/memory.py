"""Where arrays lie in one piece of memory, and who may share a place: two that never live together."""

from collections.abc import Mapping

from nabi.machine import CACHE_LINE


def aligned(size: int) -> int:
    """Bytes, up to where the next array may begin.

    Examples
    --------
    >>> aligned(1), aligned(64)
    (64, 64)
    """
    return -(-size // CACHE_LINE) * CACHE_LINE


def share_out(sizes: Mapping[int, int], born: Mapping[int, int], dies: Mapping[int, int]) -> tuple[int, dict[int, int]]:
    """Bytes in all, and where each array begins: the largest first, each at the lowest place that is free for its life.

    Parameters
    ----------
    sizes : mapping of int to int
        Bytes of each array.
    born, dies : mapping of int to int
        The first and the last stage in which it is needed.

    Examples
    --------
    >>> share_out({1: 100, 2: 64, 3: 128}, born={1: 0, 2: 1, 3: 2}, dies={1: 1, 2: 2, 3: 3})
    (192, {3: 0, 1: 0, 2: 128})
    """
    offsets: dict[int, int] = {}
    total = 0
    for array in sorted(sizes, key=lambda one: -sizes[one]):
        taken = sorted(
            (offsets[other], offsets[other] + aligned(sizes[other]))
            for other in offsets
            if born[other] <= dies[array] and born[array] <= dies[other]
        )
        place = 0
        for begin, end in taken:
            if place + sizes[array] <= begin:
                break
            place = max(place, end)
        offsets[array] = place
        total = max(total, place + aligned(sizes[array]))
    return total, offsets
