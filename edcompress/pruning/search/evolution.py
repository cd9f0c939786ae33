"""Ask and tell: a population of states evolves under a budget. Nothing here knows a network.

A member has `shares` [G], which wish how much of each group is kept, and `states` [D], the channel bits that result. With
`genes: widths` the shares evolve by real-coded differential evolution and importance chooses the channels of a group; with
`genes: channels` (the paper) the bits themselves evolve and the shares follow from them. The binary state is always what is scored,
trained, logged and removed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from edcompress.core.recipe.search import Search
from edcompress.pruning.cost.budget import Budget
from edcompress.pruning.search import edropout

_BITS_NOISE = 0.1
_SHARES = (0.01, 4.0)


@dataclass(frozen=True)
class Population:
    """S members: feasible states bool[S, D], and the shares float64[S, G] that their groups wish to keep.

    `energies` float32[S] are those that the states had when they were last scored; None for states that have not been.
    """

    states: Tensor
    shares: Tensor
    energies: Tensor | None = None


class Evolution:
    """The moves of a search: first population, children, selection. Randomness comes from `generator` alone."""

    def __init__(self, search: Search, budget: Budget, generator: Generator) -> None:
        self._search, self._budget, self._generator = search, budget, generator
        self.by_chance = search.genes == "channels" and search.init == "bernoulli"
        """Whether no ranking of the channels has a say."""

    def start(self, ranks: Tensor, groups: int, limit: float | None) -> Population:
        """The first population, feasible under `limit`; ranks float[D] are the channels' importance within their groups."""
        search, S, D = self._search, self._search.population, ranks.shape[0]
        if search.genes == "channels":
            return self.repair(Population(self._first_bits(ranks, S, D), torch.ones(S, groups)), ranks, limit)
        noise = torch.randn(S, groups, generator=self._generator, dtype=torch.float64) * search.width_spread
        noise[0] = 0.0  # one member is the ranking under the widths that all others vary
        wishes = search.keep_probability * (search.width_prior * self._budget.log_params_per_cost() + noise).exp()
        return self.repair(Population(torch.ones(S, D, dtype=torch.bool), wishes), ranks, limit)

    def children(self, parents: Population, noise: float = 0.0) -> Population:
        """One unrepaired child per parent by mutation and binomial crossover of its genes; the rest is the parent's.

        `noise` is the standard deviation of what is added to the logarithms of a child's shares, so that members of one mind part again.
        """
        search, generator = self._search, self._generator
        r = edropout.distinct_parents(search.population, generator)
        if search.genes == "channels":
            v = edropout.mutate(parents.states, r, search.mutation_factor, generator)
            return Population(edropout.crossover(parents.states, v, search.crossover_rate, generator), parents.shares)
        wishes = parents.shares.log()  # what counts is by how much a group shall keep more than others
        w = edropout.mutate_widths(wishes, r, search.width_factor)
        crossed = edropout.crossover(wishes, w, search.crossover_rate, generator)
        crossed += noise * torch.randn(crossed.shape, generator=generator, dtype=crossed.dtype)
        return Population(parents.states, crossed.exp().clamp(*_SHARES))

    def repair(self, wished: Population, ranks: Tensor, limit: float | None) -> Population:
        """The feasible population nearest to the wished one, not yet scored."""
        if self._search.genes == "channels":
            shares = self._budget.widths(wished.states) / self._budget.channels
            priority = (wished.states + self._preferences(ranks, *wished.states.shape)) / 2
            return Population(self._budget.repair(shares, priority, limit), shares)
        priority = ranks.expand(len(wished.shares), -1)
        return Population(self._budget.repair(wished.shares, priority, limit), wished.shares)

    def select(self, parents: Population, children: Population, energies: Tensor) -> tuple[Population, Tensor]:
        """The next population, and bool[S] where a child won, from energies float[2 S] of parents, then children."""
        S = self._search.population
        won = edropout.selection(energies[:S], energies[S:])
        pick = won.unsqueeze(1)
        states = torch.where(pick, children.states, parents.states)
        shares = torch.where(pick, children.shares, parents.shares)
        return Population(states, shares, torch.where(won, energies[S:], energies[:S])), won

    def _first_bits(self, ranks: Tensor, S: int, D: int) -> Tensor:
        if self.by_chance:
            return edropout.bernoulli_states(S, D, self._search.keep_probability, self._generator)
        return self._preferences(ranks, S, D) > 1 - self._search.keep_probability

    def _preferences(self, ranks: Tensor, S: int, D: int) -> Tensor:
        """Which channels stay first, or come back first, where bits alone evolve and leave a choice, float[S, D] in [0, 1)."""
        if self.by_chance:
            return torch.rand(S, D, generator=self._generator)
        noise = torch.randn(S, D, generator=self._generator) * _BITS_NOISE
        noise[0] = 0.0
        return (ranks + noise).clamp(0, 1 - 1e-6)
