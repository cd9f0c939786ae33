"""The training loop. Dense training, the search and fine-tuning all run through `train_epoch`; they differ in the regime."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from edcompress.core.errors import EdcompressError
from edcompress.core.system.device_transfer import DelayedReadback, to_device
from edcompress.core.system.distributed import ALONE, ProcessGroup
from edcompress.training.averaging import WeightAverage
from edcompress.training.batchnorm import running_statistics
from edcompress.training.mixing import Mix
from edcompress.training.objective import Objective
from edcompress.training.optimizers import step_if
from edcompress.training.position import EpochPosition, ScheduleSpan, TallyFigures
from edcompress.training.precision import Precision
from edcompress.training.regime import Regime
from edcompress.training.schedules import learning_rate

PATIENCE = 8
"""Steps in a row whose loss or gradients are not finite, after which training has diverged."""


class BatchSource(Protocol):
    """A sized, re-iterable source of (images [N, C, H, W], labels [N]), numbered from 1, which can start at any batch.

    Numbers may be missing: those of batches that could not be read.
    """

    def __len__(self) -> int: ...
    def numbered(self, done: int) -> Iterable[tuple[int, tuple[Tensor, Tensor]]]: ...


@dataclass(frozen=True)
class Repeated:
    """One batch, n times."""

    batch: tuple[Tensor, Tensor]
    n: int = 1

    def __len__(self) -> int:
        return self.n

    def numbered(self, done: int) -> Iterable[tuple[int, tuple[Tensor, Tensor]]]:
        """Return the batches after the first `done`."""
        return ((number, self.batch) for number in range(done + 1, self.n + 1))


StepReport = Callable[[int, int, dict[str, Any]], None]
"""Called after each step with (step, steps, figures)."""


class StepHooks(Protocol):
    """Calls around each step of an epoch; what they raise ends the epoch."""

    def before_step(self) -> None:
        """A step begins."""

    def after_step(self, position: EpochPosition) -> None:
        """A step is done; the epoch can continue from `position`."""


class NoHooks:
    """Hooks that do nothing."""

    def before_step(self) -> None:
        """Do nothing."""

    def after_step(self, position: EpochPosition) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class Trainer:
    """The parts of training that stay the same over the epochs of a phase; `section` names the part of the recipe with its settings."""

    network: nn.Module
    optimizer: Optimizer
    objective: Objective
    precision: Precision
    regime: Regime
    report: StepReport
    ranks: ProcessGroup = ALONE
    section: str = "finetune"
    mix: Mix | None = None
    average: WeightAverage | None = None

    @cached_property
    def scaler(self) -> GradScaler:
        """The scaler that keeps the gradients of fp16 in its range; for other precisions it does nothing."""
        return GradScaler(self.precision.device.type, enabled=self.precision.name == "fp16")


def train_epoch(
    trainer: Trainer,
    batches: BatchSource,
    span: ScheduleSpan,
    seed: int,
    position: EpochPosition | None = None,
    hooks: StepHooks | None = None,
) -> EpochPosition:
    """Train one epoch in place, from `position` on if one is given, and return the position at its end.

    A step whose loss or gradients are not finite leaves the network as it was; `PATIENCE` of them in a row are an EdcompressError,
    including those at the end of the previous epoch if `position` is its `next_epoch`.
    Dropout and whatever else draws from torch's global generators is a function of (seed, epoch); the generators are given back.
    On a CUDA device no step is waited for until the next is on its way: what is reported, and when it ends, is one step late.
    """
    trainer.network.train()
    hooks, steps, device = hooks or NoHooks(), len(batches), trainer.precision.device
    position = (position or EpochPosition()).to(device)
    started, before, readback = time.perf_counter(), position.steps, DelayedReadback()
    with _seeded(seed, span.offset + span.epoch, device, position.generators) as generator_states:
        for number, (images, labels) in batches.numbered(position.steps):
            hooks.before_step()
            loss = _train_step(trainer, images, labels, span, (number - 1, steps))
            if trainer.average:
                trainer.average.update()
            position = position.after(number, loss, generator_states())
            seen = TallyFigures(*readback.read(position.tally.packed()))
            _require_progress(trainer, seen.skipped_in_a_row, span, position.steps)
            hooks.after_step(position)
            rate = (position.steps - before) / (time.perf_counter() - started)
            figures = {"loss": seen.last_loss, "steps_per_s": rate, "skipped": int(seen.skipped) or None}
            trainer.report(position.steps, steps, figures | trainer.regime.figures)
    # The last step may not have been read back.
    _require_progress(trainer, position.skipped_in_a_row, span, position.steps)
    return position


def _require_progress(trainer: Trainer, in_a_row: float, span: ScheduleSpan, step: int) -> None:
    """Raise EdcompressError after too many skipped steps."""
    if in_a_row >= PATIENCE:
        raise EdcompressError(
            f"training diverged: no finite loss or gradient in {PATIENCE} steps, up to epoch {span.epoch + 1}, step {step}; "
            f"start over with --force and a lower {trainer.section}.lr"
        )


def _train_step(trainer: Trainer, images: Tensor, labels: Tensor, span: ScheduleSpan, step: tuple[int, int]) -> Tensor:
    """Return the loss of step (number from 0, steps), a scalar, NaN where it was skipped.

    Nothing here waits for a CUDA device, except for Adadelta (see `step_if`).
    """
    network, precision, optimizer = trainer.network, trainer.precision, trainer.optimizer
    images, labels = precision.images(images), to_device(labels, precision.device)
    rate = learning_rate(trainer.objective.config, span.schedule_progress(*step), span.offset + span.epoch)
    for group in optimizer.param_groups:
        group["lr"] = rate
    trainer.regime.prepare(images, labels, span.phase_progress(*step))
    if trainer.mix:
        images, labels = trainer.mix(images, labels)
    statistics = [buffer.clone() for buffer in network.buffers()]
    with precision.autocast():
        loss = trainer.objective.loss(trainer.regime.forward(images), images, labels)
    optimizer.zero_grad(set_to_none=True)
    trainer.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    loss = _average_over_ranks(trainer.ranks, network, loss, len(labels))
    trainer.scaler.unscale_(optimizer)
    gradients = torch.nn.utils.get_total_norm([p.grad for p in network.parameters() if p.grad is not None])
    finite = torch.isfinite(loss + gradients)
    with trainer.regime.guard():
        step_if(finite, optimizer)
    _restore_buffers_unless(finite, network, statistics)
    trainer.scaler.update()
    return loss.masked_fill(~finite, math.nan)


@torch.no_grad()
def _restore_buffers_unless(finite: Tensor, network: nn.Module, statistics: list[Tensor]) -> None:
    """Put back the buffers of a skipped step: batch-norm has already counted its batch."""
    if finite.device.type == "cpu" and finite:
        return
    for buffer, before in zip(network.buffers(), statistics, strict=True):
        torch.where(finite, buffer, before, out=buffer)


@contextmanager
def _seeded(
    seed: int, epoch: int, device: torch.device, states: tuple[Tensor, ...]
) -> Iterator[Callable[[], tuple[Tensor, ...]]]:
    """Seed torch's generators for an epoch, or put them in these states; yield a function that returns their states."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed * 1_000_003 + epoch)
        if states:
            torch.set_rng_state(states[0])
        for state in states[1:]:
            torch.cuda.set_rng_state(state, device)
        yield lambda: (torch.get_rng_state(), *(torch.cuda.get_rng_state(one) for one in devices))


def _average_over_ranks(ranks: ProcessGroup, network: nn.Module, loss: Tensor, images: int) -> Tensor:
    """Return the mean loss over the images of all ranks, a scalar, after the backward pass of a step on this rank's `images`.

    The network's gradients become those of that loss, and its batch-norm statistics the mean of the ranks', in one message.
    """
    if ranks.size == 1:
        return loss.detach()
    loss = loss.detach().clone()
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    ranks.average_([*gradients, *running_statistics(network), loss], images)
    return loss
