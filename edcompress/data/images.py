"""Sets of labelled images that are read by index: decoded in memory, or stored in files and decoded at every read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, Self, TypeVar

import torch
from torch import Tensor

from edcompress.core.errors import DataError
from edcompress.core.recipe.data import Data, Orientation
from edcompress.data.decoding import StoredFile, decode
from edcompress.data.opening import Warn, discard_warning
from edcompress.data.transforms import PICTURES, Geometry, to_channels


def spread(count: int, most: int) -> Tensor:
    """Return the indices of `most` of so many images, or of all, int64: images often lie class by class, and the first are of few."""
    return torch.linspace(0, count - 1, min(count, most)).long()


class ReadImages(NamedTuple):
    """`pixels` [B, channels, H, W] and `labels` [B, ...] of images, and the faults of those that were left out.

    Pixels are uint8, or float32 where the user's own code gives them as the network takes them. `finished`: they are as the user's own
    transform made them, and get no further augmentation.
    """

    pixels: Tensor
    labels: Tensor
    faults: tuple[str, ...] = ()
    finished: bool = False


class ImageSet(Protocol):
    """Labelled images, read by index."""

    @property
    def labels(self) -> Tensor | None:
        """int64 [N]; None where only reading an item shows its label, or labels are not classes."""

    @property
    def channels(self) -> int:
        """1 for grey, 3 for RGB, or the number of an array's channels."""

    @property
    def prepared(self) -> bool:
        """Whether the images are float32 as the network takes them, by a data set or transform of the user's own."""

    @property
    def warn(self) -> Warn:
        """Takes a message for each image that is left out. `read` does not call it, since it may run in a worker process."""

    def __len__(self) -> int: ...

    def with_warnings_to(self, warn: Warn) -> Self:
        """Return the same images with another `warn`."""

    def subset(self, indices: Tensor) -> Self:
        """Return the images at `indices` (int64), in that order."""

    def read(self, indices: Sequence[int], geometry: Geometry, seed: int = 0) -> ReadImages:
        """Return the images after the fixed and the random part of `geometry`; `seed` is that of the user's own transforms.

        Raises:
            DataError: An image is broken and may not be left out.
        """


AnyImages = TypeVar("AnyImages", bound=ImageSet)


RESIZED_BYTES = 2**28
"""The most memory that a set of decoded images takes for keeping them resized."""


@dataclass(frozen=True, eq=False)
class MemoryImages:
    """Images decoded once: uint8 `pixels` [N, C, H, W]. Where all of them fit into `RESIZED_BYTES`, each is resized once only."""

    pixels: Tensor
    labels: Tensor
    channels: int
    warn: Warn = discard_warning
    resized: dict[tuple[Callable[..., object], int], Tensor] = field(default_factory=dict, repr=False)
    prepared = False

    def __getstate__(self) -> dict[str, Any]:
        """Return what a process that loads images gets: it resizes them itself."""
        return {**vars(self), "resized": {}}

    def __len__(self) -> int:
        return len(self.labels)

    def with_warnings_to(self, warn: Warn) -> Self:
        """Return the same images with another `warn`."""
        return replace(self, warn=warn)

    def subset(self, indices: Tensor) -> Self:
        """Return the images at `indices` (int64), in that order, as a copy."""
        return replace(self, pixels=self.pixels[indices], labels=self.labels[indices], resized={})

    def read(self, indices: Sequence[int], geometry: Geometry, seed: int = 0) -> ReadImages:
        """Return all of them, transformed by Pillow as images in files are."""
        chosen = torch.as_tensor(indices)
        images = to_channels(self.pixels[chosen], self.channels)
        if geometry.fixed is not None and tuple(images.shape[2:]) != geometry.kept:
            fixed, geometry = replace(geometry, random=None), replace(geometry, fixed=None)
            images = torch.stack([self._resized(*pair, fixed) for pair in zip(indices, images, strict=True)])
        if not geometry.keeps(images):
            images = torch.stack(list(self._changed(images, indices, geometry, seed)))
        return ReadImages(images, self.labels[chosen])

    def _resized(self, index: int, image: Tensor, fixed: Geometry) -> Tensor:
        """Return uint8 pixels [C, H, W] after a geometry that draws no random numbers."""
        assert fixed.fixed is not None
        pixels = self.resized.get((fixed.fixed, index))
        if pixels is None:
            pixels = fixed.apply_to_pixels(image)
            if len(self) * pixels.nbytes <= RESIZED_BYTES:
                self.resized[fixed.fixed, index] = pixels
        return pixels

    def _changed(self, images: Tensor, indices: Sequence[int], geometry: Geometry, seed: int) -> Iterator[Tensor]:
        for index, image in zip(indices, images, strict=True):
            with geometry.seeded(seed, int(index)):
                yield geometry.apply_to_pixels(image)


@dataclass(frozen=True, eq=False)
class StoredImages(ABC):
    """Images in files, decoded and transformed by Pillow at every read; one that cannot be is left out, or raises DataError."""

    labels: Tensor
    channels: int
    skip_broken: bool = False
    orientation: Orientation = "apply"
    warn: Warn = discard_warning
    prepared: ClassVar[bool] = False

    def with_warnings_to(self, warn: Warn) -> Self:
        """Return the same images with another `warn`."""
        return replace(self, warn=warn)

    @abstractmethod
    def source(self, index: int) -> Path | StoredFile:
        """Return the file that holds the image at `index`."""

    def read(self, indices: Sequence[int], geometry: Geometry, seed: int = 0) -> ReadImages:
        """Return the images that can be decoded; DataError names the first that cannot, unless `skip_broken`."""
        pixels, found, faults = [], [], []
        for i in indices:
            try:
                image = decode(self.source(i), self.channels, self.orientation)
            except DataError as error:
                if not self.skip_broken:
                    fix = "replace or remove the file, or leave out such files with data.skip_broken=true"
                    raise DataError(f"{error}; {fix}") from error
                faults.append(str(error))
                continue
            with geometry.seeded(seed, i):
                pixels.append(geometry.apply(image))
            found.append(i)
        stacked = torch.stack(pixels) if pixels else torch.empty((0, self.channels, 0, 0), dtype=torch.uint8)
        return ReadImages(stacked, self.labels[found], tuple(faults))


@dataclass(frozen=True, eq=False, kw_only=True)
class FileImages(StoredImages):
    """Image files, each by its path."""

    paths: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def subset(self, indices: Tensor) -> Self:
        """Return the images at `indices` (int64), in that order."""
        return replace(self, paths=tuple(self.paths[i] for i in indices.tolist()), labels=self.labels[indices])

    def source(self, index: int) -> Path:
        """Return the path of the image at `index`."""
        return Path(self.paths[index])


def memory_images(pixels: Tensor, labels: Tensor, data: Data) -> MemoryImages:
    """Return uint8 pixels [N, C, H, W] and their integer labels [N] as the recipe's data section reads them."""
    _require_convertible(pixels.shape[1], data)
    return MemoryImages(pixels, labels.to(torch.int64), data.channels or pixels.shape[1])


def file_images(samples: Iterable[tuple[str, int]], data: Data) -> FileImages:
    """Return image files, given as (path, label), as the recipe's data section reads them."""
    paths, labels = zip(*samples, strict=True)
    return FileImages(torch.tensor(labels, dtype=torch.int64), *read_settings(data), paths=paths)


def _require_convertible(channels: int, data: Data) -> None:
    """Raise DataError where images of so many channels cannot get those of the recipe."""
    if data.channels not in (None, channels) and not {channels, data.channels} <= set(PICTURES):
        raise DataError(
            f"data.channels is {data.channels}, but {data.dataset} has pictures, which are grey (1) or RGB (3); arrays of other numbers of "
            "channels come from csv files of .npy arrays, or from data.factory"
        )


def read_labels(images: ImageSet) -> Tensor:
    """Return the labels [N, ...] of all images; reads every item where the data set does not show them."""
    if images.labels is not None:
        return images.labels
    labels = [images.read([index], Geometry(None)).labels for index in range(len(images))]
    return torch.cat(labels)


def read_settings(data: Data) -> tuple[int, bool, Orientation]:
    """Return `channels`, `skip_broken` and `orientation` of stored images, as the recipe's data section sets them."""
    _require_convertible(3, data)
    return data.channels or 3, data.skip_broken, data.exif_orientation


def interleave_classes(images: AnyImages) -> AnyImages:
    """Return the same images, the first of every class before the second of any: the first N then hold all classes.

    Images whose classes are not known stay as they are.
    """
    seen: dict[int, int] = {}
    ranks: list[int] = []
    if images.labels is None:
        return images
    for label in images.labels.tolist():
        ranks.append(seen.get(label, 0))
        seen[label] = ranks[-1] + 1
    return images.subset(torch.argsort(torch.tensor(ranks), stable=True))
