"""Where an epoch stands: ScheduleSpan and EpochPosition."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class ScheduleSpan:
    """Where an epoch stands: `epoch` of this phase's `epochs`, in a schedule of `total` that started `offset` epochs before."""

    epoch: int
    epochs: int
    offset: int
    total: int

    def phase_progress(self, step: int, steps: int) -> float:
        """Share of this phase that is done, in [0, 1)."""
        return (self.epoch + step / steps) / self.epochs

    def schedule_progress(self, step: int, steps: int) -> float:
        """Share of the whole schedule that is done, in [0, 1)."""
        return (self.offset + self.epoch + step / steps) / self.total


@dataclass(frozen=True, eq=False)
class EpochPosition:
    """Where an epoch stands between two steps: the number of its last batch, the tally of its steps, the states of torch's generators
    (none: seeded anew), and how many batches made no step.

    The `tally` float64[4] is on the training device: the last loss (NaN: skipped), the sum of losses, how many steps were skipped, and
    how many of those in a row up to here. Reading it waits for the device.
    """

    steps: int = 0
    tally: Tensor = field(default_factory=lambda: torch.zeros(4, dtype=torch.float64))
    generators: tuple[Tensor, ...] = ()
    left_out: int = 0

    def after(self, number: int, loss: Tensor, generators: tuple[Tensor, ...]) -> EpochPosition:
        """The place after the step on batch `number`; one whose `loss`, a scalar, is NaN was skipped."""
        _, total, skipped, in_a_row = self.tally.unbind()
        loss, lost = loss.double(), loss.isnan()
        tally = torch.stack([loss, total + loss.masked_fill(lost, 0.0), skipped + lost, (in_a_row + 1) * lost])
        return EpochPosition(number, tally, generators, self.left_out + number - self.steps - 1)

    def next_epoch(self) -> EpochPosition:
        """Where the epoch after the one that ended here begins: it goes on with the count of steps that were skipped in a row."""
        tally = torch.zeros_like(self.tally)
        tally[3] = self.tally[3]
        return EpochPosition(tally=tally)

    @property
    def loss(self) -> float:
        """Sum over the steps that were not skipped."""
        return self.tally[1].item()

    @property
    def skipped(self) -> int:
        """Steps without a finite loss or gradient."""
        return int(self.tally[2])

    @property
    def in_a_row(self) -> int:
        """Those of them that were the last ones."""
        return int(self.tally[3])

    @property
    def mean_loss(self) -> float:
        """Over the steps that were not skipped; NaN where there is none."""
        counted = self.steps - self.skipped - self.left_out
        return self.loss / counted if counted else math.nan
