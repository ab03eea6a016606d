"""How long the fuzz tests go on."""

import os


def examples(count: int) -> int:
    """``count``, multiplied by the environment variable ``NABI_FUZZ``, which ``--long`` sets to 100."""
    return count * int(os.environ.get("NABI_FUZZ", "1"))
