"""What a long run tells whoever watches: a protocol, and the one that stays silent. The terminal's is in `edcompress.display`."""

from __future__ import annotations

from typing import Any, Protocol


class Monitor(Protocol):
    """Told of stages, epochs and steps; must not raise."""

    def stage(self, text: str) -> None:
        """A stage begins."""

    def epoch(self, phase: str, epoch: int, epochs: int) -> None:
        """Epoch `epoch` (from 0) of `epochs` begins."""

    def step(self, step: int, steps: int, figures: dict[str, Any]) -> None:
        """Step `step` (from 1) of `steps` of the epoch is done."""

    def epoch_done(self, figures: dict[str, Any]) -> None:
        """The epoch is done and saved."""

    def warning(self, text: str) -> None:
        """Something is wrong that a person should know of, and the run goes on."""


class Silent:
    """Says nothing."""

    def stage(self, text: str) -> None: ...
    def epoch(self, phase: str, epoch: int, epochs: int) -> None: ...
    def step(self, step: int, steps: int, figures: dict[str, Any]) -> None: ...
    def epoch_done(self, figures: dict[str, Any]) -> None: ...
    def warning(self, text: str) -> None: ...
