"""Stages: dense training and fine-tuning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from edcompress.core.system.signals import Interrupt
from edcompress.networks.modes import on_cpu
from edcompress.training.compiled import Compiled
from edcompress.training.loop import Trainer
from edcompress.training.objective import Objective
from edcompress.training.optimizers import make_optimizer
from edcompress.training.position import ScheduleSpan
from edcompress.training.regime import DenseRegime
from edcompress.workflows.stages.job import RunContext
from edcompress.workflows.stages.phases import Phase, train, train_phase
from edcompress.workflows.stages.run_state import PruningRun, StageResults


def finetune(run: PruningRun, network: nn.Module, measured: StageResults, saved: dict[str, Any]) -> nn.Module:
    """The pruned network after fine-tuning, on the CPU in eval mode."""
    placed = run.job.precision.place(on_cpu(network))
    train(run, measured, _plain(run.job, placed), placed, "finetune", saved)
    return on_cpu(placed)


def train_dense(
    job: RunContext,
    network: nn.Module,
    *,
    saved: dict[str, Any],
    save: Callable[[dict[str, Any]], None],
    interrupt: Interrupt,
) -> nn.Module:
    """The network trained by the recipe's `train` section, on the CPU in eval mode.

    From where it stands, or from what `save` was given in an earlier training, `saved`.
    """
    fit = job.recipe.train
    placed = job.precision.place(network)
    trainer = Trainer(
        placed,
        make_optimizer(fit, placed.parameters()),
        Objective(fit),
        job.precision,
        _plain(job, placed),
        job.monitor.step,
        job.ranks,
        section="train",
    )
    train_phase(job, trainer, Phase("train", ScheduleSpan(0, fit.epochs, 0, fit.epochs), save, interrupt), saved)
    return on_cpu(placed)


def _plain(job: RunContext, network: nn.Module) -> DenseRegime:
    """The regime in which all of the network is trained."""
    return Compiled(network, job.precision, job.monitor.warning) if job.recipe.compile else DenseRegime(network)
