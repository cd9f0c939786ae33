import mmap
from pathlib import Path

import pytest

from edcompress.machine import governor, resident_bytes, usable_cores


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
