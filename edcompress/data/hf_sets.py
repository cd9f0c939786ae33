"""Data sets of Hugging Face's library `datasets`: a folder by save_to_disk, or a name on the hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from edcompress.core.errors import DataError, first_line
from edcompress.core.plain_text import few
from edcompress.core.recipe.data import Data
from edcompress.data.division import divided
from edcompress.data.hf_private import offline
from edcompress.data.images import StoredImages, interleave_classes, read_settings
from edcompress.data.item_values import IMAGE_NAMES, LABEL_NAMES
from edcompress.data.opening import Opened, OpenRequest
from edcompress.data.tables import classes_of, column, known_part, require_train

Rows = Any
"""A `datasets.Dataset`."""

_UNREADABLE = (OSError, ValueError, RuntimeError, TypeError, KeyError, ImportError)
"""What the library raises for data sets that are missing, damaged or of another kind."""


@dataclass(frozen=True)
class RowImage:
    """An image in a row of a table."""

    rows: Rows
    row: int
    column: str
    name: str

    def __str__(self) -> str:
        return f"{self.name}, row {self.row}"

    def content(self) -> bytes:
        """Return the bytes of the image's file; OSError where there are none."""
        cell = self.rows[self.row][self.column] or {}
        if found := cell.get("bytes"):
            return bytes(found)
        if not cell.get("path"):
            raise OSError("the row holds no image")
        return Path(cell["path"]).read_bytes()


@dataclass(frozen=True, eq=False, kw_only=True)
class TableImages(StoredImages):
    """Images in rows of a table, by their `numbers` int64 [N] there."""

    rows: Rows
    column: str
    name: str
    numbers: Tensor

    def __len__(self) -> int:
        return len(self.numbers)

    def subset(self, indices: Tensor) -> Self:
        """Return the images at `indices` (int64), in that order."""
        return replace(self, numbers=self.numbers[indices], labels=self.labels[indices])

    def source(self, index: int) -> RowImage:
        """Return the row that holds the image at `index`."""
        return RowImage(self.rows, int(self.numbers[index]), self.column, self.name)


def open_hf(request: OpenRequest) -> Opened:
    """Open the images of a folder by save_to_disk or of a data set on the hub.

    Args:
        request: The recipe's data section, and the folder of all data sets. Its `warn` takes a message about splits that are not read.

    Raises:
        DataError: The library or the data set is missing, or has no such columns.
    """
    data = request.data
    tables = _tables(request)
    parts: dict[str, Rows] = {}
    for name, rows in tables.items():
        if (part := known_part(name)) is None or part in parts:
            request.warn(f"data.source: {data.source}: the split {name} is not read; train, validation and test are")
        else:
            parts[part] = rows
    require_train(parts, data.source, data)
    image, label = _columns(parts["train"], data)
    labels = {part: _labels(rows, label) for part, rows in parts.items()}
    for part in [part for part, found in labels.items() if part != "train" and all(one in (None, -1) for one in found)]:
        request.warn(f"data.source: {data.source}: the split {part} has no labels, and is not read")
        del parts[part], labels[part]
    names = _class_names(parts["train"], label, labels, data.source)
    sets = {
        part: _images(rows, image, labels[part], names, f"data.source: {data.source}, {part}", data)
        for part, rows in parts.items()
    }
    where = f"data.source: {data.source} (images: {image}, classes: {label})"
    opened = divided(interleave_classes(sets["train"]), sets.get("val"), sets.get("test"), names, data, where)
    return opened if opened.divided else opened._replace(divided=where)


def _tables(request: OpenRequest) -> Mapping[str, Rows]:
    """Return the tables of a data set by split."""
    data = request.data
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            "data.dataset: huggingface needs the package datasets, which is not installed: pip install 'edcompress[hf]'"
        ) from error
    folder = request.root / data.source
    try:
        found = datasets.load_from_disk(str(folder)) if folder.is_dir() else _from_hub(request)
    except _UNREADABLE as error:
        raise DataError(_unusable(request, folder, error)) from error
    return found if isinstance(found, Mapping) else {"train": found}


def _from_hub(request: OpenRequest) -> Any:
    """Return a data set of the hub, from the library's cache, or fetched where data.download allows it."""
    import datasets

    data = request.data
    name, _, revision = data.source.partition("@")
    if data.download:
        request.announce(
            f"data.download: {name} is fetched from huggingface.co, unless it is in {datasets.config.HF_DATASETS_CACHE}"
        )
        return datasets.load_dataset(name, data.config, revision=revision or None)
    with offline():
        return datasets.load_dataset(name, data.config, revision=revision or None)


def _unusable(request: OpenRequest, folder: Path, error: BaseException) -> str:
    import datasets

    data, cache = request.data, datasets.config.HF_DATASETS_CACHE
    if folder.is_dir():
        return f"data.source: {folder}: cannot be read as a folder by save_to_disk: {first_line(error)}"
    fetch = "check the name and the connection" if data.download else "let it be fetched with data.download=true"
    return (
        f"data.source: {request.tried}: there is no such folder, and {data.source} is not in {cache}: {first_line(error)}; {fetch}, or "
        "copy a folder by save_to_disk to one of these places"
    )


def _columns(rows: Rows, data: Data) -> tuple[str, str]:
    """Return the columns of images and labels, those that the recipe names, or by their kind or name."""
    import datasets

    features = rows.features
    images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    classes = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    asked_image = data.image_column or (images[0] if len(images) == 1 else None)
    asked_label = data.label_column or (classes[0] if len(classes) == 1 else None)
    image = column("image_column", asked_image, IMAGE_NAMES, list(features), data.source)
    if image not in images:
        raise DataError(
            f"data.image_column: {image} of {data.source} holds {features[image]}, not images; name one of {few(images) or 'none'}, or "
            "cast it to datasets.Image"
        )
    return image, column("label_column", asked_label, LABEL_NAMES, list(features), data.source)


def _labels(rows: Rows, label: str) -> list[Any]:
    values: list[Any] = rows.with_format(None).select_columns([label])[:][label]
    return values


def _class_names(rows: Rows, label: str, labels: Mapping[str, list[Any]], source: str) -> tuple[str, ...]:
    """Return the names of the classes: those of the column, or those of all its values."""
    for part, found in labels.items():
        if (row := next((row for row, one in enumerate(found) if not _is_class(one)), None)) is not None:
            raise DataError(
                f"data.label_column: {source}, {part}, row {row}: the label is {found[row]!r}; give each row a class"
            )
    names = getattr(rows.features[label], "names", None)
    return tuple(names) if names else classes_of([str(one) for found in labels.values() for one in found], source).names


def _is_class(label: Any) -> bool:
    return type(label) in (int, str) and label not in (-1, "")


def _images(rows: Rows, image: str, labels: list[Any], names: tuple[str, ...], name: str, data: Data) -> TableImages:
    import datasets

    index = {one: number for number, one in enumerate(names)}
    numbers = [one if type(one) is int else index[one] for one in labels]
    stored = rows.with_format(None).select_columns([image]).cast_column(image, datasets.Image(decode=False))
    classes = torch.tensor(numbers, dtype=torch.int64)
    return TableImages(
        classes, *read_settings(data), rows=stored, column=image, name=name, numbers=torch.arange(len(numbers))
    )
