"""Training under a state: the network runs as one of its states while its dense weights stay."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from edcompress.surgery.slices import Slices
from edcompress.surgery.space import Space


class MaskedTraining:
    """The part of a regime (see `edcompress.training.loop.Regime`) that trains a network as the state bool[D] says."""

    def __init__(self, network: nn.Module, space: Space) -> None:
        self._network, self._space = network, space
        self._slices = Slices(space, network)
        self._state = space.everything()

    @property
    def state(self) -> Tensor:
        """The state bool[D] that is being trained."""
        return self._state

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the network under the state."""
        return self._slices.call(self.state, images)

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Around the optimizer's step: dropped weights keep their values and may return."""
        with self._slices.frozen(self.state):
            yield
