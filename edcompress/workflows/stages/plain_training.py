"""Stages: dense training and fine-tuning."""

from __future__ import annotations

from torch import nn

from edcompress.core.recipe.training import TrainingConfig
from edcompress.networks.modes import on_cpu
from edcompress.training.compiled import Compiled
from edcompress.training.loop import Trainer
from edcompress.training.objective import Objective
from edcompress.training.optimizers import make_optimizer
from edcompress.training.regime import DenseRegime
from edcompress.training.state import TrainingState
from edcompress.workflows.stages.phases import Phase, train_phase, train_stage
from edcompress.workflows.stages.run_context import RunContext
from edcompress.workflows.stages.run_state import PruningRun, StageResults


def finetune(run: PruningRun, network: nn.Module, results: StageResults, state: TrainingState | None) -> nn.Module:
    """Return the pruned network after fine-tuning, on the CPU in eval mode."""
    placed = run.context.precision.place(on_cpu(network))
    regime = _dense_regime(run.context, placed, compiled=run.recipe.compile)
    train_stage(run, results, "finetune", regime, placed, state)
    return on_cpu(placed)


def train_dense(
    context: RunContext,
    network: nn.Module,
    config: TrainingConfig,
    phase: Phase,
    state: TrainingState | None = None,
    *,
    compiled: bool = False,
) -> nn.Module:
    """Train the network by the `train` section, from `state` on if one is given; return it on the CPU in eval mode."""
    placed = context.precision.place(network)
    trainer = Trainer(
        placed,
        make_optimizer(config, placed.parameters()),
        Objective(config, criterion=context.task.train),
        context.precision,
        _dense_regime(context, placed, compiled=compiled),
        context.monitor.step,
        context.ranks,
        section="train",
    )
    train_phase(context, trainer, phase, state)
    return on_cpu(placed)


def _dense_regime(context: RunContext, network: nn.Module, *, compiled: bool) -> DenseRegime:
    """Return the regime in which all of the network is trained, through torch.compile if asked for."""
    return Compiled(network, context.precision, context.monitor.warning) if compiled else DenseRegime(network)
