"""Sets of labelled images that can be read by index: decoded in memory, or stored in files and decoded at every read."""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import NamedTuple, Protocol, Self

import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

from edcompress.core.errors import DataError
from edcompress.core.recipe.data import Data, Orientation
from edcompress.data.transforms import Geometry, pictured, with_channels

FORMATS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".png": "PNG",
    ".ppm": "PPM",
    ".pgm": "PPM",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
}
"""Suffixes of the files that are read as images, and Pillow's names of their formats."""

SUFFIXES = tuple(FORMATS)

DECODED = tuple(dict.fromkeys(FORMATS.values()))
"""Formats that are decoded, whatever a file's name says: Pillow's other decoders, some of which start a program, never get one."""

Warn = Callable[[str], None]
"""Hears of each image that is left out, as often as it is: its path, and what is wrong with it."""


def ignore_warnings(fault: str) -> None:
    """Nobody wants to know."""


_TURNS: dict[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What brings an image upright, by the number that EXIF has for how the camera was held; 1 is upright."""


class Read(NamedTuple):
    """uint8 `pixels` [B, channels, H, W] of the images at int64 `indices` [B], and what is wrong with those that were left out."""

    pixels: Tensor
    indices: Tensor
    faults: tuple[str, ...] = ()


class ImageSet(Protocol):
    """Images with int64 labels [N], read by index as uint8 [B, channels, H, W]."""

    @property
    def labels(self) -> Tensor:
        """int64 [N]."""

    @property
    def channels(self) -> int:
        """1 or 3."""

    @property
    def warn(self) -> Warn:
        """Whoever reads for a person tells this of the faults; `read` does not, it may run in a worker process."""

    def __len__(self) -> int: ...

    def with_warn(self, warn: Warn) -> Self:
        """The same images with another `warn`."""

    def subset(self, indices: Tensor) -> Self:
        """The images at `indices` (int64), in that order."""

    def read(self, indices: Sequence[int], geometry: Geometry) -> Read:
        """The images after the fixed and the varied part of `geometry`; DataError for a broken one that may not be left out."""


@dataclass(frozen=True, eq=False)
class MemoryImages:
    """Images decoded once: uint8 `pixels` [N, C, H, W]."""

    pixels: Tensor
    labels: Tensor
    channels: int
    warn: Warn = ignore_warnings

    def __len__(self) -> int:
        return len(self.labels)

    def with_warn(self, warn: Warn) -> Self:
        """The same images with another `warn`."""
        return replace(self, warn=warn)

    def subset(self, indices: Tensor) -> Self:
        """The images at `indices` (int64), in that order, as a copy."""
        return replace(self, pixels=self.pixels[indices], labels=self.labels[indices])

    def read(self, indices: Sequence[int], geometry: Geometry) -> Read:
        """All of them; Pillow transforms them, as it does those in files."""
        chosen = torch.as_tensor(indices)
        images = with_channels(self.pixels[chosen], self.channels)
        if not geometry.keeps(images):
            images = torch.stack([geometry.transformed(pictured(image)) for image in images])
        return Read(images, chosen)


class TarMember(NamedTuple):
    """A file inside an uncompressed tar: its name there, at which byte its content begins, and how many bytes it has."""

    tar: Path
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.tar}: {self.name}"

    def content(self) -> bytes:
        """The file's bytes; OSError where the tar cannot be read."""
        with self.tar.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


class StoredImages(ABC):
    """Images in files, decoded and transformed by Pillow at every read; those that cannot be are left out, or are a DataError."""

    channels: int
    skip_broken: bool
    orientation: Orientation

    @abstractmethod
    def place(self, index: int) -> Path | TarMember:
        """Where the image at `index` is stored."""

    def read(self, indices: Sequence[int], geometry: Geometry) -> Read:
        """Those that can be decoded; DataError with the place of one that cannot, unless `skip_broken`."""
        pixels, found, faults = [], [], []
        for i in indices:
            try:
                pixels.append(geometry.transformed(decode(self.place(i), self.channels, self.orientation)))
                found.append(i)
            except DataError as error:
                if not self.skip_broken:
                    way_out = "replace or remove the file, or leave out such files with data.skip_broken=true"
                    raise DataError(f"{error}; {way_out}") from error
                faults.append(str(error))
        stacked = torch.stack(pixels) if pixels else torch.empty((0, self.channels, 0, 0), dtype=torch.uint8)
        return Read(stacked, torch.tensor(found, dtype=torch.int64), tuple(faults))


@dataclass(frozen=True, eq=False)
class FileImages(StoredImages):
    """Image files, each by its path."""

    paths: tuple[str, ...]
    labels: Tensor
    channels: int
    skip_broken: bool = False
    orientation: Orientation = "apply"
    warn: Warn = ignore_warnings

    def __len__(self) -> int:
        return len(self.paths)

    def with_warn(self, warn: Warn) -> Self:
        """The same images with another `warn`."""
        return replace(self, warn=warn)

    def subset(self, indices: Tensor) -> Self:
        """The images at `indices` (int64), in that order."""
        return replace(self, paths=tuple(self.paths[i] for i in indices.tolist()), labels=self.labels[indices])

    def place(self, index: int) -> Path:
        """The path of a file."""
        return Path(self.paths[index])


def how_read(data: Data) -> tuple[int, bool, Orientation]:
    """The `channels`, `skip_broken` and `orientation` of StoredImages, by the recipe's data."""
    return data.channels or 3, data.skip_broken, data.exif_orientation


def decode(place: Path | TarMember, channels: int, orientation: Orientation = "apply") -> Image.Image:
    """The file as a grey (1) or RGB (3) Pillow image, `upright` or as stored; DataError with its place where that fails."""
    try:
        file = BytesIO(place.content()) if isinstance(place, TarMember) else place
        with Image.open(file, formats=DECODED) as image:
            # Pillow would cut off all above 255: of most 16-bit images white is left.
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"its pixels are no bytes (mode {image.mode}); save it with 8 bits per channel")
            # Pillow warns when a palette with alpha goes to RGB directly.
            opaque = image.convert("RGBA") if "transparency" in image.info else image
            pixels = opaque.convert("L" if channels == 1 else "RGB")
            return upright(pixels, image) if orientation == "apply" else pixels
    except UnidentifiedImageError as error:  # its text has the address of an object, another one at every read
        raise DataError(f"{place}: cannot be read as an image: it is none of {', '.join(DECODED)}") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what Pillow's decoders raise
        raise DataError(f"{place}: cannot be read as an image: {error}") from error


def upright(pixels: Image.Image, image: Image.Image) -> Image.Image:
    """`pixels` of a loaded `image`, turned by its EXIF orientation; as they are where it has none, or none that can be read.

    ImageOps.exif_transpose does the same, and fails where the rest of the EXIF is damaged, which it writes back.
    """
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except (SyntaxError, ValueError, struct.error):
        return pixels
    return pixels if turn is None else pixels.transpose(turn)
