"""Divide images by class: a share of each tests."""

from __future__ import annotations

import torch
from torch import Tensor

from edcompress.core.errors import DataError
from edcompress.core.recipe.data import Data
from edcompress.data.images import AnyImages, ImageSet
from edcompress.data.opening import Opened
from edcompress.data.seeding import generator_for


def divided(
    train: ImageSet, val: ImageSet | None, test: ImageSet | None, classes: tuple[str, ...], data: Data, where: str
) -> Opened:
    """Return the images of a data set by what it has: without test images val tests, and without either a share of train does.

    Args:
        train: The training images.
        val: Those that judge states where there are test images too.
        test: The test images.
        classes: The names of the classes.
        data: The recipe's data section.
        where: The data set, for messages.
    """
    if test is not None and val is not None:
        return Opened(train, test, classes, val)
    if (found := test or val) is not None:
        return Opened(train, found, classes, divided="" if test else f"{where}: its validation images test")
    rest, share = divide_by_class(train, data.test_fraction, data.split_seed)
    of_what = "the images" if train.labels is None else "each class"
    said = f"data.test_fraction: {where} has no test images of its own, {data.test_fraction:g} of {of_what} tests"
    return Opened(rest, share, classes, divided=said)


def shuffled(images: AnyImages) -> AnyImages:
    """Return the same images in an order of their own: the first N then hold most classes."""
    return images.subset(torch.randperm(len(images), generator=generator_for("own order")))


def divide_by_class(images: AnyImages, fraction: float, seed: int) -> tuple[AnyImages, AnyImages]:
    """Return training and test images: of each class this fraction tests, at least one image of two or more.

    Images whose classes are not known before they are read are one class.

    Raises:
        DataError: No class has two images.
    """
    labels = torch.zeros(len(images), dtype=torch.int64) if images.labels is None else images.labels
    test = stratified_share(labels, fraction, seed)
    if not len(test):
        raise DataError(
            f"data.test_fraction: no class has two images, so that none of {len(images)} can test; add images"
        )
    rest = torch.ones(len(images), dtype=torch.bool)
    rest[test] = False
    return images.subset(rest.nonzero().flatten()), images.subset(test)


def stratified_share(labels: Tensor, fraction: float, seed: int) -> Tensor:
    """Return the sorted indices of a share of each class, drawn by a seed: int64, at least one of a class with two images or more."""
    chosen = [torch.empty(0, dtype=torch.int64)]
    for label in torch.unique(labels).tolist():
        members = (labels == label).nonzero().flatten()
        count = min(max(1, round(len(members) * fraction)), len(members) - 1)
        order = torch.randperm(len(members), generator=generator_for(seed, "test split", label))
        chosen.append(members[order[:count]])
    return torch.cat(chosen).sort().values
