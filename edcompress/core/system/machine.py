"""This machine: processor, memory, cores, clocks and cache folders. Imports no torch, since the latency worker runs it."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from edcompress.core.errors import InputError

GROUPS, OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
"""The folder of Linux's control groups, and the file that lists those of this process."""


def processor() -> str:
    """Return the CPU's model name, or its architecture where the system does not report the name."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that measure and write models."""
    packages = ("edcompress", "torch", "torchvision", "torch-pruning", "onnx", "onnxruntime")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def usable_cores() -> list[int]:
    """Return the numbers of the cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def governor(cores: Iterable[int], root: Path = Path("/sys/devices/system/cpu")) -> str | None:
    """Return the governor of the cores' clock rate, such as "performance"; several are joined by commas, None where there is none."""
    files = (root / f"cpu{core}" / "cpufreq" / "scaling_governor" for core in cores)
    return ", ".join(sorted({file.read_text(encoding="utf-8").strip() for file in files if file.is_file()})) or None


def resident_bytes(kind: str) -> int | None:
    """Return the bytes of memory that this process holds now (`VmRSS`) or held at most (`VmHWM`); None where the system does not say.

    The maximum of `resource.getrusage` would include what the parent process held before it started this program.
    """
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8", errors="replace").splitlines() if status.exists() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{kind}:")), None)


def run_delay() -> int | None:
    """Return the nanoseconds that this process's threads were ready to run but did not; None where the system does not say.

    It is the second figure of Linux's /proc/PID/task/TID/schedstat: other processes had the cores, or a CPU quota stopped the threads
    (see `throttling`).
    """
    found = [path.read_text(encoding="utf-8").split() for path in Path("/proc/self/task").glob("*/schedstat")]
    return sum(int(figures[1]) for figures in found) if found else None


class WaitTimer:
    """The share of the time since its creation in which this process's threads waited for a core."""

    def __init__(self) -> None:
        """Start the timer."""
        self._started, self._before = time.perf_counter_ns(), run_delay()

    def waited(self, threads: int = 1) -> float | None:
        """Return the share of the time of so many threads; None where the system does not say."""
        after, taken = run_delay(), time.perf_counter_ns() - self._started
        if self._before is None or after is None:
            return None
        return max(0, after - self._before) / (taken * threads)  # negative where a thread that had waited has ended


def cpu_quota(root: Path = GROUPS, own: Path = OWN_GROUPS) -> float | None:
    """Return the CPU time that a control group (a container's limit) allows this process, in cores; None without a limit."""
    quotas = [quota for folder in _cpu_groups(root, own) if (quota := _quota(folder)) is not None]
    return min(quotas, default=None)


def throttling(root: Path = GROUPS, own: Path = OWN_GROUPS) -> tuple[int, int] | None:
    """Return in how many periods of its CPU quota this process's control group was stopped, and of how many; None without a quota."""
    limited = [folder for folder in _cpu_groups(root, own) if _quota(folder) is not None]
    found = [_statistics(folder / "cpu.stat") for folder in limited]
    if not found:
        return None
    stopped, periods = (sum(one.get(key, 0) for one in found) for key in ("nr_throttled", "nr_periods"))
    return stopped, periods


def process_identity(pid: int, root: Path = Path("/proc")) -> str | None:
    """Identify the live process with this number: the boot of the system, and the start of the process in clock ticks since then.

    No other process that had or will have the number gets the same text. It is None where there is no such process, where it has ended
    and is not reaped yet, and where the system does not say (no /proc).
    """
    try:
        fields = (root / str(pid) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        boot = (root / "sys" / "kernel" / "random" / "boot_id").read_text(encoding="utf-8").strip()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, ticks = fields[0], fields[19]
    return None if state in "ZX" else f"{boot}/{ticks}"


def memory_bytes(info: Path = Path("/proc/meminfo"), group: Path = GROUPS) -> tuple[int, int] | None:
    """Return total and available bytes of memory, within the container's limit; None where the system does not say."""
    if not info.exists():
        return None
    lines = (line.partition(":") for line in info.read_text(encoding="utf-8").splitlines())
    kilobytes = {name: int(rest.split()[0]) for name, _, rest in lines}
    total, available = (1024 * kilobytes[name] for name in ("MemTotal", "MemAvailable"))
    limit, used = (_number(group / name) for name in ("memory.max", "memory.current"))
    if limit is None or used is None:
        return total, available
    return min(total, limit), min(available, limit - used + _reclaimable(group / "memory.stat"))


def data_home() -> Path:
    """Return the folder of data sets for recipes without `data.root`: $EDCOMPRESS_DATA, else ~/.cache/edcompress."""
    return expand_home(Path(os.environ.get("EDCOMPRESS_DATA") or "~/.cache/edcompress"), "EDCOMPRESS_DATA or data.root")


def cache_home() -> Path:
    """Return the folder of files that can be made again: edcompress/ in $XDG_CACHE_HOME, else in ~/.cache."""
    return expand_home(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache"), "XDG_CACHE_HOME") / "edcompress"


def expand_home(path: Path, key: str) -> Path:
    """Replace ~ by the home folder.

    Args:
        path: The path, with or without ~.
        key: The variable or recipe key that holds it, for the message.

    Raises:
        InputError: The user has no home folder.
    """
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise InputError(
            f"{path}: its user has no home folder (no HOME, and no entry in the system's list of users); set {key} to a folder"
        ) from error


def _cpu_groups(root: Path, own: Path) -> list[Path]:
    """List the folders of the control groups (version 1 or 2) that limit the CPU: this process's own, then those above it."""
    lines = own.read_text(encoding="utf-8").splitlines() if own.is_file() else []
    found: list[Path] = []
    for controllers, path in (line.split(":", 2)[1:] for line in lines if line.count(":") > 1):
        if controllers == "" or "cpu" in controllers.split(","):
            base = next((root / name for name in (controllers, "cpu") if controllers and (root / name).is_dir()), root)
            group = base / path.strip("/")
            above = [group, *group.parents] if group.is_dir() and ".." not in group.parts else [base]
            found += [folder for folder in above if folder.is_relative_to(base)]
    return list(dict.fromkeys(found))


def _quota(group: Path) -> float | None:
    """Return the cores' worth of time per period that a control group may use; None where it has no limit of its own."""
    if (group / "cpu.max").is_file():
        quota, period = (group / "cpu.max").read_text(encoding="utf-8").split()
        return None if quota == "max" else int(quota) / int(period)
    microseconds, of = _number(group / "cpu.cfs_quota_us"), _number(group / "cpu.cfs_period_us")  # -1 is no number
    return microseconds / of if microseconds and of else None


def _statistics(file: Path) -> dict[str, int]:
    """Return the names and numbers in a control group's file; empty where there is no file."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return {name: int(number) for name, number in (line.split() for line in lines)}


def _reclaimable(statistics: Path) -> int:
    """Return the bytes of a container's file cache that it can reclaim: after reading a data set, nearly all of its memory."""
    return _statistics(statistics).get("inactive_file", 0)


def _number(path: Path) -> int | None:
    """Return the number in a file of the system; None where there is no such file, or it holds "max"."""
    text = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
    return int(text) if text.isdecimal() else None
