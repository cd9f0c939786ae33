"""Stage: remove and prove."""

from __future__ import annotations

from itertools import islice
from typing import Any

from torch import Tensor, nn

from edcompress.core.results.measures import ModelResult
from edcompress.core.system.files import write_text
from edcompress.data.batches import train_batches
from edcompress.networks.modes import on_cpu
from edcompress.pruning.cost.network_size import measure_size
from edcompress.pruning.space.plan import compose_plans, plan_of
from edcompress.pruning.surgery.masks import call_with, masked_weights
from edcompress.pruning.tracing.probe import prove_masked
from edcompress.runs.file_records import records
from edcompress.training.batchnorm import recalibrate_batch_norm
from edcompress.workflows.stages.run_state import PruningRun, StageResults

REESTIMATE_BATCHES = 50


def remove_and_verify(
    run: PruningRun, network: nn.Module, state: Tensor, measured: StageResults
) -> tuple[nn.Module, StageResults]:
    """The smaller network (CPU), proved equal to the masked one, with its batch-norm statistics estimated anew."""
    job = run.job
    job.monitor.stage("surgery: remove the channels, prove masked == pruned")
    plan = compose_plans(run.origin.first, plan_of(state, run.origin.space))
    smaller, proof = prove_masked(network, run.origin.space, state, job.proof_images)
    masked = ModelResult(accuracy=_masked_accuracy(run, network, state), size=measure_size(network, job.example))
    placed = job.precision.place(on_cpu(smaller))
    batches = train_batches(job.splits.train, job.recipe.data, seed=job.recipe.seed, epoch=0)
    recalibrate_batch_norm(placed, islice(batches, REESTIMATE_BATCHES), job.precision)
    after = ModelResult(accuracy=job.accuracy(placed), size=measure_size(smaller, job.example))
    if job.ranks.is_main:
        write_text(run.folder / "plan.json", plan.model_dump_json(indent=1) + "\n")
    files = job.ranks.run_on_rank0(lambda: records([run.folder / "plan.json"]))
    update = {"files": {**measured.files, **files}, "masked": masked, "after_surgery": after, "masked_vs_pruned": proof}
    return on_cpu(placed), measured.model_copy(update=update)


def _masked_accuracy(run: PruningRun, network: nn.Module, state: Tensor) -> Any:
    placed = run.job.precision.place(on_cpu(network))
    weights = masked_weights(placed, run.origin.space, state)
    return run.job.accuracy(placed, lambda images: call_with(placed, weights, images))
