"""The images of first_try.py, as folders with one folder per class."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from PIL import Image
from torchvision import datasets

SHORT_SIDE = 146
"""Pixels of the short side of the photos."""


def data_folder() -> Path:
    """Return $EDCOMPRESS_DATA."""
    return Path(os.environ["EDCOMPRESS_DATA"])


def photos(folder: Path, classes: slice) -> None:
    """Write the photos of some Imagenette classes, resized to a short side of `SHORT_SIDE`."""
    for split in ("train", "val"):
        for source in sorted((data_folder() / "imagenette" / split).iterdir())[classes]:
            for path in sorted(source.iterdir()):
                image = Image.open(path).convert("RGB")
                w, h = (round(SHORT_SIDE * side / min(image.size)) for side in image.size)
                save_image(
                    image.resize((w, h), Image.Resampling.BICUBIC), folder / split / source.name / f"{path.stem}.jpg"
                )


def kuzushiji(folder: Path) -> None:
    """Write the 8000 and 2000 Kuzushiji images that lie in the data folder as KMNIST (all of KMNIST's test images)."""
    for split, train in (("train", True), ("val", False)):
        write_numbered(datasets.KMNIST(data_folder(), train=train), folder / split, None)


def cifar10(folder: Path) -> None:
    """Write the first 12800 training images of CIFAR-10, and its test images."""
    write_numbered(datasets.CIFAR10(data_folder(), train=True), folder / "train", 12800)
    write_numbered(datasets.CIFAR10(data_folder(), train=False), folder / "val", None)


def cifar100(folder: Path) -> None:
    """Copy the quarter of CIFAR-100."""
    for split, name in (("train", "train"), ("test", "val")):
        shutil.copytree(data_folder() / "cifar100-25k" / split, folder / name)


def write_numbered(images: datasets.VisionDataset, folder: Path, most: int | None) -> None:
    """Write the first images of a data set as PNG files, in a folder per class."""
    for number in range(len(images) if most is None else most):
        image, label = images[number]
        save_image(image, folder / f"{label:03d}" / f"{number:05d}.png")


def save_image(image: Image.Image, path: Path) -> None:
    """Write an image and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=92)
