"""Columns of tables of images, and their values as classes and splits."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from edcompress.core.errors import DataError
from edcompress.core.plain_text import did_you_mean, few
from edcompress.core.recipe.data import Data
from edcompress.data.folder_layout import TEST, TRAIN, VAL
from edcompress.data.item_values import IMAGE_NAMES

PATH_NAMES = ("path", "file", "filename", "file_name", "filepath", "file_path", "image_path", *IMAGE_NAMES)

SPLIT_NAMES = ("split", "subset", "set", "fold")

MOST_CLASSES = 1_000_000
"""A label that is a number of this or more is taken for a mistake: each class has a name in memory."""


class Classes(NamedTuple):
    """The names of classes in index order, and the class of each row."""

    names: tuple[str, ...]
    labels: tuple[int, ...]


def column(key: str, asked: str | None, usual: Sequence[str], columns: Sequence[str], where: str) -> str:
    """Return the name of a column: the one that the recipe asks for, or the first with a usual name.

    Args:
        key: The recipe's key, for messages.
        asked: The column that the recipe names, or None.
        usual: Names that such a column often has, in small letters.
        columns: The columns that there are.
        where: The table, for messages.

    Raises:
        DataError: There is no such column.
    """
    if asked is not None:
        if asked not in columns:
            raise DataError(
                f"data.{key}: {where} has no column {asked!r}{did_you_mean(asked, columns)}; it has {few(columns, 20)}"
            )
        return asked
    found = usual_column(usual, columns)
    if found is None:
        raise DataError(
            f"data.{key}: {where} has none of the columns {few(usual, 20)}; name one of its own: {few(columns, 20)}"
        )
    return found


def usual_column(usual: Sequence[str], columns: Sequence[str]) -> str | None:
    """Return the first column with a usual name, in small or capital letters; None without any."""
    return next((one for name in usual for one in columns if one.lower().strip() == name), None)


def classes_of(labels: Sequence[str], where: str) -> Classes:
    """Number the classes of rows: whole numbers are class numbers themselves, and names are sorted.

    Raises:
        DataError: A number is too large for a class.
    """
    if all(label.isdecimal() and label.isascii() for label in labels):
        numbers = tuple(int(label) for label in labels)
        if (highest := max(numbers)) >= MOST_CLASSES:
            raise DataError(
                f"data.label_column: {where} has the class {highest}; classes are numbered from 0 to {MOST_CLASSES - 1}"
            )
        return Classes(tuple(map(str, range(highest + 1))), numbers)
    names = sorted(set(labels))
    index = {name: number for number, name in enumerate(names)}
    return Classes(tuple(names), tuple(index[label] for label in labels))


def known_part(split: str) -> str | None:
    """Return train, val or test for the name of a split; None for others."""
    parts = (("train", TRAIN), ("val", (*VAL, "dev", "eval")), ("test", TEST))
    return next((part for part, names in parts if split.lower().strip() in names), None)


def part_of(split: str, where: str) -> str:
    """Return train, val or test for the name of a split; DataError for others."""
    if (part := known_part(split)) is None:
        raise DataError(f"{where} has the split {split!r}; splits are train, val and test")
    return part


def by_part(parts: Iterable[str]) -> dict[str, list[int]]:
    """Return the rows of each part, in their order."""
    rows: dict[str, list[int]] = {}
    for row, part in enumerate(parts):
        rows.setdefault(part, []).append(row)
    return rows


def require_train(parts: Collection[str], where: str, data: Data) -> None:
    """Raise DataError where none of the parts of a data set trains."""
    if "train" not in parts:
        raise DataError(
            f"data.dataset: {data.dataset}: {where} has no training images, only {' and '.join(parts) or 'none'}"
        )
