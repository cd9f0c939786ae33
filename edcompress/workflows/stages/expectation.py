"""Time and memory that a run will take, from a few steps of training on one small batch."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from edcompress.core.recipe.training import TrainingConfig
from edcompress.core.results.recipe_check import Expectation, ImageCounts, Schedule
from edcompress.core.system.machine import resident_bytes
from edcompress.networks.modes import on_cpu
from edcompress.workflows.stages.run_context import WATCHED_IMAGES, RunContext
from edcompress.workflows.throughput import input_rate, training_rate

TIMED_MACS = 4e9
"""Multiply-accumulates of the batch that is timed, about: a step then takes a fraction of a second."""

MOST_TIMED, FEWEST_TIMED = 32, 2

SECONDS = 1.0

FORWARD = 1 / 3
"""Cost of an evaluation per image, in images trained on."""

COPIES = 4
"""Copies of the weights in memory: themselves, gradients, momentum, and the dense network."""


class Speed(NamedTuple):
    """Seconds per image: of training, and of reading and preparing one."""

    train: float
    read: float


class Work(NamedTuple):
    """What an image costs.

    Attributes:
        macs: The dense network's multiply-accumulates.
        share: The share of them that is left after surgery.
        taught: Whether the dense network teaches.
        scored: Images that score states in the search, parents and children, for each image that is trained on.
    """

    macs: float
    share: float = 1.0
    taught: bool = False
    scored: float = 1.0


def expect(network: nn.Module, context: RunContext, schedule: Schedule, images: ImageCounts, work: Work) -> Expectation:
    """Return the time and the memory of a run.

    Args:
        network: The dense network on the CPU, which stays as it is.
        context: The images and the device.
        schedule: Epochs and steps.
        images: Images per split.
        work: What an image costs.
    """
    timed = max(FEWEST_TIMED, min(MOST_TIMED, schedule.batch_size, round(TIMED_MACS / work.macs)))
    speed = _measure(network, context, timed)
    seconds = schedule.trials * total_seconds(speed, schedule, images, work)
    values = sum(value.numel() for value in network.parameters())
    held = activation_bytes(network, _random_images(context, FEWEST_TIMED)) / FEWEST_TIMED
    memory = (resident_bytes("VmRSS") or 0) + 4 * COPIES * values + held * schedule.batch_size
    return Expectation(seconds=seconds, memory_bytes=round(memory))


def total_seconds(speed: Speed, schedule: Schedule, images: ImageCounts, work: Work) -> float:
    """Return the time of search, fine-tuning and all measurements of accuracy of one run."""
    lesson = FORWARD if work.taught else 0.0
    search = schedule.search_epochs * images.train * (speed.train * (1 + FORWARD * work.scored + lesson) + speed.read)
    finetune = schedule.finetune_epochs * images.train * (speed.train * (work.share + lesson) + speed.read)
    epochs = schedule.search_epochs + schedule.finetune_epochs
    evaluated = (
        epochs * min(images.search, WATCHED_IMAGES) + 4 * images.test
    )  # dense, masked, after surgery, at the end
    return search + finetune + evaluated * (speed.train * FORWARD + speed.read)


def _measure(network: nn.Module, context: RunContext, timed: int) -> Speed:
    batch = _random_images(context, timed), torch.zeros(timed, dtype=torch.int64)
    config = TrainingConfig(lr=1e-6)  # noise teaches nothing
    train = training_rate(on_cpu(network), batch, config, context.precision, SECONDS)
    small = context.data.model_copy(update={"batch_size": MOST_TIMED})
    read = input_rate(context.splits.train, small, SECONDS)
    waiting = max(0.0, read.seconds / read.images - (train.seconds / train.images if small.workers else 0.0))
    return Speed(train.seconds / train.images, waiting)


def _random_images(context: RunContext, number: int) -> Tensor:
    return torch.randn(number, *context.spec.image_shape, generator=Generator().manual_seed(0))


def activation_bytes(network: nn.Module, images: Tensor) -> int:
    """Return the bytes that a forward in train mode keeps for the backward, without the weights; the network stays as it is."""
    placed = on_cpu(network).train()
    own = {value.untyped_storage().data_ptr() for value in placed.state_dict().values()}
    kept: dict[int, int] = {}

    def keep(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        output = placed(images)
    del output
    return sum(kept.values())


def schedule_of(context: RunContext, epochs: tuple[int, int], period: int | None, trials: int) -> Schedule:
    """Return the schedule of a run of (search, fine-tuning) `epochs`, with a generation every `period` steps."""
    search, finetune = epochs
    steps = len(context.train_batches(0))
    return Schedule(
        batch_size=context.data.step_images,
        steps_per_epoch=steps,
        search_epochs=search,
        finetune_epochs=finetune,
        generations=-(-search * steps // period) if period else 0,
        trials=trials,
    )
