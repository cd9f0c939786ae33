"""LAMP: layer-adaptive magnitudes are compared in the whole network, so that widths differ between groups."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edcompress.pruning.search.method import OneShotMethod, SearchProblem

if TYPE_CHECKING:
    from torch import Tensor


class Lamp(OneShotMethod):
    """J. Lee et al., "Layer-adaptive Sparsity for the Magnitude-based Pruning", ICLR 2021, with channels for weights."""

    def choose_state(self, problem: SearchProblem) -> Tensor:
        """Return the state bool[D] that keeps the highest layer-adaptive scores of the whole network."""
        from edcompress.pruning.search.importance import magnitude
        from edcompress.pruning.search.one_shot import choose_global, lamp_scores

        space = problem.space
        return choose_global(problem, lamp_scores(space, magnitude(space, problem.network)))


METHOD = Lamp()
