"""What a long run tells whoever watches: a protocol, the one that stays silent, the one of programs, and two as one.

The terminal's is in `edcompress.display`, the run folder's in `edcompress.progress`."""

from __future__ import annotations

import logging
from typing import Any, Protocol

from edcompress.core.plain_text import harmless

_LOG = logging.getLogger("edcompress")


class Monitor(Protocol):
    """Told of stages, epochs and steps; must not raise, but for the OSError of a disk that is full."""

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

    def alarm(self, text: str) -> None:
        """What the run finds out may say nothing, though it goes on: a warning that must not be overlooked."""


class NullMonitor:
    """Says nothing."""

    def stage(self, text: str) -> None: ...
    def epoch(self, phase: str, epoch: int, epochs: int) -> None: ...
    def step(self, step: int, steps: int, figures: dict[str, Any]) -> None: ...
    def epoch_done(self, figures: dict[str, Any]) -> None: ...
    def warning(self, text: str) -> None: ...

    def alarm(self, text: str) -> None:
        """A warning like any other, for whoever listens to those."""
        self.warning(text)


class Logged(NullMonitor):
    """Sends warnings to the logger "edcompress" of Python's logging, which shows them on stderr where a program sets up nothing else."""

    def warning(self, text: str) -> None:
        """Log it."""
        _LOG.warning(harmless(text))


class MonitorPair:
    """Two monitors, told one after the other."""

    def __init__(self, first: Monitor, second: Monitor) -> None:
        self._monitors = (first, second)

    def stage(self, text: str) -> None:
        """A stage begins."""
        for monitor in self._monitors:
            monitor.stage(text)

    def epoch(self, phase: str, epoch: int, epochs: int) -> None:
        """An epoch begins."""
        for monitor in self._monitors:
            monitor.epoch(phase, epoch, epochs)

    def step(self, step: int, steps: int, figures: dict[str, Any]) -> None:
        """A step is done."""
        for monitor in self._monitors:
            monitor.step(step, steps, figures)

    def epoch_done(self, figures: dict[str, Any]) -> None:
        """An epoch is done."""
        for monitor in self._monitors:
            monitor.epoch_done(figures)

    def warning(self, text: str) -> None:
        """Something is wrong that does not end the run."""
        for monitor in self._monitors:
            monitor.warning(text)

    def alarm(self, text: str) -> None:
        """A warning that must not be overlooked."""
        for monitor in self._monitors:
            monitor.alarm(text)
