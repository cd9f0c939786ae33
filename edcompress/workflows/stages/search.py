"""Stage: search for the channels to keep, by the method of the recipe."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from edcompress.core.recipe.search import Search
from edcompress.core.results.report import SearchSummary
from edcompress.core.system.files import append
from edcompress.networks.modes import on_cpu
from edcompress.pruning.search import edropout
from edcompress.pruning.search.method import Figures, OneShotMethod, SearchProblem, TrainingMethod, find_method
from edcompress.pruning.search.regime import SearchRegime
from edcompress.training.state import TrainingState
from edcompress.workflows.stages.phases import shorten, train_stage
from edcompress.workflows.stages.run_context import RunContext
from edcompress.workflows.stages.run_state import PruningRun, StageResults
from edcompress.workflows.stages.starting_point import StartingPoint


def search(
    run: PruningRun, results: StageResults, state: TrainingState | None
) -> tuple[nn.Module, Tensor, StageResults]:
    """Return the network as the search leaves it (on the CPU), the state bool[D] it found, and what was measured of it."""
    context, settings = run.context, run.recipe.search
    method = find_method(settings.method)
    if isinstance(method, OneShotMethod):
        problem = search_problem(settings, context, run.start)
        found = context.ranks.run_on_rank0(lambda: method.choose_state(problem))
        return (
            run.start.network,
            found,
            _summarised(run, results, found.unsqueeze(0), epochs=0, generations=0, tightening=None),
        )
    network = context.precision.place(on_cpu(run.start.network))
    generation = int(state.regime["generation"]) if state else 0
    log = _generation_log(run.folder / "search.jsonl", generation) if context.ranks.is_main else ignore_figures
    regime = make_search_regime(settings, context, run.start, network, log)
    context.monitor.stage(
        _plan(settings.for_batches_of(context.data.step_images), len(context.train_batches(epoch=0)), run)
    )
    if (criterion := context.task.finetune) and not criterion.one_label and settings.energy != "cross_entropy":
        context.monitor.stage(
            f"search.energy: {settings.energy} compares classes of images; with {criterion.name} states are compared by the loss"
        )
    epochs = train_stage(run, results, "search", regime, network, state)
    images, labels = context.scoring_batch
    found = regime.finish(context.precision.images(images), labels.to(context.device))
    states = regime.snapshot()["states"]
    results = _summarised(
        run, results, states, epochs=epochs, generations=regime.generation, tightening=regime.tightening
    )
    return on_cpu(network), found, results


def _plan(settings: Search, steps: int, run: PruningRun) -> str:
    """Return how many generations a search of so many steps per epoch has, and how many before its budget is reached."""
    progress = [step / (settings.length * steps) for step in range(0, settings.length * steps, settings.period)]
    feasible = run.start.feasible
    falling = sum(feasible.budget(done, settings.annealing) != feasible.final_budget for done in progress)
    return f"search: {settings.length} epochs of {steps} steps, {len(progress)} generations, {falling} before the budget reaches the target"


def check_search(settings: Search, context: RunContext, start: StartingPoint) -> None:
    """Raise an EdcompressError if the search method cannot work on this starting point, before any compute."""
    find_method(settings.method).check(search_problem(settings, context, start))


def make_search_regime(
    settings: Search,
    context: RunContext,
    start: StartingPoint,
    network: nn.Module,
    log: Callable[[Figures], None],
) -> SearchRegime:
    """Return the regime of a method that trains, on the starting point's network where it is placed."""
    method = find_method(settings.method)
    assert isinstance(method, TrainingMethod)
    return method.make_regime(replace(search_problem(settings, context, start), network=network, log=log))


def search_problem(settings: Search, context: RunContext, start: StartingPoint) -> SearchProblem:
    """Return what a search method gets: the network of the starting point on the CPU, and no log."""
    return SearchProblem(
        start.network,
        start.space,
        start.feasible,
        settings.for_batches_of(context.data.step_images),
        context.precision,
        seed=context.seed,
        ranks=context.ranks,
        batches=lambda: context.train_batches(epoch=0),
        criterion=context.task.finetune,
    )


def ignore_figures(_: Figures) -> None:
    """Log nothing."""


def _generation_log(path: Path, generation: int) -> Callable[[Figures], None]:
    """Append figures to search.jsonl, which first loses the lines after `generation`, of epochs that are trained again."""
    shorten(path, generation)
    return lambda figures: append(path, json.dumps(figures))


def _summarised(
    run: PruningRun, results: StageResults, states: Tensor, *, epochs: int, generations: int, tightening: int | None
) -> StageResults:
    """Return the results with the summary of a search that ended with states bool[S, D]."""
    return results.with_search(
        SearchSummary(
            method=run.recipe.search.method,
            epochs=epochs,
            generations=generations,
            converged=edropout.converged(states),
            diversity=edropout.diversity(states),
            seconds=run.clock(results).seconds - results.search_began,
            tightening=tightening,
        )
    )
