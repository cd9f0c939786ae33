"""A recipe's data as train, search and test images, and their checks."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from edcompress.core.errors import DataError, InputError
from edcompress.core.plain_text import few
from edcompress.core.recipe.data import Data
from edcompress.core.recipe.model import Model
from edcompress.core.system.distributed import ProcessGroup
from edcompress.data.batches import FEWEST_TRAINING_IMAGES
from edcompress.data.class_folders import doubts, require_all_classes
from edcompress.data.datasets import data_root, open_dataset
from edcompress.data.images import ImageSet
from edcompress.data.opening import Warn, discard_warning
from edcompress.data.seeding import generator_for


@dataclass(frozen=True, eq=False)
class Splits:
    """Three disjoint sets: `train` to learn from, `search` (held out of training) to judge states, `test` to report."""

    train: ImageSet
    search: ImageSet
    test: ImageSet
    classes: tuple[str, ...]
    channels: int
    notes: tuple[str, ...] = ()
    """Remarks on what lies among the images and is not read."""
    doubts: tuple[str, ...] = ()
    """Reasons to doubt their labels or accuracies, though they can be used."""

    def with_warnings_to(self, warn: Warn) -> Splits:
        """Return the same splits; `warn` takes a message for every image that is left out, each time that it is."""
        train, search, test = (images.with_warnings_to(warn) for images in (self.train, self.search, self.test))
        return replace(self, train=train, search=search, test=test)


def open_splits(data: Data, *, seed: int, announce: Warn = discard_warning) -> Splits:
    """Open the splits that `data` and `seed` fix.

    Args:
        data: The recipe's data section.
        seed: Fixes which images are held out.
        announce: Takes a message about a download before it starts.

    Raises:
        DataError: The data is missing, broken or too little.
    """
    notes: list[str] = []
    images, test, classes = open_dataset(data, notes.append, announce)
    C = images.channels
    if len(data.mean) not in (1, C):
        values = "one value" if C == 1 else f"one value or {C}"
        raise DataError(
            f"data.mean and data.std have {len(data.mean)} values, the images are {_kind(C)}; give {values}"
        )
    n = min(len(images), data.limit or len(images))
    held_out, rest = _hold_out(n if data.search_from == "train" else len(test), data, seed)
    doubtful = tuple(doubts(data_root(data) / data.folder, images, test, classes, data))
    if data.search_from == "test":
        sets = images.subset(torch.arange(n)), test.subset(held_out), test.subset(rest)
    else:
        sets = images.subset(rest), images.subset(held_out), test
    return Splits(*sets, classes, C, tuple(notes), doubtful)


def _hold_out(n: int, data: Data, seed: int) -> tuple[Tensor, Tensor]:
    """Divide n images: indices of those that judge states, and of the rest; DataError where the rest is too little."""
    held_out = max(1, round(n * data.search_fraction))
    if n - held_out < FEWEST_TRAINING_IMAGES:
        images, use = ("training", "train") if data.search_from == "train" else ("test", "report")
        raise DataError(
            f"data.search_fraction: {data.search_fraction} of {n} {images} images leaves {max(0, n - held_out)} to "
            f"{use} on; at least {FEWEST_TRAINING_IMAGES} are needed"
        )
    order = torch.randperm(n, generator=generator_for(seed, "split"))
    return order[:held_out].sort().values, order[held_out:].sort().values


def check_fits(splits: Splits, model: Model, data: Data) -> None:
    """Raise DataError where the images' channels, their classes or their labels do not fit the recipe's model."""
    C = splits.channels
    if model.in_channels != C:
        convert = f" or data.channels={model.in_channels}" if model.in_channels in (1, 3) else ""
        raise DataError(
            f"model.in_channels is {model.in_channels}, but the images are {_kind(C)}; set model.in_channels={C}{convert}"
        )
    require_all_classes(data_root(data) / data.folder, splits.classes, splits.train, data, model)
    highest = max(int(images.labels.max()) for images in (splits.train, splits.search, splits.test))
    if highest >= model.num_classes:
        raise DataError(
            f"model.num_classes is {model.num_classes}, but the data has labels up to {highest} "
            f"({len(splits.classes)} classes); remove what is not a class (fewest training images: {_rarest(splits)}), or set "
            f"model.num_classes={len(splits.classes)}"
        )


def _rarest(splits: Splits) -> str:
    """List classes with their training images, fewest first: a folder that is not a class is usually among them."""
    labels = torch.cat([splits.train.labels, splits.search.labels])
    counts = labels.bincount(minlength=len(splits.classes)).tolist()
    return few([f"{name}: {count}" for count, name in sorted(zip(counts, splits.classes, strict=True))])


def check_divides(splits: Splits, data: Data, ranks: ProcessGroup) -> None:
    """Raise InputError where ranks cannot share the batches: each needs two images of each, and all the same number of batches."""
    if ranks.size == 1:
        return
    asked = data.batch_size if isinstance(data.batch_size, int) else len(splits.train)
    most, fewest = min(asked, len(splits.train)), FEWEST_TRAINING_IMAGES * ranks.size
    if most < fewest:
        raise InputError(
            f"data.batch_size: {ranks.size} ranks share a batch of {most} images, and each needs {FEWEST_TRAINING_IMAGES}; "
            f"set it to {fewest} or more, or start fewer processes"
        )
    if data.skip_broken:
        raise InputError(
            "data.skip_broken: ranks that leave out different images would wait for one another; repair the files, or start one process"
        )


def _kind(channels: int) -> str:
    return "grey" if channels == 1 else "RGB"
