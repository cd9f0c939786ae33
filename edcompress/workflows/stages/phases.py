"""Interruptible epochs in a row, from wherever the last checkpoint stands, with their checkpoints and logs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edcompress.core.errors import EdcompressError, StorageError
from edcompress.core.recipe.training import Checkpoints, TrainingConfig
from edcompress.core.results.scores import Scores, value_of
from edcompress.core.system.files import append, write_text
from edcompress.core.system.signals import Interrupt
from edcompress.networks.modes import on_cpu
from edcompress.training.averaging import WeightAverage
from edcompress.training.batchnorm import suited_momentum
from edcompress.training.loop import Trainer, train_epoch
from edcompress.training.mixing import make_mix
from edcompress.training.objective import Criterion, Objective
from edcompress.training.optimizers import make_optimizer
from edcompress.training.position import EpochPosition, ScheduleSpan
from edcompress.training.precision import Precision
from edcompress.training.regime import Regime
from edcompress.training.state import TrainingState
from edcompress.workflows.stages.run_context import RunContext
from edcompress.workflows.stages.run_state import Checkpoint, PruningRun, Stage, StageResults


@dataclass(frozen=True)
class Phase:
    """Epochs in a row: their name, the span of the first one, and what happens between them.

    `save` writes a checkpoint from which `train_phase` continues, as often as `checkpoints` says. On the first rank `log` gets each epoch,
    counted from 0, and its figures.
    """

    name: str
    span: ScheduleSpan
    checkpoints: Checkpoints
    interrupt: Interrupt
    save: Callable[[TrainingState], None]
    log: Callable[[int, dict[str, Any]], None] = lambda _, __: None


def train_stage(
    run: PruningRun,
    results: StageResults,
    stage: Stage,
    regime: Regime,
    network: nn.Module,
    state: TrainingState | None,
) -> int:
    """Train the epochs of a stage from `state` on, and return how many the stage took.

    A search that has settled ends early, and leaves its epochs to fine-tuning.
    """
    context, config, total = run.context, run.recipe.finetune.config, run.recipe.total_epochs
    offset = results.search.epochs if results.search else 0
    epochs = total - offset if stage == "finetune" else run.recipe.search_epochs
    trainer = Trainer(
        network,
        make_optimizer(config, network.parameters()),
        make_objective(config, run.start.teacher, context.precision, context.task.finetune),
        context.precision,
        regime,
        context.monitor.step,
        context.ranks,
        mix=make_mix(config, context.spec.model.num_classes),
        average=WeightAverage(network, config.ema) if config.ema and stage == "finetune" else None,
    )
    if context.ranks.is_main:
        shorten(run.folder / "epochs.jsonl", offset + (state.epoch if state else 0))
    phase = Phase(
        name=stage,
        span=ScheduleSpan(0, epochs, offset, total, restart=run.recipe.finetune.restart and stage == "finetune"),
        checkpoints=run.recipe.run,
        interrupt=run.interrupt,
        save=lambda training: run.save(Checkpoint(results, stage, training)),
        log=lambda epoch, figures: _log(run, stage, epoch, offset, figures),
    )
    steps = total * len(context.train_batches(0, context.ranks))
    with suited_momentum(network, steps):
        return train_phase(context, trainer, phase, state)


def make_objective(
    config: TrainingConfig, teacher: nn.Module, precision: Precision, criterion: Criterion | None = None
) -> Objective:
    """Return what search and fine-tuning minimise; a copy of the teacher, in eval mode on the device, teaches if they distil."""
    return Objective(config, precision.place(on_cpu(teacher)) if config.distill else None, criterion)


def train_phase(context: RunContext, trainer: Trainer, phase: Phase, state: TrainingState | None) -> int:
    """Train the epochs of a phase, from `state` on if one is given; return how many there were, fewer if a search settled."""
    if state:
        state.restore(trainer)
    first, position = (state.epoch, state.position or EpochPosition()) if state else (0, EpochPosition())
    context.ranks.broadcast_(list(trainer.network.state_dict().values()))
    for epoch in range(first, phase.span.epochs):
        if trainer.regime.settled and not position.steps:
            context.monitor.stage(
                f"the search has converged after {epoch} of {phase.span.epochs} epochs; the others go to fine-tuning"
            )
            return epoch
        checkpointer = _Checkpointer(trainer, phase, epoch)
        with checkpointer.saving():
            context.monitor.epoch(phase.name, epoch, phase.span.epochs)
            position = _train_one(context, trainer, replace(phase.span, epoch=epoch), position, checkpointer)
            figures = _figures(context, trainer, position)
            context.monitor.epoch_done(figures)
        # Layers that keep statistics of their own make the ranks differ: only batch-norm's are averaged.
        context.ranks.require_same(f"the network after epoch {epoch + 1}", *trainer.network.state_dict().values())
        if context.ranks.is_main:
            phase.log(epoch, figures)
        checkpointer.save(epoch + 1)
        phase.interrupt.finish()
        position = position.next_epoch()
    if trainer.average and phase.span.epochs:
        trainer.average.apply()
    return phase.span.epochs


def _train_one(
    context: RunContext, trainer: Trainer, span: ScheduleSpan, position: EpochPosition, hooks: _Checkpointer
) -> EpochPosition:
    """Train an epoch from `position` on, and return the position at its end."""
    batches = context.train_batches(span.offset + span.epoch, context.ranks).pinned_for(context.device)
    return train_epoch(trainer, batches, span, context.seed, position, hooks)


def _figures(context: RunContext, trainer: Trainer, position: EpochPosition) -> dict[str, Any]:
    """Return what is logged of an epoch that ended at `position`."""
    scores = context.watched_scores(trainer.network, trainer.regime.forward)
    figures = {"loss": position.mean_loss, **_watched(scores), **trainer.regime.figures}
    return figures | ({"skipped": position.skipped} if position.skipped else {})


def _watched(scores: Scores) -> dict[str, Any]:
    """Return the figure that shows the quality: top-1 as accuracy, or the recipe's metric as score."""
    if scores.metric.counted and scores.accuracy:
        return {"accuracy": scores.accuracy.top1.fraction}
    return {"score": value_of(scores.headline)}


def shorten(path: Path, count: int) -> None:
    """Keep the first `count` lines of a log, or create it: a resumed run computes again what was logged after its checkpoint."""
    lines = path.read_text(encoding="utf-8").splitlines()[:count] if count else []
    write_text(path, "".join(line + "\n" for line in lines))


class _Checkpointer:
    """Hooks that save a phase between two steps of an epoch: when it is time, and when something ends the epoch there."""

    def __init__(self, trainer: Trainer, phase: Phase, epoch: int) -> None:
        self._trainer, self._phase, self._epoch = trainer, phase, epoch
        self._position: EpochPosition | None = None
        self._saved_steps, self._saved_at = 0, time.monotonic()

    def before_step(self) -> None:
        """Defer signals until the step is done."""
        self._position = None
        self._phase.interrupt.hold()

    def after_step(self, position: EpochPosition) -> None:
        """Save when it is time; raise the KeyboardInterrupt of a signal that came meanwhile."""
        self._position = position
        if self._phase.checkpoints.due(position.steps - self._saved_steps, time.monotonic() - self._saved_at):
            self.save(self._epoch, position)
        self._phase.interrupt.release()

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Save the steps of a block that ends between two of them by Ctrl-C or by bad data."""
        try:
            yield
        except (KeyboardInterrupt, EdcompressError) as error:
            position = self._position
            if position and position.steps > self._saved_steps and not isinstance(error, StorageError):
                self.save(self._epoch, position)
            raise

    def save(self, epoch: int, position: EpochPosition | None = None) -> None:
        """Write a checkpoint of the training in an epoch, at its start without a position; raise EdcompressError if it holds NaN."""
        require_finite(self._trainer)
        self._phase.save(TrainingState.of(self._trainer, epoch, position))
        self._saved_steps, self._saved_at = position.steps if position else 0, time.monotonic()


def require_finite(trainer: Trainer) -> None:
    """Raise EdcompressError if a weight is NaN or infinite, so that every checkpoint is one to continue from."""
    for name, tensor in trainer.network.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise EdcompressError(
                f"training diverged: {name} holds NaN or infinity; start over with --force and a lower {trainer.section}.lr"
            )


def _log(run: PruningRun, stage: Stage, epoch: int, offset: int, figures: dict[str, Any]) -> None:
    append(run.folder / "epochs.jsonl", json.dumps({"phase": stage, "epoch": epoch, **figures}))
    numbers = {f"{stage}/{name}": float(value) for name, value in figures.items() if value is not None}
    for tracker in run.trackers:
        tracker.log(numbers, offset + epoch)
