"""From LLVM's assembly language to machine code for the processor at hand, kept on disk between processes.

A kernel is a text; what was compiled for a text lies in the cache folder under the text's own hash, so that a kernel
is compiled once for a processor, and never mistaken for another. LLVM comes with the package llvmlite: nobody needs a
compiler.
"""

import contextlib
import ctypes
import functools
import hashlib
import math
import os
import sys
import threading
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import llvmlite
import llvmlite.binding as llvm
import numpy as np
from numpy.typing import NDArray

from nabi import cache
from nabi.container import replace_file

FOLDER = "kernels"
FORMAT = 1  # of kept kernels: to be raised when `_emit` makes others of the same text
MATRIX_REGISTERS = {"+amx-tile", "+amx-bf16"}
"""What a processor with matrix registers for bfloat16 has, as LLVM calls it."""
CACHE_LINE = 64
"""Bytes."""
ALIKE = 1 << 12
"""Bytes after which places in memory share one of the cache."""
MOST_BYTES = 256 << 20
"""Of all kernels kept on disk; the oldest go first."""


class Processor(NamedTuple):
    """What code is made for.

    Attributes
    ----------
    name : str
        As LLVM calls it.
    features : str
        As LLVM lists them.
    vector : int
        Bytes in a register.
    """

    name: str
    features: str
    vector: int

    @property
    def bfloat16(self) -> bool:
        """Whether it multiplies numbers in bfloat16."""
        return self.vector == 64 and "+avx512bf16" in self.features.split(",")

    @property
    def matrix_registers(self) -> bool:
        """Whether it multiplies matrices of bfloat16 in registers."""
        return self.bfloat16 and set(self.features.split(",")) >= MATRIX_REGISTERS

    @property
    def passes_by(self) -> bool:
        """Whether it writes by the cache, as x86 does."""
        return "+sse2" in self.features.split(",")

    @property
    def rounds_once(self) -> bool:
        """Whether it multiplies and adds in one instruction: of x86, not all do."""
        words = self.features.split(",")
        return "+fma" in words or not any(word[1:] == "sse2" for word in words)


def this_processor() -> Processor:
    """The processor that this process runs on, with the widest registers that it has."""
    found = llvm.get_host_cpu_features()
    if not (found.get("amx-bf16") and found.get("amx-tile") and _grants_matrix_registers()):
        found = {name: has and "amx" not in name for name, has in found.items()}
    features = ",".join(("+" if has else "-") + name for name, has in sorted(found.items()))
    wide = found.get("avx512f") and found.get("avx512bw") and found.get("avx512vl") and found.get("avx512dq")
    return Processor(llvm.get_host_cpu_name(), features, 64 if wide else 32 if found.get("avx2") else 16)


def _grants_matrix_registers() -> bool:
    """Whether the system lets this process use them: Linux asks to be asked, since they take 8 KiB of a thread.

    Source: Linux kernel, "Using XSTATE features in user space applications".
    """
    if sys.platform != "linux" or sys.maxsize < 2**32:
        return False
    try:
        answer: int = ctypes.CDLL(None).syscall(158, 0x1023, 18)  # arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)
    except (OSError, TypeError, AttributeError):
        return False
    return answer == 0


def narrower(processor: Processor) -> Processor:
    """The same without its widest registers: what an older processor would be given."""
    words = processor.features.split(",")
    kept = ["-" + word[1:] if any(name in word for name in ("avx512", "avx10", "amx")) else word for word in words]
    return Processor("x86-64-v3" if processor.vector == 64 else processor.name, ",".join(kept), 32)


spent = 0.0
"""Seconds in which plans were turned into machine code in this process, or what was kept of them was loaded."""

_lock = threading.RLock()
_state: dict[str, Any] = {}


def _prepare() -> Any:
    if "jit" not in _state:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        llvm.initialize_native_asmparser()
        # Nothing links what is loaded here against the rest of the process but the C library's mathematics. The older
        # of LLVM's linkers lays code and constants wherever there is room, and ends the process where that is 2 GiB
        # apart, as it may be beside large arrays; this one lays them side by side.
        _state["jit"] = llvm.create_lljit_compiler(use_jit_link=True)
        _state["made"] = {}
    return _state["jit"]


def processor() -> Processor:
    """The processor that kernels are made for."""
    with _lock:
        if "processor" not in _state:
            _prepare()
            _state["processor"] = this_processor()
        found: Processor = _state["processor"]
        return found


if hasattr(os, "register_at_fork"):  # while a thread is inside LLVM, which has locks that a child would wait for
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


@contextlib.contextmanager
def pretending(other: Processor) -> Iterator[None]:
    """Make kernels for another processor inside a ``with`` block: one that this one can stand in for."""
    before = processor()
    _state["processor"] = other
    try:
        yield
    finally:
        _state["processor"] = before


Function = Callable[..., Any]
"""Machine code as a function of Python, which lets go of Python's lock while it runs."""
KERNEL: Any = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_longlong, ctypes.c_longlong, ctypes.c_longlong, ctypes.c_void_p
)
"""A kernel is called with a table's address, the first row and the one past the last, a strand, and scratch memory."""


def compile(text: str, kind: Any = KERNEL, target: Processor | None = None) -> Function:
    """Compile the one function of a module that others see, named ``kernel``.

    Parameters
    ----------
    text : str
        LLVM assembly language, with ``@kernel`` where the function's name stands.
    kind : type
        How ctypes calls it; ``void kernel(ptr, i64, i64, i64, ptr)`` where it is not given.
    target : Processor, optional
        What it is made for; `processor` where it is not given.
    """
    with _lock:
        target = target or processor()
        name = name_of(text, target)
        found = kept(name, kind)
        if found is None:
            image = _emit(text.replace("@kernel", f"@k{name}"), target)
            remember(name, image)
            found = _loaded(name, image, kind)
        return found


def name_of(text: str, target: Processor | None = None) -> str:
    """What the machine code of a text for a processor is called: a hash of both, and of what makes it."""
    version = llvmlite.__version__, llvm.llvm_version_info, FORMAT
    return hashlib.sha256("\0".join(map(str, (*version, *(target or processor()), text))).encode()).hexdigest()[:32]


def kept(name: str, kind: Any = KERNEL) -> Function | None:
    """The machine code of this name (`name_of`), as `compile` gives it; ``None`` where it was never made here."""
    with _lock:
        _prepare()
        made: Function | None = _state["made"].get(name)
        if made is not None:
            return made
        image = recalled(name)
        return None if image is None else _loaded(name, image, kind)


def _loaded(name: str, image: bytes, kind: Any) -> Function:
    library = llvm.JITLibraryBuilder().add_object_img(image).add_current_process()
    tracker = library.export_symbol(f"k{name}").link(_prepare(), name)
    made: Function = kind(tracker[f"k{name}"])
    _state["made"][name] = made
    _state.setdefault("trackers", []).append(tracker)  # the code lives as long as it
    return made


def run(text: str, arrays: Sequence[NDArray[Any]], numbers: Sequence[int], count: int, strand: int = 0) -> None:
    """Compile a kernel and call it for rows from 0 on.

    Parameters
    ----------
    text : str
    arrays : sequence of ndarray
        The first words of its table: where these lie.
    numbers : sequence of int
        The words behind them.
    count : int
        Rows.
    strand : int
    """
    table = array("q", [*(each.ctypes.data for each in arrays), *numbers])
    _compiled(text, processor())(table.buffer_info()[0], 0, count, strand, 0)


@functools.lru_cache(maxsize=64)
def _compiled(text: str, target: Processor) -> Function:
    """`compile`, which takes as long as some of these kernels run."""
    return compile(text, target=target)


def empty(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """An array, not yet filled in, that begins at a cache line: what lies across two of them takes twice as long."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + CACHE_LINE, np.uint8)
    return np.ndarray(shape, dtype, memory, offset=-memory.ctypes.data % CACHE_LINE)


def words(pointer: str, fields: Sequence[str]) -> str:
    """The lines that read 8-byte words which lie one behind another: each field is a type, and what the word is called.

    Examples
    --------
    >>> print(words("%given", ["ptr rows", "i64 count"]))
      %rows_at = getelementptr i64, ptr %given, i64 0
      %rows = load ptr, ptr %rows_at
      %count_at = getelementptr i64, ptr %given, i64 1
      %count = load i64, ptr %count_at
    """
    lines = []
    for place, (kind, name) in enumerate(map(str.split, fields)):
        lines += [
            f"  %{name}_at = getelementptr i64, ptr {pointer}, i64 {place}",
            f"  %{name} = load {kind}, ptr %{name}_at",
        ]
    return "\n".join(lines)


def _emit(text: str, target: Processor) -> bytes:
    module = llvm.parse_assembly(text)
    module.verify()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=target.name, features=target.features, opt=3, reloc="pic", codemodel="small"
    )
    module.triple = machine.triple
    module.data_layout = str(machine.target_data)
    tuning = llvm.create_pipeline_tuning_options(speed_level=2)
    tuning.loop_vectorization = False  # the text is written in vectors already
    tuning.slp_vectorization = False
    tuning.loop_unrolling = False
    builder = llvm.create_pass_builder(machine, tuning)
    builder.getModulePassManager().run(module, builder)
    image: bytes = machine.emit_object(module)
    return image


def _folder() -> Path | None:
    """Where kernels are kept, if that is the user's own: what lies there is run."""
    folder = cache.folder() / FOLDER
    if _state.get("folder") != folder:  # a process looks once: it asks for a hundred kernels
        try:
            cache.private_folder(FOLDER)
        except OSError:
            return None
        _state["folder"] = folder
    return folder


def _sum(name: str, content: bytes) -> bytes:
    return hashlib.sha256(name.encode() + content).digest()


def recalled(name: str) -> bytes | None:
    """What is kept under a name, unless it is damaged or another's."""
    folder = _folder()
    try:
        data = b"" if folder is None else (folder / f"{name}.o").read_bytes()
    except OSError:
        return None
    return data[32:] if _sum(name, data[32:]) == data[:32] else None


def remember(name: str, content: bytes) -> None:
    """Keep a kernel, or what is known of some; where the disk will not have it, the next process makes it again."""
    folder = _folder()
    if folder is None:
        return
    with contextlib.suppress(OSError):
        if _state.get("tidied") != folder:
            _tidy(folder)
            _state["tidied"] = folder
        with replace_file(folder / f"{name}.o") as file:
            file.write(_sum(name, content) + content)


def _tidy(folder: Path) -> None:
    """Let the oldest kernels go where there are too many: once a process."""
    kept = [(path.stat().st_mtime, path.stat().st_size, path) for path in folder.glob("*.o")]
    total = sum(size for _, size, _ in kept)
    for _, size, path in sorted(kept):
        if total <= MOST_BYTES:
            break
        with contextlib.suppress(OSError):
            path.unlink()
            total -= size
