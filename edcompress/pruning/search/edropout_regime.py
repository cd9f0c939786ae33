"""The search: evolution of states alternates with training of the weights that the best state keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Generator, Tensor, nn

from edcompress.core.recipe.search import Search
from edcompress.core.system.distributed import ALONE, ProcessGroup
from edcompress.pruning.cost.budget import Budget
from edcompress.pruning.search import edropout
from edcompress.pruning.search.evolution import Evolution, Population
from edcompress.pruning.search.importance import channel_ranks, magnitude
from edcompress.pruning.search.regime import SearchRegime
from edcompress.pruning.search.scoring import score_states
from edcompress.pruning.space.space import PruningSpace
from edcompress.training.precision import Precision

Figures = dict[str, float | int | bool | None]


class EDropoutRegime(SearchRegime):
    """EDropout: a population evolves, and the network is trained as its best state.

    The first rank evolves; all score the same states on their own images, and the mean of the energies decides.
    """

    def __init__(self, network: nn.Module, space: PruningSpace, budget: Budget, search: Search, *, precision: Precision,
                 seed: int, log: Callable[[Figures], None], ranks: ProcessGroup = ALONE) -> None:  # fmt: skip
        super().__init__(network, space, search.period, ranks)
        self._budget, self._search, self._precision, self._log = budget, search, precision, log
        self._generator = Generator().manual_seed(seed)
        self._evolution = Evolution(search, budget, self._generator)
        self._in_force = self._limit(0.0)
        self._population = ranks.run_on_rank0(
            lambda: self._evolution.start(self._channel_ranks(), len(space.free), self._in_force)
        )
        self._best = 0
        self._figures: Figures = {}

    @property
    def state(self) -> Tensor:
        """The state bool[D] that is being trained."""
        return self._population.states[self._best]

    @property
    def figures(self) -> Figures:
        """What a person wants to see of the search while it runs."""
        return self._figures

    @property
    def settled(self) -> bool:
        """Whether the population has collapsed to one state under the final budget."""
        return (
            self.generation > 0 and self._in_force == self._limit(1.0) and edropout.converged(self._population.states)
        )

    def _choose(self, images: Tensor, labels: Tensor, progress: float) -> None:
        part = slice(self._scoring(len(images)))
        left = self._budget.remaining_anneal(progress, self._search.anneal)
        self._evolve(images[part], labels[part], self._limit(progress), self._search.width_noise * left)

    def _scoring(self, images: int) -> int:
        """How many of this rank's `images` score states: those of them among the first of the whole batch."""
        rank, size = self._ranks.rank, self._ranks.size
        (whole,) = self._ranks.sum(images)
        return len(range(rank, max(2 * size, self._search.scored(whole)), size))  # batch-norm needs two

    def finish(self, images: Tensor, labels: Tensor) -> Tensor:
        """The state bool[D] of lowest energy on held-out images [N, C, H, W], feasible under the final budget."""
        feasible = self._ranks.run_on_rank0(
            lambda: self._evolution.repair(self._population, self._channel_ranks(), self._limit(1.0))
        )
        energies = self._score(feasible.states, images, labels)
        self._population, self._best = replace(feasible, energies=energies), int(energies.argmin())
        return self.state

    def snapshot(self) -> dict[str, Any]:
        """All that `restore` needs to go on exactly here."""
        return {
            "states": self._population.states,
            "shares": self._population.shares,
            "energies": self._population.energies,
            "best": self._best,
            "in_force": self._in_force,
            "step": self._step,
            "generation": self.generation,
            "generator": self._generator.get_state(),
            "figures": self._figures,
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from a snapshot."""
        self._population = Population(saved["states"], saved["shares"], saved["energies"])
        self._best, self._in_force = saved["best"], saved["in_force"]
        self._step, self.generation = saved["step"], saved["generation"]
        self._generator.set_state(saved["generator"])
        self._figures = saved["figures"]

    def _evolve(self, images: Tensor, labels: Tensor, limit: float | None, noise: float) -> None:
        """One generation: parents and children are made feasible and scored on the same batch with the same weights.

        With stored parent energies (as published) children alone are scored, once the parents have been under this budget.
        """
        known = self._known(limit)
        parents, children = self._ranks.run_on_rank0(lambda: self._candidates(limit, noise, repaired=known is not None))
        if known is None:
            energies = self._score(torch.cat([parents.states, children.states]), images, labels)
        else:
            energies = torch.cat([known, self._score(children.states, images, labels)])
        self._population, won = self._evolution.select(parents, children, energies)
        self._in_force = limit
        assert self._population.energies is not None
        self._best = int(self._population.energies.argmin())
        self.generation += 1
        record = self._record(parents, self._population.energies, won, limit)
        self._figures = {
            "generation": self.generation,
            "energy": record["energy_best"],
            "diversity": record["diversity"],
        }
        self._log(record)
        self._require_one_population(self._population.energies)

    def _candidates(self, limit: float | None, noise: float, *, repaired: bool) -> tuple[Population, Population]:
        """Parents and children, feasible under the limit, not yet scored; the parents may be so already."""
        ranks_now = self._channel_ranks()
        parents = self._population if repaired else self._evolution.repair(self._population, ranks_now, limit)
        return parents, self._evolution.repair(self._evolution.children(parents, noise), ranks_now, limit)

    def _require_one_population(self, energies: Tensor) -> None:
        """Raise EdcompressError where the ranks have come apart."""
        population = self._population
        self._ranks.require_same(
            f"the population of generation {self.generation}", population.states, population.shares, energies
        )

    def _record(self, parents: Population, energies: Tensor, won: Tensor, limit: float | None) -> Figures:
        states = self._population.states
        return {
            "generation": self.generation,
            "step": self._step,
            "budget": limit,
            "energy_best": energies.min().item(),
            "energy_mean": energies.mean().item(),
            "energy_std": energies.std().item(),
            "accepted": int(won.sum()),
            "flipped": int((states ^ parents.states).sum()),
            "diversity": edropout.diversity(states),
            "converged": edropout.converged(states),
            "share_best": self._budget.share(self._budget.widths(self.state)).item(),
        }

    def _score(self, states: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        energies = score_states(
            self._network, self._slices, states, images, labels, self._precision, self._search.energy
        )
        self._ranks.average_([energies], len(images))
        return energies

    def _known(self, limit: float | None) -> Tensor | None:
        """The parents' stored energies float32[S], if they count and the budget is still the one under which they were scored."""
        stored = self._search.parent_energies == "stored" and limit == self._in_force
        return self._population.energies if stored else None

    def _channel_ranks(self) -> Tensor:
        """Importance of the channels within their groups, float[D]; zeros where it has no say."""
        if self._evolution.by_chance:
            return torch.zeros(self._space.genes)
        return channel_ranks(self._space, magnitude(self._space, self._network))

    def _limit(self, progress: float) -> float | None:
        return self._budget.limit(progress, self._search.anneal)
