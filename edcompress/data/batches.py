"""Deterministic, resumable batches of images, and the worker processes that load them.

Batch k of an epoch is a pure function of (seed, epoch, k). It depends neither on the number of workers nor on any global generator,
and leaves those as they were.
"""

from __future__ import annotations

import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from edcompress.core.errors import DataError, EdcompressError
from edcompress.core.recipe.data import Data
from edcompress.core.system.distributed import ALONE, ProcessGroup
from edcompress.core.system.machine import usable_cores
from edcompress.data.images import ImageSet, Warn, ignore_warnings
from edcompress.data.seeding import derived_seed, generator_for
from edcompress.data.transforms import (
    Geometry,
    default_generator_seeded,
    eval_geometry,
    normalised,
    shift_and_flip,
    train_geometry,
)

FEWEST_TRAINING_IMAGES = 2
"""In a split to train on, and in a rank's part of a batch: batch norm cannot train on one image."""

Batch = tuple[Tensor, Tensor]
"""float32 images [B, C, H, W], normalised, and int64 labels [B]; on the CPU."""


SKIPPED_ALWAYS, SKIPPED_SHARE = 10, 0.01
"""Broken images that an epoch or an evaluation leaves out: ten, or this share of its images where that is more."""


_Made = tuple[Batch | None, tuple[str, ...]] | EdcompressError
"""A batch, or None where too little is left of it, with what is wrong with the images that were left out of it."""

_FEWER = "take fewer of them with data.workers (0: the training process loads), and go on with --resume"

_REPAIR = "repair or remove the files, or look whether their disk is there"


class Batches:
    """An iterable of `len` batches, the same ones every time; fewer where broken images leave too little of one.

    Raises DataError, of what happens in workers too, where a broken image may not be left out, or too many are broken;
    EdcompressError where a worker dies or has no memory for its batch. It does so where the next batch is asked for, nowhere else.
    """

    def __init__(
        self, work: _Work, workers: int, warn: Warn, numbers: range | None = None, *, pinned: bool = False
    ) -> None:
        self._work, self._workers, self._warn, self._pinned = work, workers, warn, pinned
        self._numbers = range(len(work)) if numbers is None else numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def of(self, ranks: ProcessGroup) -> Batches:
        """This rank's part of the batches: every `size`-th."""
        numbers = self._numbers[ranks.rank :: ranks.size]
        return Batches(self._work, self._workers, self._warn, numbers, pinned=self._pinned)

    def towards(self, device: torch.device) -> Batches:
        """The same batches, for a CUDA device in pinned memory, from which it fetches them by itself."""
        return Batches(self._work, self._workers, self._warn, self._numbers, pinned=device.type == "cuda")

    def __iter__(self) -> Iterator[Batch]:
        return (batch for _, batch in self.numbered())

    def numbered(self, done: int = 0) -> Iterator[tuple[int, Batch]]:
        """Each batch after the first `done` with its number, from 1; nothing is read to get there.

        A batch that is left out has a number too, so that the last number seen is where to go on.
        """
        broken, left = 0, False
        for number, made in enumerate(self._made(self._numbers[done:]), done + 1):
            if isinstance(made, EdcompressError):
                raise made
            batch, faults = made
            for fault in faults:
                self._warn(fault)
            broken += len(faults)
            self._require_few(broken, faults, batch)
            if batch:
                left = True
                yield number, batch
        if broken and not left and not done:
            raise DataError(f"data.skip_broken: of {len(self._work.order)} images too few can be read; {_REPAIR}")

    def _require_few(self, broken: int, faults: tuple[str, ...], batch: Batch | None) -> None:
        """DataError where more are broken than a data set has now and then, or a whole batch is, as when a disk is gone."""
        total = len(self._work.order)
        if broken > max(SKIPPED_ALWAYS, SKIPPED_SHARE * total) or (not batch and len(faults) > SKIPPED_ALWAYS):
            raise DataError(
                f"data.skip_broken: {broken} of {total} images cannot be read, and at most {SKIPPED_ALWAYS} or {SKIPPED_SHARE:.0%} "
                f"are left out; {_REPAIR}. The last: {faults[-1]}"
            )

    def _made(self, numbers: range) -> Iterator[_Made]:
        # Without a generator of its own, the loader draws from the global one.
        loader: DataLoader[Any] = DataLoader(
            self._work,
            batch_size=None,
            sampler=numbers,
            num_workers=min(self._workers, len(usable_cores())),
            collate_fn=_handed_over,
            generator=torch.Generator(),
            pin_memory=self._pinned,
        )
        with warnings.catch_warnings(), _child_signals_kept():
            # Python 3.12 warns of every fork of a process with threads; the workers run torch on one thread.
            warnings.filterwarnings("ignore", message=".*use of fork", category=DeprecationWarning)
            batches = iter(loader)
        try:
            yield from batches
        except RuntimeError as error:
            if not str(error).startswith("DataLoader worker (pid"):
                raise
            raise EdcompressError(
                f"a process that loads images died ({error}): most often memory ran out, or /dev/shm is full; {_FEWER}"
            ) from error


def train_batches(images: ImageSet, data: Data, *, seed: int, epoch: int, ranks: ProcessGroup = ALONE) -> Batches:
    """One epoch in random order and augmented, this rank's part of each batch.

    A batch with fewer than two images per rank is left out: batch norm cannot train on one.
    """
    order = torch.randperm(len(images), generator=generator_for(seed, "order", epoch))
    geometry, seeds = train_geometry(data), (seed, epoch)
    return _batches(_Work(images, data, geometry, order, data.step_images, FEWEST_TRAINING_IMAGES, seeds, ranks))


def eval_batches(images: ImageSet, data: Data, *, as_pixels: bool = False) -> Batches:
    """Every image once, in order, as it is tested; `as_pixels`: as uint8 [B, C, H, W], not normalised yet."""
    order = torch.arange(len(images))
    work = _Work(images, data, eval_geometry(data), order, data.eval_batch_size, 1, (), as_pixels=as_pixels)
    return _batches(work)


def _batches(work: _Work) -> Batches:
    """Worker processes get no `warn`: it may hold what cannot be sent to them."""
    images = work.images
    return Batches(replace(work, images=images.with_warn(ignore_warnings)), work.data.workers, images.warn)


@dataclass(frozen=True, eq=False)
class _Work(Dataset[_Made]):
    """Makes batch k, of at least `fewest` images."""

    images: ImageSet
    data: Data
    geometry: Geometry
    order: Tensor
    batch_size: int
    fewest: int
    seeds: tuple[int, ...]
    ranks: ProcessGroup = ALONE
    as_pixels: bool = False

    def __len__(self) -> int:
        whole, rest = divmod(len(self.order), self.batch_size)
        return whole + (rest >= self.fewest * self.ranks.size)

    def __getitem__(self, k: int) -> _Made:
        whole = self.order[k * self.batch_size : (k + 1) * self.batch_size]
        # So divided, the first images of a batch are the first ones of all ranks.
        part = slice(self.ranks.rank, None, self.ranks.size)
        varied = ("varied", k) if self.ranks.is_main else ("varied", k, self.ranks.rank)
        try:
            with default_generator_seeded(derived_seed(*self.seeds, *varied)):
                read = self.images.read(whole[part].tolist(), self.geometry)
        except DataError as error:  # raised in a worker, it would come out as a traceback in a string
            return error
        if len(read.indices) < self.fewest:
            return None, read.faults
        pixels = shift_and_flip(read.pixels, self.geometry, generator_for(*self.seeds, "shift", k), len(whole), part)
        shown = pixels if self.as_pixels else normalised(pixels, self.data)
        return (shown, self.images.labels[read.indices]), read.faults


def _handed_over(made: Any) -> Any:
    """What a worker made, its tensors in shared memory already: where that fails later, the batch never comes and all wait for it."""
    if get_worker_info() is None or isinstance(made, EdcompressError) or made[0] is None:
        return made
    try:
        for tensor in made[0]:
            tensor.share_memory_()
    except RuntimeError as error:
        return EdcompressError(
            f"a process that loads images cannot hand over a batch ({error}): /dev/shm is full or too small; {_FEWER}"
        )
    return made


@contextmanager
def _child_signals_kept() -> Iterator[None]:
    """Inside, torch arranges to raise of a dead worker out of whatever runs then, be it half a step of the optimizer; not after."""
    if not hasattr(signal, "SIGCHLD"):
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    yield
    if signal.getsignal(signal.SIGCHLD) is not before:
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)
