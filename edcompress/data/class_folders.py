"""Mistakes in how images are arranged in class folders: folders that are the same directory, too few, numbers, wrappers, copies."""

from __future__ import annotations

import filecmp
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from edcompress.core.errors import DataError
from edcompress.core.plain_text import few
from edcompress.core.recipe.data import Data
from edcompress.core.recipe.model import Model
from edcompress.data.images import FileImages, ImageSet, spread
from edcompress.data.opening import Opened

COMPARED = 32
"""Test images, spread over the split, that are compared with training images."""


def require_distinct(folders: Sequence[Path]) -> None:
    """Raise DataError where two class folders are the same directory, or one lies in the other."""
    real: dict[Path, Path] = {}
    for folder in folders:
        if (other := real.setdefault(folder.resolve(), folder)) is not folder:
            raise _shared(other, folder)
    for path, folder in real.items():
        if outer := next((real[parent] for parent in path.parents if parent in real), None):
            raise _shared(outer, folder)


def _shared(one: Path, other: Path) -> DataError:
    return DataError(
        f"data.folder: {one} and {other} are the same directory, or one lies in the other; give each class, and train and val, images "
        "of their own"
    )


def require_all_classes(train: Path, classes: Sequence[str], images: ImageSet, data: Data, model: Model) -> None:
    """Raise DataError where labels are positions among class folders, and these are fewer than the network's classes.

    Args:
        train: The folder that holds the class folders of the training images.
        classes: Names of the class folders.
        images: The training images.
        data: The recipe's data section.
        model: The recipe's model section.
    """
    found, asked = len(classes), model.num_classes
    if not data.facts.class_folders or data.class_index != "position" or found >= asked:
        return
    wrapped = _wrapped(train, images)
    fix = f"{wrapped}: move the class folders up, into {train}" if wrapped else "add the missing ones"
    raise DataError(
        f"model.num_classes is {asked}, but {train} has {found} class folders, and labels are positions among them: "
        f"{few(classes, 20)}; {fix}, or set model.num_classes={found} for a network with that many classes"
    )


def doubts(opened: Opened, data: Data) -> Iterator[str]:
    """Yield the reasons to doubt labels or accuracies, though the images can be used.

    Args:
        opened: All training and test images.
        data: The recipe's data section.
    """
    train, test, classes, by_position = opened.train, opened.test, opened.classes, data.class_index == "position"
    if by_position and test.labels is not None and (absent := _absent(test.labels, classes)):
        yield f"the test images show {len(classes) - len(absent)} of {len(classes)} classes, and none of {few(absent)}"
    if not (isinstance(train, FileImages) and isinstance(test, FileImages) and opened.parts):
        return
    if by_position and all(name.isdecimal() for name in classes) and sorted(classes, key=int) != list(classes):
        yield (
            f"data.folder: the class folders are numbers, and are sorted as text: {few(classes)}; if the network was trained "
            "in the order of the numbers, its answers are wrong here: give the names one length (01, 02 ...)"
        )
    for part, images in dict(zip(opened.parts, (train, test), strict=True)).items():
        if wrapped := _wrapped(part, images):
            yield f"data.folder: {wrapped}: check that the folders in {part} are classes, and not wrappers around classes"
    if opened.parts[0] != opened.parts[1]:
        yield from _copies(*opened.parts, test)


def _absent(labels: Tensor, classes: Sequence[str]) -> list[str]:
    present = set(labels.tolist())
    return [name for number, name in enumerate(classes) if number not in present]


def _wrapped(part: Path, images: ImageSet) -> str | None:
    """Return a remark where all images lie in folders within the class folders; None where one lies in a class folder itself."""
    if not isinstance(images, FileImages) or any(Path(path).parent.parent == part for path in images.paths):
        return None
    return f"no image lies in a class folder itself ({images.paths[0]} is the first)"


def _copies(train: Path, part: Path, test: FileImages) -> Iterator[str]:
    """Yield a warning where test images are training images too, under the same name."""
    indices = spread(len(test), COMPARED).tolist()
    pairs = ((Path(test.paths[i]), train / Path(test.paths[i]).relative_to(part)) for i in indices)
    same = [f"{one} is {other}" for one, other in pairs if _equal(one, other)]
    if same:
        yield (
            f"data.folder: {len(same)} of {len(indices)} test images that were compared are training images too ({same[0]}): accuracies "
            f"on them say nothing about new images; put others into {part.name}"
        )


def _equal(one: Path, other: Path) -> bool:
    """Return whether two files have the same bytes; False where one cannot be read, which decoding it will report."""
    try:
        return filecmp.cmp(one, other, shallow=False)
    except OSError:
        return False
