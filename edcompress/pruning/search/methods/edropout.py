"""EDropout: a population of pruning states evolves while the network trains as the best of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edcompress.pruning.search.method import SearchProblem, TrainingMethod

if TYPE_CHECKING:
    from edcompress.pruning.search.regime import SearchRegime


class EDropout(TrainingMethod):
    """H. Salehinejad and S. Valaee, 2022, arXiv:2006.04270; its keys are those of `search`."""

    def make_regime(self, problem: SearchProblem) -> SearchRegime:
        """Return the regime in which evolution and training alternate."""
        from edcompress.pruning.search.edropout_regime import EDropoutRegime

        return EDropoutRegime(problem)


METHOD = EDropout()
