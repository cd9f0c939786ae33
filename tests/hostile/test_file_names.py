"""File names that are not UTF-8, from disks of old systems and archives: refused by name before anything runs, or shown."""

import json
import shutil
from pathlib import Path

import pytest
from digits import digits

import edcompress
from edcompress.core.errors import DataError, InputError
from edcompress.core.recipe.data import Data
from edcompress.core.system.context import RunOptions
from edcompress.core.system.monitor import NullMonitor
from edcompress.data.datasets import open_dataset
from edcompress.networks.weight_files import read_state_dict
from edcompress.runs.folder import RunFolder
from edcompress.runs.progress import read_progress, recording

LATIN = "caf\udce9"
"""The text that Python makes of the bytes `caf\\xe9`."""


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A folder with such a name."""
    try:
        (tmp_path / LATIN).mkdir()
    except OSError:
        pytest.skip("this file system takes UTF-8 names alone")
    return tmp_path / LATIN


def test_a_class_folder_is_refused_with_its_name(odd: Path) -> None:
    for part in ("train", "val"):
        for name in ("cat", LATIN):
            (odd.parent / part / name).mkdir(parents=True)
    data = Data(dataset="image_folder", root=odd.parent, image_size=16)
    with pytest.raises(DataError, match=r"class folder of .*train: caf\S+ is not a name in UTF-8; rename it"):
        open_dataset(data)


def test_a_run_folder_is_refused_before_it_is_made(odd: Path, dense: Path) -> None:
    """Otherwise its network would be trained, and could not be saved."""
    folder = RunFolder(odd / "run")
    with pytest.raises(InputError, match=r"caf\S+/run is not a name in UTF-8; rename it"):
        edcompress.prune(dense, digits(), folder, options=RunOptions("cpu"))
    assert not folder.path.exists()


def test_a_finished_run_that_was_moved_there_is_refused_too(odd: Path, finished: Path) -> None:
    moved = RunFolder(shutil.move(finished, odd / "run"))
    with pytest.raises(InputError, match=r"caf\S+/run is not a name in UTF-8; rename it"):
        edcompress.export(moved)


def test_weights_with_such_a_name_are_not_called_damaged(odd: Path, dense: Path) -> None:
    path = Path(shutil.copy(dense, odd / "dense.safetensors"))
    with pytest.raises(InputError, match=r"dense.safetensors is not a name in UTF-8; rename it"):
        read_state_dict(path)
    with pytest.raises(InputError, match="is not a name in UTF-8; rename it"):
        edcompress.prune(path, digits(), RunFolder(odd.parent / "run"), options=RunOptions("cpu"))


def stopped_by_an_image(folder: RunFolder) -> None:
    with recording(folder, NullMonitor(), digits().label, "export") as monitor:
        monitor.warning(f"left out: {LATIN}.png")
        raise DataError(f"{LATIN}.jpg is not an image")


def test_an_image_with_such_a_name_hides_no_error(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(DataError, match="not an image"):
        stopped_by_an_image(folder)
    progress = read_progress(folder)
    assert progress is not None
    assert progress.error == r"caf\udce9.jpg is not an image"
    events = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [event["warning"] for event in events if event["event"] == "warning"] == [r"left out: caf\udce9.png"]
