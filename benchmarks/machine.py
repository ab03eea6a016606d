"""The machine: what it is, and what it can do at most. ``python -m benchmarks.machine`` prints it as JSON."""

import contextlib
import importlib.metadata
import json
import os
import platform
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

FLAGS = "avx2 avx512f avx512_vnni avx512_bf16 amx_tile amx_bf16 amx_int8".split()
PACKAGES = (
    "numpy scipy llvmlite scikit-learn pillow simplejpeg torch jax faiss-cpu onnxruntime numkong micrograd".split()
)


def flags() -> list[str]:
    """Those of the processor's abilities that matter here."""
    try:
        words = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        return []
    return [flag for flag in FLAGS if flag in words]


def has_bfloat16() -> bool:
    """Whether the processor multiplies numbers of bfloat16."""
    return any(flag in ("avx512_bf16", "amx_bf16") for flag in flags())


def cores() -> list[int]:
    """The cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def processor() -> dict[str, Any]:
    """Name, frequencies and caches, as far as the system says them."""
    found: dict[str, Any] = {"name": platform.processor() or platform.machine()}
    with contextlib.suppress(OSError):
        pairs = [
            line.split(":", 1) for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if ":" in line
        ]
        named = {name.strip(): value.strip() for name, value in pairs}
        found["name"] = named.get("model name", found["name"])
        identity = [named.get(name, "") for name in ("vendor_id", "cpu family", "model", "stepping")]
        if all(identity):
            found["identity"] = "{}, family {}, model {}, stepping {}".format(*identity)
        if "cpu MHz" in named:
            found["MHz"] = round(max(float(value) for name, value in pairs if name.strip() == "cpu MHz"))
    with contextlib.suppress(OSError):
        limit = Path("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq").read_text(encoding="utf-8")
        found["most MHz"] = round(int(limit) / 1000)
    caches = []
    for cache in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        with contextlib.suppress(OSError):
            level, kind, size = (
                (cache / name).read_text(encoding="utf-8").strip() for name in ("level", "type", "size")
            )
            if kind != "Instruction":
                caches.append(f"L{level} {size}")
    return found | {"caches": caches, "flags": flags(), "cores": len(cores())}


def busy() -> tuple[float, float] | None:
    """Seconds that all cores have worked so far, and that the host gave to others; None where nobody says."""
    with contextlib.suppress(OSError, ValueError):
        first = Path("/proc/stat").read_text(encoding="utf-8").split("\n", 1)[0].split()[1:]
        user, nice, system, _, _, hard, soft, stolen = (int(ticks) / os.sysconf("SC_CLK_TCK") for ticks in first[:8])
        return user + nice + system + hard + soft, stolen
    return None


def memory_gigabytes() -> float | None:
    with contextlib.suppress(ValueError, OSError, AttributeError):
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    return None


def versions() -> dict[str, str]:
    """Of Python, nabi and the packages that take part, without importing them."""
    found = {"python": platform.python_version()}
    for name in ("nabi", *PACKAGES):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
        found["commit"] = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    return found


def product_rate(side: int = 2048, seconds: float = 1.0) -> float:
    """GFLOP/s of NumPy's float32 matrix product."""
    import numpy as np

    a, b = (np.random.default_rng(seed).standard_normal((side, side), np.float32) for seed in (0, 1))
    c = np.empty_like(a)
    return 2 * side**3 / fastest(lambda: np.matmul(a, b, out=c), seconds) / 1e9


def copy_rate(threads: int, megabytes: int = 256, seconds: float = 1.0) -> float:
    """GB/s read and written while one large array is copied to another, each thread its part."""
    import numpy as np

    source = np.ones(megabytes << 18, np.float32)
    target = np.zeros_like(source)
    parts = list(zip(np.array_split(target, threads), np.array_split(source, threads), strict=True))
    with ThreadPoolExecutor(threads) as pool:
        copy = lambda: list(pool.map(lambda part: np.copyto(*part), parts))
        return 2 * source.nbytes / fastest(copy, seconds) / 1e9


def fastest(work: Any, seconds: float) -> float:
    """The shortest time among repetitions that last so long together, three at least."""
    times: list[float] = []
    work()
    while len(times) < 3 or sum(times) < seconds:
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return min(times)


def describe(threads: int, seconds: float = 1.0) -> dict[str, Any]:
    """All of it; the rates are measured with the threads that this process has been given."""
    return {
        "processor": processor(),
        "memory GB": memory_gigabytes(),
        "system": f"{platform.system()} {platform.release().split('-')[0]} on {platform.machine()}",
        "versions": versions(),
        "date": time.strftime("%Y-%m-%d"),
        "threads": threads,
        "matrix product GFLOP/s": round(product_rate(seconds=seconds), 1),
        "memory GB/s": round(copy_rate(threads, seconds=seconds), 1),
    }


if __name__ == "__main__":
    print(json.dumps(describe(len(cores()))))
