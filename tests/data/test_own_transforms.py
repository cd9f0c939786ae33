"""Transforms of the user's own in place of the recipe's."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from edcompress.core.errors import DataError, RecipeError
from edcompress.core.recipe.data import Data
from edcompress.core.recipe.loading import read_recipe
from edcompress.data.batches import eval_batches, train_batches
from edcompress.data.splits import Splits, open_splits
from edcompress.data.transforms import preprocessing_spec

MODULE = """
import random

import numpy as np
import torch
from torchvision.transforms import v2

def flip(image):
    return image.transpose(0)

varied = v2.Compose([v2.RandomResizedCrop(16), v2.RandomHorizontalFlip(), v2.ToImage(),
                     v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.5] * 3)])

def noisy(image):
    pixels = np.asarray(image).astype(int) + np.random.randint(-9, 9) + random.randint(-9, 9)
    return pixels.clip(0, 255).astype(np.uint8)

jittered = v2.RandomCrop(16)

prepared = v2.Compose([v2.Resize((16, 16)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])

class Made:
    def __call__(self, image):
        return image.resize((16, 16))

def large(image):
    return np.zeros((20, 20, 3), np.float32)

def text(image):
    return "image"

def failing(image):
    raise KeyError("nothing here")

generator = np.random.default_rng(0)

def own(image):
    return generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)

def fickle(image):
    return image if np.asarray(image)[0, 0, 0] < 128 else prepared(image)
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module of transforms in the working directory."""
    name = f"transforms_of_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return name


def opened(data: Data, **more: Any) -> tuple[Data, Splits]:
    data = Data(**{**data.model_dump(), **more})
    return data, open_splits(data, seed=0, trust_code=True)


def epoch(found: tuple[Data, Splits], number: int = 0) -> list[tuple[Tensor, Tensor]]:
    return list(train_batches(found[1].train, found[0], seed=0, epoch=number))


def equal(one: list[tuple[Tensor, Tensor]], two: list[tuple[Tensor, Tensor]]) -> bool:
    return all(torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in zip(one, two, strict=True))


def test_pixels_are_resized_and_normalised_after_the_transform(folder_data: Data, mine: str) -> None:
    plain, flipped = epoch(opened(folder_data)), epoch(opened(folder_data, transform=f"{mine}:flip"))
    assert all(torch.allclose(x, u.flip(3), atol=0.1) for (x, _), (u, _) in zip(plain, flipped, strict=True))
    assert not torch.equal(plain[0][0], flipped[0][0])
    assert equal(
        *(
            list(eval_batches(found[1].test, found[0]))
            for found in (opened(folder_data), opened(folder_data, transform=f"{mine}:flip"))
        )
    )


@pytest.mark.parametrize("name", ["varied", "noisy"])
def test_random_transforms_repeat_and_do_not_depend_on_workers(folder_data: Data, mine: str, name: str) -> None:
    found = opened(folder_data, transform=f"{mine}:{name}")
    whole = epoch(found)
    torch.manual_seed(1)
    np.random.seed(1)
    assert equal(whole, epoch(found))
    assert not equal(whole, epoch(found, 1))
    assert equal(whole, epoch(opened(folder_data, transform=f"{mine}:{name}", workers=2)))
    rest = [batch for _, batch in train_batches(found[1].train, found[0], seed=0, epoch=0).numbered(1)]
    assert equal(whole[1:], rest)
    assert whole[0][0].dtype == torch.float32


def test_floats_beside_normalised_images_are_doubted(folder_data: Data, mine: str) -> None:
    _, splits = opened(folder_data, transform=f"{mine}:varied")
    assert (splits.prepared, splits.train.prepared) == (False, True)
    assert any("data.transform returns floats, while other images are normalised" in doubt for doubt in splits.doubts)
    _, splits = opened(folder_data, transform=f"{mine}:varied", eval_transform=f"{mine}:prepared")
    assert splits.prepared
    assert not any("returns floats" in doubt for doubt in splits.doubts)


def test_an_own_evaluation_prepares_test_and_held_out_images(folder_data: Data, mine: str) -> None:
    data, splits = opened(folder_data, eval_transform=f"{mine}:prepared")
    for images in (splits.test, splits.search):
        batch, _ = next(iter(eval_batches(images, data)))
        assert (0 <= batch.min() < 0.2, 0.8 < batch.max() <= 1) == (True, True)
    assert preprocessing_spec(data, 3, prepared=True).own == f"{mine}:prepared"
    data, splits = opened(folder_data, eval_transform=f"{mine}:Made")  # a class is called for its object
    assert not splits.prepared
    assert next(iter(eval_batches(splits.test, data)))[0].min() < -0.8


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        (
            {"eval_transform": "flip"},
            r"eval_transform: .*:flip: it returns \[3, 20, 24\], and the network takes \[3, 16, 16\]; end",
        ),
        ({"transform": "large"}, r"transform: .*:large: it returns \[20, 20, 3\], and the network takes \[3, 16, 16\]"),
        ({"transform": "text"}, r":text: its image is str 'image'; return a Pillow image, an array or a tensor"),
        ({"transform": "failing"}, r":failing failed in your code: KeyError: 'nothing here'\nTraceback"),
        ({"transform": "filp"}, r"data\.transform: .* has no 'filp'; did you mean 'flip'"),
    ],
)
def test_a_transform_that_cannot_be_used_is_named_before_any_compute(
    folder_data: Data, mine: str, keys: dict[str, str], fault: str
) -> None:
    with pytest.raises(DataError, match=fault):
        opened(folder_data, **{key: f"{mine}:{name}" for key, name in keys.items()})


def test_results_of_two_kinds_are_named_when_they_come(folder_data: Data, mine: str) -> None:
    with pytest.raises(DataError, match=r":fickle: it returns pixels of some images and floats of others"):
        epoch(opened(folder_data, transform=f"{mine}:fickle"))


def test_a_generator_of_its_own_and_random_evaluation_are_doubted(folder_data: Data, mine: str) -> None:
    (doubt,) = opened(folder_data, transform=f"{mine}:own")[1].doubts
    assert doubt.startswith(f"data.transform: {mine}:own: an image differs between two reads though")
    (doubt,) = opened(folder_data, eval_transform=f"{mine}:jittered")[1].doubts
    assert doubt.startswith(f"data.eval_transform: {mine}:jittered: images are changed at random")
    assert opened(folder_data, transform=f"{mine}:noisy")[1].doubts == ()


def test_code_runs_only_where_it_is_trusted(folder_data: Data, mine: str) -> None:
    data = folder_data.model_copy(update={"eval_transform": f"{mine}:failing"})
    with pytest.raises(DataError, match=r"data\.eval_transform: .* runs your own code; add --trust-code to allow it"):
        open_splits(data, seed=0)


def test_a_transform_takes_the_place_of_augment(tmp_path: Path) -> None:
    recipe = tmp_path / "my.yaml"
    recipe.write_text(
        "model: {arch: resnet8, num_classes: 3}\ndata: {dataset: digits, image_size: 8, transform: 'a:b', augment: crop}\n",
        encoding="utf-8",
    )
    with pytest.raises(
        RecipeError, match="data: transform takes the place of augment, which is crop; set augment to none"
    ):
        read_recipe(recipe)


def test_albumentations_are_called_and_seeded_in_their_way(
    folder_data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("albumentations", reason="needs albumentations, which has its own random generator")
    (tmp_path / "of_albumentations.py").write_text(
        "import albumentations as A\n"
        "varied = A.Compose([A.RandomCrop(16, 16), A.HorizontalFlip(p=0.5), A.RandomBrightnessContrast(p=1.0)])\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    found = opened(folder_data, transform="of_albumentations:varied")
    whole = epoch(found)
    assert equal(whole, epoch(found))
    assert not equal(whole, epoch(found, 1))
