"""Trackers that take the figures of each epoch besides epochs.jsonl: `--log NAME`, each in a file of `trackers/`.

A tracker's file defines PACKAGE, the package it needs, which is also the extra of edcompress that installs it, and
`open_tracker(folder, settings)`, a context manager of a `Tracker`, for the path of the run folder and the recipe as plain values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from edcompress.core.errors import InputError
from edcompress.core.plain_text import did_you_mean
from edcompress.core.registry import load, names_in

TRACKERS = "runs.trackers"


class Tracker(Protocol):
    """Takes figures; `step` counts the epochs of search and fine-tuning together, from 0."""

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Keep figures by name, such as "search/loss"."""


def require_trackers(names: Sequence[str]) -> None:
    """Check that trackers exist and that their packages are installed.

    Raises:
        InputError: There is no tracker of a name, or its package is missing; the message says how to install it.
    """
    known = names_in(TRACKERS)
    for name in names:
        if name not in known:
            raise InputError(f"--log {name}: choose {' or '.join(known)}{did_you_mean(name, known)}")
        if find_spec(load(TRACKERS, name).PACKAGE) is None:
            raise InputError(f"--log {name} needs a package; install it with: pip install 'edcompress[{name}]'")


@contextmanager
def open_trackers(names: Sequence[str], folder: Path, settings: Mapping[str, object]) -> Iterator[list[Tracker]]:
    """Yield the trackers of the run in `folder`; they are closed at the end of the block, and see whether it failed."""
    with ExitStack() as stack:
        yield [stack.enter_context(load(TRACKERS, name).open_tracker(folder, settings)) for name in names]
