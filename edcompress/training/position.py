"""Where training stands: the span of an epoch in its schedule, the position within an epoch, and the tally of its steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor

from edcompress.core.system.device_transfer import to_device


@dataclass(frozen=True)
class ScheduleSpan:
    """Epoch number `epoch` of the `epochs` of a phase, in a schedule of `total` epochs that started `offset` epochs before the phase.

    With `restart` the phase has a schedule of its own.
    """

    epoch: int
    epochs: int
    offset: int
    total: int
    restart: bool = False

    def phase_progress(self, step: int, steps: int) -> float:
        """Return the share of the phase that is done, in [0, 1), before step `step` of `steps`."""
        return (self.epoch + step / steps) / self.epochs

    def schedule_progress(self, step: int, steps: int) -> float:
        """Return the share of the whole schedule that is done, in [0, 1), before step `step` of `steps`."""
        if self.restart:
            return self.phase_progress(step, steps)
        return (self.offset + self.epoch + step / steps) / self.total


class TallyFigures(NamedTuple):
    """A tally as numbers on the CPU."""

    last_loss: float
    loss_sum: float
    skipped: float
    skipped_in_a_row: float


def _zero() -> Tensor:
    return torch.zeros((), dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class Tally:
    """Sums over the steps of an epoch: four float64 scalars on the training device. Reading one waits for the device.

    `last_loss` is NaN where the last step was skipped; `loss_sum` is over the steps that were not; `skipped_in_a_row` counts the skipped
    steps since the last one that was not.
    """

    last_loss: Tensor = field(default_factory=_zero)
    loss_sum: Tensor = field(default_factory=_zero)
    skipped: Tensor = field(default_factory=_zero)
    skipped_in_a_row: Tensor = field(default_factory=_zero)

    @classmethod
    def from_packed(cls, values: Tensor) -> Tally:
        """Return the tally whose `packed` form is `values`, float64[4]."""
        return cls(*values.unbind())

    def packed(self) -> Tensor:
        """Return the four values as one tensor float64[4], in the order of the fields."""
        return torch.stack([getattr(self, each.name) for each in fields(self)])

    def to(self, device: torch.device) -> Tally:
        """Return the same tally on a device."""
        return Tally.from_packed(to_device(self.packed(), device))

    def after(self, loss: Tensor) -> Tally:
        """Return the tally after one more step; a step whose `loss`, a scalar, is NaN was skipped."""
        loss, lost = loss.double(), loss.isnan()
        return Tally(
            last_loss=loss,
            loss_sum=self.loss_sum + loss.masked_fill(lost, 0.0),
            skipped=self.skipped + lost,
            skipped_in_a_row=(self.skipped_in_a_row + 1) * lost,
        )

    def for_next_epoch(self) -> Tally:
        """Return the tally with which the next epoch begins: it keeps the count of steps skipped in a row."""
        zero = torch.zeros_like(self.loss_sum)
        return Tally(zero, zero, zero, self.skipped_in_a_row)


@dataclass(frozen=True, eq=False)
class EpochPosition:
    """A position between two steps of an epoch: the number of the last batch, the tally, and the states of torch's generators.

    Without `generators` they are seeded. `left_out` counts the batches that made no step, since they could not be read.
    """

    steps: int = 0
    tally: Tally = field(default_factory=Tally)
    generators: tuple[Tensor, ...] = ()
    left_out: int = 0

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any]) -> EpochPosition:
        """Return the position that `to_tree` gave."""
        return cls(
            steps=tree["steps"],
            tally=Tally.from_packed(tree["tally"]),
            generators=tuple(tree["generators"]),
            left_out=tree.get("left_out", 0),
        )

    def to_tree(self) -> dict[str, Any]:
        """Return the position as tensors and plain values, for a checkpoint."""
        return {
            "steps": self.steps,
            "tally": self.tally.packed(),
            "generators": list(self.generators),
            "left_out": self.left_out,
        }

    def to(self, device: torch.device) -> EpochPosition:
        """Return the same position with its tally on a device."""
        return EpochPosition(self.steps, self.tally.to(device), self.generators, self.left_out)

    def after(self, number: int, loss: Tensor, generators: tuple[Tensor, ...]) -> EpochPosition:
        """Return the position after the step on batch `number`; a step whose `loss`, a scalar, is NaN was skipped."""
        return EpochPosition(number, self.tally.after(loss), generators, self.left_out + number - self.steps - 1)

    def next_epoch(self) -> EpochPosition:
        """Return the position at which the epoch after this one begins."""
        return EpochPosition(tally=self.tally.for_next_epoch())

    @property
    def loss(self) -> float:
        """Sum of the losses of the steps that were not skipped."""
        return self.tally.loss_sum.item()

    @property
    def skipped(self) -> int:
        """Number of steps without a finite loss or gradient."""
        return int(self.tally.skipped)

    @property
    def skipped_in_a_row(self) -> int:
        """Number of skipped steps since the last one that was not skipped."""
        return int(self.tally.skipped_in_a_row)

    @property
    def mean_loss(self) -> float:
        """Mean loss of the steps that were not skipped; NaN where there is none."""
        counted = self.steps - self.skipped - self.left_out
        return self.loss / counted if counted else math.nan
