"""The training loop. Dense training, the search and fine-tuning all run through `train_epoch`; they differ in the regime."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from edcompress.errors import EdcompressError
from edcompress.recipe import Fit
from edcompress.training.accuracy import Forward
from edcompress.training.precision import Precision
from edcompress.training.schedule import learning_rate


class Batches(Protocol):
    """A sized, re-iterable source of (images [N, C, H, W], labels [N])."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...


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
class Trainer:
    """What stays the same over the epochs of a phase."""

    network: nn.Module
    optimizer: Optimizer
    objective: Objective
    precision: Precision
    regime: Regime
    report: Report


def train_epoch(trainer: Trainer, batches: Batches, span: Span, seed: int) -> float:
    """Train one epoch in place and return its mean loss; raises EdcompressError when the loss is no longer finite.

    Dropout and whatever else draws from torch's global generators is a function of (seed, epoch); the generators are given back.
    """
    trainer.network.train()
    losses, started = [], time.perf_counter()
    with _seeded(seed, span.offset + span.epoch, trainer.precision.device):
        for step, (images, labels) in enumerate(batches):
            losses.append(_train_step(trainer, images, labels, span, (step, len(batches))))
            rate = (step + 1) / (time.perf_counter() - started)
            trainer.report(step + 1, len(batches), {"loss": losses[-1], "steps_per_s": rate, **trainer.regime.figures})
    return sum(losses) / len(losses)


def _train_step(trainer: Trainer, images: Tensor, labels: Tensor, span: Span, place: tuple[int, int]) -> float:
    precision, optimizer = trainer.precision, trainer.optimizer
    images, labels = precision.images(images), labels.to(precision.device)
    rate = learning_rate(trainer.objective.fit, span.schedule_progress(*place), span.offset + span.epoch)
    for group in optimizer.param_groups:
        group["lr"] = rate
    trainer.regime.prepare(images, labels, span.phase_progress(*place))
    with precision.autocast():
        loss = trainer.objective.loss(trainer.regime.forward(images), images, labels)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    value = loss.item()
    if not torch.isfinite(loss):
        raise EdcompressError(
            f"the training loss became {value} at epoch {span.epoch + 1}, step {place[0] + 1}; lower finetune.lr"
        )
    with trainer.regime.guard():
        optimizer.step()
    return value


@contextmanager
def _seeded(seed: int, epoch: int, device: torch.device) -> Iterator[None]:
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed * 1_000_003 + epoch)
        yield
