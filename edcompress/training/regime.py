"""How the loop calls the network: protocol, and plain."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from torch import Tensor, nn

from edcompress.training.accuracy import Forward


class Regime(Protocol):
    """How the loop reaches the network: before a step, in the forward pass, and around the optimizer."""

    @property
    def figures(self) -> dict[str, Any]: ...
    @property
    def settled(self) -> bool: ...
    def prepare(self, images: Tensor, labels: Tensor, progress: float) -> None: ...
    def forward(self, images: Tensor) -> Tensor: ...
    def guard(self) -> AbstractContextManager[None]: ...


class DenseRegime:
    """Nothing but the network itself."""

    def __init__(self, network: nn.Module) -> None:
        self.forward: Forward = network
        self.figures: dict[str, Any] = {}
        self.settled = False

    def prepare(self, images: Tensor, labels: Tensor, progress: float) -> None:
        """Nothing to do before a step."""

    def guard(self) -> AbstractContextManager[None]:
        """Nothing to do around the optimizer."""
        return nullcontext()
