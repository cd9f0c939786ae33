"""Gradual magnitude pruning: uniform widths by magnitude under a budget that tightens while the network trains.

It is the control that EDropout has to beat.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edcompress.pruning.search.importance import magnitude
from edcompress.pruning.search.method import Figures, SearchProblem
from edcompress.pruning.search.one_shot import uniform_state
from edcompress.pruning.search.regime import SavedRegime, SearchRegime


class GradualMagnitudeRegime(SearchRegime):
    """Gradual magnitude pruning as a training regime: every generation ranks the channels again, under the budget in force.

    M. Zhu and S. Gupta, "To Prune, or Not to Prune: Exploring the Efficacy of Pruning for Model Compression", 2017, on channels.
    """

    def __init__(self, problem: SearchProblem) -> None:
        super().__init__(problem)
        self._state = problem.space.full_state()

    @property
    def state(self) -> Tensor:
        """The state bool[D] that is being trained."""
        return self._state

    @property
    def figures(self) -> Figures:
        """Figures of the search that progress displays show."""
        return {"generation": self.generation}

    @property
    def settled(self) -> bool:
        """False until the search epochs are over: the ranking moves with the weights."""
        return False

    def finish(self, images: Tensor, labels: Tensor) -> Tensor:  # noqa: ARG002
        """Return the state bool[D] under the final budget."""
        self._rank(self._feasible.final_budget)
        return self.state

    def snapshot(self) -> SavedRegime:
        """Return all that `restore` needs to continue exactly here."""
        return {
            "states": self.state.unsqueeze(0),
            "step": self._step,
            "generation": self.generation,
            "tightening": self.tightening,
        }

    def restore(self, saved: SavedRegime) -> None:
        """Continue from a snapshot."""
        self._state, self._step, self.generation = saved["states"][0], saved["step"], saved["generation"]
        self.tightening = saved.get("tightening")

    def _choose(self, images: Tensor, labels: Tensor, progress: float) -> None:  # noqa: ARG002
        self._rank(self._budget_at(progress))
        self.generation += 1

    @torch.no_grad()
    def _rank(self, budget: float | None) -> None:
        self._state = self._ranks.run_on_rank0(lambda: self._ranked(budget))

    def _ranked(self, budget: float | None) -> Tensor:
        importance = magnitude(self._space, self._network)
        return uniform_state(self._space, self._feasible, importance, self._search.keep_probability, budget)
