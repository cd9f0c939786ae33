"""How fast a recipe's training images come."""

from __future__ import annotations

import time
from collections.abc import Generator
from itertools import count, islice

from edcompress.data.images import ImageSet
from edcompress.data.splits import Batch, train_batches
from edcompress.measures import Rate
from edcompress.sources import Data


def input_rates(images: ImageSet, data: Data, seconds: float = 2.0) -> dict[int, Rate]:
    """The rate of training images without worker processes, and with as many as `data.workers` asks for: by workers.

    Each takes about `seconds`. Raises what reading does: DataError, EdcompressError.
    """
    return {
        workers: input_rate(images, data.model_copy(update={"workers": workers}), seconds)
        for workers in sorted({0, data.workers})
    }


def input_rate(images: ImageSet, data: Data, seconds: float = 2.0) -> Rate:
    """Images read, decoded, augmented and normalised in about `seconds`, or in one batch where that takes longer.

    Epoch follows on epoch as in a run. The first batch of each worker is not counted: it waits for the worker to begin.
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
