"""EDropout as a training regime: evolution of states alternates with training of the weights that the best state keeps."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Generator, Tensor

from edcompress.pruning.search import edropout
from edcompress.pruning.search.evolution import Evolution, Population
from edcompress.pruning.search.importance import channel_ranks, magnitude
from edcompress.pruning.search.method import Figures, SearchProblem
from edcompress.pruning.search.regime import SavedRegime, SearchRegime
from edcompress.pruning.search.scoring import energy_of, score_states


class EDropoutRegime(SearchRegime):
    """A population of states evolves, and the network is trained as the best of them.

    The first rank evolves; all ranks score the same states on their own images, and the mean of the energies decides.
    """

    def __init__(self, problem: SearchProblem) -> None:
        super().__init__(problem)
        self._precision, self._log = problem.precision, problem.log
        self._energy = energy_of(problem.search.energy, problem.criterion)
        self._generator = Generator().manual_seed(problem.seed)
        self._evolution = Evolution(problem.search, problem.feasible, self._generator)
        self._budget = self._budget_at(0.0)
        self._population = self._ranks.run_on_rank0(
            lambda: self._evolution.start(self._channel_ranks(), len(self._space.free), self._budget)
        )
        self._best = 0
        self._figures: Figures = {}

    @property
    def state(self) -> Tensor:
        """The state bool[D] that is being trained."""
        return self._population.states[self._best]

    @property
    def figures(self) -> Figures:
        """Figures of the search that progress displays show."""
        return self._figures

    @property
    def settled(self) -> bool:
        """Whether the population has collapsed to one state under the final budget."""
        at_target = self._budget == self._feasible.final_budget
        return self.generation > 0 and at_target and edropout.converged(self._population.states)

    def finish(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the state bool[D] of lowest energy on held-out images [N, C, H, W], feasible under the final budget."""
        feasible = self._ranks.run_on_rank0(
            lambda: self._evolution.repair(self._population, self._channel_ranks(), self._feasible.final_budget)
        )
        energies = self._score(feasible.states, images, labels)
        self._population, self._best = replace(feasible, energies=energies), int(energies.argmin())
        return self.state

    def snapshot(self) -> SavedRegime:
        """Return all that `restore` needs to continue exactly here."""
        return {
            "states": self._population.states,
            "shares": self._population.shares,
            "energies": self._population.energies,
            "best": self._best,
            "budget": self._budget,
            "step": self._step,
            "generation": self.generation,
            "tightening": self.tightening,
            "generator": self._generator.get_state(),
            "figures": self._figures,
        }

    def restore(self, saved: SavedRegime) -> None:
        """Continue from a snapshot."""
        self._population = Population(saved["states"], saved["shares"], saved["energies"])
        self._best = saved["best"]
        self._budget = saved.get("budget", saved.get("in_force"))  # the key of older snapshots
        self._step, self.generation = saved["step"], saved["generation"]
        self.tightening = saved.get("tightening")
        self._generator.set_state(saved["generator"])
        self._figures = saved["figures"]

    def _choose(self, images: Tensor, labels: Tensor, progress: float) -> None:
        part = slice(self._count_scored(len(images)))
        noise = self._search.width_noise * self._feasible.remaining_anneal(progress, self._search.annealing)
        self._evolve(images[part], labels[part], self._budget_at(progress), noise)

    def _count_scored(self, images: int) -> int:
        """Return how many of this rank's `images` score states: those of them among the first of the whole batch."""
        rank, size = self._ranks.rank, self._ranks.size
        (whole,) = self._ranks.sum(images)
        return len(range(rank, max(2 * size, self._search.scored(whole)), size))  # batch norm needs two

    def _evolve(self, images: Tensor, labels: Tensor, budget: float | None, noise: float) -> None:
        """Run one generation: make parents and children feasible, and score them on the same batch with the same weights.

        With stored parent energies (as published) only children are scored, once the parents have been under this budget.
        """
        known = self._known_energies(budget)
        parents, children = self._ranks.run_on_rank0(
            lambda: self._candidates(budget, noise, repaired=known is not None)
        )
        if known is None:
            energies = self._score(torch.cat([parents.states, children.states]), images, labels)
        else:
            energies = torch.cat([known, self._score(children.states, images, labels)])
        self._population, won = self._evolution.select(parents, children, energies)
        assert self._population.energies is not None
        self._budget, self._best = budget, int(self._population.energies.argmin())
        self.generation += 1
        self._report(parents, self._population.energies, won)
        self._require_one_population(self._population.energies)

    def _candidates(self, budget: float | None, noise: float, *, repaired: bool) -> tuple[Population, Population]:
        """Return parents and children, feasible under the budget, not yet scored; the parents may be `repaired` already."""
        ranks_now = self._channel_ranks()
        parents = self._population if repaired else self._evolution.repair(self._population, ranks_now, budget)
        return parents, self._evolution.repair(self._evolution.children(parents, noise), ranks_now, budget)

    def _require_one_population(self, energies: Tensor) -> None:
        """Raise EdcompressError where the ranks hold different populations."""
        population = self._population
        self._ranks.require_same(
            f"the population of generation {self.generation}", population.states, population.shares, energies
        )

    def _report(self, parents: Population, energies: Tensor, won: Tensor) -> None:
        """Log the generation, and keep of it what progress displays show."""
        record = self._record(parents, energies, won)
        self._figures = {
            "generation": self.generation,
            "energy": record["energy_best"],
            "diversity": record["diversity"],
        }
        self._log(record)

    def _record(self, parents: Population, energies: Tensor, won: Tensor) -> Figures:
        states = self._population.states
        return {
            "generation": self.generation,
            "step": self._step,
            "budget": self._budget,
            "energy_best": energies.min().item(),
            "energy_mean": energies.mean().item(),
            "energy_std": energies.std().item(),
            "accepted": int(won.sum()),
            "flipped": int((states ^ parents.states).sum()),
            "diversity": edropout.diversity(states),
            "converged": edropout.converged(states),
            "share_best": self._feasible.share(self._feasible.widths(self.state)).item(),
        }

    def _score(self, states: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        """Return the energies float32[S] of states bool[S, D], averaged over the ranks."""
        energies = score_states(self._sliced, states, images, labels, self._precision, self._energy)
        self._ranks.average_([energies], len(images))
        return energies

    def _known_energies(self, budget: float | None) -> Tensor | None:
        """Return the parents' stored energies float32[S], where they count and were scored under the same budget; else None."""
        stored = self._search.parent_energies == "stored" and budget == self._budget
        return self._population.energies if stored else None

    def _channel_ranks(self) -> Tensor:
        """Return the importance of the channels within their groups now, float[D]; zeros where channels are chosen at random."""
        if self._evolution.by_chance:
            return torch.zeros(self._space.genes)
        return channel_ranks(self._space, magnitude(self._space, self._network))
