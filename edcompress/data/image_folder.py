"""Folders of images, one per class, under train/ and val/."""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import torch
from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

from edcompress.data.images import FileImages, ImageSet
from edcompress.errors import DataError
from edcompress.sources import Data

PARTS = ("train", "val")

Images = TypeVar("Images", bound=ImageSet)


def open_image_folder(folder: Path, data: Data) -> tuple[FileImages, FileImages, tuple[str, ...]]:
    """Train images, test images and class names in index order; DataError for a layout that is not as it must be."""
    train, val = (_classes_in(folder / part) for part in PARTS)
    names = imagenet_wnids() if data.class_index == "imagenet" else tuple(train)
    _require_known(folder, [*train, *val], names, data)
    index = {name: i for i, name in enumerate(names)}
    sets = [_listed(folder / part, classes, index, data) for part, classes in zip(PARTS, (train, val), strict=True)]
    return sets[0], sets[1], names


def imagenet_wnids() -> tuple[str, ...]:
    """ImageNet's 1000 WordNet ids, in the order of the usual class indices."""
    text = importlib.resources.files("edcompress.data").joinpath("imagenet_wnids.txt").read_text(encoding="ascii")
    return tuple(text.split())


def interleaved(images: Images) -> Images:
    """The same images, the first of every class before the second of any: the first N then hold all classes."""
    seen: dict[int, int] = {}
    ranks = []
    for label in images.labels.tolist():
        ranks.append(seen.get(label, 0))
        seen[label] = ranks[-1] + 1
    return images.subset(torch.argsort(torch.tensor(ranks), stable=True))


def _classes_in(part: Path) -> list[str]:
    if not part.is_dir():
        raise DataError(
            f"data.folder: {part} is missing; image_folder reads one folder per class under train/ and under val/ "
            "(set data.root or EDCOMPRESS_DATA, and data.folder, to where they are)"
        )
    classes = sorted(path.name for path in part.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not classes:
        raise DataError(f"data.folder: {part} holds no class folders; put the images of each class into one of its own")
    return classes


def _require_known(folder: Path, found: Iterable[str], names: Iterable[str], data: Data) -> None:
    strange = sorted(set(found) - set(names))
    if not strange:
        return
    shown = ", ".join(strange[:8]) + (f" and {len(strange) - 8} more" if len(strange) > 8 else "")
    if data.class_index == "imagenet":
        raise DataError(
            f"data.class_index: imagenet needs folders named by ImageNet's wnids (n01440764 ...), but {folder} "
            f"has {shown}; rename them or use class_index: position"
        )
    raise DataError(f"data.folder: {folder / 'val'} has classes that {folder / 'train'} lacks: {shown}")


def _listed(part: Path, classes: list[str], index: dict[str, int], data: Data) -> FileImages:
    samples = make_dataset(part, {name: index[name] for name in classes}, IMG_EXTENSIONS, allow_empty=True)
    paths, labels = [path for path, _ in samples], [label for _, label in samples]
    present = set(labels)
    empty = [str(part / name) for name in classes if index[name] not in present]
    if empty:
        kinds = ", ".join(IMG_EXTENSIONS)
        raise DataError(f"data.folder: no images ({kinds}) in {', '.join(empty[:8])}; fill or remove the class folder")
    return FileImages(tuple(paths), torch.tensor(labels, dtype=torch.int64), data.channels or 3, data.skip_broken)
