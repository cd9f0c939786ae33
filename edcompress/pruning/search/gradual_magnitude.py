"""The control that EDropout has to beat: uniform widths by magnitude, with a budget that tightens while the network trains."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from edcompress.core.recipe.search import Search
from edcompress.core.system.distributed import ALONE, ProcessGroup
from edcompress.pruning.cost.budget import Budget
from edcompress.pruning.search.importance import magnitude
from edcompress.pruning.search.one_shot import uniform_state
from edcompress.pruning.search.regime import SearchRegime
from edcompress.pruning.space.space import PruningSpace


class GradualRegime(SearchRegime):
    """Gradual magnitude pruning as a training regime: once per generation channels are ranked anew under the budget of then.

    M. Zhu and S. Gupta, "To Prune, or Not to Prune: Exploring the Efficacy of Pruning for Model Compression", 2017, on channels.
    """

    def __init__(
        self, network: nn.Module, space: PruningSpace, budget: Budget, search: Search, ranks: ProcessGroup = ALONE
    ) -> None:
        super().__init__(network, space, search.period, ranks)
        self._budget, self._search = budget, search
        self._state = space.full_state()

    @property
    def state(self) -> Tensor:
        """The state bool[D] that is being trained."""
        return self._state

    @property
    def figures(self) -> dict[str, Any]:
        """What a person wants to see of the search while it runs."""
        return {"generation": self.generation}

    @property
    def settled(self) -> bool:
        """Never before the search epochs are over: the ranking moves with the weights."""
        return False

    def _choose(self, images: Tensor, labels: Tensor, progress: float) -> None:  # noqa: ARG002
        self._rank(progress)
        self.generation += 1

    def finish(self, images: Tensor, labels: Tensor) -> Tensor:  # noqa: ARG002
        """The state bool[D] under the final budget."""
        self._rank(1.0)
        return self.state

    def snapshot(self) -> dict[str, Any]:
        """All that `restore` needs to go on exactly here."""
        return {"states": self.state.unsqueeze(0), "step": self._step, "generation": self.generation}

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from a snapshot."""
        self._state, self._step, self.generation = saved["states"][0], saved["step"], saved["generation"]

    @torch.no_grad()
    def _rank(self, progress: float) -> None:
        self._state = self._ranks.run_on_rank0(lambda: self._ranked(self._budget.limit(progress, self._search.anneal)))

    def _ranked(self, limit: float | None) -> Tensor:
        importance = magnitude(self._space, self._network)
        return uniform_state(self._space, self._budget, importance, self._search.keep_probability, limit)
