"""Stage: remove channels and verify the smaller network."""

from __future__ import annotations

from itertools import islice

from torch import Tensor, nn

from edcompress.core.results.measures import ModelResult
from edcompress.core.results.scores import Scores
from edcompress.core.system.files import write_text
from edcompress.networks.modes import on_cpu
from edcompress.pruning.cost.network_size import measure_size
from edcompress.pruning.space.plan import compose_plans, plan_of
from edcompress.pruning.space.space import PruningSpace
from edcompress.pruning.surgery.masks import call_with, masked_weights
from edcompress.pruning.tracing.probe import prove_masked
from edcompress.runs.file_records import records
from edcompress.training.batchnorm import RECALIBRATION_BATCHES, recalibrate_batch_norm
from edcompress.workflows.stages.run_context import RunContext
from edcompress.workflows.stages.run_state import PruningRun, StageResults


def remove_and_verify(
    run: PruningRun, network: nn.Module, state: Tensor, results: StageResults
) -> tuple[nn.Module, StageResults]:
    """Return the smaller network (CPU), proved equal to the masked one, with recalibrated batch-norm statistics."""
    context, space = run.context, run.start.space
    context.monitor.stage("surgery: remove the channels, prove masked == pruned")
    plan = compose_plans(run.start.first, plan_of(state, space))
    smaller, proof = prove_masked(network, space, state, context.proof_images)
    masked = ModelResult.of(_masked_scores(context, network, space, state), measure_size(network, context.example))
    placed = context.precision.place(on_cpu(smaller))
    recalibrate_batch_norm(placed, islice(context.train_batches(epoch=0), RECALIBRATION_BATCHES), context.precision)
    pruned = ModelResult.of(context.scores(placed), measure_size(smaller, context.example))
    if context.ranks.is_main:
        write_text(run.folder / "plan.json", plan.model_dump_json(indent=1) + "\n")
    files = context.ranks.run_on_rank0(lambda: records([run.folder / "plan.json"]))
    return on_cpu(placed), results.with_files(files).with_surgery(masked, pruned, proof)


def _masked_scores(context: RunContext, network: nn.Module, space: PruningSpace, state: Tensor) -> Scores:
    """Return the scores of the network without what the state bool[D] drops, by masks."""
    placed = context.precision.place(on_cpu(network))
    weights = masked_weights(placed, space, state)
    return context.scores(placed, lambda images: call_with(placed, weights, images))
