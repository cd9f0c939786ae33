"""Images that the rows of a CSV file name, with their class and, where there is a column for it, their split."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from edcompress.core.errors import DataError
from edcompress.core.plain_text import few
from edcompress.core.recipe.data import Data
from edcompress.data.decoding import SUFFIXES
from edcompress.data.division import divided
from edcompress.data.images import FileImages, ImageSet, interleave_classes, read_settings
from edcompress.data.item_values import LABEL_NAMES
from edcompress.data.objects import object_images
from edcompress.data.opening import Opened, OpenRequest
from edcompress.data.tables import (
    PATH_NAMES,
    SPLIT_NAMES,
    by_part,
    classes_of,
    column,
    part_of,
    require_train,
    usual_column,
)

ARRAY = ".npy"

DELIMITERS = ",;\t"


class Rows(NamedTuple):
    """The rows of a file: the path of each image, its label and its split, all "" where there is no column for it.

    `columns` names the columns.
    """

    paths: tuple[str, ...]
    labels: tuple[str, ...]
    splits: tuple[str, ...]
    columns: str


@dataclass(frozen=True, eq=False)
class ArrayFiles:
    """Arrays in .npy files, with their classes, as a map-style data set."""

    paths: tuple[str, ...]
    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[NDArray[np.generic], int]:
        path = self.paths[index]
        try:
            return np.load(path, allow_pickle=False), self.labels[index]
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{path}: cannot be read as an array: {error}; replace it, or remove its row") from error

    def where(self, index: int) -> str:
        """Return the name of an item in messages."""
        return self.paths[index]

    @property
    def targets(self) -> tuple[int, ...]:
        """The classes of all items."""
        return self.labels


def open_csv(request: OpenRequest) -> Opened:
    """Open the images of a CSV file.

    Args:
        request: The recipe's data section, and the folder of all data sets. Its `warn` takes a message about columns that were guessed.

    Raises:
        DataError: The file, a column or an image is missing, or a value is not a class or split.
    """
    data, file = request.data, request.root / request.data.source
    if not file.is_file():
        raise DataError(
            f"data.source: {request.tried}: there is no such file; give the .csv file, relative to the recipe's folder, else to data.root "
            "or EDCOMPRESS_DATA"
        )
    rows = _rows(file, data)
    paths = tuple(os.path.join(file.parent, os.path.expanduser(path)) for path in rows.paths)
    _require_images(paths, file)
    classes = classes_of(rows.labels, str(file))
    parts = by_part(part_of(split, f"data.split_column: {file}") if split else "train" for split in rows.splits)
    require_train(parts, str(file), data)
    sets = {
        part: _images(
            [paths[row] for row in found],
            [classes.labels[row] for row in found],
            f"data.source: {file}",
            data,
            request.classes,
        )
        for part, found in parts.items()
    }
    where = f"data.source: {file} ({rows.columns})"
    opened = divided(interleave_classes(sets["train"]), sets.get("val"), sets.get("test"), classes.names, data, where)
    return opened if opened.divided else opened._replace(divided=where)


def _rows(file: Path, data: Data) -> Rows:
    """Read the rows; DataError where the file is not a table, or a row lacks a value."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            head = lines.readline()
            lines.seek(0)
            reader = csv.DictReader(lines, delimiter=max(DELIMITERS, key=head.count), strict=True)
            found = list(reader)
            columns = [name for name in reader.fieldnames or () if name]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"data.source: {file}: cannot be read as CSV in UTF-8: {error}") from error
    if not found:
        raise DataError(f"data.source: {file}: it has no rows below its head; the first line names the columns")
    where = str(file)
    image = column("image_column", data.image_column, PATH_NAMES, columns, where)
    label = column("label_column", data.label_column, LABEL_NAMES, columns, where)
    split = usual_column(SPLIT_NAMES[:1], columns)
    if data.split_column is not None:
        split = column("split_column", data.split_column, SPLIT_NAMES, columns, where)
    wanted = [name for name in (image, label, split) if name]
    for number, row in enumerate(found, 2):
        if empty := [name for name in wanted if not (row[name] or "").strip()]:
            raise DataError(f"data.source: {file}, row {number}: {empty[0]} is empty; fill it, or remove the row")
    values = [[row[name].strip() for row in found] if name else [""] * len(found) for name in (image, label, split)]
    about = f"images: {image}, classes: {label}" + (f", splits: {split}" if split else "")
    paths, labels, splits = map(tuple, values)
    return Rows(paths, labels, splits, about)


def _require_images(paths: Sequence[str], file: Path) -> None:
    """Raise DataError where files are missing, or are not images or arrays of one kind."""
    if missing := [path for path in paths if not os.path.isfile(path)]:
        raise DataError(
            f"data.source: {file}: {len(missing)} of {len(paths)} images are missing: {few(missing)}; paths are relative to the folder of "
            "the file"
        )
    kinds = {os.path.splitext(path)[1].lower() for path in paths}
    if kinds - {*SUFFIXES, ARRAY} or (ARRAY in kinds and len(kinds) > 1):
        raise DataError(
            f"data.source: {file}: it names files with {few(sorted(kinds))}; give images ({', '.join(SUFFIXES)}), or arrays ({ARRAY}) alone"
        )
    if twice := [path for path, times in Counter(paths).items() if times > 1]:
        raise DataError(f"data.source: {file}: {few(twice)} named in several rows; name each image once")


def _images(paths: Sequence[str], labels: Sequence[int], name: str, data: Data, classes: int | None) -> ImageSet:
    if paths[0].lower().endswith(ARRAY):
        return object_images(ArrayFiles(tuple(paths), tuple(labels)), name, data, classes, foreign=False)
    return FileImages(torch.tensor(labels, dtype=torch.int64), *read_settings(data), paths=tuple(paths))
