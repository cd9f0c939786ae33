"""Data sets of the user's own: objects with a length and items by number, each an image and its label."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset, Subset, TensorDataset

from edcompress.core.errors import DataError
from edcompress.core.recipe.data import Data
from edcompress.core.system.hashing import digest_of
from edcompress.core.user_code import kind_of, users_code
from edcompress.data.images import ReadImages, spread
from edcompress.data.item_values import image_value, label_value, pair_of
from edcompress.data.opening import Warn, discard_warning
from edcompress.data.seeding import derived_seed, global_generators_seeded
from edcompress.data.transforms import PICTURES, Geometry, to_channels

CHECKED = 4
"""Items of each split, spread over it, that are read before anything is computed."""


class Items(Protocol):
    """A map-style data set."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


@dataclass(frozen=True)
class ItemForm:
    """What all items of a data set have in common.

    Attributes:
        channels: The number of channels of the images.
        size: Height and width that the network takes; floats have it, and pixels are resized to it.
        prepared: Images are floats as the network takes them.
        label: Shape and dtype of the labels.
        classes: How many classes there are, where labels are classes and that is known.
        any_labels: A loss of the user's own takes the labels.
    """

    channels: int
    size: tuple[int, int]
    prepared: bool
    label: tuple[tuple[int, ...], torch.dtype]
    classes: int | None
    any_labels: bool = False


@dataclass(frozen=True, eq=False)
class ObjectImages:
    """Items of a data set of the user's own, by their `numbers` int64 [N] there.

    Global generators (torch's, NumPy's, Python's) are seeded for each item, so that random transforms in the data set repeat. `labels` are
    those that the data set shows without reading its images.
    """

    items: Items
    name: str
    form: ItemForm
    numbers: Tensor
    labels: Tensor | None = None
    skip_broken: bool = False
    foreign: bool = True
    warn: Warn = discard_warning

    @property
    def channels(self) -> int:
        """The number of channels."""
        return self.form.channels

    @property
    def prepared(self) -> bool:
        """Whether images are floats as the network takes them."""
        return self.form.prepared

    def __len__(self) -> int:
        return len(self.numbers)

    def with_warnings_to(self, warn: Warn) -> Self:
        """Return the same images with another `warn`."""
        return replace(self, warn=warn)

    def subset(self, indices: Tensor) -> Self:
        """Return the images at `indices` (int64), in that order."""
        labels = None if self.labels is None else self.labels[indices]
        return replace(self, numbers=self.numbers[indices], labels=labels)

    def read(self, indices: Sequence[int], geometry: Geometry, seed: int = 0) -> ReadImages:
        """Return the images that can be read; DataError names the first that cannot, unless `skip_broken`."""
        images, labels, faults = [], [], []
        for i in indices:
            number = int(self.numbers[i])
            try:
                image, label = self._item(number, seed)
            except DataError as error:
                if not self.skip_broken:
                    raise
                faults.append(str(error))
                continue
            images.append(image if self.prepared else self._changed(image, geometry, seed, number))
            labels.append(label)
        shape, dtype = self.form.label
        none = torch.empty((0, self.channels, 0, 0), dtype=torch.uint8), torch.empty((0, *shape), dtype=dtype)
        stacked = (torch.stack(images), torch.stack(labels)) if images else none
        return ReadImages(*stacked, tuple(faults), finished=self.prepared)

    def labels_at(self, indices: Tensor) -> Tensor:
        """Return the labels of items, which are read and checked; DataError names the first that cannot be used."""
        labels = []
        for number in self.numbers[indices].tolist():
            try:
                labels.append(self._item(number, 0)[1])
            except DataError:
                if not self.skip_broken or not labels:
                    raise
        return torch.stack(labels)

    def repeats(self, *, other_seed: bool) -> bool:
        """Return whether the first item is the same when it is read again, with the same seed or another."""
        number = int(self.numbers[0])
        return torch.equal(self._item(number, 0)[0], self._item(number, int(other_seed))[0])

    def _changed(self, image: Tensor, geometry: Geometry, seed: int, number: int) -> Tensor:
        if geometry.keeps(image.unsqueeze(0)):
            return image
        with geometry.seeded(seed, number):
            return geometry.apply_to_pixels(image)

    def _item(self, number: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return image and label of one item, as all others are; DataError names the item and what is wrong with it."""
        where = name_of_item(self.items, self.name, number)
        image, label = read_item(self.items, number, where, seed, foreign=self.foreign)
        form = self.form
        try:
            pixels = image_value(image, form.channels)
            if (pixels.dtype != torch.uint8) != form.prepared:
                raise ValueError(
                    f"its image has values of {pixels.dtype}, unlike the first one; return uint8 or floats for all"
                )
            pixels = self._fitting(pixels)
            value = label_value(label, form.classes, any_labels=form.any_labels)
            if (tuple(value.shape), value.dtype) != form.label:
                raise ValueError(
                    f"its label is {value.dtype} {list(value.shape)}, and the first one {form.label[1]} {list(form.label[0])}"
                )
        except ValueError as error:
            raise DataError(f"{where}: {error}") from error
        return pixels, value

    def _fitting(self, pixels: Tensor) -> Tensor:
        """Return an image with the channels and, of floats, the size of all; ValueError where it has others."""
        form, wanted = self.form, (self.form.channels, *self.form.size)
        if form.prepared and tuple(pixels.shape) != wanted:
            raise ValueError(
                f"its image is float {list(pixels.shape)}, and the network takes {list(wanted)} (data.image_size, model.in_channels); "
                "return that, or uint8 pixels, which are resized and normalised for you"
            )
        if len(pixels) != form.channels and not {len(pixels), form.channels} <= set(PICTURES):
            raise ValueError(
                f"its image has {len(pixels)} channels, and {form.channels} are taken (data.channels, or the first item)"
            )
        return pixels if form.prepared else to_channels(pixels.unsqueeze(0), form.channels).squeeze(0)


def name_of_item(items: Items, name: str, number: int) -> str:
    """Return the name of an item in messages: its number in the data set, or what our own data sets call it."""
    named = getattr(items, "where", None) if type(items).__module__.startswith("edcompress.") else None
    return named(number) if named else f"{name}[{number}]"


def read_item(items: Items, number: int, where: str, seed: int, *, foreign: bool = True) -> tuple[Any, Any]:
    """Return image and label of an item as the data set gives them, with all global generators seeded.

    Args:
        items: The data set.
        number: The number of the item.
        where: The name of the item in messages.
        seed: The seed from which the item's own follows.
        foreign: Whether the data set is the user's code, whose errors are reported as such.

    Raises:
        DataError: Reading fails, or the item is not a pair.
    """
    errors: AbstractContextManager[None] = (
        users_code(f"{where} failed in your code", DataError) if foreign else nullcontext()
    )
    with global_generators_seeded(derived_seed(seed, "item", number)), errors:
        item = items[number]
    try:
        return pair_of(item)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from error


def object_images(
    given: object, name: str, data: Data, classes: int | None = None, *, any_labels: bool = False, foreign: bool = True
) -> ObjectImages:
    """Return the images of a data set or DataLoader, after reading a few items.

    Args:
        given: A map-style data set, or a DataLoader, whose data set is taken.
        name: What to call it in messages, such as "data.factory: train".
        data: The recipe's data section.
        classes: How many classes the network has.
        any_labels: Whether a loss of the user's own takes the labels, which then need not be classes.
        foreign: Whether it is the user's code, whose errors are reported as such.

    Raises:
        DataError: It has no length or no items by number, is empty, or an item is not a pair of image and label.
    """
    items = map_style(given, name)
    count, channels = length_of(items, name), data.channels
    first = name_of_item(items, name, 0)
    image, label = read_item(items, 0, first, 0, foreign=foreign)
    try:
        pixels, value = image_value(image, channels), label_value(label, classes, any_labels=any_labels)
    except ValueError as error:
        raise DataError(f"{first}: {error}") from error
    prepared, of_label = pixels.dtype != torch.uint8, (tuple(value.shape), value.dtype)
    form = ItemForm(channels or len(pixels), data.height_width, prepared, of_label, classes, any_labels)
    images = ObjectImages(items, name, form, torch.arange(count), None, data.skip_broken, foreign)
    checked = spread(count, CHECKED)
    labels = images.labels_at(checked)
    _require_sendable(items, name, data)
    shown = _shown_labels(items, count)
    return replace(images, labels=shown if shown is not None and torch.equal(shown[checked], labels) else None)


def first_image(given: object, name: str, channels: int | None) -> Tensor:
    """Return the first image of a data set or DataLoader, uint8 or float32 [C, H, W]; DataError where there is none.

    Args:
        given: The data set or DataLoader.
        name: What to call it in messages.
        channels: How many channels images are converted to, if they are.
    """
    items = map_style(given, name)
    length_of(items, name)
    where = name_of_item(items, name, 0)
    image, _ = read_item(items, 0, where, 0)
    try:
        return image_value(image, channels)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from error


def fingerprint_of(sets: Mapping[str, object]) -> str:
    """Return a digest of data sets or DataLoaders: how many items they have, and a few items that repeat, equal in any process."""
    parts: list[Tensor | str] = []
    for name, given in sets.items():
        items = map_style(given, name)
        count = length_of(items, name)
        parts.append(f"{name} {count}")
        for number in sorted({0, count // 2, count - 1}):
            first, again = (read_item(items, number, name_of_item(items, name, number), 0) for _ in range(2))
            try:
                image, other, label = (
                    image_value(first[0], None),
                    image_value(again[0], None),
                    torch.as_tensor(first[1]),
                )
            except (TypeError, ValueError, RuntimeError):  # which is reported where the items are opened
                continue
            parts += [label, image] if torch.equal(image, other) else [label]
    return digest_of(parts, 8).hex()


def map_style(given: object, name: str) -> Items:
    """Return a data set, or that of a DataLoader; DataError where its items have no numbers."""
    found = given.dataset if isinstance(given, DataLoader) else given
    kind = f"a DataLoader of {type(found).__name__}" if found is not given else f"of class {type(found).__name__}"
    if isinstance(found, IterableDataset) or not hasattr(found, "__getitem__"):
        what = kind if hasattr(found, "__iter__") else kind_of(given)
        raise DataError(
            f"{name}: it is {what}, which has no items by number; give a data set with __len__ and __getitem__ (map style), or a "
            "DataLoader of one: batches are drawn again when a run resumes"
        )
    items: Any = found
    return items  # type: ignore[no-any-return]


def class_names(items: object, classes: int | None) -> tuple[str, ...]:
    """Return the names that a data set gives its classes, as torchvision's `classes`, else their numbers; () where nothing is known."""
    names = getattr(items, "classes", None)
    while names is None and isinstance(items, Subset):
        items = items.dataset
        names = getattr(items, "classes", None)
    fits = isinstance(names, tuple | list) and all(isinstance(name, str) for name in names)
    if fits and names and (classes is None or len(names) == classes):
        return tuple(names)
    return tuple(map(str, range(classes or 0)))


def length_of(items: Items, name: str) -> int:
    """Return the number of items; DataError where there is none, or it is not known."""
    if not hasattr(items, "__len__"):
        raise DataError(
            f"{name}: {type(items).__name__} has no length; define __len__: splits, epochs and resuming need the number"
        )
    with users_code(f"{name}: its __len__ failed in your code", DataError):
        count = len(items)
    if not count:
        raise DataError(f"{name}: it is empty; give at least one image")
    return count


def _shown_labels(items: object, count: int) -> Tensor | None:
    """Return the classes int64 [N] of all items as data sets show them without reading an image; None where they do not."""
    if isinstance(items, Subset):
        inner = _shown_labels(items.dataset, len(items.dataset))  # type: ignore[arg-type]
        return None if inner is None else inner[torch.as_tensor(list(items.indices))]
    if isinstance(items, ConcatDataset):
        parts = [_shown_labels(part, len(part)) for part in items.datasets]  # type: ignore[arg-type]
        return None if any(part is None for part in parts) else torch.cat(parts)  # type: ignore[arg-type]
    shown = (
        items.tensors[-1]
        if isinstance(items, TensorDataset)
        else getattr(items, "targets", getattr(items, "labels", None))
    )
    try:
        labels = torch.as_tensor(shown)
    except (TypeError, ValueError, RuntimeError):
        return None
    is_classes = (
        labels.ndim == 1 and len(labels) == count and not labels.is_floating_point() and not labels.is_complex()
    )
    return labels.detach().cpu().to(torch.int64) if is_classes else None


def _require_sendable(items: Items, name: str, data: Data) -> None:
    """Raise DataError where worker processes that are not forked could not get the data set."""
    if not data.workers or multiprocessing.get_start_method() == "fork":
        return
    try:
        pickle.dumps(items)
    except Exception as error:  # pickle raises all kinds
        raise DataError(
            f"{name}: it cannot be sent to data.workers ({error}); set data.workers=0, or define it in a module"
        ) from error
