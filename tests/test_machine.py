import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edcompress.machine import data_home, governor, memory_bytes, process_mark, resident_bytes, usable_cores


def test_the_governor_is_read_where_there_is_one(tmp_path: Path) -> None:
    for core, name in ((0, "performance"), (1, "performance"), (2, "powersave")):
        folder = tmp_path / f"cpu{core}" / "cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text(f"{name}\n")
    assert governor([0, 1], tmp_path) == "performance"
    assert governor([1, 2, 7], tmp_path) == "performance, powersave"
    assert governor([7], tmp_path) is None


def test_there_is_a_core_to_run_on() -> None:
    assert usable_cores()
    assert usable_cores() == sorted(set(usable_cores()))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system tells no memory")
def test_the_memory_that_is_held_shows() -> None:
    before, size = resident_bytes("VmRSS"), 50_000_000
    held = mmap.mmap(-1, size)  # numpy may take pages that were freed and still count
    held.write(bytes(size))
    now, most = resident_bytes("VmRSS"), resident_bytes("VmHWM")
    assert before is not None
    assert now is not None
    assert most is not None
    assert size * 0.9 < now - before < size * 1.5
    assert most >= now * 0.99
    assert resident_bytes("VmNothing") is None


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="this system tells no processes")
def test_a_process_has_its_mark_as_long_as_it_lives() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        mark = process_mark(other.pid)
        assert mark is not None
        assert mark == process_mark(other.pid)
        assert mark != process_mark(os.getpid())
    assert process_mark(other.pid) is None


def test_the_mark_is_read_behind_any_name_and_a_process_that_has_ended_has_none(tmp_path: Path) -> None:
    (tmp_path / "sys" / "kernel" / "random").mkdir(parents=True)
    (tmp_path / "sys" / "kernel" / "random" / "boot_id").write_text("boot\n")
    for pid, state in ((7, "S"), (8, "Z")):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "stat").write_text(f"{pid} (a) S 1 (b) {state} {' '.join(map(str, range(4, 53)))}\n")
    assert [process_mark(pid, tmp_path) for pid in (7, 8, 9)] == ["boot/22", None, None]


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


def test_data_is_where_the_variable_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDCOMPRESS_DATA", str(tmp_path))
    assert data_home() == tmp_path
    monkeypatch.setenv("EDCOMPRESS_DATA", "")
    assert data_home() == Path.home() / ".cache" / "edcompress"
