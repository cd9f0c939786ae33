"""A recipe's data as train, search and test images, and as batches of them.

Batch k of an epoch is a pure function of (seed, epoch, k): it depends neither on the number of workers nor on any
global generator, and leaves those as they were.
"""

from __future__ import annotations

import hashlib
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from edcompress.data.class_folders import doubts, require_all_classes
from edcompress.data.datasets import data_root, open_dataset
from edcompress.data.images import ImageSet, Warn, unheard
from edcompress.data.transforms import (
    Geometry,
    as_tested,
    as_trained,
    default_generator_seeded,
    normalised,
    shift_and_flip,
)
from edcompress.errors import DataError, EdcompressError, InputError
from edcompress.machine import usable_cores
from edcompress.plain_text import few
from edcompress.sources import Data, Model
from edcompress.team import ALONE, Team

Batch = tuple[Tensor, Tensor]
"""float32 images [B, C, H, W], normalised, and int64 labels [B]; on the CPU."""

FEWEST_TRAINING_IMAGES = 2
"""In a split to train on, and in a rank's part of a batch: batch norm cannot train on one image."""

SKIPPED_ALWAYS, SKIPPED_SHARE = 10, 0.01
"""Broken images that an epoch or an evaluation leaves out: ten, or this share of its images where that is more."""


@dataclass(frozen=True, eq=False)
class Splits:
    """Three disjoint sets: `train` to learn from, `search` (held out of training) to judge states, `test` to report."""

    train: ImageSet
    search: ImageSet
    test: ImageSet
    classes: tuple[str, ...]
    channels: int
    notes: tuple[str, ...] = ()
    """What lies where the images are and is not read, and the like."""
    doubts: tuple[str, ...] = ()
    """What makes their labels or accuracies doubtful, though they can be used."""

    def heard_by(self, warn: Warn) -> Splits:
        """The same splits; `warn` is told of every image that is left out, each time that it is."""
        train, search, test = (images.heard_by(warn) for images in (self.train, self.search, self.test))
        return replace(self, train=train, search=search, test=test)


def open_splits(data: Data, *, seed: int, announce: Warn = unheard) -> Splits:
    """The splits that `data` and `seed` fix; DataError where the data is missing, broken or too little.

    `announce` is told of a download before it begins.
    """
    notes: list[str] = []
    everything, test, classes = open_dataset(data, notes.append, announce)
    C = everything.channels
    if len(data.mean) not in (1, C):
        values = "one value" if C == 1 else f"one value or {C}"
        raise DataError(
            f"data.mean and data.std have {len(data.mean)} values, the images are {_kind(C)}; give {values}"
        )
    n = min(len(everything), data.limit or len(everything))
    judges, rest = _divided(n if data.search_from == "train" else len(test), data, seed)
    doubtful = tuple(doubts(data_root(data) / data.folder, everything, test, classes, data))
    if data.search_from == "test":
        sets = everything.subset(torch.arange(n)), test.subset(judges), test.subset(rest)
    else:
        sets = everything.subset(rest), everything.subset(judges), test
    return Splits(*sets, classes, C, tuple(notes), doubtful)


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


def check_fits(splits: Splits, model: Model, data: Data) -> None:
    """DataError where the images' channels, the classes or the labels do not fit the recipe's model."""
    C = splits.channels
    if model.in_channels != C:
        turn = f" or data.channels={model.in_channels}" if model.in_channels in (1, 3) else ""
        raise DataError(
            f"model.in_channels is {model.in_channels}, but the images are {_kind(C)}; set model.in_channels={C}{turn}"
        )
    require_all_classes(data_root(data) / data.folder, splits.classes, splits.train, data, model)
    highest = max(int(images.labels.max()) for images in (splits.train, splits.search, splits.test))
    if highest >= model.num_classes:
        raise DataError(
            f"model.num_classes is {model.num_classes}, but the data has labels up to {highest} "
            f"({len(splits.classes)} classes); remove what is no class (the fewest training images are of {_rarest(splits)}), or set "
            f"model.num_classes={len(splits.classes)}"
        )


def _rarest(splits: Splits) -> str:
    """Classes with their training images, the fewest first: a folder that is no class is most often among them."""
    labels = torch.cat([splits.train.labels, splits.search.labels])
    counts = labels.bincount(minlength=len(splits.classes)).tolist()
    return few([f"{name}: {count}" for count, name in sorted(zip(counts, splits.classes, strict=True))])


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

    def of(self, team: Team) -> Batches:
        """This rank's part of the batches: every `size`-th."""
        numbers = self._numbers[team.rank :: team.size]
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


def train_batches(images: ImageSet, data: Data, *, seed: int, epoch: int, team: Team = ALONE) -> Batches:
    """One epoch in random order and augmented, this rank's part of each batch.

    A batch with fewer than two images per rank is left out: batch norm cannot train on one.
    """
    order = torch.randperm(len(images), generator=_generator(seed, "order", epoch))
    geometry, seeds = as_trained(data), (seed, epoch)
    return _batches(_Work(images, data, geometry, order, data.step_images, FEWEST_TRAINING_IMAGES, seeds, team))


def check_divides(splits: Splits, data: Data, team: Team) -> None:
    """InputError where ranks cannot share the batches: each needs two images of each for batch norm, and the same number of batches."""
    if team.size == 1:
        return
    asked = len(splits.train) if data.batch_size == "auto" else data.batch_size
    most, fewest = min(asked, len(splits.train)), FEWEST_TRAINING_IMAGES * team.size
    if most < fewest:
        raise InputError(
            f"data.batch_size: {team.size} ranks share a batch of {most} images, and each needs {FEWEST_TRAINING_IMAGES}; "
            f"set it to {fewest} or more, or start fewer processes"
        )
    if data.skip_broken:
        raise InputError(
            "data.skip_broken: ranks that leave out different images would wait for one another; repair the files, or start one process"
        )


def eval_batches(images: ImageSet, data: Data, *, as_pixels: bool = False) -> Batches:
    """Every image once, in order, as it is tested; `as_pixels`: as uint8 [B, C, H, W], not normalised yet."""
    order = torch.arange(len(images))
    work = _Work(images, data, as_tested(data), order, data.eval_batch_size, 1, (), as_pixels=as_pixels)
    return _batches(work)


def _batches(work: _Work) -> Batches:
    """Worker processes get no `warn`: it may hold what cannot be sent to them."""
    images = work.images
    return Batches(replace(work, images=images.heard_by(unheard)), work.data.workers, images.warn)


_Made = tuple[Batch | None, tuple[str, ...]] | EdcompressError
"""A batch, or None where too little is left of it, with what is wrong with the images that were left out of it."""

_FEWER = "take fewer of them with data.workers (0: the training process loads), and go on with --resume"

_REPAIR = "repair or remove the files, or look whether their disk is there"


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
    team: Team = ALONE
    as_pixels: bool = False

    def __len__(self) -> int:
        whole, rest = divmod(len(self.order), self.batch_size)
        return whole + (rest >= self.fewest * self.team.size)

    def __getitem__(self, k: int) -> _Made:
        whole = self.order[k * self.batch_size : (k + 1) * self.batch_size]
        # So divided, the first images of a batch are the first ones of all ranks.
        part = slice(self.team.rank, None, self.team.size)
        varied = ("varied", k) if self.team.first else ("varied", k, self.team.rank)
        try:
            with default_generator_seeded(_seed(*self.seeds, *varied)):
                read = self.images.read(whole[part].tolist(), self.geometry)
        except DataError as error:  # raised in a worker, it would come out as a traceback in a string
            return error
        if len(read.indices) < self.fewest:
            return None, read.faults
        pixels = shift_and_flip(read.pixels, self.geometry, _generator(*self.seeds, "shift", k), len(whole), part)
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


def _kind(channels: int) -> str:
    return "grey" if channels == 1 else "RGB"


def _generator(*parts: int | str) -> torch.Generator:
    return torch.Generator().manual_seed(_seed(*parts))


def _seed(*parts: int | str) -> int:
    """A 63-bit number for a stream of random numbers; streams with different names have nothing in common."""
    name = "/".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest()) >> 1
