"""Taylor: every group keeps the same share of its channels, those whose removal changes the loss most."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edcompress.pruning.search.method import OneShotMethod, SearchProblem

if TYPE_CHECKING:
    from torch import Tensor


class Taylor(OneShotMethod):
    """P. Molchanov et al., "Importance Estimation for Neural Network Pruning", 2019."""

    def choose_state(self, problem: SearchProblem) -> Tensor:
        """Return the state bool[D] of uniform widths whose channels matter most to the loss of some training batches."""
        from edcompress.pruning.search.importance import taylor_of_batches
        from edcompress.pruning.search.one_shot import choose_uniform

        return choose_uniform(problem, taylor_of_batches(problem))


METHOD = Taylor()
