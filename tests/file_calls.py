"""Every call of a process that changes files, so that a test can kill it there, or have the call fail."""

import builtins
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def interpose(root: Path, act: Callable[[str, str], None]) -> None:
    """Call ``act(what, path)`` before every call that changes something below ``root``, text files apart; for good.

    ``what`` is open (to write), write, sync, rename (to ``path``), remove, mkdir, rmdir or chmod. Where ``act`` raises,
    the call has failed; of a write, the first half is done by then.
    """

    def below(path: Any, folder: int | None = None) -> str | None:
        if isinstance(path, int):
            path = Path(f"/proc/self/fd/{path}").readlink()
        elif folder is not None:
            path = Path(f"/proc/self/fd/{folder}").readlink() / os.fsdecode(path)
        full = os.path.abspath(os.fsdecode(path))  # noqa: PTH100  # not resolved: a link is changed, not what it names
        return full if Path(full).is_relative_to(root) else None

    class Raw(io.FileIO):
        """The file under a buffer, which it is that writes."""

        def write(self, content: Any) -> int:
            path, view = below(self.fileno()), memoryview(content).cast("B")
            if path is None:
                return super().write(view) or 0
            done = super().write(view[: len(view) // 2]) or 0
            act("write", path)
            return done + (super().write(view[done:]) or 0)

    def opened(path: Any, mode: str = "r", buffering: int = -1, *rest: Any, **options: Any) -> Any:
        if "b" not in mode or not set(mode) & set("wxa+") or (found := below(path)) is None:
            return real_open(path, mode, buffering, *rest, **options)
        if not isinstance(path, int):
            act("open", found)
        options = {name: value for name, value in options.items() if name in ("closefd", "opener")}
        raw = Raw(path, mode.replace("b", ""), **options)
        if buffering == 0:
            return raw
        return io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)

    def low_level(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        if flags & WRITING and (found := below(path, options.get("dir_fd"))):
            act("open", found)
        return real_os_open(path, flags, *rest, **options)

    def before(what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *rest: Any, **options: Any) -> Any:
            named = rest[0] if what == "rename" else path
            found = below(named, options.get("dir_fd", options.get("dst_dir_fd")))
            if found is not None and os.path.lexists(found) is NEEDED.get(what, os.path.lexists(found)):
                act(what, found)
            return function(path, *rest, **options)

        return call

    real_open, real_os_open = io.open, os.open
    builtins.open = io.open = opened  # type: ignore[assignment]
    os.open = low_level
    for what, names in CALLS.items():
        for name in names.split():
            changed = before(what, getattr(os, name))
            for known in (os.supports_dir_fd, os.supports_fd, os.supports_follow_symlinks):
                if getattr(os, name) in known:
                    known.add(changed)
            setattr(os, name, changed)


# Whether the path must be there for the call to change anything.
NEEDED = {"mkdir": False, "remove": True, "rmdir": True}
CALLS = {
    "sync": "fsync fdatasync",
    "rename": "rename replace link symlink",
    "remove": "unlink remove",
    "mkdir": "mkdir",
    "rmdir": "rmdir",
    "chmod": "chmod",
}
