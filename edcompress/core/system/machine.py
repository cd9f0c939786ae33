"""The machine at hand, and what is installed on it. Imports no torch: the latency worker runs it."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from edcompress.core.errors import InputError

GROUPS, OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
"""Where Linux shows its control groups, and which of them this process is in."""


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


def run_delay() -> int | None:
    """Nanoseconds in all that this process's threads were ready to run and did not; None where it is not told.

    The second figure of Linux's /proc/PID/task/TID/schedstat: others had their cores, or a CPU quota stopped them (see `throttling`).
    """
    found = [path.read_text(encoding="utf-8").split() for path in Path("/proc/self/task").glob("*/schedstat")]
    return sum(int(figures[1]) for figures in found) if found else None


class Watch:
    """How long this process has run since the watch was made, and for which share of that its threads waited for their cores."""

    def __init__(self) -> None:
        """Start it."""
        self._started, self._before = time.perf_counter_ns(), run_delay()

    def waited(self, threads: int = 1) -> float | None:
        """The share of the time of so many threads; None where the system does not tell."""
        after, taken = run_delay(), time.perf_counter_ns() - self._started
        if self._before is None or after is None:
            return None
        return max(0, after - self._before) / (taken * threads)  # less where a thread that had waited has ended


def cpu_quota(root: Path = GROUPS, told: Path = OWN_GROUPS) -> float | None:
    """The processors' time that a control group (a container's CPU limit) gives this process, in cores; None where nothing limits it."""
    quotas = [quota for folder in _cpu_groups(root, told) if (quota := _quota(folder)) is not None]
    return min(quotas, default=None)


def throttling(root: Path = GROUPS, told: Path = OWN_GROUPS) -> tuple[int, int] | None:
    """In how many periods of its CPU quota this process's control group was stopped, and how many there were; None without a quota."""
    limited = [folder for folder in _cpu_groups(root, told) if _quota(folder) is not None]
    found = [_statistics(folder / "cpu.stat") for folder in limited]
    if not found:
        return None
    stopped, periods = (sum(one.get(key, 0) for one in found) for key in ("nr_throttled", "nr_periods"))
    return stopped, periods


def process_mark(pid: int, root: Path = Path("/proc")) -> str | None:
    """What tells the live process of this number from any other that had or will have it: the system's boot, and its start therein.

    None where there is no such process, or one that has ended and is not reaped yet, or where the system does not tell (no /proc).
    """
    try:
        fields = (root / str(pid) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        boot = (root / "sys" / "kernel" / "random" / "boot_id").read_text(encoding="utf-8").strip()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, ticks = fields[0], fields[19]
    return None if state in "ZX" else f"{boot}/{ticks}"


def memory_bytes(info: Path = Path("/proc/meminfo"), group: Path = GROUPS) -> tuple[int, int] | None:
    """Bytes of memory in all and available, within the limit of the container; None where the system does not say."""
    if not info.exists():
        return None
    lines = (line.partition(":") for line in info.read_text(encoding="utf-8").splitlines())
    kilobytes = {name: int(rest.split()[0]) for name, _, rest in lines}
    total, available = (1024 * kilobytes[name] for name in ("MemTotal", "MemAvailable"))
    limit, used = (_number(group / name) for name in ("memory.max", "memory.current"))
    if limit is None or used is None:
        return total, available
    return min(total, limit), min(available, limit - used + _given_up(group / "memory.stat"))


def data_home() -> Path:
    """Where data sets are unless the recipe's `data.root` says: $EDCOMPRESS_DATA, else ~/.cache/edcompress."""
    return expanded(Path(os.environ.get("EDCOMPRESS_DATA") or "~/.cache/edcompress"), "EDCOMPRESS_DATA or data.root")


def cache_home() -> Path:
    """Where edcompress keeps what can be made anew: edcompress/ in $XDG_CACHE_HOME, else in ~/.cache."""
    return expanded(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache"), "XDG_CACHE_HOME") / "edcompress"


def expanded(path: Path, key: str) -> Path:
    """The path with ~ replaced by the home folder; InputError where there is none, for `key` to be set to a path without."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise InputError(
            f"{path}: its user has no home folder (no HOME, and no entry of the system's); set {key} to a folder"
        ) from error


def _cpu_groups(root: Path, told: Path) -> list[Path]:
    """Folders of the control groups (version 1 or 2) that share out the processors: this process's own, then those above it."""
    lines = told.read_text(encoding="utf-8").splitlines() if told.is_file() else []
    found: list[Path] = []
    for controllers, path in (line.split(":", 2)[1:] for line in lines if line.count(":") > 1):
        if controllers == "" or "cpu" in controllers.split(","):
            base = next((root / name for name in (controllers, "cpu") if controllers and (root / name).is_dir()), root)
            own = base / path.strip("/")
            above = [own, *own.parents] if own.is_dir() and ".." not in own.parts else [base]
            found += [folder for folder in above if folder.is_relative_to(base)]
    return list(dict.fromkeys(found))


def _quota(group: Path) -> float | None:
    """The cores' worth of time per period that a control group may use; None where it has no limit of its own."""
    if (group / "cpu.max").is_file():
        quota, period = (group / "cpu.max").read_text(encoding="utf-8").split()
        return None if quota == "max" else int(quota) / int(period)
    microseconds, of = _number(group / "cpu.cfs_quota_us"), _number(group / "cpu.cfs_period_us")  # -1 is no number
    return microseconds / of if microseconds and of else None


def _statistics(file: Path) -> dict[str, int]:
    """The names and numbers of a control group's file; empty where there is none."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return {name: int(number) for name, number in (line.split() for line in lines)}


def _given_up(statistics: Path) -> int:
    """Bytes that a container holds of files it has read, and gives up where they are needed: of most data sets nearly all it holds."""
    return _statistics(statistics).get("inactive_file", 0)


def _number(path: Path) -> int | None:
    """The number in a file of the system's; None where there is no such file, or the word "max" in it."""
    text = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
    return int(text) if text.isdecimal() else None
