"""Sets of labelled images that can be read by index: decoded in memory, or files that are decoded at every read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, Self

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as v2f

from edcompress.data.transforms import Geometry, Picture, with_channels
from edcompress.errors import DataError


class ImageSet(Protocol):
    """Images with int64 labels [N], read by index as uint8 [B, channels, H, W]."""

    @property
    def labels(self) -> Tensor:
        """int64 [N]."""

    @property
    def channels(self) -> int:
        """1 or 3."""

    def __len__(self) -> int: ...

    def subset(self, indices: Tensor) -> Self:
        """The images at `indices` (int64), in that order."""

    def read(self, indices: Sequence[int], geometry: Geometry) -> Tensor:
        """uint8 [B, channels, H, W] after the fixed and the varied part of `geometry`; DataError for a broken image."""


@dataclass(frozen=True, eq=False)
class MemoryImages:
    """Images decoded once: uint8 `pixels` [N, C, H, W]."""

    pixels: Tensor
    labels: Tensor
    channels: int

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Tensor) -> Self:
        """The images at `indices` (int64), in that order, as a copy."""
        return replace(self, pixels=self.pixels[indices], labels=self.labels[indices])

    def read(self, indices: Sequence[int], geometry: Geometry) -> Tensor:
        """uint8 [B, channels, H, W]; the fixed part is done to the batch at once."""
        images = with_channels(self.pixels[torch.as_tensor(indices)], self.channels)
        if geometry.fixed is not None:
            images = geometry.fixed(images)
        if geometry.varied is not None:
            images = torch.stack([geometry.varied(image) for image in images])
        return images


@dataclass(frozen=True, eq=False)
class FileImages:
    """Image files, decoded and transformed by Pillow at every read."""

    paths: tuple[str, ...]
    labels: Tensor
    channels: int

    def __len__(self) -> int:
        return len(self.paths)

    def subset(self, indices: Tensor) -> Self:
        """The images at `indices` (int64), in that order."""
        return replace(self, paths=tuple(self.paths[i] for i in indices.tolist()), labels=self.labels[indices])

    def read(self, indices: Sequence[int], geometry: Geometry) -> Tensor:
        """uint8 [B, channels, H, W]; DataError with the path where a file is missing or cannot be decoded."""
        return torch.stack([self._read_one(self.paths[i], geometry) for i in indices])

    def _read_one(self, path: str, geometry: Geometry) -> Tensor:
        image: Picture = decode(Path(path), self.channels)
        for change in (geometry.fixed, geometry.varied):
            image = image if change is None else change(image)
        pixels: Tensor = v2f.pil_to_tensor(image)
        return pixels


def decode(path: Path, channels: int) -> Image.Image:
    """The file as a grey (1) or RGB (3) Pillow image; DataError with the path where that fails."""
    try:
        with Image.open(path) as image:
            # Pillow warns when a palette with alpha goes to RGB directly.
            opaque = image.convert("RGBA") if "transparency" in image.info else image
            return opaque.convert("L" if channels == 1 else "RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what Pillow's decoders raise
        raise DataError(f"{path}: cannot be read as an image: {error}; replace or remove the file") from error
