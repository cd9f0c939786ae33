"""The machine at hand, and what is installed on it. Imports no torch: the latency worker runs it."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path


def processor() -> str:
    """The CPU's model name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """The versions of Python and of what measures and writes models."""
    packages = ("edcompress", "torch", "torchvision", "torch-pruning", "onnx", "onnxruntime")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def usable_cores() -> list[int]:
    """Numbers of the cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def governor(cores: Iterable[int], root: Path = Path("/sys/devices/system/cpu")) -> str | None:
    """What steers the cores' clock rate, e.g. "performance"; several are joined by commas, None where the system names none."""
    files = (root / f"cpu{core}" / "cpufreq" / "scaling_governor" for core in cores)
    return ", ".join(sorted({file.read_text(encoding="utf-8").strip() for file in files if file.is_file()})) or None


def resident_bytes(kind: str) -> int | None:
    """Bytes of memory that this process holds now (`VmRSS`) or held at most (`VmHWM`); None where the system does not say.

    Not `resource.getrusage`, whose maximum counts what the parent process held before this program was started in its place.
    """
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8", errors="replace").splitlines() if status.exists() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{kind}:")), None)
