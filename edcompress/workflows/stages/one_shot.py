"""Stage: rank once, or replay a plan."""

from __future__ import annotations

from itertools import islice

from torch import Generator, Tensor

from edcompress.core.errors import BudgetError
from edcompress.core.recipe.recipe import Recipe
from edcompress.data.batches import train_batches
from edcompress.networks.modes import on_cpu
from edcompress.pruning.cost.budget import Budget
from edcompress.pruning.search.importance import magnitude, taylor, uniform_noise
from edcompress.pruning.search.one_shot import global_state, lamp, normalised, per_cost, uniform_state
from edcompress.pruning.space.plan import Plan, state_of
from edcompress.pruning.space.space import PruningSpace
from edcompress.runs.reading import parsed
from edcompress.workflows.stages.run_state import PruningRun

TAYLOR_BATCHES = 16


def rank_one_shot(run: PruningRun) -> Tensor:
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


def given_state(recipe: Recipe, space: PruningSpace, budget: Budget) -> Tensor:
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
