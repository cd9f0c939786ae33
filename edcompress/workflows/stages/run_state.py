"""Run, Measured and their snapshots."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from edcompress.core.errors import CheckpointError
from edcompress.core.frozen import Value
from edcompress.core.results.measures import ModelResult, Proof
from edcompress.core.results.report import FileRecord, SearchSummary
from edcompress.core.system.files import fsync_file
from edcompress.core.system.monitor import Monitor
from edcompress.core.system.signals import Interrupt
from edcompress.core.system.tensor_files import load_checkpoint, save_checkpoint
from edcompress.runs.folder import RunFolder
from edcompress.runs.tracking import Tracker
from edcompress.workflows.stages.job import RunContext
from edcompress.workflows.stages.starting_point import StartingPoint

SNAPSHOTS_KEPT = 2


class StageResults(Value):
    """What the stages have found so far; it travels in the snapshots. `files` are those that the run wrote and goes on from."""

    seconds: float = 0.0
    search_began: float = 0.0
    dense: ModelResult | None = None
    masked: ModelResult | None = None
    after_surgery: ModelResult | None = None
    masked_vs_pruned: Proof | None = None
    search: SearchSummary | None = None
    latency_share: float | None = None
    files: dict[str, FileRecord] = Field(default_factory=dict)


@dataclass(frozen=True)
class PruningRun:
    """A job with its run folder, and where it starts from."""

    job: RunContext
    folder: RunFolder
    origin: StartingPoint
    started: float
    interrupt: Interrupt
    loggers: Sequence[Tracker] = ()

    def clock(self, measured: StageResults) -> StageResults:
        """`measured` with the seconds up to now."""
        return measured.model_copy(update={"seconds": measured.seconds + time.monotonic() - self.started})

    def save(self, measured: StageResults, tree: dict[str, Any]) -> None:
        """Write the snapshot from which the run can go on, and keep the one before it; the first rank does."""
        if not self.job.ranks.is_main:
            return
        for log in ("search.jsonl", "epochs.jsonl"):
            fsync_file(self.folder / log)  # a power cut must not leave fewer lines than the snapshot knows of
        path = self.folder.next_snapshot()
        save_checkpoint(path, {"measured": self.clock(measured).model_dump(mode="json"), **tree})
        for old in self.folder.snapshots[SNAPSHOTS_KEPT:]:
            old.unlink()


def last_snapshot(folder: RunFolder, monitor: Monitor) -> tuple[StageResults, dict[str, Any]] | None:
    """What the run in `folder` goes on from, or None when nothing has been saved yet; CheckpointError where all is damaged."""
    faults: list[CheckpointError] = []
    for path in folder.snapshots:
        try:
            tree = load_checkpoint(path)
        except CheckpointError as error:
            faults.append(error)
            continue
        for fault in faults:
            monitor.warning(f"{fault}; going on from the one before it")
        return StageResults.model_validate(tree.pop("measured")), tree
    if faults:
        raise CheckpointError(f"{faults[0]}, and there is none before it that is whole; start over with --force")
    return None
