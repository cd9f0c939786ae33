"""Tracker: TensorBoard event files in the run folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from edcompress.runs.folder import RunFolder
from edcompress.runs.tracking import Tracker

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

PACKAGE = "tensorboard"


class TensorBoard:
    """Writes the figures of each epoch to event files."""

    def __init__(self, writer: SummaryWriter) -> None:
        self._writer = writer

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Write and flush the figures of one epoch."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()


@contextmanager
def open_tracker(folder: Path, _: Mapping[str, object]) -> Iterator[Tracker]:
    """Yield a tracker that writes to the run's `tensorboard` folder."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(RunFolder(folder).tensorboard))
    try:
        yield TensorBoard(writer)
    finally:
        writer.close()
