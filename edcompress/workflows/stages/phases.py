"""The epochs of search and fine-tuning, from wherever the last snapshot stands, and their snapshots and logs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edcompress.core.errors import EdcompressError, StorageError
from edcompress.core.system.distributed import ProcessGroup
from edcompress.core.system.files import append, write_text
from edcompress.core.system.signals import Interrupt
from edcompress.data.batches import train_batches
from edcompress.networks.modes import on_cpu
from edcompress.pruning.search.regime import SearchRegime
from edcompress.training.loop import Stand, Trainer, train_epoch
from edcompress.training.objective import Objective
from edcompress.training.optimizers import make_optimizer, restore_optimizer
from edcompress.training.position import EpochPosition, ScheduleSpan
from edcompress.training.regime import Regime
from edcompress.workflows.stages.job import RunContext
from edcompress.workflows.stages.run_state import PruningRun, StageResults
from edcompress.workflows.stages.starting_point import StartingPoint


def train(
    run: PruningRun, measured: StageResults, regime: Regime, network: nn.Module, stage: str, saved: dict[str, Any]
) -> int:
    """The epochs of a stage from where `saved` stands; how many the stage took.

    A search that has settled ends early, and leaves its epochs to fine-tuning.
    """
    job, fit = run.job, run.job.recipe.finetune
    offset = measured.search.epochs if measured.search else 0
    epochs = job.recipe.total_epochs - offset if stage == "finetune" else job.recipe.search_epochs
    trainer = Trainer(
        network,
        make_optimizer(fit, network.parameters()),
        objective(job, run.origin),
        job.precision,
        regime,
        job.monitor.step,
        job.ranks,
    )
    if job.ranks.is_main:
        shorten(run.folder / "epochs.jsonl", offset + int(saved.get("epoch", 0)))
    phase = Phase(
        stage,
        ScheduleSpan(0, epochs, offset, job.recipe.total_epochs),
        lambda tree: run.save(measured, {"stage": stage, **tree}),
        run.interrupt,
        lambda epoch, figures: _log(run, stage, epoch, offset, figures),
    )
    return train_phase(job, trainer, phase, saved)


@dataclass(frozen=True)
class Phase:
    """Epochs in a row: their name, the first one's place in the schedule, and what to do with what they have trained.

    `save` writes a snapshot of it, from which `train_phase` goes on; `log` is told an epoch, from 0, and its figures, on the first rank.
    """

    name: str
    span: ScheduleSpan
    save: Callable[[dict[str, Any]], None]
    interrupt: Interrupt
    log: Callable[[int, dict[str, Any]], None] = lambda _, __: None


def train_phase(job: RunContext, trainer: Trainer, phase: Phase, saved: dict[str, Any]) -> int:
    """The epochs of a phase from where `saved` stands, {} for the first; how many there were, fewer where a search settled."""
    first, place = _restore(trainer, saved) if "optimizer" in saved else (0, EpochPosition())
    job.ranks.broadcast_(list(trainer.network.state_dict().values()))
    epochs = phase.span.epochs
    for epoch in range(first, epochs):
        if trainer.regime.settled and not place.steps:
            job.monitor.stage(
                f"the search has converged after {epoch} of {epochs} epochs; the others go to fine-tuning"
            )
            return epoch
        keeper = _Checkpointer(job, trainer, phase, epoch)
        with keeper.saving():
            place, figures = _train_one(job, trainer, phase.name, replace(phase.span, epoch=epoch), place, keeper)
        _require_one_network(job.ranks, trainer.network, epoch)
        if job.ranks.is_main:
            phase.log(epoch, figures)
        keeper.save(epoch=epoch + 1)
        phase.interrupt.finish()
    return epochs


def _train_one(
    job: RunContext, trainer: Trainer, name: str, span: ScheduleSpan, place: EpochPosition, stand: Stand
) -> tuple[EpochPosition, dict[str, Any]]:
    """Train an epoch, from `place` on; where the next one begins, and what was measured of this one."""
    job.monitor.epoch(name, span.epoch, span.epochs)
    batches = train_batches(
        job.splits.train, job.recipe.data, seed=job.recipe.seed, epoch=span.offset + span.epoch, ranks=job.ranks
    )
    place = train_epoch(trainer, batches.pinned_for(job.precision.device), span, job.recipe.seed, place, stand)
    accuracy = job.watched_accuracy(trainer.network, trainer.regime.forward).top1.fraction
    figures = {"loss": place.mean_loss, "accuracy": accuracy, **trainer.regime.figures}
    if place.skipped:
        figures["skipped"] = place.skipped
    job.monitor.epoch_done(figures)
    return place.next_epoch(), figures


def shorten(path: Path, count: int) -> None:
    """Leave the first `count` lines of a log, or make it: what an interrupted run wrote later is done again."""
    lines = path.read_text(encoding="utf-8").splitlines()[:count] if count else []
    write_text(path, "".join(line + "\n" for line in lines))


class _Checkpointer:
    """Saves a phase between two steps of an epoch: when it is time, and when something ends the epoch there."""

    def __init__(self, job: RunContext, trainer: Trainer, phase: Phase, epoch: int) -> None:
        self._trainer, self._phase, self._epoch = trainer, phase, epoch
        self._place: EpochPosition | None = None
        self._saved, self._saved_at = 0, time.monotonic()
        self._every = job.recipe.run

    def __call__(self, place: EpochPosition | None) -> None:
        """A step begins (None), or is done."""
        self._place = place
        if place is None:
            self._phase.interrupt.hold()
            return
        if self._every.due(place.steps - self._saved, time.monotonic() - self._saved_at):
            self.save(place=asdict(place))
        self._phase.interrupt.release()

    @contextmanager
    def saving(self) -> Iterator[None]:
        """A block whose end by Ctrl-C or by bad data between two steps loses none of the steps."""
        try:
            yield
        except (KeyboardInterrupt, EdcompressError) as error:
            place = self._place
            if place and place.steps > self._saved and not isinstance(error, StorageError):
                self.save(place=asdict(place))
            raise

    def save(self, **where: Any) -> None:
        """Write a snapshot of what is trained; EdcompressError where that holds NaN."""
        require_finite(self._trainer)
        self._phase.save({"epoch": self._epoch, **where, **_capture(self._trainer)})
        self._saved, self._saved_at = self._place.steps if self._place else 0, time.monotonic()


def require_finite(trainer: Trainer) -> None:
    """Raise EdcompressError when a weight is NaN or infinite, so that what is saved is always something to go on from."""
    for name, tensor in trainer.network.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise EdcompressError(
                f"training diverged: {name} holds NaN or infinity; start over with --force and a lower {trainer.section}.lr"
            )


def _require_one_network(ranks: ProcessGroup, network: nn.Module, epoch: int) -> None:
    """Raise EdcompressError where a layer keeps statistics of its own, which no rank told the others."""
    ranks.require_same(f"the network after epoch {epoch + 1}", *network.state_dict().values())


def _log(run: PruningRun, stage: str, epoch: int, offset: int, figures: dict[str, Any]) -> None:
    append(run.folder / "epochs.jsonl", json.dumps({"phase": stage, "epoch": epoch, **figures}))
    numbers = {f"{stage}/{name}": float(value) for name, value in figures.items() if value is not None}
    for logger in run.loggers:
        logger.log(numbers, offset + epoch)


def _capture(trainer: Trainer) -> dict[str, Any]:
    tree = {"network": trainer.network.state_dict(), "optimizer": trainer.optimizer.state_dict()}
    tree["scaler"] = trainer.scaler.state_dict()
    if isinstance(trainer.regime, SearchRegime):
        tree["regime"] = trainer.regime.snapshot()
    return tree


def _restore(trainer: Trainer, saved: dict[str, Any]) -> tuple[int, EpochPosition]:
    """Put network, optimizer and search back; the epoch to go on with, and the place in it."""
    trainer.network.load_state_dict(saved["network"])
    restore_optimizer(trainer.optimizer, saved["optimizer"])
    if scaler := saved.get("scaler"):
        trainer.scaler.load_state_dict(scaler)
    if isinstance(trainer.regime, SearchRegime):
        trainer.regime.restore(saved["regime"])
    place = saved.get("place")
    return int(saved["epoch"]), EpochPosition(
        **{**place, "generators": tuple(place["generators"])}
    ) if place else EpochPosition()


def objective(job: RunContext, origin: StartingPoint) -> Objective:
    """What search and fine-tuning train for; where they distil, the dense network is on the job's device to teach."""
    fit = job.recipe.finetune
    if fit.distill == 0:
        return Objective(fit)
    return Objective(fit, job.precision.place(on_cpu(origin.dense)))
