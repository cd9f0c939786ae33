"""Gradual magnitude: the channels of the smallest weights go, a few more each time, while the network trains."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edcompress.pruning.search.method import SearchProblem, TrainingMethod

if TYPE_CHECKING:
    from edcompress.pruning.search.regime import SearchRegime


class GradualMagnitude(TrainingMethod):
    """M. Zhu and S. Gupta, "To Prune, or Not to Prune", 2017, applied to channels; every group keeps the same share."""

    def make_regime(self, problem: SearchProblem) -> SearchRegime:
        """Return the regime that ranks the channels again in every generation."""
        from edcompress.pruning.search.gradual_magnitude import GradualMagnitudeRegime

        return GradualMagnitudeRegime(problem)


METHOD = GradualMagnitude()
