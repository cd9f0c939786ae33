"""Stage: rank once, or replay a plan."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from torch import Generator, Tensor

from edcompress.core.errors import BudgetError
from edcompress.core.recipe.search import Search
from edcompress.networks.modes import on_cpu
from edcompress.pruning.cost.budget import Budget
from edcompress.pruning.search.importance import magnitude, taylor, uniform_noise
from edcompress.pruning.search.one_shot import global_state, lamp, normalised, per_cost, uniform_state
from edcompress.pruning.space.plan import Plan, state_of
from edcompress.pruning.space.space import PruningSpace
from edcompress.runs.reading import parsed
from edcompress.workflows.stages.run_context import RunContext
from edcompress.workflows.stages.starting_point import StartingPoint

TAYLOR_BATCHES = 16


def rank_one_shot(search: Search, context: RunContext, start: StartingPoint) -> Tensor:
    """Return the state bool[D] of a method that looks at the network once: a ranking under the budget, or a plan that was given."""
    space, budget, method = start.space, start.budget, search.method
    if search.plan:
        return given_state(search.plan, space, budget)
    if method == "random":
        importance = uniform_noise(space, Generator().manual_seed(context.seed))
    elif method in ("taylor", "global_taylor"):
        batches = islice(context.train_batches(epoch=0), TAYLOR_BATCHES)
        importance = taylor(space, on_cpu(start.network).to(context.device), batches)
    else:
        importance = magnitude(space, start.network)
    share, limit = search.keep_probability, budget.target.fraction if budget.target else None
    if method in ("magnitude", "taylor", "random"):
        return uniform_state(space, budget, importance, share, limit)
    if method == "lamp":
        scores = lamp(space, importance)
    else:
        scores = per_cost(space, budget, importance) if method == "global_taylor" else normalised(space, importance)
    return global_state(space, budget, scores, share, limit)


def given_state(path: Path, space: PruningSpace, budget: Budget) -> Tensor:
    """Return the state bool[D] of the plan in a file; raise InputError if it is missing, damaged, of another network or too costly."""
    plan = parsed(path, Plan.model_validate_json, "set search.plan to the plan.json of a finished run")
    state = state_of(plan, space)
    target = budget.target
    if target and (share := budget.share(budget.widths(state)).item()) > target.fraction:
        raise BudgetError(
            f"search.plan {path} keeps {share:.4f} of the {target.kind}, more than "
            f"target.{target.kind} = {target.fraction:g}; raise the target, or set target to null"
        )
    return state
