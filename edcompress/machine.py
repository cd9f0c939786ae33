"""The machine at hand."""

from __future__ import annotations

import platform
from pathlib import Path


def processor() -> str:
    """The CPU's model name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
