"""How the training loop calls the network: the protocol, and the regime that trains all of it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from torch import Tensor, nn

from edcompress.training.accuracy import Forward


class Regime(Protocol):
    """How the loop reaches the network: before a step, in the forward pass, and around the optimizer."""

    @property
    def figures(self) -> dict[str, Any]:
        """Figures to show beside the loss."""

    @property
    def settled(self) -> bool:
        """Whether more training under this regime would change nothing."""

    def prepare(self, images: Tensor, labels: Tensor, progress: float) -> None:
        """Prepare a step on images [N, C, H, W] and labels [N]; `progress` in [0, 1) is the share of the phase that is done."""

    def forward(self, images: Tensor) -> Any:
        """Return what the network returns for images [N, C, H, W]."""

    def guard(self) -> AbstractContextManager[None]:
        """Return the context in which the optimizer makes its step."""

    def snapshot(self) -> dict[str, Any]:
        """Return what `restore` needs to continue exactly here; {} for a regime without a state."""

    def restore(self, saved: dict[str, Any]) -> None:
        """Continue from a snapshot."""


class DenseRegime:
    """The network itself, all of which is trained."""

    def __init__(self, network: nn.Module) -> None:
        self.forward: Forward = network
        self.figures: dict[str, Any] = {}
        self.settled = False

    def prepare(self, images: Tensor, labels: Tensor, progress: float) -> None:
        """Do nothing before a step."""

    def guard(self) -> AbstractContextManager[None]:
        """Return a context that does nothing."""
        return nullcontext()

    def snapshot(self) -> dict[str, Any]:
        """Return no state."""
        return {}

    def restore(self, saved: dict[str, Any]) -> None:
        """Restore nothing."""
