"""Runs of the digits recipe that take seconds, whole and interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edcompress.core.recipe.loading import read_recipe
from edcompress.core.recipe.recipe import Recipe
from edcompress.core.results.report import Report
from edcompress.core.system.context import RunOptions
from edcompress.core.system.monitor import NullMonitor
from edcompress.runs.folder import RunFolder
from edcompress.workflows.prune import prune

TWO_EPOCHS = ("search.epochs=2", "finetune.epochs=2", "search.evolve_every=2", "data.limit=300", "data.batch_size=32")
ONE_EPOCH = ("search.epochs=1", "finetune.epochs=1", "search.evolve_every=2", "data.limit=300", "data.batch_size=32")


class Interrupter(NullMonitor):
    """Presses Ctrl-C in a phase, at a step of an epoch, or where a stage begins."""

    def __init__(self, phase: str, epoch: int = -1, step: int = 1) -> None:
        self._at, self._now = (phase, epoch, step), ("", -1)

    def stage(self, text: str) -> None:
        if text.startswith(self._at[0]) and self._at[1] < 0:
            raise KeyboardInterrupt

    def epoch(self, phase: str, epoch: int, epochs: int) -> None:  # noqa: ARG002
        self._now = (phase, epoch)

    def step(self, step: int, steps: int, figures: dict[str, Any]) -> None:  # noqa: ARG002
        if (*self._now, step) == self._at:
            raise KeyboardInterrupt


def digits(*overrides: str) -> Recipe:
    return read_recipe("digits", overrides)


def pruned(
    dense: Path, folder: Path, recipe: Recipe, monitor: NullMonitor | None = None, *, resume: bool = False
) -> Report:
    return prune(
        dense, recipe, RunFolder(folder), resume=resume, options=RunOptions("cpu", monitor=monitor or NullMonitor())
    )


def outcome(folder: Path) -> tuple[bytes, bytes, bytes]:
    """What two equal runs have in common, bit for bit: the plan, the weights, and the search's log."""
    first, second, third = (
        (folder / name).read_bytes() for name in ("plan.json", "pruned.safetensors", "search.jsonl")
    )
    return first, second, third
