"""From a stored image to a Pillow image."""

from __future__ import annotations

import struct
from io import BytesIO
from pathlib import Path
from typing import NamedTuple, Protocol

from PIL import ExifTags, Image, UnidentifiedImageError

from edcompress.core.errors import DataError
from edcompress.core.recipe.data import Orientation

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

_TURNS: dict[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The turn that brings an image upright, by the EXIF number of how the camera was held; 1 is upright."""


class StoredFile(Protocol):
    """A file inside another one, named by its text."""

    def content(self) -> bytes:
        """Return the file's bytes; OSError where it cannot be read."""


class TarMember(NamedTuple):
    """A file inside an uncompressed tar: its name there, the byte at which its content starts, and its size in bytes."""

    tar: Path
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.tar}: {self.name}"

    def content(self) -> bytes:
        """Return the file's bytes; OSError where the tar cannot be read."""
        with self.tar.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


def decode(source: Path | StoredFile, channels: int, orientation: Orientation = "apply") -> Image.Image:
    """Decode a stored image.

    Args:
        source: An image file, or an image in a tar or table.
        channels: 1 for a grey image, 3 for RGB.
        orientation: Turn the image as its EXIF says ("apply"), or leave it as stored ("ignore").

    Raises:
        DataError: The image cannot be read or decoded; the message names it.
    """
    try:
        file = source if isinstance(source, Path) else BytesIO(source.content())
        with Image.open(file, formats=DECODED) as image:
            pixels = as_grey_or_rgb(image, channels)
            return upright(pixels, image) if orientation == "apply" else pixels
    except UnidentifiedImageError as error:  # its text has the address of an object, which changes at every read
        raise DataError(f"{source}: cannot be read as an image: it is none of {', '.join(DECODED)}") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what Pillow's decoders raise
        raise DataError(f"{source}: cannot be read as an image: {error}") from error


def as_grey_or_rgb(image: Image.Image, channels: int) -> Image.Image:
    """Return a Pillow image of any mode as a grey (1) or RGB (3) one; ValueError where its pixels are not bytes."""
    # Pillow would clip everything above 255, which leaves most 16-bit images white.
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"its pixels are not bytes (mode {image.mode}); save it with 8 bits per channel")
    # Pillow warns when a palette with alpha goes to RGB directly.
    opaque = image.convert("RGBA") if "transparency" in image.info else image
    return opaque.convert("L" if channels == 1 else "RGB")


def upright(pixels: Image.Image, image: Image.Image) -> Image.Image:
    """Return `pixels` of a loaded `image`, turned by its EXIF orientation; unchanged where it has none that can be read.

    ImageOps.exif_transpose does the same, but writes the EXIF back, and fails where the rest of it is damaged.
    """
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except (SyntaxError, ValueError, struct.error):
        return pixels
    return pixels if turn is None else pixels.transpose(turn)
