"""Global Taylor: the channels that matter most for what they cost are kept, so that widths differ between groups."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edcompress.pruning.search.method import OneShotMethod, SearchProblem

if TYPE_CHECKING:
    from torch import Tensor


class GlobalTaylor(OneShotMethod):
    """Taylor importance (see `taylor`) over the cost of the channel in the kind of the target."""

    def choose_state(self, problem: SearchProblem) -> Tensor:
        """Return the state bool[D] that keeps the highest importance per cost in the whole network."""
        from edcompress.pruning.search.importance import taylor_of_batches
        from edcompress.pruning.search.one_shot import choose_global, relative_to_cost

        return choose_global(problem, relative_to_cost(problem.space, problem.feasible, taylor_of_batches(problem)))


METHOD = GlobalTaylor()
