"""Write to stdout and stderr: text that is safe to show, and JSON."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from edcompress.core.plain_text import harmless
from edcompress.runs.progress import finite


class Terminal(Console):
    """A console that falls silent where nobody reads it any more, as behind `| head`: a run goes on, and a gate keeps its exit code.

    What it prints holds no control characters but its own, and no commands to CI servers: names come from files of others.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, emoji=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments of what is printed, their text made harmless."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(harmless(segment.text), segment.style)

    def on_broken_pipe(self) -> None:
        """Send what is still to come nowhere."""
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.file.fileno())
        os.close(nowhere)


out = Terminal()
err = Terminal(stderr=True)


@contextmanager
def harmless_warnings() -> Iterator[None]:
    """A block whose Python warnings, which name files, are shown as `Terminal` would show them."""
    before = warnings.formatwarning

    def formatted(*arguments: Any, **options: Any) -> str:
        return harmless(before(*arguments, **options))

    warnings.formatwarning = formatted
    try:
        yield
    finally:
        warnings.formatwarning = before


def say(text: str, console: Console = out) -> None:
    """One line as it is: paths and names may hold brackets, and are never wrapped."""
    console.print(text, markup=False, soft_wrap=True)


def cry(text: str) -> None:
    """A warning that cannot be overlooked, as it is."""
    out.print(f"WARNING: {text}", style="bold red", markup=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """A value of plain types, alone on stdout: JSON has no NaN and no infinity, which become null."""
    try:
        sys.stdout.write(json.dumps(finite(value), indent=1, allow_nan=False) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        out.on_broken_pipe()
