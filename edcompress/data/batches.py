"""Deterministic, resumable batches of images, and the worker processes that load them.

Batch k of an epoch is a pure function of (seed, epoch, k). It depends neither on the number of workers nor on any global generator,
and leaves those unchanged.
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
from edcompress.data.images import ImageSet
from edcompress.data.opening import Warn, discard_warning
from edcompress.data.seeding import derived_seed, generator_for
from edcompress.data.torch_private import is_dead_worker
from edcompress.data.transforms import (
    Geometry,
    default_generator_seeded,
    eval_geometry,
    normalise,
    shift_and_flip,
    train_geometry,
)

FEWEST_TRAINING_IMAGES = 2
"""In a split to train on, and in a rank's part of a batch: batch norm cannot train on one image."""

Batch = tuple[Tensor, Tensor]
"""float32 images [B, C, H, W], normalised, and labels, int64 [B] where they are classes; on the CPU."""

SKIPPED_ALWAYS, SKIPPED_SHARE = 10, 0.01
"""Broken images that an epoch or an evaluation leaves out: ten, or this share of its images where that is more."""

_Loaded = tuple[Batch | None, tuple[str, ...]] | EdcompressError
"""A batch, or None where too few of its images can be read, with the faults of those that were left out; or the error to raise."""

_FEWER_WORKERS = "lower data.workers (0: load in the training process), and continue with --resume"

_REPAIR = "repair or remove the files, or check that their disk is mounted"


class Batches:
    """An iterable of `len` batches, the same ones every time; fewer where broken images leave too few of a batch.

    Errors are raised where the next batch is asked for, nowhere else.

    Raises:
        DataError: An image is broken and may not be left out, or too many are; also where that happens in a worker.
        EdcompressError: A worker dies, or has no memory for its batch.
    """

    def __init__(
        self, loading: _Loading, workers: int, warn: Warn, numbers: range | None = None, *, pinned: bool = False
    ) -> None:
        self._loading, self._workers, self._warn, self._pinned = loading, workers, warn, pinned
        self._numbers = range(len(loading)) if numbers is None else numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def for_rank(self, ranks: ProcessGroup) -> Batches:
        """Return this rank's share of the batches: every `size`-th."""
        numbers = self._numbers[ranks.rank :: ranks.size]
        return Batches(self._loading, self._workers, self._warn, numbers, pinned=self._pinned)

    def pinned_for(self, device: torch.device) -> Batches:
        """Return the same batches, in pinned memory where the device is a CUDA device, which copies from there by itself."""
        return Batches(self._loading, self._workers, self._warn, self._numbers, pinned=device.type == "cuda")

    def __iter__(self) -> Iterator[Batch]:
        return (batch for _, batch in self.numbered())

    def numbered(self, done: int = 0) -> Iterator[tuple[int, Batch]]:
        """Yield each batch after the first `done` with its number, from 1, without reading the batches before.

        A batch that is left out has a number too, so that a resumed epoch continues after the last number seen.
        """
        broken, any_left = 0, False
        for number, loaded in enumerate(self._load(self._numbers[done:]), done + 1):
            if isinstance(loaded, EdcompressError):
                raise loaded
            batch, faults = loaded
            for fault in faults:
                self._warn(fault)
            broken += len(faults)
            self._require_few(broken, faults, batch)
            if batch:
                any_left = True
                yield number, batch
        if broken and not any_left and not done:
            raise DataError(
                f"data.skip_broken: of {len(self._loading.order)} images, too few can be read for one batch; {_REPAIR}"
            )

    def _require_few(self, broken: int, faults: tuple[str, ...], batch: Batch | None) -> None:
        """Raise DataError where more are broken than in an ordinary data set, or a whole batch is, as when a disk is gone."""
        total = len(self._loading.order)
        if broken > max(SKIPPED_ALWAYS, SKIPPED_SHARE * total) or (not batch and len(faults) > SKIPPED_ALWAYS):
            raise DataError(
                f"data.skip_broken: {broken} of {total} images cannot be read, and at most {SKIPPED_ALWAYS} or {SKIPPED_SHARE:.0%} "
                f"are left out; {_REPAIR}. The last: {faults[-1]}"
            )

    def _load(self, numbers: range) -> Iterator[_Loaded]:
        # Without a generator of its own, the loader draws from the global one.
        loader: DataLoader[Any] = DataLoader(
            self._loading,
            batch_size=None,
            sampler=numbers,
            num_workers=min(self._workers, len(usable_cores())),
            collate_fn=_share_memory,
            generator=torch.Generator(),
            pin_memory=self._pinned,
        )
        with warnings.catch_warnings(), _child_signal_restored():
            # Python 3.12 warns of every fork of a process with threads; the workers run torch on one thread.
            warnings.filterwarnings("ignore", message=".*use of fork", category=DeprecationWarning)
            batches = iter(loader)
        try:
            yield from batches
        except RuntimeError as error:
            if not is_dead_worker(error):
                raise
            raise EdcompressError(
                f"a process that loads images died ({error}): most often memory ran out, or /dev/shm is full; {_FEWER_WORKERS}"
            ) from error


def train_batches(images: ImageSet, data: Data, *, seed: int, epoch: int, ranks: ProcessGroup = ALONE) -> Batches:
    """Return one epoch in random order and augmented.

    A batch with fewer than two images per rank is left out, since batch norm cannot train on one.

    Args:
        images: The training images.
        data: The recipe's data section.
        seed: With `epoch`, fixes the order and the augmentation.
        epoch: From 0.
        ranks: The processes that share each batch; the result holds this rank's images.
    """
    order = torch.randperm(len(images), generator=generator_for(seed, "order", epoch))
    geometry, seeds = train_geometry(data), (seed, epoch)
    return _make_batches(
        _Loading(images, data, geometry, order, data.step_images, FEWEST_TRAINING_IMAGES, seeds, ranks)
    )


def eval_batches(images: ImageSet, data: Data, *, as_pixels: bool = False) -> Batches:
    """Return every image once, in order and without augmentation.

    Args:
        images: The images to evaluate.
        data: The recipe's data section.
        as_pixels: Give uint8 pixels [B, C, H, W] in place of normalised images.
    """
    order = torch.arange(len(images))
    return _make_batches(
        _Loading(images, data, eval_geometry(data), order, data.eval_batch_size, 1, (), as_pixels=as_pixels)
    )


def _make_batches(loading: _Loading) -> Batches:
    """Keep `warn` out of what worker processes get: it may hold what cannot be sent to them."""
    images = loading.images
    quiet = replace(loading, images=images.with_warnings_to(discard_warning))
    return Batches(quiet, loading.data.workers, images.warn)


@dataclass(frozen=True, eq=False)
class _Loading(Dataset[_Loaded]):
    """Loads batch k, of at least `fewest` images."""

    images: ImageSet
    data: Data
    geometry: Geometry
    order: Tensor
    batch_size: int
    fewest: int
    seeds: tuple[int, ...]
    ranks: ProcessGroup = ALONE
    as_pixels: bool = False

    @property
    def _own_seed(self) -> int:
        """The seed of the user's own transforms: that of the epoch, or the same for all evaluations."""
        return derived_seed(*self.seeds, "own") if self.seeds else 0

    def __len__(self) -> int:
        whole, rest = divmod(len(self.order), self.batch_size)
        return whole + (rest >= self.fewest * self.ranks.size)

    def __getitem__(self, k: int) -> _Loaded:
        whole = self.order[k * self.batch_size : (k + 1) * self.batch_size]
        # Divided so, the first images of a batch are the first ones of all ranks.
        part = slice(self.ranks.rank, None, self.ranks.size)
        stream = ("varied", k) if self.ranks.is_main else ("varied", k, self.ranks.rank)
        try:
            with default_generator_seeded(derived_seed(*self.seeds, *stream)):
                read = self.images.read(whole[part].tolist(), self.geometry, self._own_seed)
        except DataError as error:  # raised in a worker, it would arrive as a traceback in a string
            return error
        if len(read.pixels) < self.fewest:
            return None, read.faults
        pixels = read.pixels
        if not read.finished:
            pixels = shift_and_flip(pixels, self.geometry, generator_for(*self.seeds, "shift", k), len(whole), part)
        shown = pixels if self.as_pixels else normalise(pixels, self.data)
        return (shown, read.labels), read.faults


def _share_memory(loaded: Any) -> Any:
    """Move a worker's tensors to shared memory at once: where that fails later, the batch never arrives and everyone waits for it."""
    if get_worker_info() is None or isinstance(loaded, EdcompressError) or loaded[0] is None:
        return loaded
    try:
        for tensor in loaded[0]:
            tensor.share_memory_()
    except RuntimeError as error:
        return EdcompressError(
            f"a process that loads images cannot hand over a batch ({error}): /dev/shm is full or too small; {_FEWER_WORKERS}"
        )
    return loaded


@contextmanager
def _child_signal_restored() -> Iterator[None]:
    """Restore the handler of SIGCHLD after the block, in which torch sets one that raises for a dead worker out of any later code."""
    if not hasattr(signal, "SIGCHLD"):
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    yield
    if signal.getsignal(signal.SIGCHLD) is not before:
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)
