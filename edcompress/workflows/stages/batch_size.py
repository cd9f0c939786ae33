"""`data.batch_size: auto`: the largest batch whose training step fits the device's memory, found by trying."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Generator, Tensor, nn

from edcompress.core.errors import EdcompressError
from edcompress.core.recipe.data import DEFAULT_BATCH
from edcompress.core.recipe.search import Search
from edcompress.core.recipe.training import TrainingConfig
from edcompress.core.system.distributed import ALONE
from edcompress.networks.modes import on_cpu
from edcompress.training.loop import Repeated, Trainer, train_epoch
from edcompress.training.objective import Objective
from edcompress.training.optimizers import make_optimizer
from edcompress.training.position import ScheduleSpan
from edcompress.training.regime import DenseRegime, Regime
from edcompress.workflows.stages.phases import make_objective
from edcompress.workflows.stages.run_context import RunContext
from edcompress.workflows.stages.search import ignore_figures, make_search_regime
from edcompress.workflows.stages.starting_point import StartingPoint

MOST = 1024
"""Most images in a rank's part of a batch: each worker that loads images holds one such part too."""

FEWEST_STEPS = 128
"""Fewest steps of an epoch: with larger batches the search would have few generations. The default batch is not lowered for that."""

MARGIN = 0.1
"""Share of the device's free memory that a step must leave, for what it does not show: fragments, other widths, evaluation."""

_FIRST_EPOCH = ScheduleSpan(0, 1, 0, 1)

Step = Callable[[int], None]
"""Trains on so many images; raises torch.OutOfMemoryError if the device has too little memory."""


def sized_for_search(context: RunContext, start: StartingPoint, search: Search, config: TrainingConfig) -> RunContext:
    """Return the context with a number for `data.batch_size: auto`: one that scoring and training under the search fit."""
    return _sized(context, lambda images: search_step(context, start, search, config, images))


def sized_for_training(context: RunContext, network: nn.Module, config: TrainingConfig) -> RunContext:
    """Return the context with a number for `data.batch_size: auto`: one that plain training of the network fits."""
    return _sized(context, lambda images: training_step(context, network, config, images))


def _sized(context: RunContext, step: Step) -> RunContext:
    if context.data.batch_size != "auto":
        return context
    on_cuda = context.device.type == "cuda"
    size = _probed(context, step) if on_cuda else DEFAULT_BATCH
    why = (
        f"its step leaves {MARGIN:.0%} of the device's free memory"
        if on_cuda
        else "the default: memory is tried on CUDA only"
    )
    context.monitor.stage(f"data.batch_size: auto takes {size} ({why}); learning rates stay as they are in the recipe")
    return context.with_batch_size(size)


def _probed(context: RunContext, step: Step) -> int:
    """Return the images of the whole step of all ranks: each gets as many as the rank with the least memory can take."""
    ranks = context.ranks

    def fresh(images: int) -> None:
        gc.collect()  # what the step before has left
        torch.cuda.empty_cache()
        step(images)

    with _margin_kept(context.device):
        own = largest_fitting(fresh, most_images(len(context.splits.train), ranks.size))
    fitting = min(ranks.sum(*(own if rank == ranks.rank else 0 for rank in range(ranks.size))))
    if not fitting:
        raise EdcompressError(
            "data.batch_size: auto: the device is out of memory with a step of two images; end other processes on it, take one with "
            "more memory, or lower data.image_size"
        )
    return fitting * ranks.size


def most_images(training: int, ranks: int = 1) -> int:
    """Return the most images to try in one rank's part of a batch, of so many training images."""
    whole = min(training, max(DEFAULT_BATCH, training // FEWEST_STEPS))
    return max(2, min(MOST, whole // ranks))


def largest_fitting(step: Step, most: int) -> int:
    """Return the largest power of two from 2 to `most` whose step does not run out of memory; 0 if all do."""
    sizes = [1 << power for power in range(most.bit_length() - 1, 0, -1)]
    return next((size for size in sizes if _fits(step, size)), 0)


def _fits(step: Step, size: int) -> bool:
    try:
        step(size)
    except torch.OutOfMemoryError:
        return False
    return True


@contextmanager
def _margin_kept(device: torch.device) -> Iterator[None]:
    """Keep this process from taking the last `MARGIN` of the device's memory that is free now."""
    before = torch.cuda.get_per_process_memory_fraction(device.index)
    free, total = torch.cuda.mem_get_info(device.index)
    torch.cuda.set_per_process_memory_fraction(min(before, free / total * (1 - MARGIN)), device.index)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(before, device.index)


def search_step(context: RunContext, start: StartingPoint, search: Search, config: TrainingConfig, images: int) -> None:
    """Train a copy of the network as the search does, scoring included, and then whole, which no later step exceeds."""
    data = context.data.model_copy(update={"batch_size": images})
    alone = replace(context, ranks=ALONE, data=data)
    network = context.precision.place(on_cpu(start.network))
    whole = DenseRegime(network)
    regime = make_search_regime(search, alone, start, network, ignore_figures) if search.trains else whole
    objective = make_objective(config, start.teacher, context.precision, context.task.finetune)
    _train(context, network, objective, (regime, whole), images)


def training_step(context: RunContext, network: nn.Module, config: TrainingConfig, images: int) -> None:
    """Train a copy of the network."""
    placed = context.precision.place(on_cpu(network))
    _train(
        context,
        placed,
        Objective(config, criterion=context.task.train),
        (DenseRegime(placed), DenseRegime(placed)),
        images,
    )


def _train(
    context: RunContext, network: nn.Module, objective: Objective, regimes: tuple[Regime, Regime], images: int
) -> None:
    """Make a step under each regime on random images: the second has the optimizer's state in memory, which the first creates."""
    optimizer = make_optimizer(objective.config, network.parameters())
    batch = _random_batch(context, images)
    for regime in regimes:
        trainer = Trainer(network, optimizer, objective, context.precision, regime, lambda *_: None)
        train_epoch(trainer, Repeated(batch), _FIRST_EPOCH, seed=0)


def _random_batch(context: RunContext, images: int) -> tuple[Tensor, Tensor]:
    generator = Generator(context.device).manual_seed(0)
    pixels = torch.randn((images, *context.spec.image_shape), generator=generator, device=context.device)
    labels = context.first_batch[1][:1]
    return pixels, labels.expand(images, *labels.shape[1:]).contiguous()
