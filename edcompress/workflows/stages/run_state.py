"""A pruning run, the results of its stages, and its checkpoints."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from edcompress.core.errors import CheckpointError
from edcompress.core.frozen import Value
from edcompress.core.recipe.recipe import Recipe
from edcompress.core.results.measures import ModelResult, Proof
from edcompress.core.results.report import FileRecord, SearchSummary, Statistics
from edcompress.core.system.files import fsync_file
from edcompress.core.system.monitor import Monitor
from edcompress.core.system.signals import Interrupt
from edcompress.core.system.tensor_files import load_checkpoint, save_checkpoint
from edcompress.runs.folder import RunFolder
from edcompress.runs.tracking import Tracker
from edcompress.training.state import TrainingState
from edcompress.workflows.stages.run_context import RunContext
from edcompress.workflows.stages.starting_point import StartingPoint

CHECKPOINTS_KEPT = 2

Stage = Literal["search", "finetune"]


class StageResults(Value):
    """Results of the stages so far; checkpoints carry them. `files` records those that the run wrote and continues from."""

    seconds: float = 0.0
    search_began: float = 0.0
    dense: ModelResult | None = None
    masked: ModelResult | None = None
    after_surgery: ModelResult | None = None
    masked_vs_pruned: Proof | None = None
    search: SearchSummary | None = None
    latency_share: float | None = None
    batch_norm: Statistics | None = None
    files: dict[str, FileRecord] = Field(default_factory=dict)

    def with_seconds(self, more: float) -> StageResults:
        """Return the results after so many more seconds."""
        return self.model_copy(update={"seconds": self.seconds + more})

    def with_files(self, files: Mapping[str, FileRecord]) -> StageResults:
        """Return the results with further files."""
        return self.model_copy(update={"files": {**self.files, **files}})

    def with_statistics(self, statistics: Statistics | None) -> StageResults:
        """Return the results with the batch-norm statistics of the fine-tuned network."""
        return self.model_copy(update={"batch_norm": statistics})

    def with_search(self, search: SearchSummary) -> StageResults:
        """Return the results with those of the search."""
        return self.model_copy(update={"search": search})

    def with_latency_share(self, share: float | None) -> StageResults:
        """Return the results with the measured share of the dense network's time."""
        return self.model_copy(update={"latency_share": share})

    def with_surgery(self, masked: ModelResult, pruned: ModelResult, proof: Proof) -> StageResults:
        """Return the results with the masked network, the pruned one, and the proof that they are equal."""
        return self.model_copy(update={"masked": masked, "after_surgery": pruned, "masked_vs_pruned": proof})


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A state from which a run continues: the results so far, the stage, and its training, None before the first step.

    `network` holds the weights of the stage's network; None before the first step of the search, which begins with the starting point's.
    """

    results: StageResults
    stage: Stage
    training: TrainingState | None = None
    network: Mapping[str, Tensor] | None = None

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any]) -> Checkpoint:
        """Return the checkpoint that `to_tree` gave."""
        return cls(
            results=StageResults.model_validate(tree["measured"]),
            stage=tree.get("stage", "search"),
            training=TrainingState.from_tree(tree),
            network=tree.get("network"),
        )

    def to_tree(self) -> dict[str, Any]:
        """Return the checkpoint as dicts, lists, tensors and plain values."""
        tree = {"measured": self.results.model_dump(mode="json"), "stage": self.stage}
        if self.training:
            return tree | self.training.to_tree()
        return tree | {"epoch": 0} | ({} if self.network is None else {"network": self.network})


@dataclass(frozen=True)
class PruningRun:
    """A pruning run: its recipe, opened data, folder and starting point, whose `weights` have this name in the report.

    `began` is when this process began it, by `time.monotonic`.
    """

    recipe: Recipe
    context: RunContext
    folder: RunFolder
    start: StartingPoint
    weights: str
    began: float
    interrupt: Interrupt
    trackers: Sequence[Tracker] = ()

    def clock(self, results: StageResults) -> StageResults:
        """Return the results with the seconds up to now."""
        return results.with_seconds(time.monotonic() - self.began)

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint from which the run can continue, and keep the one before it; only the first rank writes."""
        if not self.context.ranks.is_main:
            return
        for log in ("search.jsonl", "epochs.jsonl"):
            fsync_file(self.folder / log)  # a power cut must not leave fewer lines than the checkpoint counts
        path, tree = self.folder.next_checkpoint(), checkpoint.to_tree()
        save_checkpoint(path, {**tree, "measured": self.clock(checkpoint.results).model_dump(mode="json")})
        for old in self.folder.checkpoints[CHECKPOINTS_KEPT:]:
            old.unlink()


def last_checkpoint(paths: Sequence[Path], monitor: Monitor) -> Checkpoint | None:
    """Return the first checkpoint, of `paths` from the newest to the oldest, that is whole; None if there are none.

    Raises CheckpointError if all are damaged.
    """
    faults: list[CheckpointError] = []
    for path in paths:
        try:
            tree = load_checkpoint(path)
        except CheckpointError as error:
            faults.append(error)
            continue
        for fault in faults:
            monitor.warning(f"{fault}; going on from the one before it")
        return Checkpoint.from_tree(tree)
    if faults:
        raise CheckpointError(f"{faults[0]}; no older checkpoint is whole")
    return None
