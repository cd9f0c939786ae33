"""An export that fails, at whatever step, leaves the run as it was: the same files, byte for byte, and the same answer of the gate."""

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import edcompress
from edcompress.core.errors import StorageError
from edcompress.core.system.context import RunOptions
from edcompress.core.system.monitor import NullMonitor
from edcompress.runs.folder import RunFolder
from edcompress.workflows.gate import gate
from edcompress.workflows.onnx_files import EXPORTED, publish_files

SYSTEM = ("replace", "unlink", "mkdir", "fsync")
"""Of the `os` module: what puts files in their places."""


class Faulty:
    """The calls of SYSTEM, of which one fails: number `at`, counted from 0."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at, self.calls, self.failed = -1, 0, ""
        for name in SYSTEM:
            monkeypatch.setattr(os, name, self._counting(name, getattr(os, name)))

    def _counting(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.calls += 1
            if self.calls - 1 == self.at:
                self.failed = name
                raise OSError(5, "Input/output error")
            return real(*arguments, **options)

        return call

    def fail_at(self, at: int) -> None:
        self.at, self.calls, self.failed = at, 0, ""


def no_links(*_: Any) -> None:
    raise OSError(1, "Operation not permitted")


def content(folder: Path) -> dict[str, bytes]:
    """The files of a run but for those that tell what happens to it."""
    logs = ("log.jsonl", "progress.json", ".lock")
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name not in logs)
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def made_for(run: RunFolder, folder: Path) -> Path:
    """An export with another dense.onnx, a pruned.fp16.onnx, and no pruned.int8.onnx."""
    folder.mkdir()
    for name in ("dense.onnx", "pruned.onnx", "model_card.md"):
        (folder / name).write_bytes((run / name).read_bytes() + b"\n")
    (folder / "pruned.fp16.onnx").write_bytes(b"half")
    return folder


@pytest.mark.parametrize("links", [True, False])
def test_publishing_that_fails_at_any_step_undoes_the_others(
    finished: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    run, before, failures = RunFolder(finished), content(finished), list[str]()
    report = run.read_report()
    completed = report.model_copy(update={"recipe_hash": "other"})
    faulty = Faulty(monkeypatch)
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    while not failures or failures[-1]:
        faulty.fail_at(-1)
        shutil.rmtree(finished / "new", ignore_errors=True)
        assert content(finished) == before
        made = made_for(run, finished / "new")
        faulty.fail_at(len(failures))
        with suppress(StorageError):
            publish_files(made, run, completed, report.without_onnx())
        failures.append(faulty.failed)
    assert set(failures) == {*SYSTEM, ""}
    assert failures.count("replace") > len(EXPORTED) / 2
    assert run.read_report() == completed
    assert (run / "pruned.fp16.onnx").read_bytes() == b"half"
    assert not (run / "pruned.int8.onnx").exists()


def test_ctrl_c_among_the_last_steps_undoes_the_others(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, before, real = RunFolder(finished), content(finished), os.replace

    def interrupted(source: Any, target: Any) -> None:
        real(source, target)
        if Path(target) == run / "pruned.onnx" and Path(source).parent == made:
            raise KeyboardInterrupt

    made = made_for(run, finished / "new")
    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        publish_files(made, run, run.read_report(), run.read_report().without_onnx())
    shutil.rmtree(made)
    assert content(finished) == before


class Broken(NullMonitor):
    """Fails where a stage begins."""

    def __init__(self, stage: str) -> None:
        self._stage = stage

    def stage(self, text: str) -> None:
        if self._stage in text:
            raise StorageError(f"no room for {text}")


@pytest.mark.integration
@pytest.mark.parametrize("stage", ["export dense.onnx", "pruned.int8.onnx", "pruned.pixels.onnx", "accuracy"])
def test_an_export_that_fails_at_any_stage_changes_nothing(finished: Path, stage: str) -> None:
    run = RunFolder(finished)
    gate(run)  # which writes its verdict
    before, verdict = content(finished), run.read_report().verdict
    with pytest.raises(StorageError, match="no room for"):
        edcompress.export(run, opset=19, int8=True, with_preprocessing=True, options=RunOptions(monitor=Broken(stage)))
    assert content(finished) == before
    assert gate(run) == verdict


@pytest.mark.integration
@pytest.mark.parametrize("name", ["model_card.md", "report.json"])
def test_an_export_whose_file_cannot_be_written_changes_nothing(
    finished: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    before, real = content(finished), os.replace

    def failing(source: Any, target: Any) -> None:
        if Path(target) == finished / name and "before" not in Path(source).parts:
            raise OSError(30, "Read-only file system")
        real(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(StorageError, match="Read-only file system"):
        edcompress.export(RunFolder(finished), opset=19)
    assert content(finished) == before
