import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as v2f

from edcompress.core.recipe.data import Data

MakeFolder = Callable[..., Path]


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """Writes an image folder with `train` and `val` images per class, of noise that differs from image to image."""

    def make(classes: tuple[str, ...] = ("cat", "dog", "elk"), train: int = 4, val: int = 2, mode: str = "RGB") -> Path:
        generator = torch.Generator().manual_seed(0)
        for part, count in (("train", train), ("val", val)):
            for name in classes:
                (tmp_path / part / name).mkdir(parents=True)
                for i in range(count):
                    pixels = torch.randint(0, 256, (3, 20, 24), dtype=torch.uint8, generator=generator)
                    image: Image.Image = v2f.to_pil_image(pixels)
                    image.convert(mode).save(tmp_path / part / name / f"{i}.png")
        return tmp_path

    return make


@pytest.fixture
def folder_data(make_folder: MakeFolder) -> Data:
    return Data(dataset="image_folder", root=make_folder(), image_size=16, batch_size=4, search_fraction=0.25)


@pytest.fixture
def real_root() -> Path:
    if "EDCOMPRESS_DATA" not in os.environ:
        pytest.skip("needs EDCOMPRESS_DATA")
    return Path(os.environ["EDCOMPRESS_DATA"])
