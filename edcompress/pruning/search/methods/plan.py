"""Plan: the channels of a given plan.json are kept; nothing is ranked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edcompress.core.errors import BudgetError
from edcompress.pruning.search.method import OneShotMethod, SearchProblem

if TYPE_CHECKING:
    from torch import Tensor


class GivenPlan(OneShotMethod):
    """The plan of an earlier run of the same network, from the file `search.plan`."""

    takes_plan = True

    def check(self, problem: SearchProblem) -> None:
        """Raise an EdcompressError where the plan is missing, damaged, of another network or above the target."""
        self.choose_state(problem)

    def choose_state(self, problem: SearchProblem) -> Tensor:
        """Return the state bool[D] of the plan."""
        from edcompress.pruning.space.plan import Plan, state_of
        from edcompress.runs.reading import parse_file

        path, feasible, target = problem.search.plan, problem.feasible, problem.feasible.target
        assert path is not None  # a recipe has both the method and the file, or neither
        plan = parse_file(path, Plan.model_validate_json, "set search.plan to the plan.json of a finished run")
        state = state_of(plan, problem.space)
        if target and (share := feasible.share(feasible.widths(state)).item()) > target.fraction:
            raise BudgetError(
                f"search.plan {path} keeps {share:.4f} of the {target.kind}, more than "
                f"target.{target.kind} = {target.fraction:g}; raise the target, or set target to null"
            )
        return state


METHOD = GivenPlan()
