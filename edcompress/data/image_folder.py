"""Folders of images, one per class, under train/ and val/."""

from __future__ import annotations

import importlib.resources
import os
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import torch

from edcompress.core.errors import DataError, InputError
from edcompress.core.plain_text import few
from edcompress.core.recipe.data import Data
from edcompress.core.system.files import require_utf8
from edcompress.data.class_folders import require_distinct
from edcompress.data.decoding import SUFFIXES
from edcompress.data.images import FileImages, read_settings
from edcompress.data.listing import ClassFiles, Unread, class_files, is_hidden, unread_note
from edcompress.data.opening import Warn, discard_warning

PARTS = ("train", "val")


def open_image_folder(
    folder: Path, data: Data, warn: Warn = discard_warning
) -> tuple[FileImages, FileImages, tuple[str, ...]]:
    """Open the images under train/ and under val/ of a folder.

    Args:
        folder: The folder that holds train/ and val/.
        data: The recipe's data section.
        warn: Takes a message about what lies in the folders and is not read, and about images behind links to elsewhere.

    Returns:
        Training images, test images, and the names of the classes in index order.

    Raises:
        DataError: The folders are not laid out as they must be.
    """
    train, val = (_classes_in(folder / part) for part in PARTS)
    require_distinct([folder / part / name for part, names in zip(PARTS, (train, val), strict=True) for name in names])
    names = imagenet_wnids() if data.class_index == "imagenet" else tuple(train)
    _require_known(folder, [*train, *val], names, data)
    index = {name: i for i, name in enumerate(names)}
    sets = [
        _listed(folder / part, classes, index, data, warn) for part, classes in zip(PARTS, (train, val), strict=True)
    ]
    return sets[0], sets[1], names


def imagenet_wnids() -> tuple[str, ...]:
    """Return ImageNet's 1000 WordNet ids, in the order of the usual class indices."""
    text = importlib.resources.files("edcompress.data").joinpath("imagenet_wnids.txt").read_text(encoding="ascii")
    return tuple(text.split())


def _classes_in(part: Path) -> list[str]:
    if not part.is_dir():
        raise DataError(
            f"data.folder: {part} is missing; image_folder reads one folder per class under train/ and under val/ "
            "(set data.root or EDCOMPRESS_DATA, and data.folder, to where they are)"
        )
    entries = sorted(path for path in part.iterdir() if not is_hidden(path.name))
    if dangling := [str(path) for path in entries if path.is_symlink() and not path.exists()]:
        raise DataError(f"data.folder: {few(dangling)} links to nothing; repair or remove the link")
    classes = [path.name for path in entries if path.is_dir()]
    for name in classes:
        _require_name(part, name)
    if not classes:
        raise DataError(
            f"data.folder: {part} holds no class folders; put the images of each class into a folder of its own"
        )
    return classes


def _require_name(part: Path, name: str) -> None:
    """Raise DataError for a class that ONNX files and reports cannot name."""
    try:
        require_utf8(Path(name))
    except InputError as error:
        raise DataError(f"data.folder: class folder of {part}: {error}") from None


def _require_known(folder: Path, found: Iterable[str], names: Iterable[str], data: Data) -> None:
    unknown = sorted(set(found) - set(names))
    if not unknown:
        return
    shown = few(unknown)
    if data.class_index == "imagenet":
        raise DataError(
            f"data.class_index: imagenet needs folders named by ImageNet's wnids (n01440764 ...), but {folder} "
            f"has {shown}; rename them or use class_index: position"
        )
    raise DataError(f"data.folder: {folder / 'val'} has classes that {folder / 'train'} lacks: {shown}")


def _listed(part: Path, classes: list[str], index: dict[str, int], data: Data, warn: Warn) -> FileImages:
    files = {name: class_files(os.path.join(part, name)) for name in classes}
    beside = (("beside the class folders", 1, path.name) for path in sorted(part.iterdir()) if _is_beside(path))
    note = unread_note(f"data.folder: {part}", _below(part, files.values(), beside))
    if empty := [str(part / name) for name in classes if not files[name].images]:
        raise DataError(
            f"data.folder: no images ({', '.join(SUFFIXES)}) in {few(empty)}; fill or remove the class folder"
            + (f" ({note})" if note else "")
        )
    for text in (note, _elsewhere_note(part, files.values())):
        if text:
            warn(text)
    paths = tuple(chain.from_iterable(found.images for found in files.values()))
    labels = [index[name] for name, found in files.items() for _ in found.images]
    return FileImages(paths, torch.tensor(labels, dtype=torch.int64), *read_settings(data))


def _is_beside(path: Path) -> bool:
    return not is_hidden(path.name) and not path.is_dir()


def _below(part: Path, files: Iterable[ClassFiles], beside: Iterable[Unread]) -> Iterable[Unread]:
    """Yield what is not read below train/ or val/, by paths relative to there."""
    for found in files:
        yield from ((kind, number, os.path.relpath(path, part)) for kind, number, path in found.unread)
    yield from beside


def _elsewhere_note(part: Path, files: Iterable[ClassFiles]) -> str | None:
    """Return a line on images behind links that leave their class folder; None without any.

    Such links are legitimate, but may lead to another class, or from training to test images.
    """
    away = [path for found in files for path in found.elsewhere]
    if not away:
        return None
    return (
        f"data.folder: {len(away)} images of {part} lie behind links that leave their class folder, the first is "
        f"{os.path.relpath(away[0], part)}, really {os.path.realpath(away[0])}"
    )
