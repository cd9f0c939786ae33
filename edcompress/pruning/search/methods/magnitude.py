"""Magnitude: every group keeps the same share of its channels, those of the largest weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edcompress.pruning.search.method import OneShotMethod, SearchProblem

if TYPE_CHECKING:
    from torch import Tensor


class Magnitude(OneShotMethod):
    """The squared norm of all weights that a channel takes part in: G. Fang et al., "DepGraph", 2023."""

    def choose_state(self, problem: SearchProblem) -> Tensor:
        """Return the state bool[D] of uniform widths whose channels have the largest weights."""
        from edcompress.pruning.search.importance import magnitude
        from edcompress.pruning.search.one_shot import choose_uniform

        return choose_uniform(problem, magnitude(problem.space, problem.network))


METHOD = Magnitude()
