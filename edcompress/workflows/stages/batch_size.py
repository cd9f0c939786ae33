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
from edcompress.core.recipe.recipe import Recipe
from edcompress.core.system.distributed import ALONE
from edcompress.data.splits import check_divides
from edcompress.networks.modes import on_cpu
from edcompress.training.loop import Repeated, Trainer, train_epoch
from edcompress.training.objective import Objective
from edcompress.training.optimizers import make_optimizer
from edcompress.training.position import ScheduleSpan
from edcompress.training.regime import DenseRegime, Regime
from edcompress.workflows.stages.job import RunContext
from edcompress.workflows.stages.phases import objective
from edcompress.workflows.stages.search import make_search_regime
from edcompress.workflows.stages.starting_point import StartingPoint

MOST = 1024
"""Images in a process's part of a batch: each worker that loads images holds one, too."""

FEWEST_STEPS = 128
"""Steps of an epoch: with larger batches the search would have few generations. The default batch is not lowered for that."""

MARGIN = 0.1
"""Share of the device's free memory that a step has to leave, for what it does not show: fragments, other widths, evaluation."""

_BEGIN = ScheduleSpan(0, 1, 0, 1)

Step = Callable[[int], None]
"""Trains on so many images; torch.OutOfMemoryError where the device has too little memory."""


def sized_for_search(job: RunContext, origin: StartingPoint) -> RunContext:
    """The job with a number for `data.batch_size: auto`: one that the search's scoring and training fit."""
    return _sized(job, lambda images: search_step(job, origin, images))


def sized_for_training(job: RunContext, network: nn.Module) -> RunContext:
    """The job with a number for `data.batch_size: auto`: one that plain training of the network by the `train` section fits."""
    return _sized(job, lambda images: training_step(job, network, images))


def with_batch_size(recipe: Recipe, size: int | str) -> Recipe:
    """The recipe with another data.batch_size."""
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"batch_size": size})})


def _sized(job: RunContext, step: Step) -> RunContext:
    if job.recipe.data.batch_size != "auto":
        return job
    on_cuda = job.precision.device.type == "cuda"
    size = _probed(job, step) if on_cuda else DEFAULT_BATCH
    why = (
        f"its step leaves {MARGIN:.0%} of the device's free memory"
        if on_cuda
        else "the default: memory is tried on CUDA only"
    )
    job.monitor.stage(f"data.batch_size: auto takes {size} ({why}); learning rates stay as they are in the recipe")
    recipe = with_batch_size(job.recipe, size)
    check_divides(job.splits, recipe.data, job.ranks)
    return replace(job, recipe=recipe)


def _probed(job: RunContext, step: Step) -> int:
    """Images of the whole step of all ranks: as many each as the one with the least memory can take."""
    ranks = job.ranks

    def fresh(images: int) -> None:
        gc.collect()  # what the step before has left
        torch.cuda.empty_cache()
        step(images)

    with _margin_kept(job.precision.device):
        own = largest_fitting(fresh, most_images(len(job.splits.train), ranks.size))
    fitting = min(ranks.sum(*(own if rank == ranks.rank else 0 for rank in range(ranks.size))))
    if not fitting:
        raise EdcompressError(
            "data.batch_size: auto: the device is out of memory with a step of two images; end other processes on it, take one with "
            "more memory, or lower data.image_size"
        )
    return fitting * ranks.size


def most_images(training: int, ranks: int = 1) -> int:
    """Most images to try in one rank's part of a batch, of so many to train on."""
    whole = min(training, max(DEFAULT_BATCH, training // FEWEST_STEPS))
    return max(2, min(MOST, whole // ranks))


def largest_fitting(step: Step, most: int) -> int:
    """The largest power of two from 2 to `most` whose step does not run out of memory; 0 where all do."""
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
    """Inside, this process may not take the last part of what is free now of the device's memory."""
    before = torch.cuda.get_per_process_memory_fraction(device.index)
    free, total = torch.cuda.mem_get_info(device.index)
    torch.cuda.set_per_process_memory_fraction(min(before, free / total * (1 - MARGIN)), device.index)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(before, device.index)


def search_step(job: RunContext, origin: StartingPoint, images: int) -> None:
    """Train a copy of the network as the search does, scoring included, and then whole, which no later step exceeds."""
    alone = replace(job, ranks=ALONE, recipe=with_batch_size(job.recipe, images))
    network = job.precision.place(on_cpu(origin.network))
    whole = DenseRegime(network)
    searching = make_search_regime(alone, origin, network, _untold) if job.recipe.search.trains else whole
    _train(job, network, objective(job, origin), (searching, whole), images)


def training_step(job: RunContext, network: nn.Module, images: int) -> None:
    """Train a copy of the network."""
    placed = job.precision.place(on_cpu(network))
    _train(job, placed, Objective(job.recipe.train), (DenseRegime(placed), DenseRegime(placed)), images)


def _train(job: RunContext, network: nn.Module, goal: Objective, regimes: tuple[Regime, Regime], images: int) -> None:
    """A step under each regime on made-up images: the second has the optimizer's state in memory, which comes with the first."""
    trainer = Trainer(network, make_optimizer(goal.fit, network.parameters()), goal, job.precision, regimes[0], _untold)
    batch = _made_up(job, images)
    for regime in regimes:
        train_epoch(replace(trainer, regime=regime), Repeated(batch), _BEGIN, seed=0)


def _made_up(job: RunContext, images: int) -> tuple[Tensor, Tensor]:
    device = job.precision.device
    pixels = torch.randn((images, *job.example.shape[1:]), generator=Generator(device).manual_seed(0), device=device)
    return pixels, torch.zeros(images, dtype=torch.int64)


def _untold(*_: object) -> None:
    """Nobody is told of a step that is only tried."""
