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
from edcompress.data.division import divide_by_class
from edcompress.data.folder_layout import layout_of, visible_folders
from edcompress.data.images import FileImages, read_settings
from edcompress.data.listing import ClassFiles, Unread, class_files, is_hidden, unread_note
from edcompress.data.opening import Opened, OpenRequest, Warn


def open_image_folder(request: OpenRequest) -> Opened:
    """Open the images of a folder: its training, search and test images, or shares of them where it has none.

    Args:
        request: The recipe's data section, and the folder of all data sets. Its `warn` takes a message about what lies in the folders and
            is not read, and about images behind links to elsewhere.

    Raises:
        DataError: The folders are not laid out as they must be.
    """
    data, folder = request.data, request.root / request.data.folder
    layout = layout_of(folder, request.tried)
    for note in layout.notes:
        request.warn(note)
    found = {part: _classes_in(part) for part in layout.parts}
    require_distinct([part / name for part, names in found.items() for name in names])
    names = imagenet_wnids() if data.class_index == "imagenet" else tuple(found[layout.train])
    for part, classes in found.items():
        _require_known(part, layout.train, classes, names, data)
    index = {name: i for i, name in enumerate(names)}
    sets = {part: _listed(part, classes, index, data, request.warn) for part, classes in found.items()}
    if layout.test is None:
        train, test = divide_by_class(sets[layout.train], data.test_fraction, data.split_seed)
        divided = f"data.test_fraction: {layout.train} has no test images of its own, {data.test_fraction:g} of each class tests"
        return Opened(train, test, names, None, (layout.train, layout.train), divided)
    search = sets[layout.search] if layout.search else None
    divided = f"data.folder: {layout.search.name}/ judges states, {layout.test.name}/ tests" if layout.search else ""
    return Opened(sets[layout.train], sets[layout.test], names, search, (layout.train, layout.test), divided)


def imagenet_wnids() -> tuple[str, ...]:
    """Return ImageNet's 1000 WordNet ids, in the order of the usual class indices."""
    text = importlib.resources.files("edcompress.data").joinpath("imagenet_wnids.txt").read_text(encoding="ascii")
    return tuple(text.split())


def _classes_in(part: Path) -> list[str]:
    classes = [path.name for path in visible_folders(part)]
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


def _require_known(part: Path, train: Path, found: Iterable[str], names: Iterable[str], data: Data) -> None:
    unknown = sorted(set(found) - set(names))
    if not unknown:
        return
    shown = few(unknown)
    if data.class_index == "imagenet":
        raise DataError(
            f"data.class_index: imagenet needs folders named by ImageNet's wnids (n01440764 ...), but {part} "
            f"has {shown}; rename them or use class_index: position"
        )
    raise DataError(f"data.folder: {part} has classes that {train} lacks: {shown}")


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
    return FileImages(torch.tensor(labels, dtype=torch.int64), *read_settings(data), paths=paths)


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
