"""States chosen by one ranking of the channels, under the same budget, rounding and recovery as EDropout.

Uniform states keep the same share of every group and rank the channels of each; global ones rank the channels of all groups together, so
that the ranking chooses the widths too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edcompress.pruning.cost.budget import FeasibleStates
from edcompress.pruning.search.importance import channel_ranks
from edcompress.pruning.search.method import SearchProblem
from edcompress.pruning.space.space import PruningSpace

_LEAST_COST = 1e-9


def choose_uniform(problem: SearchProblem, importance: Tensor) -> Tensor:
    """Return the `uniform_state` bool[D] within the target of a problem."""
    feasible = problem.feasible
    return uniform_state(problem.space, feasible, importance, problem.search.keep_probability, feasible.final_budget)


def choose_global(problem: SearchProblem, scores: Tensor) -> Tensor:
    """Return the `global_state` bool[D] within the target of a problem."""
    feasible = problem.feasible
    return global_state(problem.space, feasible, scores, problem.search.keep_probability, feasible.final_budget)


def uniform_state(
    space: PruningSpace, feasible: FeasibleStates, importance: Tensor, share: float, budget: float | None
) -> Tensor:
    """Return the state bool[D] that keeps one share of every group, the most important channels (importance float[D]) of each.

    Without a budget each group keeps `share` of its channels.
    """
    shares = torch.full((1, len(space.free)), share)
    return feasible.repair(shares, channel_ranks(space, importance).unsqueeze(0), budget)[0]


def global_state(
    space: PruningSpace, feasible: FeasibleStates, scores: Tensor, share: float, budget: float | None
) -> Tensor:
    """Return the state bool[D] that keeps the highest scores float[D] of the whole network within the budget.

    Without a budget it keeps `share` of all channels. The widths are those of the lowest threshold that fits; the repair rounds them and
    spends what is left.
    """
    order = scores.argsort(descending=True, stable=True)
    count = round(share * len(scores)) if budget is None else _most_that_fit(feasible, order, budget)
    shares = feasible.widths(_first(order, count)) / feasible.channels
    return feasible.repair(shares.unsqueeze(0), channel_ranks(space, scores).unsqueeze(0), budget)[0]


def relative_to_group(space: PruningSpace, importance: Tensor) -> Tensor:
    """Return importance float[D] over the mean of its group, so that groups of different scale can be compared."""
    scores = importance.clone()
    for _, part in space.slices():
        scores[part] /= importance[part].mean().clamp_min(torch.finfo(importance.dtype).tiny)
    return scores


def relative_to_cost(space: PruningSpace, feasible: FeasibleStates, importance: Tensor) -> Tensor:
    """Return importance float[D] over what one channel of the group costs in the dense network, in the kind of the target."""
    fewer = feasible.channels - torch.eye(len(space.free), dtype=torch.float64)
    saved = feasible.share(feasible.channels) - feasible.share(fewer)
    saved = saved.clamp_min(_LEAST_COST)  # in measured time a narrower layer may take as long, or longer
    return importance / saved[space.group_of_gene].to(importance.dtype)


def lamp_scores(space: PruningSpace, importance: Tensor) -> Tensor:
    """Return layer-adaptive magnitudes float[D]: importance over the sum of all importance in the group that is no smaller.

    J. Lee et al., "Layer-adaptive Sparsity for the Magnitude-based Pruning", ICLR 2021, with channels in the place of weights.
    """
    scores = torch.empty_like(importance)
    for _, part in space.slices():
        rising, order = importance[part].sort(stable=True)
        no_smaller = rising.flip(0).cumsum(0).flip(0).clamp_min(torch.finfo(rising.dtype).tiny)
        scores[part] = torch.zeros_like(rising).scatter_(0, order, rising / no_smaller)
    return scores


def _most_that_fit(feasible: FeasibleStates, order: Tensor, budget: float) -> int:
    """Return how many channels in this order fit the budget, on widths that are rounded and floored as in every state."""
    low, high = 0, len(order)
    while low < high:
        middle = (low + high + 1) // 2
        fits = feasible.share(feasible.round_widths(feasible.widths(_first(order, middle)))) <= budget
        low, high = (middle, high) if fits else (low, middle - 1)
    return low


def _first(order: Tensor, count: int) -> Tensor:
    """Return bool[D], true for the first `count` of the channels in `order` int64[D]."""
    return torch.zeros(len(order), dtype=torch.bool).index_fill_(0, order[:count], True)
