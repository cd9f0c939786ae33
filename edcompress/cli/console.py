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
    """A console that falls silent when its reader is gone, as behind `| head`, so that a run continues and a gate keeps its exit code.

    What it prints contains no control characters but its own, and no commands to CI servers: names come from other people's files.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, emoji=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Return the segments to print, with their text made harmless."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(harmless(segment.text), segment.style)

    def on_broken_pipe(self) -> None:
        """Discard all further output."""
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.file.fileno())
        os.close(nowhere)


out = Terminal()
err = Terminal(stderr=True)


@contextmanager
def harmless_warnings() -> Iterator[None]:
    """Show the Python warnings of a block as `Terminal` would, because they name files."""
    before = warnings.formatwarning

    def formatted(*arguments: Any, **options: Any) -> str:
        return harmless(before(*arguments, **options))

    warnings.formatwarning = formatted
    try:
        yield
    finally:
        warnings.formatwarning = before


def say(text: str, console: Console = out) -> None:
    """Print a line as it is: paths and names may contain brackets, and are not wrapped."""
    console.print(text, markup=False, soft_wrap=True)


def say_loudly(text: str) -> None:
    """Print a conspicuous warning, as it is."""
    out.print(f"WARNING: {text}", style="bold red", markup=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """Print a value of plain types on stdout; NaN and infinity, which JSON lacks, become null."""
    try:
        sys.stdout.write(json.dumps(finite(value), indent=1, allow_nan=False) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        out.on_broken_pipe()
