"""Where runs stand, read from their folders by any process at any time: one run, or all in a folder. Imports no torch."""

from __future__ import annotations

import math
import platform
import shlex
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import AwareDatetime

from edcompress.core.errors import EdcompressError, RunFolderError
from edcompress.core.frozen import Value
from edcompress.core.recipe.recipe import Recipe
from edcompress.core.results.report import Report
from edcompress.core.results.scores import TOP1, MetricInfo, value_of
from edcompress.core.system.machine import process_identity
from edcompress.runs.finding import latest_of, run_folders
from edcompress.runs.folder import RunFolder
from edcompress.runs.progress import Process, Progress, Verb, read_progress

T = TypeVar("T")
State = Literal["running", "interrupted", "failed", "finished", "unknown", "damaged"]


class Outcome(Value):
    """The result of a finished run: top-1 on the test images and the share of the MACs left in [0, 1]; None if it was not measured.

    For a `metric` other than top-1, `score_dense` and `score_pruned` are its values.
    """

    top1_dense: float | None
    top1_pruned: float | None
    macs: float
    speedup: float | None
    passed: bool | None
    metric: MetricInfo = TOP1
    score_dense: float | None = None
    score_pruned: float | None = None


class Status(Value):
    """Where a run stands.

    States: `running`: its process is alive; `interrupted`: it is not, and `command` continues the run; `unknown`: it was started on another
    host or by another version, or this system cannot tell, so it may still run; `damaged`: `faults` names the files.

    `when` is when it was last active, and `checkpoint_age_s` the age of the checkpoint from which it would be resumed. `trial` is the
    unfinished run inside this one, if it has an accuracy target.
    """

    run: str
    recipe: str | None
    state: State
    when: AwareDatetime
    progress: Progress | None
    checkpoint_age_s: float | None
    command: str | None
    outcome: Outcome | None
    faults: tuple[str, ...]
    trial: Status | None = None


def list_runs(root: Path) -> list[Status]:
    """Return where the runs in `root` stand, the last active one first; RunFolderError if `root` is not a folder."""
    if not root.is_dir():
        raise RunFolderError(f"there is no folder {root}; name one that contains runs")
    return sorted((status_of(folder) for folder in run_folders(root)), key=lambda status: status.when, reverse=True)


def status_of(folder: RunFolder) -> Status:
    """Return where the run in `folder` stands; files that cannot be read are among its faults."""
    faults: list[str] = []
    recipe = _read(lambda: _recipe(folder), faults)
    progress = _read(lambda: read_progress(folder), faults)
    report = _read(folder.read_report, faults) if (folder / "report.json").exists() else None
    faults += _missing(folder, progress)
    state = "damaged" if faults else _state(folder, progress)
    trial = None if state == "finished" else _trial(folder)
    return Status(
        run=str(folder.path),
        recipe=recipe.name if recipe else None,
        state=state,
        when=progress.updated if progress else _touched(folder),
        progress=progress,
        checkpoint_age_s=_checkpoint_age(folder) or (trial and trial.checkpoint_age_s),
        command=_command_to_continue(folder, recipe.trust_flags, progress)
        if recipe and state in ("interrupted", "failed")
        else None,
        outcome=outcome_of(report) if report else None,
        faults=tuple(faults),
        trial=trial,
    )


def is_here(process: Process) -> bool:
    """Return whether this system can tell if the process is alive."""
    return process.host == platform.node() and process.mark is not None


def _read(read: Callable[[], T], faults: list[str]) -> T | None:
    try:
        return read()
    except EdcompressError as error:
        faults.append(str(error))
        return None


def _recipe(folder: RunFolder) -> Recipe:
    folder.require_run()
    return folder.read_recipe()


def _missing(folder: RunFolder, progress: Progress | None) -> list[str]:
    """Return the missing files of a finished run."""
    if progress is None or (progress.verb == "prune" and progress.state != "finished"):
        return []
    names = [name for name in ("report.json", "pruned.safetensors") if not (folder / name).is_file()]
    return [f"{folder / name} is missing; prune again with --force" for name in names]


def _state(folder: RunFolder, progress: Progress | None) -> State:
    if progress is None:
        return "finished" if folder.finished else "unknown"
    if progress.state != "running":
        return progress.state
    if not is_here(progress.process):
        return "unknown"
    if process_identity(progress.process.pid) == progress.process.mark:
        return "running"
    return "finished" if folder.finished and progress.verb == "prune" else "interrupted"


def _trial(folder: RunFolder) -> Status | None:
    trial = latest_of(map(RunFolder, folder.trials.glob("*/")))
    if trial is None:
        return None
    last = status_of(trial)
    return None if last.state == "finished" else last.model_copy(update={"command": None})


def _checkpoint_age(folder: RunFolder) -> float | None:
    try:
        written = [path.stat().st_mtime for path in folder.checkpoints]
    except FileNotFoundError:  # the run has just finished, or replaced it
        return None
    return max(0.0, datetime.now(UTC).timestamp() - max(written)) if written else None


def _command_to_continue(folder: RunFolder, flags: Sequence[str], progress: Progress | None) -> str:
    """Return the command that continues a run, or starts it over if it has lost its state/.

    To continue, only the name of the weights is needed: the run has kept the weights.
    """
    verb: Verb = progress.verb if progress else "prune"
    if verb == "export":
        return shlex.join(["edcompress", "export", str(folder.path), *flags])
    weights = (progress.checkpoint if progress else None) or "WEIGHTS"
    how = "--resume" if folder.state.is_dir() else "--force"
    of = ["--recipe", str(folder / "recipe.yaml"), "-o", str(folder.path), how]
    return shlex.join(["edcompress", "prune", weights, *of, *flags])


def outcome_of(report: Report) -> Outcome:
    """Return the figures of a finished run by which it is listed."""
    dense, pruned, metric = report.dense, report.pruned, report.metric
    scores = [None, None] if metric == TOP1 else [value_of(one.headline(metric)) for one in (dense, pruned)]
    return Outcome(
        top1_dense=dense.accuracy.top1.fraction if dense.accuracy else None,
        top1_pruned=pruned.accuracy.top1.fraction if pruned.accuracy else None,
        metric=metric,
        score_dense=scores[0],
        score_pruned=scores[1],
        macs=pruned.size.macs / dense.size.macs if dense.size.macs else math.nan,
        speedup=report.speedup.estimate if report.speedup else None,
        passed=report.verdict.passed if report.verdict else None,
    )


def _touched(folder: RunFolder) -> datetime:
    """Return when a run without progress.json was last written to."""
    files = [folder / name for name in ("recipe.yaml", "report.json") if (folder / name).is_file()]
    return datetime.fromtimestamp(max(path.stat().st_mtime for path in [folder.path, *files]), UTC)
