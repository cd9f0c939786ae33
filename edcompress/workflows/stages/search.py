"""Stage: search for the channels to keep, by the method of the recipe."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from edcompress.core.results.report import SearchSummary
from edcompress.core.system.files import append
from edcompress.data.batches import train_batches
from edcompress.networks.modes import on_cpu
from edcompress.pruning.search import edropout
from edcompress.pruning.search.method import Figures, OneShotMethod, SearchProblem, TrainingMethod, find_method
from edcompress.pruning.search.regime import SearchRegime
from edcompress.workflows.stages.job import RunContext
from edcompress.workflows.stages.phases import shorten, train
from edcompress.workflows.stages.run_state import PruningRun, StageResults
from edcompress.workflows.stages.starting_point import StartingPoint


def search(run: PruningRun, measured: StageResults, saved: dict[str, Any]) -> tuple[nn.Module, Tensor, StageResults]:
    """Return the network as the search leaves it (on the CPU), the state bool[D] that it found, and the results up to here.

    Args:
        run: the run, of which the search trains a copy of the network.
        measured: the results of the stages before.
        saved: a checkpoint of the search to continue from, {} to start.
    """
    method = find_method(run.job.recipe.search.method)
    if isinstance(method, OneShotMethod):
        problem = search_problem(run.job, run.origin)
        state = run.job.ranks.run_on_rank0(lambda: method.choose_state(problem))
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


def check_search(job: RunContext, origin: StartingPoint) -> None:
    """Raise an EdcompressError where the search method cannot work on this starting point, before any compute."""
    find_method(job.recipe.search.method).check(search_problem(job, origin))


def make_search_regime(
    job: RunContext, origin: StartingPoint, network: nn.Module, log: Callable[[Figures], None]
) -> SearchRegime:
    """Return the regime of a method that trains, on the network of the starting point where it is placed."""
    method = find_method(job.recipe.search.method)
    assert isinstance(method, TrainingMethod)
    return method.make_regime(replace(search_problem(job, origin), network=network, log=log))


def search_problem(job: RunContext, origin: StartingPoint) -> SearchProblem:
    """Return what a search method is given: the network of the starting point on the CPU, and no log."""
    recipe = job.recipe
    return SearchProblem(
        origin.network,
        origin.space,
        origin.budget,
        recipe.search.for_batches_of(recipe.data.step_images),
        job.precision,
        seed=recipe.seed,
        ranks=job.ranks,
        batches=lambda: train_batches(job.splits.train, recipe.data, seed=recipe.seed, epoch=0),
    )


def _generation_log(run: PruningRun, generation: int) -> Callable[[Figures], None]:
    """Return a function that appends figures to search.jsonl, after cutting the file to its first `generation` lines.

    The lines after them are of epochs that are trained again.
    """
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
