"""The training regime of a search: the network runs as one of its states while its dense weights stay."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor

from edcompress.pruning.search.method import Figures, SearchProblem
from edcompress.pruning.surgery.sliced_forward import SlicedNetwork

SavedRegime = dict[str, Any]
"""A regime as plain values and tensors, for a checkpoint."""


class SearchRegime(ABC):
    """A training regime (see `edcompress.training.regime.Regime`) that chooses a state bool[D] every few steps and trains it."""

    def __init__(self, problem: SearchProblem) -> None:
        self._network, self._space, self._feasible = problem.network, problem.space, problem.feasible
        self._search, self._ranks = problem.search, problem.ranks
        self._sliced = SlicedNetwork(problem.space, problem.network)
        self._step = self.generation = 0
        self.tightening: int | None = 0
        """Generations before the budget reached the target; None in a run that an earlier version began."""

    @property
    @abstractmethod
    def state(self) -> Tensor:
        """The state bool[D] that is being trained."""

    @property
    @abstractmethod
    def figures(self) -> Figures:
        """Figures of the search that progress displays show."""

    @property
    @abstractmethod
    def settled(self) -> bool:
        """Whether more epochs of search would change nothing."""

    @abstractmethod
    def finish(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the state bool[D] found, feasible under the final budget, given held-out images [N, C, H, W] and labels int64[N]."""

    @abstractmethod
    def snapshot(self) -> SavedRegime:
        """Return all that `restore` needs to continue exactly here."""

    @abstractmethod
    def restore(self, saved: SavedRegime) -> None:
        """Continue from a snapshot."""

    @abstractmethod
    def _choose(self, images: Tensor, labels: Tensor, progress: float) -> None:
        """Choose the next state, given a batch of training images."""

    def prepare(self, images: Tensor, labels: Tensor, progress: float) -> None:
        """Choose the next state where it is due.

        Args:
            images: the batch [N, C, H, W] that is trained on next.
            labels: their classes, int64[N].
            progress: share of the search that is done, in [0, 1).
        """
        if self._step % self._search.period == 0:
            if self.tightening is not None and self._budget_at(progress) != self._feasible.final_budget:
                self.tightening += 1
            self._choose(images, labels, progress)
        self._step += 1

    def forward(self, images: Tensor) -> Any:
        """Return what the network returns for images [N, C, H, W] under the state."""
        return self._sliced.call(self.state, images)

    def guard(self) -> AbstractContextManager[None]:
        """Return the context of an optimizer step: dropped weights keep their values and may return."""
        return self._sliced.frozen(self.state)

    def _budget_at(self, progress: float) -> float | None:
        return self._feasible.budget(progress, self._search.annealing)
