"""A recipe's data as train, search and test images, and their checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from edcompress.core.errors import DataError, InputError
from edcompress.core.plain_text import few
from edcompress.core.recipe.data import Data
from edcompress.core.recipe.model import Model
from edcompress.core.system.distributed import ProcessGroup
from edcompress.data.batches import FEWEST_TRAINING_IMAGES
from edcompress.data.class_folders import doubts, require_all_classes
from edcompress.data.datasets import open_dataset
from edcompress.data.images import ImageSet
from edcompress.data.opening import Opened, Warn, discard_warning
from edcompress.data.own_sets import Given, open_objects
from edcompress.data.own_transform import Transform, TransformedImages, doubt_of, own_transform, under_transform
from edcompress.data.seeding import generator_for
from edcompress.data.transforms import PICTURES, Geometry

PREPARED = (
    "the images are float tensors, which are taken as the network's input: data.resize, data.augment, data.mean and data.std do not "
    "apply"
)


@dataclass(frozen=True, eq=False)
class Splits:
    """Three disjoint sets: `train` to learn from, `search` (held out of training) to judge states, `test` to report."""

    train: ImageSet
    search: ImageSet
    test: ImageSet
    classes: tuple[str, ...]
    channels: int
    notes: tuple[str, ...] = ()
    """Remarks on what lies among the images and is not read, and on what divides them."""
    doubts: tuple[str, ...] = ()
    """Reasons to doubt their labels or accuracies, though they can be used."""
    class_folders: Path | None = None
    """The folder of the class folders of the training images, where there is one."""

    @property
    def prepared(self) -> bool:
        """Whether test images are floats as the network takes them, so that there are no pixels to normalise."""
        return self.test.prepared

    def with_warnings_to(self, warn: Warn) -> Splits:
        """Return the same splits; `warn` takes a message for every image that is left out, each time that it is."""
        train, search, test = (images.with_warnings_to(warn) for images in (self.train, self.search, self.test))
        return replace(self, train=train, search=search, test=test)


def open_splits(
    data: Data,
    *,
    seed: int,
    announce: Warn = discard_warning,
    trust_code: bool = False,
    classes: int | None = None,
    any_labels: bool = False,
) -> Splits:
    """Open the splits that `data` and `seed` fix.

    Args:
        data: The recipe's data section.
        seed: Fixes which images are held out.
        announce: Takes a message about a download before it starts.
        trust_code: Run the user's own code (data.factory, data.transform).
        classes: How many classes the network has, if known.
        any_labels: Whether a loss of the user's own takes the labels, which then need not be classes.

    Raises:
        DataError: The data is missing, broken or too little.
    """
    notes: list[str] = []
    transforms = {key: own_transform(key, data, trust_code=trust_code) for key in ("transform", "eval_transform")}
    opened = open_dataset(data, notes.append, announce, trust_code=trust_code, classes=classes, any_labels=any_labels)
    splits = _make_splits(opened, data, seed, notes)
    return _under_transforms(splits, transforms["transform"], transforms["eval_transform"], data)


def splits_of_objects(
    given: Given, data: Data, seed: int, *, classes: int | None = None, any_labels: bool = False
) -> Splits:
    """Return the splits of data sets or DataLoaders in memory.

    Args:
        given: Map-style data sets of (image or tensor, label), or DataLoaders of them: `train`; `val`, which judges states, or None to
            hold out a share of the training images; and `test`, or None to test on `val`, else on a share of the training images.
        data: The recipe's data section with dataset "memory"; its geometry, augmentation and normalisation apply to images and pixels.
        seed: Fixes which images are held out.
        classes: How many classes the network has, if known.
        any_labels: Whether a loss of the user's own takes the labels, which then need not be classes.

    Raises:
        DataError: A data set cannot be used; the message names it, the item and the fix.
    """
    opened = open_objects(given, data, classes, name="", any_labels=any_labels)
    splits = _make_splits(opened, data, seed, [])
    if opened.search is not None or opened.divided:  # which says the numbers
        return splits
    note = f"val is None: {len(splits.search)} of the images of {data.search_from} are held out to judge states"
    return replace(splits, notes=(*splits.notes, note))


def _make_splits(opened: Opened, data: Data, seed: int, notes: Sequence[str]) -> Splits:
    images, test, search = opened.train, opened.test, opened.search
    C = images.channels
    if len(data.mean) not in (1, C):
        values = "one value" if C == 1 else f"one value or {C}"
        raise DataError(
            f"data.mean and data.std have {len(data.mean)} values, the images are {_kind(C)}; give {values}"
        )
    n = min(len(images), data.limit or len(images))
    if search is not None:
        _require_enough(n)
        notes = (*notes, *_not_used(data))
        sets = images.subset(torch.arange(n)), search, test
    elif data.search_from == "test":
        held_out, rest = _hold_out(len(test), data, seed)
        sets = images.subset(torch.arange(n)), test.subset(held_out), test.subset(rest)
    else:
        held_out, rest = _hold_out(n, data, seed)
        sets = images.subset(rest), images.subset(held_out), test
    if images.prepared:
        notes = (*notes, PREPARED)
    counts = f"{len(sets[0])} images train, {len(sets[1])} are held out to judge states, {len(sets[2])} test"
    said = (*notes, f"{opened.divided}: {counts}") if opened.divided else tuple(notes)
    doubtful = (*opened.doubts, *doubts(opened, data))
    return Splits(*sets, opened.classes, C, said, doubtful, opened.parts[0] if opened.parts else None)


def _under_transforms(splits: Splits, train: Transform | None, test: Transform | None, data: Data) -> Splits:
    """Return the splits under the user's own transforms, each tried on an image."""
    if train:
        name = f"data.transform: {data.transform}"
        splits = replace(splits, train=under_transform(splits.train, train, name, data, trains=True))
    if test:
        name = f"data.eval_transform: {data.eval_transform}"
        search, tested = (
            under_transform(images, test, name, data, trains=False) for images in (splits.search, splits.test)
        )
        splits = replace(splits, search=search, test=tested)
    tried = [(splits.train, True)] if train else []
    tried += [(splits.test, False)] if test else []
    found = [doubt_of(images, trains=trains) for images, trains in tried if isinstance(images, TransformedImages)]
    splits = replace(splits, doubts=(*splits.doubts, *filter(None, found)))
    if splits.train.prepared == splits.test.prepared:
        return splits
    which, other = ("transform", "eval_transform") if splits.train.prepared else ("eval_transform", "transform")
    doubt = (
        f"data.{which} returns floats, while other images are normalised by data.mean and data.std; check that both give the network "
        f"the same range of values, or set data.{other} too"
    )
    return replace(splits, doubts=(*splits.doubts, doubt))


def _not_used(data: Data) -> list[str]:
    """Return a note where the recipe says what to hold out, though the data has images that judge states."""
    return (
        ["data.search_from is not used: the data has images of its own that judge states"]
        if data.search_from == "test"
        else []
    )


def _require_enough(n: int) -> None:
    if n < FEWEST_TRAINING_IMAGES:
        raise DataError(f"data: {n} training images; at least {FEWEST_TRAINING_IMAGES} are needed")


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
        convert = f" or data.channels={model.in_channels}" if {model.in_channels, C} <= set(PICTURES) else ""
        raise DataError(
            f"model.in_channels is {model.in_channels}, but the images are {_kind(C)}; set model.in_channels={C}{convert}"
        )
    if splits.class_folders:
        require_all_classes(splits.class_folders, splits.classes, splits.train, data, model)
    known = [labels for images in (splits.train, splits.search, splits.test) if (labels := images.labels) is not None]
    if (highest := max((int(labels.max()) for labels in known), default=-1)) >= model.num_classes:
        raise DataError(
            f"model.num_classes is {model.num_classes}, but the data has labels up to {highest} "
            f"({len(splits.classes)} classes); remove what is not a class (fewest training images: {_rarest(splits)}), or set "
            f"model.num_classes={max(len(splits.classes), highest + 1)}"
        )


def _rarest(splits: Splits) -> str:
    """List classes with their training images, fewest first: a folder that is not a class is usually among them."""
    labels = torch.cat([labels for images in (splits.train, splits.search) if (labels := images.labels) is not None])
    counts = labels.bincount(minlength=len(splits.classes)).tolist()
    return few([f"{name}: {count}" for count, name in sorted(zip(counts, splits.classes, strict=False))])


def fingerprint(splits: Splits) -> tuple[Tensor | str, ...]:
    """Return numbers of images, and the first test image: equal on all ranks, whose code opens the data each for itself."""
    sets = (splits.train, splits.search, splits.test)
    read = splits.test.read([0], Geometry(None))
    return str([len(images) for images in sets]), read.pixels, read.labels


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
    return {1: "grey", 3: "RGB"}.get(channels, f"arrays of {channels} channels")
