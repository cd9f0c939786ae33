"""Which folders below `data.folder` hold training, search and test images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from edcompress.core.errors import DataError
from edcompress.core.plain_text import few
from edcompress.data.listing import is_hidden

TRAIN, VAL, TEST = ("train", "training"), ("val", "valid", "validation"), ("test", "testing")
"""Names of the folders of splits, in small or capital letters."""


class Layout(NamedTuple):
    """The folders that hold the class folders of each split; without `test`, a share of the training images tests."""

    train: Path
    test: Path | None = None
    search: Path | None = None
    notes: tuple[str, ...] = ()

    @property
    def parts(self) -> tuple[Path, ...]:
        """The folders that there are."""
        return tuple(part for part in (self.train, self.search, self.test) if part)


def layout_of(folder: Path, tried: str) -> Layout:
    """Return the folders of the splits.

    With both val/ and test/, val/ judges states; with one of them, it tests. A folder that has neither, or a training folder alone, is
    divided.

    Args:
        folder: The folder that holds train/, or class folders.
        tried: The places where it was looked for, for the message.

    Raises:
        DataError: The folder is missing, or holds test images alone.
    """
    if not folder.is_dir():
        raise DataError(
            f"data.folder: {tried}: there is no such folder; give one that holds one folder per class, or train/ and val/ with one folder "
            "per class (data.folder is relative to the recipe's folder, else to data.root or EDCOMPRESS_DATA)"
        )
    folders = visible_folders(folder)
    train, val, test = (_named(folders, names) for names in (TRAIN, VAL, TEST))
    others = [path.name for path in folders if path not in (train, val, test)]
    if train and (val or test):
        return _with_test_images(train, val, test)
    if train and others and visible_folders(train):
        raise DataError(
            f"data.folder: {folder} holds {train.name}/ and {few(others)}; name the test images {', '.join((*VAL, *TEST[:1]))}, or move "
            f"{few(others)} elsewhere to test on a share of {train.name}/"
        )
    if train and not others:
        return Layout(train)
    if (tests := val or test) and (not others or visible_folders(tests)):
        raise DataError(
            f"data.folder: {folder / 'train'} is missing, beside {tests.name}/; add the training images, or give their folder"
        )
    return Layout(folder)


def visible_folders(folder: Path) -> list[Path]:
    """Return the folders in a folder that are not hidden, sorted; DataError where one is a broken link."""
    entries = sorted(path for path in folder.iterdir() if not is_hidden(path.name))
    if dangling := [str(path) for path in entries if path.is_symlink() and not path.exists()]:
        raise DataError(f"data.folder: {few(dangling)} links to nothing; repair or remove the link")
    return [path for path in entries if path.is_dir()]


def _with_test_images(train: Path, val: Path | None, test: Path | None) -> Layout:
    if not (val and test):
        return Layout(train, val or test)
    if not visible_folders(test):
        return Layout(train, val, notes=(f"data.folder: {test} holds no class folders, and is not read; {val} tests",))
    return Layout(train, test, val)


def _named(folders: Sequence[Path], names: Sequence[str]) -> Path | None:
    """Return the folder of one of these names, or None; DataError where there are several."""
    found = [path for path in folders if path.name.lower() in names]
    if len(found) > 1:
        raise DataError(f"data.folder: {few([str(path) for path in found])} are one split; join them, or rename one")
    return found[0] if found else None
