"""The progress-callback protocol of a long run, and its simplest implementations.

The terminal's is in `edcompress.cli.progress_bar`, the run folder's in `edcompress.runs.progress`.
"""

from __future__ import annotations

import logging
from typing import Any, Protocol

from edcompress.core.plain_text import harmless

_LOG = logging.getLogger("edcompress")


class Monitor(Protocol):
    """Receives stages, epochs, steps and warnings; must not raise anything but the OSError of a full disk."""

    def stage(self, text: str) -> None:
        """Receive the start of a stage."""

    def epoch(self, phase: str, epoch: int, epochs: int) -> None:
        """Receive the start of epoch `epoch` (from 0) of `epochs`."""

    def step(self, step: int, steps: int, figures: dict[str, Any]) -> None:
        """Receive the end of step `step` (from 1) of `steps` of the epoch."""

    def epoch_done(self, figures: dict[str, Any]) -> None:
        """Receive the end of the epoch, which is saved."""

    def warning(self, text: str) -> None:
        """Receive a problem that the user should know of; the run continues."""

    def alarm(self, text: str) -> None:
        """Receive a warning that must not be overlooked: the results of the run may be meaningless."""


class NullMonitor:
    """Ignores everything."""

    def stage(self, text: str) -> None: ...
    def epoch(self, phase: str, epoch: int, epochs: int) -> None: ...
    def step(self, step: int, steps: int, figures: dict[str, Any]) -> None: ...
    def epoch_done(self, figures: dict[str, Any]) -> None: ...
    def warning(self, text: str) -> None: ...

    def alarm(self, text: str) -> None:
        """Pass it on as a warning, for subclasses that show those."""
        self.warning(text)


class Logged(NullMonitor):
    """Sends warnings to the logger "edcompress", which shows them on stderr unless a program configures logging."""

    def warning(self, text: str) -> None:
        """Log the warning."""
        _LOG.warning(harmless(text))


class MonitorPair:
    """Two monitors, called one after the other."""

    def __init__(self, first: Monitor, second: Monitor) -> None:
        self._monitors = (first, second)

    def stage(self, text: str) -> None:
        """Receive the start of a stage."""
        for monitor in self._monitors:
            monitor.stage(text)

    def epoch(self, phase: str, epoch: int, epochs: int) -> None:
        """Receive the start of an epoch."""
        for monitor in self._monitors:
            monitor.epoch(phase, epoch, epochs)

    def step(self, step: int, steps: int, figures: dict[str, Any]) -> None:
        """Receive the end of a step."""
        for monitor in self._monitors:
            monitor.step(step, steps, figures)

    def epoch_done(self, figures: dict[str, Any]) -> None:
        """Receive the end of an epoch."""
        for monitor in self._monitors:
            monitor.epoch_done(figures)

    def warning(self, text: str) -> None:
        """Receive a problem; the run continues."""
        for monitor in self._monitors:
            monitor.warning(text)

    def alarm(self, text: str) -> None:
        """Receive a warning that must not be overlooked."""
        for monitor in self._monitors:
            monitor.alarm(text)
