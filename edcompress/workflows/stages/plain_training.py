"""Stages: dense training and fine-tuning."""

from __future__ import annotations

import copy
from itertools import islice

from torch import nn

from edcompress.core.recipe.training import TrainingConfig
from edcompress.core.results.report import Statistics
from edcompress.networks.modes import on_cpu
from edcompress.training.averaging import WeightAverage
from edcompress.training.batchnorm import RECALIBRATION_BATCHES, recalibrate_batch_norm, running_statistics
from edcompress.training.compiled import Compiled
from edcompress.training.loop import Trainer
from edcompress.training.mixing import make_mix
from edcompress.training.objective import Objective
from edcompress.training.optimizers import make_optimizer
from edcompress.training.regime import DenseRegime
from edcompress.training.state import TrainingState
from edcompress.workflows.stages.phases import Phase, train_phase, train_stage
from edcompress.workflows.stages.run_context import RunContext
from edcompress.workflows.stages.run_state import PruningRun, StageResults


def finetune(
    run: PruningRun, network: nn.Module, results: StageResults, state: TrainingState | None
) -> tuple[nn.Module, StageResults]:
    """Return the pruned network after fine-tuning, on the CPU in eval mode, and the results with its batch-norm statistics."""
    placed = run.context.precision.place(on_cpu(network))
    regime = _dense_regime(run.context, placed, compiled=run.recipe.compile)
    train_stage(run, results, "finetune", regime, placed, state)
    placed, statistics = with_better_statistics(run.context, placed)
    return on_cpu(placed), results.with_statistics(statistics)


def with_better_statistics(context: RunContext, network: nn.Module) -> tuple[nn.Module, Statistics | None]:
    """Return the network with the batch-norm statistics of training or with recalibrated ones, whichever the held-out images prefer."""
    if not running_statistics(network):
        return network, None
    other = copy.deepcopy(network)
    recalibrate_batch_norm(other, islice(context.train_batches(epoch=0), RECALIBRATION_BATCHES), context.precision)
    trained, recalibrated = context.held_out_loss(network), context.held_out_loss(other)
    better = recalibrated < trained
    statistics = Statistics(kept="recalibrated" if better else "trained", trained=trained, recalibrated=recalibrated)
    context.monitor.stage(
        f"batch-norm statistics: loss on the held-out images {trained:.4f} as trained, {recalibrated:.4f} recalibrated; "
        f"the {statistics.kept} ones stay"
    )
    return other if better else network, statistics


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
        mix=make_mix(config, context.spec.model.num_classes),
        average=WeightAverage(placed, config.ema) if config.ema else None,
    )
    train_phase(context, trainer, phase, state)
    return on_cpu(placed)


def _dense_regime(context: RunContext, network: nn.Module, *, compiled: bool) -> DenseRegime:
    """Return the regime in which all of the network is trained, through torch.compile if asked for."""
    return Compiled(network, context.precision, context.monitor.warning) if compiled else DenseRegime(network)
