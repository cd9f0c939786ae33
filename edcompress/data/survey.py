"""A first look at a user's images: data set, classes, counts, sizes and colours, before there is a recipe."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median_low

from PIL import Image, UnidentifiedImageError
from torch import Tensor

from edcompress.core import registry
from edcompress.core.errors import DataError
from edcompress.core.plain_text import few
from edcompress.core.recipe.data import Data
from edcompress.core.recipe.dataset_facts import DATASETS, facts_of
from edcompress.data.datasets import open_dataset
from edcompress.data.decoding import DECODED
from edcompress.data.image_folder import imagenet_wnids
from edcompress.data.images import FileImages, MemoryImages, spread
from edcompress.data.transforms import eval_geometry

LOOKED_AT = 256
"""Images, spread over the training images, whose size is read; only as much of each file as holds it."""

READ = 64
"""Images, spread over the training images, whose pixels are read."""

GREY = ("L", "1", "LA")
"""Pillow's modes of images without colour."""


@dataclass(frozen=True)
class Survey:
    """What a first look at a data set finds.

    Attributes:
        keys: The keys of a recipe's `data` section that name the data set.
        classes: Names of the classes in index order.
        train: The training images.
        test: The number of test images.
        sides: Least, median and largest short side of images, in pixels.
        square: Whether all images looked at are squares of one size.
        grey: Whether no image looked at has colours.
    """

    keys: dict[str, str]
    classes: tuple[str, ...]
    train: MemoryImages | FileImages
    test: int
    sides: tuple[int, int, int]
    square: bool
    grey: bool

    @property
    def in_wnids(self) -> bool:
        """Whether the classes are named by ImageNet's WordNet ids."""
        return set(self.classes) <= set(imagenet_wnids())

    def pixels(self, data: Data) -> Tensor:
        """Return some images, spread over the training images, as `data` prepares them for tests: uint8 [N, C, H, W]."""
        chosen = spread(len(self.train), READ).tolist()
        images = replace(self.train, channels=data.channels or self.train.channels)
        return images.read(chosen, eval_geometry(data)).pixels


def survey(images: Path) -> Survey:
    """Look at a data set.

    Args:
        images: A folder of class folders, or the folder of one of torchvision's data sets.

    Raises:
        DataError: There is no such folder, or it cannot be used.
    """
    if not images.is_dir():
        what = "is a file" if images.exists() else "does not exist"
        raise DataError(f"--images {images} {what}; name the folder that holds the images of each class in a folder")
    keys = _keys_of(images.resolve())
    data = Data.model_validate({**keys, "image_size": 32, "skip_broken": True})
    train, test, classes = open_dataset(data)[:3]
    if len(classes) < 2:
        raise DataError(
            f"--images {images}: {len(classes)} class ({few(classes)}); a classifier needs at least two class folders"
        )
    if not isinstance(train, MemoryImages | FileImages):
        raise DataError(
            f"--images {images}: its images are not files of their own; start from `edcompress init FILE --all`"
        )
    sizes, grey = _sizes(train)
    short = sorted(min(size) for size in sizes)
    square = len(set(sizes)) == 1 and sizes[0][0] == sizes[0][1]
    return Survey(keys, classes, train, len(test), (short[0], median_low(short), short[-1]), square, grey)


def _keys_of(images: Path) -> dict[str, str]:
    """Return the keys that name the data set in a folder."""
    for name in registry.names_in(DATASETS):
        folder = facts_of(name).folder
        parts = Path(folder).parts
        for depth in range(1, len(parts) + 1):
            if images.parts[-depth:] == parts[:depth] and not (images / "train").exists():
                return {"dataset": name, "root": str(Path(*images.parts[:-depth]))}
    return {"dataset": "image_folder", "folder": str(images)}


def _sizes(images: MemoryImages | FileImages) -> tuple[list[tuple[int, int]], bool]:
    """Return (width, height) of some images, and whether none of them has colours; DataError where none can be read."""
    if isinstance(images, MemoryImages):
        height, width = images.pixels.shape[2:]
        return [(int(width), int(height))], images.pixels.shape[1] == 1
    found = [header for i in spread(len(images), LOOKED_AT).tolist() if (header := _header(images.source(i)))]
    if not found:
        raise DataError(f"{images.source(0)}: cannot be read as an image, nor can others; check the files")
    return [size for size, _ in found], all(mode in GREY for _, mode in found)


def _header(path: Path) -> tuple[tuple[int, int], str] | None:
    """Return size and mode of an image file; None where it is none, which `data.skip_broken` deals with later."""
    try:
        with Image.open(path, formats=DECODED) as image:
            return image.size, image.mode
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError):
        return None
