"""The machine at hand, and what is installed on it."""

from __future__ import annotations

import platform
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
