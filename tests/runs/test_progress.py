"""progress.json and log.jsonl of a run."""

import json
import os
import time
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from digits import ONE_EPOCH, Interrupter, digits, pruned

from edcompress.core.errors import EdcompressError, RunFolderError, StorageError
from edcompress.core.system.machine import process_identity
from edcompress.core.system.monitor import Monitor, NullMonitor
from edcompress.runs.folder import RunFolder
from edcompress.runs.progress import EVERY_S, read_progress, recording


class Listener(NullMonitor):
    """Keeps what it is called with."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def stage(self, text: str) -> None:
        self.calls.append(text)

    def epoch_done(self, figures: dict[str, Any]) -> None:
        self.calls.append(figures)


def new_folder(path: Path) -> RunFolder:
    path.mkdir()
    return RunFolder(path)


def events(folder: RunFolder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def two_epochs(monitor: Monitor) -> None:
    """Call the monitor with an epoch of search, and half of the next, of 10 steps each."""
    monitor.stage("dense network: accuracy on the test images")
    for epoch in range(2):
        monitor.epoch("search", epoch, 3)
        for step in range(1, 11 - 5 * epoch):
            monitor.step(step, 10, {"loss": 1 / step, "steps_per_s": 2.0, "energy": float("inf"), "diversity": 0.25})
        if epoch == 0:
            monitor.epoch_done({"loss": 0.5, "accuracy": 0.75, "energy": float("nan")})


def test_a_run_records_where_it_stands_and_what_has_happened(tmp_path: Path) -> None:
    folder, listener, before = new_folder(tmp_path / "run"), Listener(), datetime.now(UTC)
    recipe = digits("search.epochs=3", "finetune.epochs=2", "data.batch_size=64")
    with recording(folder, listener, recipe.label, "prune", weights="dense.pt") as monitor:
        two_epochs(monitor)
        now = read_progress(folder)
    assert now is not None
    assert (now.state, now.phase, now.epoch, now.epochs, now.accuracy) == ("running", "search", 2, 3, 0.75)
    assert (now.process.pid, now.process.mark) == (os.getpid(), process_identity(os.getpid()))
    assert before <= now.began <= now.updated <= datetime.now(UTC)
    assert listener.calls[0] == "dense network: accuracy on the test images"
    done = read_progress(folder)
    assert done is not None
    assert (done.state, done.error) == ("finished", None)
    logged = events(folder)
    assert [line["event"] for line in logged] == ["begin", "stage", "stage", "epoch", "end"]
    assert {"pid": os.getpid(), "recipe": recipe.name, "verb": "prune"}.items() <= logged[0].items()
    assert "torch" in logged[0]["versions"]
    assert {"phase": "search", "epoch": 1, "loss": 0.5, "accuracy": 0.75, "energy": None}.items() <= logged[3].items()
    assert all(datetime.fromisoformat(line["time"]).tzinfo is not None for line in logged)


def test_the_figures_of_the_last_step_of_an_epoch_are_kept(tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "run")
    recipe = digits("search.epochs=3", "finetune.epochs=2", "data.batch_size=64")
    with recording(folder, NullMonitor(), recipe.label, "prune") as monitor:
        began = time.monotonic()
        monitor.epoch("search", 1, 3)  # resumed: an earlier process did one epoch
        monitor.step(1, 10, {"loss": 0.5, "steps_per_s": 2.0})
        time.sleep(0.1)
        monitor.step(10, 10, {"loss": 0.125, "steps_per_s": 2.0, "energy": float("inf")})
        monitor.epoch_done({"accuracy": 0.75})
        took = time.monotonic() - began
        now = read_progress(folder)
        monitor.stage("surgery")
        after = read_progress(folder)
    assert now is not None
    assert (now.step, now.steps, now.loss, now.energy, now.images_per_s) == (10, 10, 0.125, None, 128.0)
    assert now.phase_left_s is not None
    assert 0.1 <= now.phase_left_s <= took  # one epoch is done, and one is left
    assert now.training_left_s == pytest.approx(3 * now.phase_left_s)  # an epoch of this phase, and two later
    assert after is not None
    assert (after.stage, after.phase, after.loss, after.phase_left_s) == ("surgery", None, None, None)


def test_steps_are_written_once_in_a_while(tmp_path: Path) -> None:
    folder, seen = new_folder(tmp_path / "run"), set()
    with recording(folder, NullMonitor(), digits().label, "prune") as monitor:
        monitor.epoch("finetune", 0, 1)
        began = datetime.now(UTC)
        for step in range(1, 2001):
            monitor.step(step, 2000, {"loss": 1.0})
            seen.add((folder / "progress.json").read_bytes())
        took = (datetime.now(UTC) - began).total_seconds()
    assert len(seen) <= 2 + took / EVERY_S
    assert len(events(folder)) == 3  # begin, the phase, end: no step


@pytest.mark.parametrize(
    ("error", "state", "text"),
    [
        (KeyboardInterrupt(), "interrupted", None),
        (EdcompressError("the loss became nan"), "failed", "the loss became nan"),
        (ZeroDivisionError(), "failed", "ZeroDivisionError"),
        (EdcompressError("r\udcfc.png is broken"), "failed", r"r\udcfc.png is broken"),
    ],
)
def test_how_a_run_ended_is_kept(tmp_path: Path, error: BaseException, state: str, text: str | None) -> None:
    folder = new_folder(tmp_path / "run")
    with pytest.raises(type(error)), recording(folder, NullMonitor(), digits().label, "export"):
        raise error
    ended = read_progress(folder)
    assert ended is not None
    assert (ended.verb, ended.state, ended.error) == ("export", state, text)
    assert [line["event"] for line in events(folder)] == ["begin", *(["error"] if text else []), "end"]


def test_warnings_go_into_the_log_and_where_they_went_before(tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "run")
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        with recording(folder, NullMonitor(), digits().label, "prune"):
            warnings.warn("slow disk", stacklevel=1)
        warnings.warn("afterwards", stacklevel=1)
    assert [str(one.message) for one in shown] == ["slow disk", "afterwards"]
    logged = [line for line in events(folder) if line["event"] == "warning"]
    assert [(line["kind"], line["warning"]) for line in logged] == [("UserWarning", "slow disk")]


def test_a_full_disk_ends_the_run_and_hides_no_other_error(tmp_path: Path) -> None:
    def record(name: str, error: Exception | None) -> None:
        folder = new_folder(tmp_path / name)
        with recording(folder, NullMonitor(), digits().label, "prune") as monitor:
            (folder / "log.jsonl").unlink()
            (folder / "log.jsonl").mkdir()
            if error:
                raise error
            monitor.stage("dense network")

    with pytest.raises(StorageError, match="Is a directory"):
        record("alone", None)
    with pytest.raises(EdcompressError, match="diverged") as caught:
        record("both", EdcompressError("diverged"))
    assert "cannot be written: Is a directory" in caught.value.__notes__[0]


def test_a_resumed_run_appends_to_the_log_also_after_a_truncated_line(dense: Path, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    recipe = digits(*ONE_EPOCH, "search.method=magnitude", "search.epochs=0", "data.limit=200")
    with pytest.raises(KeyboardInterrupt):
        pruned(dense, folder.path, recipe, Interrupter("finetune", 0, 2))
    with (folder / "log.jsonl").open("a") as file:
        file.write('{"time": "20')
    pruned(dense, folder.path, recipe, resume=True)
    lines = (folder / "log.jsonl").read_text().splitlines()
    cut = lines.index('{"time": "20')
    before, after = ([json.loads(line) for line in part] for part in (lines[:cut], lines[cut + 1 :]))
    assert (before[0]["event"], before[-1]["event"], before[-1]["state"]) == ("begin", "end", "interrupted")
    assert (after[0]["event"], after[-1]["event"], after[-1]["state"]) == ("resume", "end", "finished")
    assert [(line["phase"], line["epoch"]) for line in after if line["event"] == "epoch"] == [("finetune", 1)]
    done = read_progress(folder)
    assert done is not None
    assert (done.checkpoint, done.phase_left_s) == (dense.name, None)


@pytest.mark.parametrize("content", [b"", b"{}", b'{"schema_version": 2}', b"\xff\xfe", b"[" * 10_000])
def test_a_damaged_progress_is_named(tmp_path: Path, content: bytes) -> None:
    folder = new_folder(tmp_path / "run")
    assert read_progress(folder) is None
    (folder / "progress.json").write_bytes(content)
    with pytest.raises(RunFolderError, match=r"progress\.json is missing or damaged \(.*\); a --resume or an export"):
        read_progress(folder)
