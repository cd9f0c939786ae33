"""How fast a network trains when its images are there already."""

from __future__ import annotations

import time

from torch import Tensor, nn

from edcompress.measures import Rate
from edcompress.recipe import Fit
from edcompress.training.loop import Objective, Plain, Repeated, Span, Trainer, train_epoch
from edcompress.training.precision import Precision
from edcompress.training.schedule import make_optimizer


def training_rate(
    network: nn.Module, batch: tuple[Tensor, Tensor], fit: Fit, precision: Precision, seconds: float = 2.0
) -> Rate:
    """Images of plain training steps on one `batch` (CPU) in about `seconds`, or in one step where that takes longer.

    The first step is not counted. The network is placed and trained; raises EdcompressError where that diverges.
    """
    placed = precision.place(network)
    optimizer = make_optimizer(fit, placed.parameters())
    trainer = Trainer(placed, optimizer, Objective(fit), precision, Plain(placed), lambda *_: None)
    whole = Span(0, 1, 0, 1)
    place = train_epoch(trainer, Repeated(batch), whole, seed=0)
    began, steps, spent = time.perf_counter(), 0, 0.0
    while spent < seconds or not steps:
        place = train_epoch(trainer, Repeated(batch), whole, 0, place.next_epoch())
        steps, spent = steps + 1, time.perf_counter() - began
    return Rate(images=steps * len(batch[1]), seconds=spent)
