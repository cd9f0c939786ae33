"""Private parts of torch and torchvision that this package relies on, as they are in torch 2.14 and torchvision 0.29."""

from __future__ import annotations

from typing import Any


def files_and_labels(part: Any) -> list[tuple[str, int]]:
    """Return (path, label) of each image of a part of torchvision's Flowers102, which decodes every image that it is asked for."""
    return [(str(path), label) for path, label in zip(part._image_files, part._labels, strict=True)]


def is_dead_worker(error: RuntimeError) -> bool:
    """Return whether an error of a DataLoader means that a worker process died; torch has no class of its own for it."""
    return str(error).startswith("DataLoader worker (pid")
