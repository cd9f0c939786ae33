"""The data sets that a recipe can name, opened from disk: training images, test images, and class names."""

from __future__ import annotations

import os
import pickle
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import datasets as tv

from edcompress.core.errors import DataError
from edcompress.core.recipe.data import Data
from edcompress.core.system.machine import data_home, expanded
from edcompress.data.image_folder import interleaved, open_image_folder
from edcompress.data.images import FileImages, ImageSet, MemoryImages, Warn, how_read, ignore_warnings
from edcompress.data.tar_shards import open_shards

Opened = tuple[ImageSet, ImageSet, tuple[str, ...]]
"""Training images, test images, class names in index order."""

FOLDERS = {
    "fashion_mnist": "FashionMNIST/raw",
    "kmnist": "KMNIST/raw",
    "cifar10": "cifar-10-batches-py",
    "cifar100": "cifar-100-python",
    "flowers102": "flowers-102",
}
"""Where torchvision keeps each data set under its root."""

DIGITS_TEST_EVERY = 5


def open_dataset(data: Data, warn: Warn = ignore_warnings, announce: Warn = ignore_warnings) -> Opened:
    """Training and test images of `data.dataset`, whole and in the data set's order; DataError where that fails.

    `warn` hears of what lies there and is not read, and `announce` of a download before it begins.
    """
    if data.dataset == "digits":
        return _open_digits(data)
    root = data_root(data)
    if data.dataset == "image_folder":
        train, test, classes = open_image_folder(root / data.folder, data, warn)
        return interleaved(train), test, classes
    if data.dataset == "webdataset":
        shards, test_shards, classes = open_shards(root, data, warn)
        return interleaved(shards), test_shards, classes
    _require_present(root, data)
    openers = {"fashion_mnist": tv.FashionMNIST, "kmnist": tv.KMNIST, "cifar10": tv.CIFAR10, "cifar100": tv.CIFAR100}
    if data.dataset == "flowers102":
        return _open_flowers(root, data, announce)
    return _open_in_memory(openers[data.dataset], root, data, announce)


def data_root(data: Data) -> Path:
    """`data.root`, else $EDCOMPRESS_DATA, else ~/.cache/edcompress; DataError where this locale has not its letters."""
    root = expanded(data.root, "data.root") if data.root else data_home()
    try:
        os.fsencode(root)
    except UnicodeEncodeError as error:
        encoding = sys.getfilesystemencoding()
        raise DataError(f"data.root: {root}: file names are {encoding} in this locale; set PYTHONUTF8=1") from error
    return root


def _require_present(root: Path, data: Data) -> None:
    folder = root / FOLDERS[data.dataset]
    if not data.download and not folder.is_dir():
        raise DataError(
            f"data.dataset: {data.dataset} is not at {folder}; set data.root or EDCOMPRESS_DATA to the folder that "
            "holds it in torchvision's layout, or let torchvision fetch it with data.download=true"
        )


def as_it_lies(opener: Callable[..., Any], root: Path, data: Data, announce: Warn, **part: Any) -> Any:
    """A data set as it lies under `root`; where it does not and may be downloaded, that is announced first."""
    there = root / FOLDERS[data.dataset]
    try:
        return _opened(opener, root, download=False, **part)
    except _UNREADABLE as error:
        if not data.download:
            raise _unusable(data, there, "is incomplete or damaged in", error) from error
    announce(f"data.download: {data.dataset} is not whole in {there}; torchvision downloads it to there")
    try:
        return _opened(opener, root, download=True, **part)
    except _UNREADABLE as error:
        raise _unusable(data, there, "cannot be downloaded to or read from", error) from error


def _opened(opener: Callable[..., Any], root: Path, **how: Any) -> Any:
    with warnings.catch_warnings():
        # CIFAR's files were pickled by a NumPy that wrote dtype(..., align=0); newer ones warn about the number.
        warnings.filterwarnings("ignore", message=r"dtype\(\): align should be passed")
        return opener(root, **how)


_UNREADABLE = (RuntimeError, OSError, ValueError, TypeError, EOFError, AssertionError, pickle.UnpicklingError)
"""What torchvision raises of files that are missing, cut, or of another kind."""


def _unusable(data: Data, there: Path, doing: str, error: Exception) -> DataError:
    return DataError(
        f"data.dataset: {data.dataset} {doing} {there}: {error}; remove the folder and "
        "fetch it again (data.download=true), or point data.root or EDCOMPRESS_DATA to a good copy"
    )


def _open_in_memory(opener: Callable[..., Any], root: Path, data: Data, announce: Warn) -> Opened:
    train, test = (as_it_lies(opener, root, data, announce, train=train) for train in (True, False))
    return _decoded(train, data), _decoded(test, data), tuple(train.classes)


def _decoded(dataset: Any, data: Data) -> MemoryImages:
    pixels = torch.as_tensor(dataset.data)  # uint8 [N, H, W] or [N, H, W, 3]
    pixels = pixels.unsqueeze(1) if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2).contiguous()
    return _in_memory(pixels, torch.as_tensor(dataset.targets), data)


def _in_memory(pixels: Tensor, labels: Tensor, data: Data) -> MemoryImages:
    return MemoryImages(pixels, labels.to(torch.int64), data.channels or pixels.shape[1])


def _open_digits(data: Data) -> Opened:
    """Every fifth of the 1797 images is a test image: 1438 and 359, with the same writers in both."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    pixels = torch.from_numpy(np.rint(images * (255 / 16)).astype(np.uint8)).view(-1, 1, 8, 8)  # 0..16 to 0..255
    everything = _in_memory(pixels, torch.from_numpy(labels), data)
    number = torch.arange(len(everything))
    is_test = number % DIGITS_TEST_EVERY == DIGITS_TEST_EVERY - 1
    return everything.subset(number[~is_test]), everything.subset(number[is_test]), tuple("0123456789")


def _open_flowers(root: Path, data: Data, announce: Warn) -> Opened:
    parts = [as_it_lies(tv.Flowers102, root, data, announce, split=split) for split in ("train", "val", "test")]
    train, val, test = (
        [(str(path), label) for path, label in zip(p._image_files, p._labels, strict=True)] for p in parts
    )
    return interleaved(_files(train + val, data)), _files(test, data), tuple(tv.Flowers102.classes)


def _files(samples: list[tuple[str, int]], data: Data) -> FileImages:
    labels = torch.tensor([label for _, label in samples], dtype=torch.int64)
    return FileImages(tuple(path for path, _ in samples), labels, *how_read(data))
