"""The live progress display: one line per stage and epoch, and on a terminal a bar."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_FORMATS = {
    "loss": "loss {:.2f}",
    "accuracy": "acc {:.1%}",
    "score": "metric {:.4g}",
    "energy": "energy {:+.1f}",
    "diversity": "div {:.2f}",
    "steps_per_s": "{:.1f} it/s",
}


class Display:
    """A monitor (see `edcompress.core.system.monitor`) that writes to stderr, and redirects there what the user's code prints."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self._console, self._quiet = console, quiet
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._prints = redirect_stdout(sys.stderr)
        self._warned: set[str] = set()
        self._title, self._epoch, self._epochs, self._accuracy = "", 0, 0, None
        if console.is_terminal and not quiet:
            self._progress = _progress_of(console)

    def __enter__(self) -> Self:
        self._prints.__enter__()
        if self._progress:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress:
            self._progress.stop()
        self._prints.__exit__(kind, error, trace)

    def stage(self, text: str) -> None:
        """Print the stage that starts."""
        self._drop_task()
        self._say(f"[bold]•[/bold] {escape(text)}")

    def epoch(self, phase: str, epoch: int, epochs: int) -> None:
        """Start or advance the bar of a phase; it spans the phase's epochs."""
        if phase != self._title or epochs != self._epochs:
            self._drop_task()
            self._accuracy = None
        self._title, self._epoch, self._epochs = phase, epoch, epochs
        if self._progress and self._task is None:
            self._task = self._progress.add_task(phase, total=None, figures="")

    def step(self, step: int, steps: int, figures: dict[str, Any]) -> None:
        """Advance the bar by one step."""
        if self._progress and self._task is not None:
            shown = {**figures, "accuracy": self._accuracy}
            self._progress.update(
                self._task,
                completed=self._epoch * steps + step,
                total=self._epochs * steps,
                description=f"{self._title} {self._epoch + 1}/{self._epochs}",
                figures=_format(shown),
            )

    def epoch_done(self, figures: dict[str, Any]) -> None:
        """Print a line for the epoch."""
        self._accuracy = figures.get("accuracy")
        self._say(f"  {escape(self._title)} {self._epoch + 1}/{self._epochs}: {_format(figures)}")

    def warning(self, text: str) -> None:
        """Print a line, even if progress is quiet."""
        self._warn(f"  [yellow]warning:[/yellow] {escape(text)}")

    def alarm(self, text: str) -> None:
        """Print a conspicuous line, even if progress is quiet."""
        self._warn(f"  [bold red]WARNING: {escape(text)}[/bold red]")

    def _warn(self, line: str) -> None:
        """Print a line once, however often it is found out."""
        if line not in self._warned:
            self._warned.add(line)
            self._console.print(line, soft_wrap=True)

    def _say(self, text: str) -> None:
        if not self._quiet:
            self._console.print(text)

    def _drop_task(self) -> None:
        if self._progress and self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None


def _progress_of(console: Console) -> Progress:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn  # here, so that commands start fast

    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=None),
               TextColumn("{task.fields[figures]}", markup=False), TimeRemainingColumn(compact=True))  # fmt: skip
    return Progress(*columns, console=console, transient=True, refresh_per_second=4)


def _format(figures: dict[str, Any]) -> str:
    return "  ".join(form.format(figures[key]) for key, form in _FORMATS.items() if figures.get(key) is not None)
