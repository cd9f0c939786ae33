"""The training loop. Dense training, the search and fine-tuning all run through `train_epoch`; they differ in the regime."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn import functional as F
from torch.optim import Optimizer

from edcompress.errors import EdcompressError
from edcompress.recipe import Fit
from edcompress.team import ALONE, Team
from edcompress.training.accuracy import Forward
from edcompress.training.exchange import exchanged
from edcompress.training.precision import Precision
from edcompress.training.schedule import learning_rate, step_if
from edcompress.transfer import Heard, sent

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


class Regime(Protocol):
    """How the loop reaches the network: before a step, in the forward pass, and around the optimizer."""

    @property
    def figures(self) -> dict[str, Any]: ...
    @property
    def settled(self) -> bool: ...
    def prepare(self, images: Tensor, labels: Tensor, progress: float) -> None: ...
    def forward(self, images: Tensor) -> Tensor: ...
    def guard(self) -> AbstractContextManager[None]: ...


class Plain:
    """Nothing but the network itself."""

    def __init__(self, network: nn.Module) -> None:
        self.forward: Forward = network
        self.figures: dict[str, Any] = {}
        self.settled = False

    def prepare(self, images: Tensor, labels: Tensor, progress: float) -> None:
        """Nothing to do before a step."""

    def guard(self) -> AbstractContextManager[None]:
        """Nothing to do around the optimizer."""
        return nullcontext()


@dataclass(frozen=True)
class Span:
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


@dataclass(frozen=True)
class Objective:
    """Cross-entropy with label smoothing, and soft labels of a teacher (G. Hinton et al., "Distilling the Knowledge", 2015)."""

    fit: Fit
    teacher: Forward | None = None

    def loss(self, logits: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        """(1 - a) CE(logits, labels) + a T^2 KL(teacher / T || logits / T), a scalar; a = 0 without a teacher."""
        hard = F.cross_entropy(logits.float(), labels, label_smoothing=self.fit.label_smoothing)
        a, T = self.fit.distill, self.fit.distill_temperature
        if self.teacher is None or a == 0:
            return hard
        with torch.no_grad():
            wanted = F.softmax(self.teacher(images).float() / T, dim=1)
        soft = F.kl_div(F.log_softmax(logits.float() / T, dim=1), wanted, reduction="batchmean")
        return (1 - a) * hard + a * T**2 * soft


Report = Callable[[int, int, dict[str, Any]], None]
"""Called after each step with (step, steps, figures)."""


@dataclass(frozen=True, eq=False)
class Place:
    """Where an epoch stands between two steps: the number of its last batch, the tally of its steps, the states of torch's generators
    (none: seeded anew), and how many batches made no step.

    The `tally` float64[4] is on the training device: the last loss (NaN: skipped), the sum of losses, how many steps were skipped, and
    how many of those in a row up to here. Reading it waits for the device.
    """

    steps: int = 0
    tally: Tensor = field(default_factory=lambda: torch.zeros(4, dtype=torch.float64))
    generators: tuple[Tensor, ...] = ()
    left_out: int = 0

    def after(self, number: int, loss: Tensor, generators: tuple[Tensor, ...]) -> Place:
        """The place after the step on batch `number`; one whose `loss`, a scalar, is NaN was skipped."""
        _, total, skipped, in_a_row = self.tally.unbind()
        loss, lost = loss.double(), loss.isnan()
        tally = torch.stack([loss, total + loss.masked_fill(lost, 0.0), skipped + lost, (in_a_row + 1) * lost])
        return Place(number, tally, generators, self.left_out + number - self.steps - 1)

    def next_epoch(self) -> Place:
        """Where the epoch after the one that ended here begins: it goes on with the count of steps that were skipped in a row."""
        tally = torch.zeros_like(self.tally)
        tally[3] = self.tally[3]
        return Place(tally=tally)

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


Stand = Callable[[Place | None], None]
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
    team: Team = ALONE
    section: str = "finetune"
    """Of the recipe, which holds the settings that are trained by."""

    @cached_property
    def scaler(self) -> GradScaler:
        """What keeps the gradients of fp16 in its range; of other precisions it does nothing."""
        return GradScaler(self.precision.device.type, enabled=self.precision.name == "fp16")


def train_epoch(
    trainer: Trainer, batches: Batches, span: Span, seed: int, place: Place | None = None, stand: Stand | None = None
) -> Place:
    """Train one epoch in place, from `place` on where one is given, and return where it ended.

    A step whose loss or gradients are not finite leaves the network as it was; `PATIENCE` of them in a row are an EdcompressError,
    those at the end of the epoch before among them where `place` is its `next_epoch`.
    Dropout and whatever else draws from torch's global generators is a function of (seed, epoch); the generators are given back.
    On a CUDA device no step is waited for until the next is on its way: what is reported, and when it ends, is one step late.
    """
    trainer.network.train()
    place, stand, steps, device = place or Place(), stand or (lambda _: None), len(batches), trainer.precision.device
    place = replace(place, tally=sent(place.tally, device))
    started, begun, heard = time.perf_counter(), place.steps, Heard()
    with _seeded(seed, span.offset + span.epoch, device, place.generators) as generators:
        for number, (images, labels) in batches.numbered(place.steps):
            stand(None)
            loss = _train_step(trainer, images, labels, span, (number - 1, steps))
            place = place.after(number, loss, generators())
            shown, _, skipped, in_a_row = heard.of(place.tally)
            _require_progress(trainer, in_a_row, span, place.steps)
            stand(place)
            rate = (place.steps - begun) / (time.perf_counter() - started)
            figures = {"loss": shown, "steps_per_s": rate, "skipped": int(skipped) or None, **trainer.regime.figures}
            trainer.report(place.steps, steps, figures)
    _require_progress(trainer, place.in_a_row, span, place.steps)  # of the last step, where that was not heard of
    return place


def _require_progress(trainer: Trainer, in_a_row: float, span: Span, step: int) -> None:
    """Raise EdcompressError after too many skipped steps."""
    if in_a_row >= PATIENCE:
        raise EdcompressError(
            f"training diverged: no finite loss or gradient in {PATIENCE} steps, up to epoch {span.epoch + 1}, step {step}; "
            f"start over with --force and a lower {trainer.section}.lr"
        )


def _train_step(trainer: Trainer, images: Tensor, labels: Tensor, span: Span, place: tuple[int, int]) -> Tensor:
    """The loss of a step, a scalar, NaN where it was skipped. Nothing here waits for a CUDA device (but Adadelta, see `step_if`)."""
    network, precision, optimizer = trainer.network, trainer.precision, trainer.optimizer
    images, labels = precision.images(images), sent(labels, precision.device)
    rate = learning_rate(trainer.objective.fit, span.schedule_progress(*place), span.offset + span.epoch)
    for group in optimizer.param_groups:
        group["lr"] = rate
    trainer.regime.prepare(images, labels, span.phase_progress(*place))
    statistics = [buffer.clone() for buffer in network.buffers()]
    with precision.autocast():
        loss = trainer.objective.loss(trainer.regime.forward(images), images, labels)
    optimizer.zero_grad(set_to_none=True)
    trainer.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    loss = exchanged(trainer.team, network, loss, len(labels))
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
