"""Progress of a call from Python: one line that changes, in a notebook or a terminal, and warnings as lines of their own."""

from __future__ import annotations

import sys
import time
from typing import Any, Protocol

from edcompress.core.plain_text import harmless
from edcompress.core.system.monitor import Logged, Monitor

PAUSE = 0.25
"""Seconds between two changes of the line."""

_FORMATS = {"loss": "loss {:.3f}", "accuracy": "accuracy {:.1%}", "score": "metric {:.4g}"}


class Line(Protocol):
    """A line of text that can be replaced."""

    def show(self, text: str) -> None:
        """Replace the text."""

    def keep(self, text: str) -> None:
        """Add a line of text that stays."""


class TerminalLine:
    """The last line of stderr."""

    def __init__(self) -> None:
        self._width = 0

    def show(self, text: str) -> None:
        """Replace the text."""
        text = text[:100]
        sys.stderr.write("\r" + text.ljust(self._width))
        sys.stderr.flush()
        self._width = len(text)

    def keep(self, text: str) -> None:
        """Add a line of text that stays."""
        sys.stderr.write("\r" + text.ljust(self._width) + "\n")
        sys.stderr.flush()
        self._width = 0


class NotebookLine:
    """An output of a notebook's cell that is replaced, through IPython."""

    def __init__(self) -> None:
        from IPython.display import display

        self._handle = display({"text/plain": ""}, raw=True, display_id=True)

    def show(self, text: str) -> None:
        """Replace the text."""
        self._handle.update({"text/plain": text}, raw=True)

    def keep(self, text: str) -> None:
        """Add a line of text that stays."""
        sys.stdout.write(text + "\n")


class LiveProgress:
    """A monitor that shows the stage, the epoch and its figures on one line."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._stage, self._phase, self._shown = "", "", 0.0
        self._warned: set[str] = set()

    def stage(self, text: str) -> None:
        """Show the start of a stage."""
        self._stage = harmless(text)
        self._line.show(self._stage)

    def epoch(self, phase: str, epoch: int, epochs: int) -> None:
        """Take the start of an epoch."""
        self._phase = f"{phase} {epoch + 1}/{epochs}"

    def step(self, step: int, steps: int, figures: dict[str, Any]) -> None:
        """Show a step, at most four times a second."""
        if step == steps or time.monotonic() - self._shown > PAUSE:
            self._shown = time.monotonic()
            self._line.show(f"{self._phase}, step {step}/{steps}{_text(figures)}")

    def epoch_done(self, figures: dict[str, Any]) -> None:
        """Show the figures of an epoch."""
        self._line.show(f"{self._phase}{_text(figures)}")

    def warning(self, text: str) -> None:
        """Keep a line, once however often it is found out."""
        self._keep(f"warning: {harmless(text)}")

    def alarm(self, text: str) -> None:
        """Keep a conspicuous line."""
        self._keep(f"WARNING: {harmless(text)}")

    def _keep(self, line: str) -> None:
        if line not in self._warned:
            self._warned.add(line)
            self._line.keep(line)


class LoggedOnce(Logged):
    """Logs each warning once, however often it is found out."""

    def __init__(self) -> None:
        self._warned: set[str] = set()

    def warning(self, text: str) -> None:
        """Log the warning."""
        if text not in self._warned:
            self._warned.add(text)
            super().warning(text)


def shown_progress() -> Monitor:
    """Return a monitor for where Python runs: a notebook, a terminal, or neither, where only warnings are logged."""
    if _in_notebook():
        return LiveProgress(NotebookLine())
    return LiveProgress(TerminalLine()) if sys.stderr.isatty() else LoggedOnce()


def _in_notebook() -> bool:
    """Return whether the code runs in a kernel of Jupyter, whose cells show outputs."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and hasattr(shell, "kernel")


def _text(figures: dict[str, Any]) -> str:
    found = [form.format(figures[key]) for key, form in _FORMATS.items() if figures.get(key) is not None]
    return ", " + ", ".join(found) if found else ""
