"""The training loop. Dense training, the search and fine-tuning all run through `train_epoch`; they differ in the regime."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from edcompress.errors import EdcompressError
from edcompress.recipe import Fit
from edcompress.team import ALONE, Team
from edcompress.training.accuracy import Forward
from edcompress.training.exchange import exchanged
from edcompress.training.precision import Precision
from edcompress.training.schedule import learning_rate

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


@dataclass(frozen=True)
class Place:
    """Where an epoch stands between two steps: the number of its last batch, the sum of the losses, how many steps were skipped, how
    many of those in a row up to here, the states of torch's generators (none: seeded anew), and how many batches made no step."""

    steps: int = 0
    loss: float = 0.0
    skipped: int = 0
    in_a_row: int = 0
    generators: tuple[Tensor, ...] = ()
    left_out: int = 0

    def after(self, number: int, loss: float, generators: tuple[Tensor, ...]) -> Place:
        """The place after the step on batch `number`; one whose loss is NaN was skipped."""
        skipped = math.isnan(loss)
        return Place(
            steps=number,
            loss=self.loss + (0.0 if skipped else loss),
            skipped=self.skipped + skipped,
            in_a_row=self.in_a_row + 1 if skipped else 0,
            generators=generators,
            left_out=self.left_out + number - self.steps - 1,
        )

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


def train_epoch(
    trainer: Trainer, batches: Batches, span: Span, seed: int, place: Place | None = None, stand: Stand | None = None
) -> Place:
    """Train one epoch in place, from `place` on where one is given, and return where it ended.

    A step whose loss or gradients are not finite leaves the network as it was; `PATIENCE` of them in a row are an EdcompressError.
    Dropout and whatever else draws from torch's global generators is a function of (seed, epoch); the generators are given back.
    """
    trainer.network.train()
    place, stand, steps = place or Place(), stand or (lambda _: None), len(batches)
    started, begun = time.perf_counter(), place.steps
    with _seeded(seed, span.offset + span.epoch, trainer.precision.device, place.generators) as generators:
        for number, (images, labels) in batches.numbered(place.steps):
            stand(None)
            loss = _train_step(trainer, images, labels, span, (number - 1, steps))
            place = place.after(number, loss, generators())
            if place.in_a_row >= PATIENCE:
                raise EdcompressError(_diverged(f"no finite loss or gradient in {PATIENCE} steps", span, place.steps))
            stand(place)
            rate = (place.steps - begun) / (time.perf_counter() - started)
            shown = {"loss": loss, "steps_per_s": rate, "skipped": place.skipped or None, **trainer.regime.figures}
            trainer.report(place.steps, steps, shown)
    return place


def _diverged(what: str, span: Span, step: int) -> str:
    return f"training diverged: {what}, up to epoch {span.epoch + 1}, step {step}; start over with --force and a lower finetune.lr"


def _train_step(trainer: Trainer, images: Tensor, labels: Tensor, span: Span, place: tuple[int, int]) -> float:
    """The loss of a step, NaN where it was skipped."""
    network, precision, optimizer = trainer.network, trainer.precision, trainer.optimizer
    images, labels = precision.images(images), labels.to(precision.device)
    rate = learning_rate(trainer.objective.fit, span.schedule_progress(*place), span.offset + span.epoch)
    for group in optimizer.param_groups:
        group["lr"] = rate
    trainer.regime.prepare(images, labels, span.phase_progress(*place))
    statistics = [buffer.clone() for buffer in network.buffers()]
    with precision.autocast():
        loss = trainer.objective.loss(trainer.regime.forward(images), images, labels)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    loss = exchanged(trainer.team, network, loss, len(labels))
    gradients = torch.nn.utils.get_total_norm([p.grad for p in network.parameters() if p.grad is not None])
    if not torch.isfinite(loss + gradients):
        _put_back(network, statistics)
        return math.nan
    with trainer.regime.guard():
        optimizer.step()
    return loss.item()


@torch.no_grad()
def _put_back(network: nn.Module, statistics: list[Tensor]) -> None:
    """Batch-norm has seen the batch already."""
    for buffer, before in zip(network.buffers(), statistics, strict=True):
        buffer.copy_(before)


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
