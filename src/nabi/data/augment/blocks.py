"""Many pictures cut into blocks, and the blocks handed to the threads."""

import itertools
from collections.abc import Callable

from nabi import threads

BLOCK_BYTES = 2**21
"""About how many bytes of pictures one thread takes at once: so many that what Python does for them is little."""


def in_blocks(work: Callable[[slice], None], count: int, bytes_each: int) -> None:
    """Hand blocks of pictures to the threads: cut by what a picture takes, never by how many threads there are."""
    blocks = cut(count, max(4, BLOCK_BYTES // max(1, bytes_each)))
    for _ in threads.map_in_order(work, blocks) if len(blocks) > 1 else map(work, blocks):
        pass


def cut(count: int, at_most: int) -> list[slice]:
    """Cut ``count`` pictures into blocks as even as can be."""
    blocks = -(-count // at_most)
    edges = [count * number // blocks for number in range(blocks + 1)] if blocks else []
    return [slice(start, stop) for start, stop in itertools.pairwise(edges)]
