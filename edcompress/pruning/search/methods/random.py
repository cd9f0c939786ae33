"""Random: every group keeps the same share of its channels, drawn at random."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edcompress.pruning.search.method import OneShotMethod, SearchProblem

if TYPE_CHECKING:
    from torch import Tensor


class Random(OneShotMethod):
    """The control that shows what a ranking of channels is worth."""

    def choose_state(self, problem: SearchProblem) -> Tensor:
        """Return the state bool[D] of uniform widths whose channels are drawn with the seed of the recipe."""
        from torch import Generator

        from edcompress.pruning.search.importance import uniform_noise
        from edcompress.pruning.search.one_shot import choose_uniform

        return choose_uniform(problem, uniform_noise(problem.space, Generator().manual_seed(problem.seed)))


METHOD = Random()
