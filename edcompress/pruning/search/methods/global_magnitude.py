"""Global magnitude: the channels of the largest weights in the whole network are kept, so that widths differ between groups."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edcompress.pruning.search.method import OneShotMethod, SearchProblem

if TYPE_CHECKING:
    from torch import Tensor


class GlobalMagnitude(OneShotMethod):
    """Magnitudes are divided by the mean of their group, so that groups of different scale can be compared."""

    def choose_state(self, problem: SearchProblem) -> Tensor:
        """Return the state bool[D] that keeps the largest weights of the whole network."""
        from edcompress.pruning.search.importance import magnitude
        from edcompress.pruning.search.one_shot import choose_global, relative_to_group

        space = problem.space
        return choose_global(problem, relative_to_group(space, magnitude(space, problem.network)))


METHOD = GlobalMagnitude()
