"""A run that ends in the middle of anything goes on to the result of one that did not."""

import json
import os
import shutil
import time
from datetime import datetime, timedelta, tzinfo
from pathlib import Path

import pytest
import safetensors.torch
from digits import ONE_EPOCH, Interrupter, digits, outcome, pruned

from edcompress.core.errors import CheckpointError, RunFolderError, StorageError
from edcompress.core.results.report import Report
from edcompress.core.system.monitor import NullMonitor
from edcompress.runs import progress, status
from edcompress.runs.folder import RunFolder
from edcompress.workflows.stages.run_state import last_checkpoint

OFTEN = (*ONE_EPOCH, "run.checkpoint_every=2 steps")


class Listener(NullMonitor):
    """Remembers what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def warning(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture(scope="module")
def unbroken(dense: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted, and that was saved at the end of its epochs alone."""
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    pruned(dense, folder, digits(*ONE_EPOCH))
    return folder


@pytest.fixture(scope="module")
def torn(dense: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that ended in the fifth step of fine-tuning."""
    folder = tmp_path_factory.mktemp("torn") / "run"
    with pytest.raises(KeyboardInterrupt):
        pruned(dense, folder, digits(*OFTEN), Interrupter("finetune", 0, 5))
    return folder


def test_the_last_step_is_saved_and_so_is_the_time_before(torn: Path) -> None:
    kept = [last_checkpoint(folder.checkpoints, NullMonitor()) for folder in (RunFolder(torn), older(torn))]
    states = [saved.training for saved in kept if saved]
    assert [state.position.steps for state in states if state and state.position] == [5, 4]
    assert len(RunFolder(torn).checkpoints) == 2


def older(folder: Path) -> RunFolder:
    """A copy of the run whose newest snapshot is gone."""
    shutil.copytree(folder, folder.with_name("older"), dirs_exist_ok=True)
    copy = RunFolder(folder.with_name("older"))
    copy.checkpoints[0].unlink()
    return copy


class Jumping(datetime):
    """A clock that is set back by a year every other time that it is asked."""

    asked = 0

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:
        cls.asked += 1
        return datetime.now(tz) - timedelta(days=365 * (cls.asked % 2))


def test_a_clock_that_is_set_changes_nothing(
    unbroken: Path, torn: Path, tmp_path: Path, dense: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(shutil.copytree(torn, tmp_path / "run"))
    for age, path in enumerate(folder.checkpoints):  # the newest was written longest ago, as it seems
        os.utime(path, (1e9 + age, 1e9 + age))
    for module in (progress, status):
        monkeypatch.setattr(module, "datetime", Jumping)
    began = time.monotonic()
    pruned(dense, folder.path, digits(*OFTEN), resume=True)
    took = time.monotonic() - began
    assert Jumping.asked > 10
    assert outcome(folder.path) == outcome(unbroken)
    ends = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines() if '"end"' in line]
    assert 0 < ends[-1]["seconds"] <= took
    assert status.status_of(folder).state == "finished"


@pytest.mark.parametrize("damage", ["", "half", "flipped"])
def test_a_damaged_snapshot_is_named_and_the_one_before_it_taken(
    unbroken: Path, torn: Path, tmp_path: Path, dense: Path, damage: str
) -> None:
    folder, listener = RunFolder(shutil.copytree(torn, tmp_path / "run")), Listener()
    newest = folder.checkpoints[0]
    content = bytearray(newest.read_bytes())
    content[-1000] ^= 1
    newest.write_bytes({"": b"", "half": content[: len(content) // 2], "flipped": content}[damage])
    pruned(dense, folder.path, digits(*OFTEN), listener, resume=True)
    (said,) = listener.said
    assert said.startswith(str(newest))
    assert said.endswith("going on from the one before it")
    assert outcome(folder.path) == outcome(unbroken)


def test_without_a_whole_snapshot_the_fix_is_to_start_over(torn: Path, tmp_path: Path, dense: Path) -> None:
    folder = RunFolder(shutil.copytree(torn, tmp_path / "run"))
    for path in folder.checkpoints:
        path.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="start over with --force; no older checkpoint is whole"):
        pruned(dense, folder.path, digits(*OFTEN), resume=True)


@pytest.mark.parametrize("name", ["plan.json", "space.json", "dense.safetensors"])
def test_a_file_that_was_changed_meanwhile_is_not_gone_on_from(
    torn: Path, tmp_path: Path, dense: Path, name: str
) -> None:
    path = Path(shutil.copytree(torn, tmp_path / "run")) / name
    if name == "plan.json":  # other channels, just as many
        plan = json.loads(path.read_text())
        group = next(group for group in plan["groups"] if len(group["kept"]) < group["channels"])
        left = min(set(range(group["channels"])) - set(group["kept"]))
        group["kept"] = sorted([*group["kept"][1:], left])
        path.write_text(json.dumps(plan, indent=1) + "\n")
    elif name == "space.json":
        path.write_text(path.read_text() + " ")
    else:
        tensors = safetensors.torch.load_file(path)
        safetensors.torch.save_file({key: tensor + 0 for key, tensor in tensors.items()}, path, {"by": "hand"})
    says = rf"{name} is not the file that this run wrote \(.*\); put it back, or start over with --force"
    with pytest.raises(RunFolderError, match=says):
        pruned(dense, tmp_path / "run", digits(*OFTEN), resume=True)


def test_a_run_whose_state_is_gone_can_only_be_started_over(torn: Path, tmp_path: Path, dense: Path) -> None:
    folder = RunFolder(shutil.copytree(torn, tmp_path / "run"))
    shutil.rmtree(folder.state)
    with pytest.raises(
        RunFolderError, match="state is missing, from which the run would continue; start over with --force"
    ):
        pruned(dense, folder.path, digits(*OFTEN), resume=True)


def test_a_file_called_like_a_snapshot_is_none(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    for name in ("snapshot-x.safetensors", "snapshot-.safetensors", "snapshot-000000002.safetensors"):
        (tmp_path / "state" / name).touch()
    assert RunFolder(tmp_path).next_checkpoint().name == "snapshot-000000003.safetensors"


def test_two_processes_do_not_share_a_run(
    torn: Path, tmp_path: Path, dense: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edcompress.runs.locks.LOCK_SECONDS", 0.0)
    folder = RunFolder(shutil.copytree(torn, tmp_path / "run"))
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    with folder.locked(), pytest.raises(RunFolderError, match="is in use by another process; wait for it"):
        pruned(dense, folder.path, digits(*OFTEN), resume=True)
    assert {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()} == before


def test_a_run_that_another_process_finishes_meanwhile_is_read(torn: Path, tmp_path: Path, dense: Path) -> None:
    class Slow(Listener):
        def stage(self, text: str) -> None:
            if text.startswith("checking the network"):
                reports.append(pruned(dense, folder.path, digits(*OFTEN), resume=True))

    reports: list[Report] = []
    folder = RunFolder(shutil.copytree(torn, tmp_path / "run"))
    assert pruned(dense, folder.path, digits(*OFTEN), Slow(), resume=True) == reports[0] == folder.read_report()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="this system does not tell what a descriptor is of")
def test_the_logs_are_on_the_disk_before_the_snapshot_that_counts_their_lines(
    tmp_path: Path, dense: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def noted(descriptor: int) -> None:
        names.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)

    names: list[str] = []
    monkeypatch.setattr(os, "fsync", noted)
    with pytest.raises(KeyboardInterrupt):
        pruned(dense, tmp_path / "run", digits(*OFTEN), Interrupter("search", 0, 5))
    before = [names[place - 2 : place] for place, name in enumerate(names) if name.startswith(".snapshot-")]
    assert before[1:] == [["search.jsonl", "epochs.jsonl"]] * 3  # the first is older than the logs


def test_a_run_folder_that_is_removed_ends_the_run(tmp_path: Path, dense: Path) -> None:
    class Remover(Interrupter):
        def step(self, step: int, steps: int, figures: dict[str, object]) -> None:  # noqa: ARG002
            shutil.rmtree(tmp_path / "run", ignore_errors=True)

    with pytest.raises(StorageError, match="cannot be written: No such file or directory; its folder is gone"):
        pruned(dense, tmp_path / "run", digits(*OFTEN), Remover("nowhere"))
    assert not (tmp_path / "run").exists()


def test_what_a_killed_process_was_writing_is_removed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.create(force=False)
    folder.clear()
    (folder.path / ".report.json.123.456.part").write_text("half")
    (folder.state / ".snapshot-000000002.safetensors.123.456.part").write_text("half")
    (folder.state / ".snapshot-000000002.safetensors.123.456.0.part").mkdir()
    (folder.state / ".snapshot-000000002.safetensors.123.456.0.part" / ".tmp12").write_text("half")
    (folder.path / ".export-abc").mkdir()
    (folder.path / ".export-abc" / "dense.onnx").write_text("whole")
    (folder.path / ".export-abc" / ".pruned.onnx.123.456.part").write_text("half")
    (folder.path / "notes.txt").write_text("mine")
    with folder.locked():
        pass
    left = {path.relative_to(folder.path).as_posix() for path in folder.path.rglob("*")}
    assert left == {".lock", "notes.txt", "state"}
