"""torchvision's data sets: found under `data.root` or downloaded to there, with errors that say what to do."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from edcompress.core.errors import DataError
from edcompress.core.recipe.data import Data
from edcompress.data.images import MemoryImages, memory_images
from edcompress.data.opening import Opened, OpenRequest

Opener = Callable[..., Any]
"""A class of torchvision.datasets."""

_UNREADABLE = (RuntimeError, OSError, ValueError, TypeError, EOFError, AssertionError, pickle.UnpicklingError)
"""What torchvision raises for files that are missing, cut, or of another kind."""


def open_in_memory(opener: Opener, request: OpenRequest) -> Opened:
    """Open a data set whose `data` and `targets` are arrays in memory, with a training part and a test part."""
    train, test = (open_part(opener, request, train=train) for train in (True, False))
    return Opened(_decoded(train, request.data), _decoded(test, request.data), tuple(train.classes))


def open_part(opener: Opener, request: OpenRequest, **part: Any) -> Any:
    """Open one part of a data set.

    Args:
        opener: A class of torchvision.datasets.
        request: Where it lies, and whom to tell of a download.
        part: The arguments that select the part, such as `train=True`.

    Raises:
        DataError: It is missing or damaged, and may not or cannot be downloaded.
    """
    data, folder = request.data, request.root / request.data.facts.folder
    _require_present(folder, data)
    try:
        return _open(opener, request.root, download=False, **part)
    except _UNREADABLE as error:
        if not data.download:
            raise _unusable(data, folder, "is incomplete or damaged in", error) from error
    request.announce(f"data.download: {data.dataset} is not whole in {folder}; torchvision downloads it to there")
    try:
        return _open(opener, request.root, download=True, **part)
    except _UNREADABLE as error:
        raise _unusable(data, folder, "cannot be downloaded to or read from", error) from error


def _require_present(folder: Path, data: Data) -> None:
    if not data.download and not folder.is_dir():
        raise DataError(
            f"data.dataset: {data.dataset} is not at {folder}; set data.root or EDCOMPRESS_DATA to the folder that "
            "holds it in torchvision's layout, or let torchvision fetch it with data.download=true"
        )


def _open(opener: Opener, root: Path, **how: Any) -> Any:
    with warnings.catch_warnings():
        # CIFAR's files were pickled by a NumPy that wrote dtype(..., align=0); newer ones warn about the number.
        warnings.filterwarnings("ignore", message=r"dtype\(\): align should be passed")
        return opener(root, **how)


def _unusable(data: Data, folder: Path, doing: str, error: Exception) -> DataError:
    return DataError(
        f"data.dataset: {data.dataset} {doing} {folder}: {error}; remove the folder and "
        "fetch it again (data.download=true), or point data.root or EDCOMPRESS_DATA to a good copy"
    )


def _decoded(part: Any, data: Data) -> MemoryImages:
    pixels = torch.as_tensor(part.data)  # uint8 [N, H, W] or [N, H, W, 3]
    pixels = pixels.unsqueeze(1) if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2).contiguous()
    return memory_images(pixels, torch.as_tensor(part.targets), data)
