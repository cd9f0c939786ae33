"""Images per second: of the input pipeline, and of plain training."""

from __future__ import annotations

import time
from collections.abc import Generator
from itertools import count, islice

from torch import Tensor, nn

from edcompress.core.recipe.data import Data
from edcompress.core.recipe.training import TrainingConfig
from edcompress.core.results.measures import Rate
from edcompress.data.batches import Batch, train_batches
from edcompress.data.images import ImageSet
from edcompress.training.loop import Repeated, Trainer, train_epoch
from edcompress.training.objective import Objective
from edcompress.training.optimizers import make_optimizer
from edcompress.training.position import ScheduleSpan
from edcompress.training.precision import Precision
from edcompress.training.regime import DenseRegime


def input_rates(images: ImageSet, data: Data, seconds: float = 2.0) -> dict[int, Rate]:
    """Return the rate of training images without worker processes, and with `data.workers` of them, by number of workers.

    Each takes about `seconds`. Raises DataError or EdcompressError if images cannot be read.
    """
    return {
        workers: input_rate(images, data.model_copy(update={"workers": workers}), seconds)
        for workers in sorted({0, data.workers})
    }


def input_rate(images: ImageSet, data: Data, seconds: float = 2.0) -> Rate:
    """Return the rate of images read, decoded, augmented and normalise, in about `seconds`, or in one batch if that takes longer.

    Epochs follow each other as in a run. The first batch of each worker is not counted: it waits for the worker to start.
    """
    batches = _epochs(images, data)
    for _ in islice(batches, max(1, data.workers)):
        pass
    began, read = time.perf_counter(), 0
    for _, labels in batches:
        read, spent = read + len(labels), time.perf_counter() - began
        if spent >= seconds:
            break
    batches.close()
    return Rate(images=read, seconds=spent)


def _epochs(images: ImageSet, data: Data) -> Generator[Batch, None, None]:
    for epoch in count():
        yield from train_batches(images, data, seed=0, epoch=epoch)


def training_rate(
    network: nn.Module, batch: tuple[Tensor, Tensor], config: TrainingConfig, precision: Precision, seconds: float = 2.0
) -> Rate:
    """Return the rate of plain training on one `batch` (CPU), in about `seconds`, or in one step if that takes longer.

    The first step is not counted. The network is placed and trained; raises EdcompressError if that diverges.
    """
    placed = precision.place(network)
    optimizer = make_optimizer(config, placed.parameters())
    trainer = Trainer(placed, optimizer, Objective(config), precision, DenseRegime(placed), lambda *_: None)
    whole = ScheduleSpan(0, 1, 0, 1)
    position = train_epoch(trainer, Repeated(batch), whole, seed=0)
    began, steps, spent = time.perf_counter(), 0, 0.0
    while spent < seconds or not steps:
        position = train_epoch(trainer, Repeated(batch), whole, 0, position.next_epoch())
        steps, spent = steps + 1, time.perf_counter() - began
    return Rate(images=steps * len(batch[1]), seconds=spent)
