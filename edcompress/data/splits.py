"""A recipe's data as train, search and test images, and as batches of them.

Batch k of an epoch is a pure function of (seed, epoch, k): it depends neither on the number of workers nor on any
global generator, and leaves those as they were.
"""

from __future__ import annotations

import hashlib
import math
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from edcompress.data.datasets import open_dataset
from edcompress.data.images import ImageSet
from edcompress.data.transforms import (
    Geometry,
    as_tested,
    as_trained,
    default_generator_seeded,
    normalised,
    shift_and_flip,
)
from edcompress.errors import DataError, InputError
from edcompress.recipe import Data, Model
from edcompress.team import ALONE, Team

Batch = tuple[Tensor, Tensor]
"""float32 images [B, C, H, W], normalised, and int64 labels [B]; on the CPU."""

FEWEST_TRAINING_IMAGES = 2
FEWEST_PER_RANK = 2


@dataclass(frozen=True, eq=False)
class Splits:
    """Three disjoint sets: `train` to learn from, `search` (held out of training) to judge states, `test` to report."""

    train: ImageSet
    search: ImageSet
    test: ImageSet
    classes: tuple[str, ...]
    channels: int


def open_splits(data: Data, *, seed: int) -> Splits:
    """The splits that `data` and `seed` fix; DataError where the data is missing, broken or too little."""
    everything, test, classes = open_dataset(data)
    C = everything.channels
    if len(data.mean) not in (1, C):
        values = "one value" if C == 1 else f"one value or {C}"
        raise DataError(
            f"data.mean and data.std have {len(data.mean)} values, the images are {_kind(C)}; give {values}"
        )
    n = min(len(everything), data.limit or len(everything))
    judges, rest = _divided(n if data.search_from == "train" else len(test), data, seed)
    if data.search_from == "test":
        return Splits(everything.subset(torch.arange(n)), test.subset(judges), test.subset(rest), classes, C)
    return Splits(everything.subset(rest), everything.subset(judges), test, classes, C)


def _divided(n: int, data: Data, seed: int) -> tuple[Tensor, Tensor]:
    """Which of n images judge states, and which stay with what they are for; DataError where too few would."""
    held_out = max(1, round(n * data.search_fraction))
    if n - held_out < FEWEST_TRAINING_IMAGES:
        images, use = ("training", "train") if data.search_from == "train" else ("test", "report")
        raise DataError(
            f"data.search_fraction: {data.search_fraction} of {n} {images} images leaves {max(0, n - held_out)} to "
            f"{use} on; at least {FEWEST_TRAINING_IMAGES} are needed"
        )
    order = torch.randperm(n, generator=_generator(seed, "split"))
    return order[:held_out].sort().values, order[held_out:].sort().values


def check_fits(splits: Splits, model: Model) -> None:
    """DataError where the images' channels or the labels do not fit the recipe's model."""
    C = splits.channels
    if model.in_channels != C:
        turn = f" or data.channels={model.in_channels}" if model.in_channels in (1, 3) else ""
        raise DataError(
            f"model.in_channels is {model.in_channels}, but the images are {_kind(C)}; set model.in_channels={C}{turn}"
        )
    highest = max(int(images.labels.max()) for images in (splits.train, splits.search, splits.test))
    if highest >= model.num_classes:
        raise DataError(
            f"model.num_classes is {model.num_classes}, but the data has labels up to {highest} "
            f"({len(splits.classes)} classes); set model.num_classes={len(splits.classes)}"
        )


class Batches:
    """An iterable of `len` batches, the same ones every time; a broken image is a DataError, from workers too."""

    def __init__(self, work: _Work, workers: int, numbers: range | None = None) -> None:
        self._work, self._workers = work, workers
        self._numbers = range(len(work)) if numbers is None else numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def after(self, count: int) -> Batches:
        """What comes after the first `count` batches, equal to what it is in all of them; nothing is read to get there."""
        return Batches(self._work, self._workers, self._numbers[count:])

    def first(self, count: int) -> Batches:
        """The first `count` batches, or all of fewer."""
        return Batches(self._work, self._workers, self._numbers[:count])

    def of(self, team: Team) -> Batches:
        """This rank's part of the batches: every `size`-th."""
        return Batches(self._work, self._workers, self._numbers[team.rank :: team.size])

    def __iter__(self) -> Iterator[Batch]:
        # Without a generator of its own, the loader draws from the global one.
        loader: DataLoader[Any] = DataLoader(
            self._work,
            batch_size=None,
            sampler=self._numbers,
            num_workers=min(self._workers, _cores()),
            collate_fn=_as_it_is,
            generator=torch.Generator(),
        )
        with warnings.catch_warnings():
            # Python 3.12 warns of every fork of a process with threads; the workers run torch on one thread.
            warnings.filterwarnings("ignore", message=".*use of fork", category=DeprecationWarning)
            batches = iter(loader)
        for made in batches:
            if isinstance(made, DataError):
                raise made
            yield made


def train_batches(images: ImageSet, data: Data, *, seed: int, epoch: int, team: Team = ALONE) -> Batches:
    """One epoch in random order and augmented, this rank's part of each batch.

    A last batch with fewer than two images per rank is left out: batch norm cannot train on one.
    """
    order = torch.randperm(len(images), generator=_generator(seed, "order", epoch))
    whole, rest = divmod(len(images), data.batch_size)
    count = whole + (rest >= FEWEST_PER_RANK * team.size)
    work = _Work(images, data, as_trained(data), order, data.batch_size, count, (seed, epoch), team)
    return Batches(work, data.workers)


def check_divides(splits: Splits, data: Data, team: Team) -> None:
    """InputError where a batch of training images does not give each rank the two that batch norm needs."""
    most, fewest = min(data.batch_size, len(splits.train)), FEWEST_PER_RANK * team.size
    if most < fewest and team.size > 1:
        raise InputError(
            f"data.batch_size: {team.size} ranks share a batch of {most} images, and each needs {FEWEST_PER_RANK}; "
            f"set it to {fewest} or more, or start fewer processes"
        )


def eval_batches(images: ImageSet, data: Data) -> Batches:
    """Every image once, in order, as it is tested."""
    count = math.ceil(len(images) / data.eval_batch_size)
    order = torch.arange(len(images))
    return Batches(_Work(images, data, as_tested(data), order, data.eval_batch_size, count, ()), data.workers)


@dataclass(frozen=True, eq=False)
class _Work(Dataset[Batch | DataError]):
    """Makes batch k."""

    images: ImageSet
    data: Data
    geometry: Geometry
    order: Tensor
    batch_size: int
    count: int
    seeds: tuple[int, ...]
    team: Team = ALONE

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, k: int) -> Batch | DataError:
        whole = self.order[k * self.batch_size : (k + 1) * self.batch_size]
        indices = whole[self._part]
        try:
            pixels = self._pixels(indices, k, len(whole))
        except DataError as error:  # raised in a worker, it would come out as a traceback in a string
            return error
        return normalised(pixels, self.data), self.images.labels[indices]

    @property
    def _part(self) -> slice:
        """Every `size`-th image of a batch: the first images of a batch are then the first ones of all ranks."""
        return slice(self.team.rank, None, self.team.size)

    def _pixels(self, indices: Tensor, k: int, whole: int) -> Tensor:
        varied = ("varied", k) if self.team.first else ("varied", k, self.team.rank)
        with default_generator_seeded(_seed(*self.seeds, *varied)):
            pixels = self.images.read(indices.tolist(), self.geometry)
        return shift_and_flip(pixels, self.geometry, _generator(*self.seeds, "shift", k), whole, self._part)


def _as_it_is(made: Any) -> Any:
    return made


def _kind(channels: int) -> str:
    return "grey" if channels == 1 else "RGB"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _generator(*parts: int | str) -> torch.Generator:
    return torch.Generator().manual_seed(_seed(*parts))


def _seed(*parts: int | str) -> int:
    """A 63-bit number for a stream of random numbers; streams with different names have nothing in common."""
    name = "/".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest()) >> 1
