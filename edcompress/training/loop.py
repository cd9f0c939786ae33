"""The training loop. Dense training, the search and fine-tuning all run through `train_epoch`; they differ in the regime."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from edcompress.core.errors import EdcompressError
from edcompress.core.system.device_transfer import DelayedReadback, to_device
from edcompress.core.system.distributed import ALONE, ProcessGroup
from edcompress.training.batchnorm import running_statistics
from edcompress.training.objective import Objective
from edcompress.training.optimizers import step_if
from edcompress.training.position import EpochPosition, ScheduleSpan
from edcompress.training.precision import Precision
from edcompress.training.regime import Regime
from edcompress.training.schedules import learning_rate

PATIENCE = 8
"""Steps in a row whose loss or gradients are not finite, after which training has diverged."""


class Batches(Protocol):
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
        """The rest of them."""
        return ((number, self.batch) for number in range(done + 1, self.n + 1))


Report = Callable[[int, int, dict[str, Any]], None]
"""Called after each step with (step, steps, figures)."""


Stand = Callable[[EpochPosition | None], None]
"""Called with None when a step begins, and with the place after it; what it raises ends the epoch."""


@dataclass(frozen=True)
class Trainer:
    """What stays the same over the epochs of a phase."""

    network: nn.Module
    optimizer: Optimizer
    objective: Objective
    precision: Precision
    regime: Regime
    report: Report
    ranks: ProcessGroup = ALONE
    section: str = "finetune"
    """Of the recipe, which holds the settings that are trained by."""

    @cached_property
    def scaler(self) -> GradScaler:
        """What keeps the gradients of fp16 in its range; of other precisions it does nothing."""
        return GradScaler(self.precision.device.type, enabled=self.precision.name == "fp16")


def train_epoch(
    trainer: Trainer,
    batches: Batches,
    span: ScheduleSpan,
    seed: int,
    place: EpochPosition | None = None,
    stand: Stand | None = None,
) -> EpochPosition:
    """Train one epoch in place, from `place` on where one is given, and return where it ended.

    A step whose loss or gradients are not finite leaves the network as it was; `PATIENCE` of them in a row are an EdcompressError,
    those at the end of the epoch before among them where `place` is its `next_epoch`.
    Dropout and whatever else draws from torch's global generators is a function of (seed, epoch); the generators are given back.
    On a CUDA device no step is waited for until the next is on its way: what is reported, and when it ends, is one step late.
    """
    trainer.network.train()
    place, stand, steps, device = (
        place or EpochPosition(),
        stand or (lambda _: None),
        len(batches),
        trainer.precision.device,
    )
    place = replace(place, tally=to_device(place.tally, device))
    started, begun, readback = time.perf_counter(), place.steps, DelayedReadback()
    with _seeded(seed, span.offset + span.epoch, device, place.generators) as generators:
        for number, (images, labels) in batches.numbered(place.steps):
            stand(None)
            loss = _train_step(trainer, images, labels, span, (number - 1, steps))
            place = place.after(number, loss, generators())
            shown, _, skipped, in_a_row = readback.read(place.tally)
            _require_progress(trainer, in_a_row, span, place.steps)
            stand(place)
            rate = (place.steps - begun) / (time.perf_counter() - started)
            figures = {"loss": shown, "steps_per_s": rate, "skipped": int(skipped) or None, **trainer.regime.figures}
            trainer.report(place.steps, steps, figures)
    _require_progress(trainer, place.in_a_row, span, place.steps)  # of the last step, where that was not heard of
    return place


def _require_progress(trainer: Trainer, in_a_row: float, span: ScheduleSpan, step: int) -> None:
    """Raise EdcompressError after too many skipped steps."""
    if in_a_row >= PATIENCE:
        raise EdcompressError(
            f"training diverged: no finite loss or gradient in {PATIENCE} steps, up to epoch {span.epoch + 1}, step {step}; "
            f"start over with --force and a lower {trainer.section}.lr"
        )


def _train_step(trainer: Trainer, images: Tensor, labels: Tensor, span: ScheduleSpan, place: tuple[int, int]) -> Tensor:
    """The loss of a step, a scalar, NaN where it was skipped. Nothing here waits for a CUDA device (but Adadelta, see `step_if`)."""
    network, precision, optimizer = trainer.network, trainer.precision, trainer.optimizer
    images, labels = precision.images(images), to_device(labels, precision.device)
    rate = learning_rate(trainer.objective.fit, span.schedule_progress(*place), span.offset + span.epoch)
    for group in optimizer.param_groups:
        group["lr"] = rate
    trainer.regime.prepare(images, labels, span.phase_progress(*place))
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
    _put_back_unless(finite, network, statistics)
    trainer.scaler.update()
    return loss.masked_fill(~finite, math.nan)


@torch.no_grad()
def _put_back_unless(finite: Tensor, network: nn.Module, statistics: list[Tensor]) -> None:
    """Batch-norm has seen the batch already."""
    if finite.device.type == "cpu" and finite:
        return
    for buffer, before in zip(network.buffers(), statistics, strict=True):
        torch.where(finite, buffer, before, out=buffer)


@contextmanager
def _seeded(
    seed: int, epoch: int, device: torch.device, states: tuple[Tensor, ...]
) -> Iterator[Callable[[], tuple[Tensor, ...]]]:
    """Torch's generators seeded for an epoch, or in these states; gives a function that tells their states."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed * 1_000_003 + epoch)
        if states:
            torch.set_rng_state(states[0])
        for state in states[1:]:
            torch.cuda.set_rng_state(state, device)
        yield lambda: (torch.get_rng_state(), *(torch.cuda.get_rng_state(one) for one in devices))


def _average_over_ranks(ranks: ProcessGroup, network: nn.Module, loss: Tensor, images: int) -> Tensor:
    """The mean loss over the images of all ranks, a scalar, after the backward pass of a step on this rank's `images`.

    The network's gradients become those of that loss, and its batch-norm statistics the mean of the ranks', in one message.
    """
    if ranks.size == 1:
        return loss.detach()
    loss = loss.detach().clone()
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    ranks.average_([*gradients, *running_statistics(network), loss], images)
    return loss
