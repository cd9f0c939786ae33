"""Data sets of the user's own as train, search and test images, with what they make impossible."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from torch.utils.data import DataLoader

from edcompress.core.errors import DataError
from edcompress.core.recipe.data import Data
from edcompress.core.user_code import kind_with_length
from edcompress.data.division import divided, shuffled
from edcompress.data.objects import ObjectImages, class_names, map_style, object_images
from edcompress.data.opening import Opened

PARTS = ("train", "val", "test")


class Given(NamedTuple):
    """Data sets or DataLoaders as the user gives them; `val` and `test` may be None."""

    train: object
    val: object
    test: object


def parts_of(returned: object, where: str) -> Given:
    """Return the parts of what a factory returns: train, val and test, or train and test, in a tuple or by name."""
    if isinstance(returned, Mapping):
        if unknown := [str(key) for key in returned if key not in PARTS]:
            raise DataError(f"{where} returned a mapping with {', '.join(unknown)}; its keys are {', '.join(PARTS)}")
        return Given(*(returned.get(part) for part in PARTS))
    if not isinstance(returned, tuple | list) or len(returned) not in (2, 3):
        found = kind_with_length(returned)
        raise DataError(f"{where} must return train, val (or None) and test; it returned a {found}")
    return Given(*returned) if len(returned) == 3 else Given(returned[0], None, returned[1])


def open_objects(
    given: Given, data: Data, classes: int | None = None, *, name: str = "data.factory: ", any_labels: bool = False
) -> Opened:
    """Return the images of data sets or DataLoaders.

    Without `test`, `val` tests; without both, a share of train does (data.test_fraction).

    Args:
        given: The data sets.
        data: The recipe's data section.
        classes: How many classes the network has.
        name: What to call them in messages, before the part.
        any_labels: Whether a loss of the user's own takes the labels, which then need not be classes.

    Raises:
        DataError: One of them cannot be used.
    """
    if given.train is None:
        raise DataError(f"{name}train is None; give the training images")
    sets = {
        part: object_images(value, f"{name}{part}", data, classes, any_labels=any_labels)
        for part, value in zip(PARTS, given, strict=True)
        if value is not None
    }
    _require_alike(sets)
    names = class_names(map_style(given.train, name), classes)
    found = tuple(doubts_of(sets))
    train, val, test = (sets.get(part) for part in PARTS)
    assert train is not None
    opened = divided(shuffled(train), val, test, names, data, where=name.strip(": ") or "the data set")
    note = "" if not any(isinstance(value, DataLoader) for value in given) else LOADERS
    return opened._replace(doubts=found, divided="; ".join(filter(None, (note, opened.divided))))


LOADERS = (
    "of each DataLoader the data set alone is used: batches are made by data.batch_size, data.workers and the seed"
)


def doubts_of(sets: Mapping[str, ObjectImages]) -> Iterator[str]:
    """Yield what data sets make impossible: repeating a run, or measuring on unchanged images."""
    for part, images in sets.items():
        if not images.repeats(other_seed=False):
            yield (
                f"{images.name}: an item differs between two reads though torch's, NumPy's and Python's global generators are seeded: its "
                "transforms draw from a generator of their own, so that this run cannot be repeated, nor resumed to the bit"
            )
        elif not images.repeats(other_seed=True):
            if part != "train":
                yield f"{images.name}: its items are changed at random, and accuracies are of changed images; give it without augmentation"
            elif "val" not in sets or "test" not in sets:
                yield (
                    f"{images.name}: its items are changed at random, and held-out images are taken from it, changed alike; give val and "
                    "test without augmentation, or leave augmentation to data.transform or data.augment"
                )


def _require_alike(sets: Mapping[str, ObjectImages]) -> None:
    """Raise DataError where the images or labels of two parts are of different kinds."""
    first = sets["train"]
    for images in sets.values():
        for one, other in zip(_kinds(first), _kinds(images), strict=True):
            if one != other:
                raise DataError(f"{images.name} has {other}, and {first.name} {one}; give both alike")


def _kinds(images: ObjectImages) -> tuple[str, str, str]:
    """Return what must be alike in all parts, in words."""
    shape, dtype = images.form.label
    return (
        f"images of {images.channels} channels",
        "float images" if images.prepared else "uint8 pixels",
        f"labels of {dtype} {list(shape)}",
    )
