"""A disk that is full at any write: a clear message, and the last good state intact."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from digits import ONE_EPOCH, digits, outcome, pruned

import edcompress
from edcompress.core.errors import StorageError
from edcompress.runs.folder import RunFolder

pytestmark = pytest.mark.integration


def mount(path: Path, options: str) -> int:
    """The exit code of a mount of a small disk in memory."""
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
    return subprocess.run(command, capture_output=True, check=False).returncode


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "disk"
    path.mkdir()
    if mount(path, "size=16m") != 0:
        pytest.skip("this user may not mount a file system")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def failed(dense: Path, folder: RunFolder) -> StorageError | None:
    """The error with which pruning ended, if it did."""
    try:
        edcompress.prune(dense, digits(*ONE_EPOCH), folder, resume=folder.exists, force=not folder.exists)
    except StorageError as error:
        return error
    return None


def test_a_full_disk_loses_nothing_wherever_it_is_full(dense: Path, tmp_path: Path, disk: Path) -> None:
    pruned(dense, tmp_path / "unbroken", digits(*ONE_EPOCH))
    folder, files = RunFolder(disk / "run"), []
    for kilobytes in range(64, 64 * 200, 192):  # less than a file of tensors takes
        assert mount(disk, f"remount,size={kilobytes}k") == 0
        before = folder.checkpoints
        if (error := failed(dense, folder)) is None:
            break
        assert error.exit_code == 3
        assert "No space left on device" in str(error)
        assert not list(disk.rglob("*.part"))
        assert not before or folder.checkpoints
        files.append(Path(str(error).split()[0]).name.split("-")[0])
    assert outcome(folder.path) == outcome(tmp_path / "unbroken")
    assert {"dense.safetensors", "snapshot"} <= set(files)


def test_an_export_onto_a_full_disk_leaves_the_run_as_it_was(finished: Path, disk: Path) -> None:
    folder = RunFolder(shutil.copytree(finished, disk / "run"))
    taken = shutil.disk_usage(disk).used
    assert mount(disk, f"remount,size={taken + 2**17}") == 0
    before = content(folder)
    with pytest.raises(StorageError, match=r"onnx cannot be written: .*No space left on device"):
        edcompress.export(folder, opset=19)
    assert content(folder) == before


def content(folder: RunFolder) -> dict[str, bytes]:
    """The files of a run but for those that tell what happens to it."""
    return {
        path.name: path.read_bytes()
        for path in folder.path.iterdir()
        if path.name not in ("log.jsonl", "progress.json")
    }
