"""The stages of `prune`: measure the dense network, search, surgery, fine-tuning; and dense training."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import islice
from typing import Any

from torch import Generator, Tensor, nn

from edcompress.bindings import records
from edcompress.data.splits import train_batches
from edcompress.epochs import Measured, Phase, Run, shorten, train, train_phase
from edcompress.errors import BudgetError
from edcompress.files import append
from edcompress.interrupt import Interrupt
from edcompress.job import Job
from edcompress.measures import ModelResult
from edcompress.networks.modes import on_cpu
from edcompress.origin import Origin
from edcompress.recipe import Recipe
from edcompress.report.sanity import at_chance
from edcompress.results import SearchSummary
from edcompress.runs import parsed, write_text
from edcompress.search import edropout
from edcompress.search.alternation import Alternation, Figures
from edcompress.search.budget import Budget
from edcompress.search.controls import global_state, lamp, normalised, per_cost, uniform_state
from edcompress.search.gradual import Gradual
from edcompress.search.importance import magnitude, taylor, uniform_noise
from edcompress.search.regime import SearchRegime
from edcompress.surgery.costs import measure_size
from edcompress.surgery.masks import called_with, masked_weights
from edcompress.surgery.plan import Plan, composed, plan_of, state_of
from edcompress.surgery.probe import prove_masked
from edcompress.surgery.products import uncounted_warnings
from edcompress.surgery.space import Space
from edcompress.training.batchnorm import reestimate
from edcompress.training.compiled import Compiled
from edcompress.training.loop import Objective, Plain, Span, Trainer
from edcompress.training.schedule import make_optimizer

TAYLOR_BATCHES = 16
REESTIMATE_BATCHES = 50


def measure_dense(run: Run) -> Measured:
    """Accuracy and size of the network as it came."""
    run.job.monitor.stage("dense network: accuracy on the test images")
    for warning in [*uncounted_warnings(run.origin.dense, run.job.example), *run.origin.budget.warnings]:
        run.job.monitor.warning(warning)
    network = run.job.precision.place(on_cpu(run.origin.dense))
    dense = ModelResult(accuracy=run.job.accuracy(network), size=measure_size(run.origin.dense, run.job.example))
    untrained = run.job.recipe.model.reset_head
    if run.job.team.first and not untrained and (text := at_chance(dense.accuracy, "the dense network")):
        run.job.monitor.alarm(f"{text}. What pruning costs cannot be told from it")
    return Measured(dense=dense, search_began=run.clock(Measured()).seconds)


def search(run: Run, measured: Measured, saved: dict[str, Any]) -> tuple[nn.Module, Tensor, Measured]:
    """The network as the search leaves it (on the CPU), the state bool[D] it found, and what was measured of it."""
    if not run.job.recipe.search.trains:
        state = run.job.team.from_first(lambda: chosen_once(run))
        return run.origin.network, state, _summarised(run, measured, epochs=0, generations=0, states=state.unsqueeze(0))
    network = run.job.precision.place(on_cpu(run.origin.network))
    log = _generation_log(run, saved.get("regime", {}).get("generation", 0))
    regime = searching(run.job, run.origin, network, log)
    epochs = train(run, measured, regime, network, "search", saved)
    images, labels = run.job.judging_batch
    precision = run.job.precision
    state = regime.finish(precision.images(images), labels.to(precision.device))
    states = regime.snapshot()["states"]
    return (
        on_cpu(network),
        state,
        _summarised(run, measured, epochs=epochs, generations=regime.generation, states=states),
    )


def chosen_once(run: Run) -> Tensor:
    """The state bool[D] of a method that looks at the network once: a ranking under the budget, or a plan that was given."""
    recipe, network = run.job.recipe, run.origin.network
    space, budget = run.origin.space, run.origin.budget
    method = recipe.search.method
    if method == "plan":
        return given_state(recipe, space, budget)
    if method == "random":
        importance = uniform_noise(space, Generator().manual_seed(recipe.seed))
    elif method in ("taylor", "global_taylor"):
        batches = train_batches(run.job.splits.train, recipe.data, seed=recipe.seed, epoch=0)
        importance = taylor(space, on_cpu(network).to(run.job.precision.device), islice(batches, TAYLOR_BATCHES))
    else:
        importance = magnitude(space, network)
    share, limit = recipe.search.keep_probability, budget.target.fraction if budget.target else None
    if method in ("magnitude", "taylor", "random"):
        return uniform_state(space, budget, importance, share, limit)
    if method == "lamp":
        scores = lamp(space, importance)
    else:
        scores = per_cost(space, budget, importance) if method == "global_taylor" else normalised(space, importance)
    return global_state(space, budget, scores, share, limit)


def given_state(recipe: Recipe, space: Space, budget: Budget) -> Tensor:
    """The state bool[D] of the plan that the recipe names; an InputError where it is missing, damaged, of another network or dear."""
    assert recipe.search.plan is not None
    plan = parsed(recipe.search.plan, Plan.model_validate_json, "set search.plan to the plan.json of a finished run")
    state = state_of(plan, space)
    target = budget.target
    if target and (share := budget.share(budget.widths(state)).item()) > target.fraction:
        raise BudgetError(
            f"search.plan {recipe.search.plan} keeps {share:.4f} of the {target.kind}, more than "
            f"target.{target.kind} = {target.fraction:g}; raise the target, or set target to null"
        )
    return state


def operate(run: Run, network: nn.Module, state: Tensor, measured: Measured) -> tuple[nn.Module, Measured]:
    """The smaller network (CPU), proved equal to the masked one, with its batch-norm statistics estimated anew."""
    job = run.job
    job.monitor.stage("surgery: remove the channels, prove masked == pruned")
    plan = composed(run.origin.first, plan_of(state, run.origin.space))
    smaller, proof = prove_masked(network, run.origin.space, state, job.proof_images)
    masked = ModelResult(accuracy=_masked_accuracy(run, network, state), size=measure_size(network, job.example))
    placed = job.precision.place(on_cpu(smaller))
    batches = train_batches(job.splits.train, job.recipe.data, seed=job.recipe.seed, epoch=0)
    reestimate(placed, islice(batches, REESTIMATE_BATCHES), job.precision)
    after = ModelResult(accuracy=job.accuracy(placed), size=measure_size(smaller, job.example))
    if job.team.first:
        write_text(run.folder / "plan.json", plan.model_dump_json(indent=1) + "\n")
    files = job.team.from_first(lambda: records([run.folder / "plan.json"]))
    update = {"files": {**measured.files, **files}, "masked": masked, "after_surgery": after, "masked_vs_pruned": proof}
    return on_cpu(placed), measured.model_copy(update=update)


def finetune(run: Run, network: nn.Module, measured: Measured, saved: dict[str, Any]) -> nn.Module:
    """The pruned network after fine-tuning, on the CPU in eval mode."""
    placed = run.job.precision.place(on_cpu(network))
    train(run, measured, _plain(run.job, placed), placed, "finetune", saved)
    return on_cpu(placed)


def train_dense(
    job: Job,
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
        job.team,
        section="train",
    )
    train_phase(job, trainer, Phase("train", Span(0, fit.epochs, 0, fit.epochs), save, interrupt), saved)
    return on_cpu(placed)


def _plain(job: Job, network: nn.Module) -> Plain:
    """The regime in which all of the network is trained."""
    return Compiled(network, job.precision, job.monitor.warning) if job.recipe.compile else Plain(network)


def searching(job: Job, origin: Origin, network: nn.Module, log: Callable[[Figures], None]) -> SearchRegime:
    """The regime of a search that trains, on the origin's network where it is placed."""
    search = job.recipe.search.for_batches_of(job.recipe.data.step_images)
    if search.method == "gradual_magnitude":
        return Gradual(network, origin.space, origin.budget, search, job.team)
    return Alternation(network, origin.space, origin.budget, search, precision=job.precision,
                       seed=job.recipe.seed, log=log, team=job.team)  # fmt: skip


def _generation_log(run: Run, generation: int) -> Callable[[Figures], None]:
    """Appends figures to search.jsonl, which first loses the lines after `generation` (of epochs that are trained again)."""
    if not run.job.team.first:
        return lambda _: None
    path = run.folder / "search.jsonl"
    shorten(path, generation)
    return lambda figures: append(path, json.dumps(figures))


def _summarised(run: Run, measured: Measured, *, epochs: int, generations: int, states: Tensor) -> Measured:
    summary = SearchSummary(
        method=run.job.recipe.search.method,
        epochs=epochs,
        generations=generations,
        converged=edropout.converged(states),
        diversity=edropout.diversity(states),
        seconds=run.clock(measured).seconds - measured.search_began,
    )
    return measured.model_copy(update={"search": summary})


def _masked_accuracy(run: Run, network: nn.Module, state: Tensor) -> Any:
    placed = run.job.precision.place(on_cpu(network))
    weights = masked_weights(placed, run.origin.space, state)
    return run.job.accuracy(placed, lambda images: called_with(placed, weights, images))
