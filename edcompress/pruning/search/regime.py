"""Training while searching: the network runs as one of its states while its dense weights stay."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor, nn

from edcompress.core.system.distributed import ALONE, ProcessGroup
from edcompress.pruning.space.space import PruningSpace
from edcompress.pruning.surgery.sliced_forward import Slices


class SearchRegime(ABC):
    """A training regime (see `edcompress.training.loop.Regime`) that chooses a state bool[D] every few steps and trains it."""

    def __init__(self, network: nn.Module, space: PruningSpace, every: int, ranks: ProcessGroup = ALONE) -> None:
        self._network, self._space, self._every, self._ranks = network, space, every, ranks
        self._slices = Slices(space, network)
        self._step = self.generation = 0

    @property
    @abstractmethod
    def state(self) -> Tensor:
        """The state bool[D] that is being trained."""

    @property
    @abstractmethod
    def figures(self) -> dict[str, Any]:
        """What a person wants to see of the search while it runs."""

    @property
    @abstractmethod
    def settled(self) -> bool:
        """Whether going on would change nothing any more."""

    @abstractmethod
    def finish(self, images: Tensor, labels: Tensor) -> Tensor:
        """The state bool[D] found, feasible under the final budget; images [N, C, H, W] are held out."""

    @abstractmethod
    def snapshot(self) -> dict[str, Any]:
        """All that `restore` needs to go on exactly here."""

    @abstractmethod
    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from a snapshot."""

    @abstractmethod
    def _choose(self, images: Tensor, labels: Tensor, progress: float) -> None:
        """A new state, given a batch of training images."""

    def prepare(self, images: Tensor, labels: Tensor, progress: float) -> None:
        """Choose anew if it is due; `progress` in [0, 1) is the share of the search that is done."""
        if self._step % self._every == 0:
            self._choose(images, labels, progress)
        self._step += 1

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the network under the state."""
        return self._slices.call(self.state, images)

    def guard(self) -> AbstractContextManager[None]:
        """Around the optimizer's step: dropped weights keep their values and may return."""
        return self._slices.frozen(self.state)
