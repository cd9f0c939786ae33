"""The stages of `prune`: measure the dense network, search, surgery, fine-tuning; and dense training."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from edcompress.core.results.report import SearchSummary
from edcompress.core.system.files import append
from edcompress.networks.modes import on_cpu
from edcompress.pruning.search import edropout
from edcompress.pruning.search.edropout_regime import EDropoutRegime, Figures
from edcompress.pruning.search.gradual_magnitude import GradualRegime
from edcompress.pruning.search.regime import SearchRegime
from edcompress.workflows.stages.job import RunContext
from edcompress.workflows.stages.one_shot import rank_one_shot
from edcompress.workflows.stages.phases import shorten, train
from edcompress.workflows.stages.run_state import PruningRun, StageResults
from edcompress.workflows.stages.starting_point import StartingPoint


def search(run: PruningRun, measured: StageResults, saved: dict[str, Any]) -> tuple[nn.Module, Tensor, StageResults]:
    """The network as the search leaves it (on the CPU), the state bool[D] it found, and what was measured of it."""
    if not run.job.recipe.search.trains:
        state = run.job.ranks.run_on_rank0(lambda: rank_one_shot(run))
        return run.origin.network, state, _summarised(run, measured, epochs=0, generations=0, states=state.unsqueeze(0))
    network = run.job.precision.place(on_cpu(run.origin.network))
    log = _generation_log(run, saved.get("regime", {}).get("generation", 0))
    regime = make_search_regime(run.job, run.origin, network, log)
    epochs = train(run, measured, regime, network, "search", saved)
    images, labels = run.job.scoring_batch
    precision = run.job.precision
    state = regime.finish(precision.images(images), labels.to(precision.device))
    states = regime.snapshot()["states"]
    return (
        on_cpu(network),
        state,
        _summarised(run, measured, epochs=epochs, generations=regime.generation, states=states),
    )


def make_search_regime(
    job: RunContext, origin: StartingPoint, network: nn.Module, log: Callable[[Figures], None]
) -> SearchRegime:
    """The regime of a search that trains, on the origin's network where it is placed."""
    search = job.recipe.search.for_batches_of(job.recipe.data.step_images)
    if search.method == "gradual_magnitude":
        return GradualRegime(network, origin.space, origin.budget, search, job.ranks)
    return EDropoutRegime(network, origin.space, origin.budget, search, precision=job.precision,
                       seed=job.recipe.seed, log=log, ranks=job.ranks)  # fmt: skip


def _generation_log(run: PruningRun, generation: int) -> Callable[[Figures], None]:
    """Appends figures to search.jsonl, which first loses the lines after `generation` (of epochs that are trained again)."""
    if not run.job.ranks.is_main:
        return lambda _: None
    path = run.folder / "search.jsonl"
    shorten(path, generation)
    return lambda figures: append(path, json.dumps(figures))


def _summarised(
    run: PruningRun, measured: StageResults, *, epochs: int, generations: int, states: Tensor
) -> StageResults:
    summary = SearchSummary(
        method=run.job.recipe.search.method,
        epochs=epochs,
        generations=generations,
        converged=edropout.converged(states),
        diversity=edropout.diversity(states),
        seconds=run.clock(measured).seconds - measured.search_began,
    )
    return measured.model_copy(update={"search": summary})
