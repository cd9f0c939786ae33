"""Class folders that are not what they look like: two that are one directory, too few, numbers, wrappers, copies."""

from __future__ import annotations

import filecmp
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from edcompress.core.errors import DataError
from edcompress.core.plain_text import few
from edcompress.core.recipe.data import Data
from edcompress.core.recipe.model import Model
from edcompress.data.images import FileImages, ImageSet

COMPARED = 32
"""Test images, spread over the split, that are looked for among the training images."""


def require_distinct(folders: Sequence[Path]) -> None:
    """Raise DataError where two class folders are the same directory, or one lies in the other."""
    real: dict[Path, Path] = {}
    for folder in folders:
        if (other := real.setdefault(folder.resolve(), folder)) is not folder:
            raise _shared(other, folder)
    for place, folder in real.items():
        if holder := next((real[parent] for parent in place.parents if parent in real), None):
            raise _shared(holder, folder)


def _shared(one: Path, other: Path) -> DataError:
    return DataError(
        f"data.folder: {one} and {other} are the same directory, or one lies in the other; give each class, and train and val, images "
        "of their own"
    )


def require_all_classes(folder: Path, classes: Sequence[str], images: ImageSet, data: Data, model: Model) -> None:
    """Raise DataError where labels are positions among class folders that are fewer than the network's classes."""
    found, asked = len(classes), model.num_classes
    if data.dataset != "image_folder" or data.class_index != "position" or found >= asked:
        return
    train = folder / "train"
    wrapped = _wrapped(train, images)
    way_out = f"{wrapped}: move the class folders up, into {train}" if wrapped else "add the missing ones"
    raise DataError(
        f"model.num_classes is {asked}, but {train} has {found} class folders, and labels are positions among them: "
        f"{few(classes, 20)}; {way_out}, or set model.num_classes={found} for a network of so many classes"
    )


def doubts(folder: Path, train: ImageSet, test: ImageSet, classes: Sequence[str], data: Data) -> Iterator[str]:
    """What makes labels or accuracies doubtful, though the images can be used."""
    by_position = data.class_index == "position"
    if by_position and (absent := _absent(test, classes)):
        yield f"the test images show {len(classes) - len(absent)} of {len(classes)} classes, and none of {few(absent)}"
    if not (isinstance(train, FileImages) and isinstance(test, FileImages) and data.dataset == "image_folder"):
        return
    if by_position and all(name.isdecimal() for name in classes) and sorted(classes, key=int) != list(classes):
        yield (
            f"data.folder: the class folders are numbers, and count in the order of text: {few(classes)}; if the network was trained "
            "in the order of the numbers, its answers are wrong here: give the names one length (01, 02 ...)"
        )
    for part, images in ((folder / "train", train), (folder / "val", test)):
        if wrapped := _wrapped(part, images):
            yield f"data.folder: {wrapped}: check that the folders in {part} are classes, and not wrappers around classes"
    yield from _copies(folder, test)


def _absent(images: ImageSet, classes: Sequence[str]) -> list[str]:
    present = set(images.labels.tolist())
    return [name for number, name in enumerate(classes) if number not in present]


def _wrapped(part: Path, images: ImageSet) -> str | None:
    """Where the images lie, if all lie in folders within the class folders; None where one lies in a class folder itself."""
    if not isinstance(images, FileImages) or any(Path(path).parent.parent == part for path in images.paths):
        return None
    return f"no image lies in a class folder itself ({images.paths[0]} is the first)"


def _copies(folder: Path, test: FileImages) -> Iterator[str]:
    """What to say where test images are training images too, under the same name."""
    places = torch.linspace(0, len(test) - 1, min(len(test), COMPARED)).long().tolist()
    pairs = ((Path(test.paths[i]), folder / "train" / Path(test.paths[i]).relative_to(folder / "val")) for i in places)
    same = [f"{one} is {other}" for one, other in pairs if _equal(one, other)]
    if same:
        yield (
            f"data.folder: {len(same)} of {len(places)} test images that were compared are training images too ({same[0]}): accuracies "
            "on them say nothing of new images; put others into val"
        )


def _equal(one: Path, other: Path) -> bool:
    """Whether two files have the same bytes; not where one cannot be read, which whoever decodes it will say."""
    try:
        return filecmp.cmp(one, other, shallow=False)
    except OSError:
        return False
