"""The controls: rankings that choose a state without a search, under the same budget, rounding and recovery as EDropout.

Uniform controls give every group the same share and rank its channels; global ones rank the channels of all groups against
each other, so that they choose the widths too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edcompress.pruning.cost.budget import Budget
from edcompress.pruning.search.importance import channel_ranks
from edcompress.pruning.space.space import PruningSpace

_LEAST_COST = 1e-9


def uniform_state(space: PruningSpace, budget: Budget, importance: Tensor, share: float, limit: float | None) -> Tensor:
    """The state bool[D] that keeps one share of every group, its most important channels (importance float[D]) first.

    Without a limit (a share of the dense cost) each group keeps `share` of its channels.
    """
    shares = torch.full((1, len(space.free)), share)
    return budget.repair(shares, channel_ranks(space, importance).unsqueeze(0), limit)[0]


def global_state(space: PruningSpace, budget: Budget, scores: Tensor, share: float, limit: float | None) -> Tensor:
    """The state bool[D] that keeps the highest scores float[D] of the whole network under the limit.

    Without a limit it keeps `share` of all channels. The widths are those of the lowest threshold that fits; the budget's repair
    rounds them and spends what is left.
    """
    order = scores.argsort(descending=True, stable=True)
    count = round(share * len(scores)) if limit is None else _most_that_fit(budget, order, limit)
    shares = budget.widths(_first(order, count)) / budget.channels
    return budget.repair(shares.unsqueeze(0), channel_ranks(space, scores).unsqueeze(0), limit)[0]


def normalised(space: PruningSpace, importance: Tensor) -> Tensor:
    """Importance float[D] over the mean of its group, so that groups of different scale can be compared."""
    scores = importance.clone()
    for _, part in space.slices():
        scores[part] /= importance[part].mean().clamp_min(torch.finfo(importance.dtype).tiny)
    return scores


def per_cost(space: PruningSpace, budget: Budget, importance: Tensor) -> Tensor:
    """Importance float[D] over what one channel of the group costs in the dense network, in the target's kind."""
    fewer = budget.channels - torch.eye(len(space.free), dtype=torch.float64)
    saved = budget.share(budget.channels) - budget.share(fewer)
    saved = saved.clamp_min(_LEAST_COST)  # by measured times a narrower layer can take as long, or longer
    return importance / saved[space.group_of_gene].to(importance.dtype)


def lamp(space: PruningSpace, importance: Tensor) -> Tensor:
    """Layer-adaptive magnitude scores float[D]: importance over the sum of all importance in the group that is no smaller.

    J. Lee et al., "Layer-adaptive Sparsity for the Magnitude-based Pruning", ICLR 2021, with channels in the place of weights.
    """
    scores = torch.empty_like(importance)
    for _, part in space.slices():
        rising, order = importance[part].sort(stable=True)
        no_smaller = rising.flip(0).cumsum(0).flip(0).clamp_min(torch.finfo(rising.dtype).tiny)
        scores[part] = torch.zeros_like(rising).scatter_(0, order, rising / no_smaller)
    return scores


def _most_that_fit(budget: Budget, order: Tensor, limit: float) -> int:
    """How many channels in this order can be kept: the widths are rounded and floored as in every state."""
    low, high = 0, len(order)
    while low < high:
        middle = (low + high + 1) // 2
        fits = budget.share(budget.round_widths(budget.widths(_first(order, middle)))) <= limit
        low, high = (middle, high) if fits else (low, middle - 1)
    return low


def _first(order: Tensor, count: int) -> Tensor:
    return torch.zeros(len(order), dtype=torch.bool).index_fill_(0, order[:count], True)
