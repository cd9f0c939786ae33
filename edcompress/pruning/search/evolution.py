"""A population of states evolves under a budget. Nothing here knows a network.

A member has `shares` [G], the share of each group that it wishes to keep, and `states` [D], the channel bits that result. With
`genes: widths` the shares evolve by real-coded differential evolution and importance chooses the channels of a group; with
`genes: channels` (the paper) the bits themselves evolve and the shares follow from them. What is scored, trained, logged and removed is
always the binary state.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from edcompress.core.recipe.search import Search
from edcompress.pruning.cost.budget import FeasibleStates
from edcompress.pruning.search import edropout

_BITS_NOISE = 0.1
_SHARES = (0.01, 4.0)


@dataclass(frozen=True)
class Population:
    """S members: feasible states bool[S, D], and the shares float64[S, G] that their groups wish to keep.

    `energies` float32[S] are those of the states when they were last scored; None before that.
    """

    states: Tensor
    shares: Tensor
    energies: Tensor | None = None


class Evolution:
    """The moves of a search: first population, children, repair and selection. All randomness comes from `generator`."""

    def __init__(self, search: Search, feasible: FeasibleStates, generator: Generator) -> None:
        self._search, self._feasible, self._generator = search, feasible, generator
        self.by_chance = search.genes == "channels" and search.init == "bernoulli"
        """Whether channels are chosen at random, without a ranking."""

    def start(self, ranks: Tensor, groups: int, budget: float | None) -> Population:
        """Return the first population, feasible under the budget; ranks float[D] are the channels' importance within their groups."""
        search, S, D = self._search, self._search.population, ranks.shape[0]
        if search.genes == "channels":
            return self.repair(Population(self._first_bits(ranks, S, D), torch.ones(S, groups)), ranks, budget)
        noise = torch.randn(S, groups, generator=self._generator, dtype=torch.float64) * search.width_spread
        noise[0] = 0.0  # one member has the plain widths, which all others vary
        shares = search.keep_probability * (search.width_prior * self._feasible.log_params_per_cost() + noise).exp()
        return self.repair(Population(torch.ones(S, D, dtype=torch.bool), shares), ranks, budget)

    def children(self, parents: Population, noise: float = 0.0) -> Population:
        """Return one unrepaired child per parent by mutation and binomial crossover of its genes; the rest is the parent's.

        `noise` is the standard deviation of what is added to the logarithms of a child's shares, so that equal members become different.
        """
        search, generator = self._search, self._generator
        r = edropout.distinct_parents(search.population, generator)
        if search.genes == "channels":
            v = edropout.mutate(parents.states, r, search.mutation_factor, generator)
            return Population(edropout.crossover(parents.states, v, search.crossover_rate, generator), parents.shares)
        w = parents.shares.log()  # only the ratios between groups count
        v = edropout.mutate_widths(w, r, search.width_factor)
        crossed = edropout.crossover(w, v, search.crossover_rate, generator)
        crossed += noise * torch.randn(crossed.shape, generator=generator, dtype=crossed.dtype)
        return Population(parents.states, crossed.exp().clamp(*_SHARES))

    def repair(self, wished: Population, ranks: Tensor, budget: float | None) -> Population:
        """Return the feasible population nearest to the wished one, not yet scored."""
        if self._search.genes == "channels":
            shares = self._feasible.widths(wished.states) / self._feasible.channels
            priority = (wished.states + self._preferences(ranks, *wished.states.shape)) / 2
            return Population(self._feasible.repair(shares, priority, budget), shares)
        priority = ranks.expand(len(wished.shares), -1)
        return Population(self._feasible.repair(wished.shares, priority, budget), wished.shares)

    def select(self, parents: Population, children: Population, energies: Tensor) -> tuple[Population, Tensor]:
        """Return the next population, and bool[S] where a child won, from energies float[2 S] of parents, then children."""
        S = self._search.population
        won = edropout.selection(energies[:S], energies[S:])
        pick = won.unsqueeze(1)
        states = torch.where(pick, children.states, parents.states)
        shares = torch.where(pick, children.shares, parents.shares)
        return Population(states, shares, torch.where(won, energies[S:], energies[:S])), won

    def _first_bits(self, ranks: Tensor, S: int, D: int) -> Tensor:
        """Return the first channel bits, bool[S, D]."""
        if self.by_chance:
            return edropout.bernoulli_states(S, D, self._search.keep_probability, self._generator)
        return self._preferences(ranks, S, D) > 1 - self._search.keep_probability

    def _preferences(self, ranks: Tensor, S: int, D: int) -> Tensor:
        """Return float[S, D] in [0, 1): which channels stay or come back first where the bits alone leave a choice."""
        if self.by_chance:
            return torch.rand(S, D, generator=self._generator)
        noise = torch.randn(S, D, generator=self._generator) * _BITS_NOISE
        noise[0] = 0.0
        return (ranks + noise).clamp(0, 1 - 1e-6)
