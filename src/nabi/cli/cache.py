"""``nabi cache``: what is kept, so that the second start is quick."""

import time
from typing import Annotated

import typer

from nabi import cache as kept
from nabi.cli.characters import printable

KERNELS = "kernels"
"""What the fast engine calls its folder; it is not loaded for this."""


def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Remove everything in it.")] = False,
) -> None:
    """List what is kept of decoded pictures, downloads and machine code, or clear it."""
    if clear:
        print(f"{_size(kept.clear())} removed from {kept.folder()}")
        return
    entries = kept.entries()
    code = [entry for entry in entries if entry.kind == KERNELS]
    for entry in entries:
        if entry.kind != KERNELS:
            print(_line(entry.kind, entry.size, entry.used, printable(str(entry.source))))
    if code:  # hundreds, of which none says anything by itself
        used = max(entry.used for entry in code)
        print(_line(KERNELS, sum(entry.size for entry in code), used, f"machine code: {len(code)} pieces"))
    print(f"{_size(sum(entry.size for entry in entries))} in {kept.folder()}; nabi cache --clear removes it")


def _line(kind: str, size: int, used: float, what: str) -> str:
    return f"{kind}  {_size(size):>9}  {time.strftime('%Y-%m-%d %H:%M', time.localtime(used))}  {what}"


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
