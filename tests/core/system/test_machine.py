import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edcompress.core.errors import InputError
from edcompress.core.system import machine
from edcompress.core.system.machine import (
    WaitTimer,
    cache_home,
    cpu_quota,
    data_home,
    expand_home,
    governor,
    memory_bytes,
    process_identity,
    resident_bytes,
    throttling,
    usable_cores,
)


def test_the_governor_is_read_where_there_is_one(tmp_path: Path) -> None:
    for core, name in ((0, "performance"), (1, "performance"), (2, "powersave")):
        folder = tmp_path / f"cpu{core}" / "cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text(f"{name}\n")
    assert governor([0, 1], tmp_path) == "performance"
    assert governor([1, 2, 7], tmp_path) == "performance, powersave"
    assert governor([7], tmp_path) is None


def test_at_least_one_core_is_usable() -> None:
    assert usable_cores()
    assert usable_cores() == sorted(set(usable_cores()))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system does not report memory")
def test_resident_memory_includes_new_pages() -> None:
    before, size = resident_bytes("RssShmem"), 50_000_000
    held = mmap.mmap(-1, size)  # shared memory: pages of files and of the heap come and go
    held.write(bytes(size))
    shared, now, most = (resident_bytes(kind) for kind in ("RssShmem", "VmRSS", "VmHWM"))
    assert before is not None
    assert shared is not None
    assert now is not None
    assert most is not None
    assert size * 0.9 < shared - before < size * 1.1
    assert most >= now * 0.99 > size
    assert resident_bytes("VmNothing") is None


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="this system does not list processes")
def test_a_process_keeps_its_identity_while_it_lives() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        identity = process_identity(other.pid)
        assert identity is not None
        assert identity == process_identity(other.pid)
        assert identity != process_identity(os.getpid())
    assert process_identity(other.pid) is None


def test_the_identity_does_not_depend_on_the_name_and_ends_with_the_process(tmp_path: Path) -> None:
    (tmp_path / "sys" / "kernel" / "random").mkdir(parents=True)
    (tmp_path / "sys" / "kernel" / "random" / "boot_id").write_text("boot\n")
    for pid, state in ((7, "S"), (8, "Z")):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "stat").write_text(f"{pid} (a) S 1 (b) {state} {' '.join(map(str, range(4, 53)))}\n")
    assert [process_identity(pid, tmp_path) for pid in (7, 8, 9)] == ["boot/22", None, None]


def test_memory_is_that_of_the_container_where_it_has_a_limit(tmp_path: Path) -> None:
    info = tmp_path / "meminfo"
    assert memory_bytes(info, tmp_path) is None
    info.write_text("MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable: 600 kB\nHugePages_Total: 0\n")
    assert memory_bytes(info, tmp_path) == (1_024_000, 614_400)
    (tmp_path / "memory.current").write_text("100000\n")
    for limit, found in (("max", (1_024_000, 614_400)), ("500000", (500_000, 400_000))):
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        assert memory_bytes(info, tmp_path) == found
    (tmp_path / "memory.stat").write_text("anon 10000\nfile 90000\ninactive_file 80000\nactive_file 10000\n")
    assert memory_bytes(info, tmp_path) == (500_000, 480_000)


def test_the_variable_sets_the_folder_of_data_sets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDCOMPRESS_DATA", str(tmp_path))
    assert data_home() == tmp_path
    monkeypatch.setenv("EDCOMPRESS_DATA", "")
    assert data_home() == Path.home() / ".cache" / "edcompress"


def group(folder: Path, **files: str) -> Path:
    """A control group's folder with these files, whose names have `_` where the system has `.`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_", ".", 1)).write_text(text)
    return folder


def test_a_quota_of_version_2_is_the_smallest_of_the_groups_around_the_process(tmp_path: Path) -> None:
    listed, root = tmp_path / "listed", tmp_path / "cgroup"
    listed.write_text("0::/pod/box\n")
    assert (cpu_quota(root, listed), throttling(root, listed)) == (None, None)
    group(root / "pod", cpu_max="150000 100000\n", cpu_stat="usage_usec 7\nnr_periods 10\nnr_throttled 4\n")
    group(root / "pod" / "box", cpu_max="max 100000\n", cpu_stat="usage_usec 5\nnr_periods 0\nnr_throttled 0\n")
    assert (cpu_quota(root, listed), throttling(root, listed)) == (1.5, (4, 10))
    group(root / "pod" / "box", cpu_max="50000 100000\n")
    assert cpu_quota(root, listed) == 0.5


def test_a_quota_of_version_1_is_found_inside_a_container_too(tmp_path: Path) -> None:
    """There /proc names the group as the host sees it, and the container's own is mounted as the root."""
    listed, root = tmp_path / "listed", tmp_path / "cgroup"
    listed.write_text("4:memory:/docker/1\n3:cpu,cpuacct:/docker/1\n0::/docker/1\n")
    own = group(root / "cpu,cpuacct", cpu_cfs_quota_us="-1\n", cpu_cfs_period_us="100000\n")
    assert cpu_quota(root, listed) is None
    group(own, cpu_cfs_quota_us="200000\n", cpu_stat="nr_periods 8\nnr_throttled 2\nthrottled_time 99\n")
    assert (cpu_quota(root, listed), throttling(root, listed)) == (2.0, (2, 8))


def test_a_system_without_control_groups_has_no_quota(tmp_path: Path) -> None:
    assert (cpu_quota(tmp_path, tmp_path / "none"), throttling(tmp_path, tmp_path / "none")) == (None, None)


def test_the_timer_measures_the_share_of_time_spent_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([1_000, 1_000 + 3_600_000_000_000, 5_000, 2_000, None])
    monkeypatch.setattr(machine, "run_delay", lambda: next(readings))
    assert (WaitTimer().waited(threads=2) or 0.0) > 1  # an hour in no time
    timer = WaitTimer()
    assert timer.waited() == 0  # a thread that had waited has ended
    assert timer.waited() is None


def test_the_error_for_a_user_without_a_home_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        InputError, match=r"~no-such-user/x: its user has no home folder .*; set data\.root to a folder"
    ):
        expand_home(Path("~no-such-user/x"), "data.root")
    for name in ("HOME", "EDCOMPRESS_DATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 7)  # of whom the system knows nothing
    for home, key in ((data_home, "EDCOMPRESS_DATA or data.root"), (cache_home, "XDG_CACHE_HOME")):
        with pytest.raises(InputError, match=f"no home folder .*; set {key} to a folder"):
            home()
