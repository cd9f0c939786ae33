import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.transforms import v2

from edcompress.core.recipe.data import Data
from edcompress.data.batches import eval_batches, train_batches
from edcompress.data.images import FileImages, MemoryImages
from edcompress.data.transforms import (
    PICTURES,
    Geometry,
    default_generator_seeded,
    normalise,
    shift_and_flip,
    to_channels,
    train_geometry,
)

IMAGES = torch.randint(0, 256, (64, 3, 10, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def drawn(geometry: Geometry) -> torch.Tensor:
    return shift_and_flip(IMAGES, geometry, torch.Generator().manual_seed(5))


def test_each_image_is_a_crop_of_itself_padded_mirrored_half_of_the_time() -> None:
    padding, mirrored = 2, 0
    places = set()
    for image, out in zip(IMAGES, drawn(Geometry(None, shift=padding, flip=True)), strict=True):
        padded = v2.functional.pad(image, [padding] * 4)
        found = [
            (top, left, flipped)
            for top in range(2 * padding + 1)
            for left in range(2 * padding + 1)
            for flipped in (False, True)
            if torch.equal(out, _crop(padded, top, left, flipped))
        ]
        assert len(found) == 1
        places.add(found[0][:2])
        mirrored += found[0][2]
    assert 16 < mirrored < 48
    assert len(places) > 15  # of 25


def test_half_of_many_images_are_mirrored() -> None:
    """Of 4096 images 2048 +- 32 (one standard deviation) are; the bounds are four of them away."""
    images = torch.arange(4096 * 2).view(4096, 1, 1, 2).to(torch.int32)
    out = shift_and_flip(images, Geometry(None, flip=True), torch.Generator().manual_seed(0))
    mirrored = (out == images.flip(3)).flatten(1).all(1)
    assert torch.equal(out[~mirrored], images[~mirrored])
    assert 2048 - 128 < int(mirrored.sum()) < 2048 + 128


def _crop(padded: torch.Tensor, top: int, left: int, flipped: bool) -> torch.Tensor:
    crop = padded[:, top : top + 10, left : left + 12]
    return crop.flip(2) if flipped else crop


def test_no_shift_and_no_flip_change_nothing() -> None:
    assert torch.equal(drawn(Geometry(None)), IMAGES)
    assert not torch.equal(drawn(Geometry(None, flip=True)), IMAGES)


def test_normalise_equals_torchvisions() -> None:
    data = Data(dataset="digits", image_size=8, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    steps = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(data.mean, data.std)])
    assert torch.equal(normalise(IMAGES, data), steps(IMAGES))
    one = Data(dataset="digits", image_size=8, mean=(0.4,), std=(0.2,))
    torch.testing.assert_close(normalise(IMAGES, one)[:, 2], (IMAGES[:, 2] / 255 - 0.4) / 0.2)


def test_channels() -> None:
    grey = to_channels(IMAGES, 1)
    assert torch.equal(to_channels(grey, 3), grey.repeat(1, 3, 1, 1))
    assert to_channels(IMAGES, 3) is IMAGES


def test_grey_equals_pillows_bit_for_bit() -> None:
    """Over every 15th level of each colour, and noise."""
    levels = torch.cartesian_prod(*[torch.arange(0, 256, 15)] * 3).to(torch.uint8).T.reshape(1, 3, 18, -1)
    for images in (levels, IMAGES.reshape(1, 3, 64, -1)):
        pillows = v2.functional.pil_to_tensor(v2.functional.to_pil_image(images[0]).convert("L"))
        assert torch.equal(to_channels(images, 1)[0], pillows)


@pytest.mark.parametrize(
    "changes", [{}, {"resize": 18}, {"augment": "resized_crop"}, {"interpolation": "nearest"}], ids=str
)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("square", [16, 23])
def test_images_in_memory_and_in_files_are_transformed_alike(
    tmp_path: Path, changes: dict[str, Any], channels: int, square: int
) -> None:
    data = Data(dataset="digits", image_size=16, batch_size=128, **changes)
    pixels = IMAGES[:3].repeat(1, 1, 3, 2)[..., :square, :square]
    paths = [str(tmp_path / f"{number}.png") for number in range(3)]
    for path, image in zip(paths, pixels, strict=True):
        v2.functional.to_pil_image(image).save(path)
    labels = torch.zeros(3, dtype=torch.int64)
    sets = (MemoryImages(pixels, labels, channels), FileImages(labels, channels, paths=tuple(paths)))
    for batches in ([train_batches(i, data, seed=0, epoch=0) for i in sets], [eval_batches(i, data) for i in sets]):
        (memory, _), (files, _) = (next(iter(each)) for each in batches)
        assert torch.equal(memory, files)


@pytest.mark.parametrize("augment", ["none", "crop", "crop_flip", "resized_crop"])
@pytest.mark.parametrize("resize", [None, 18])
@pytest.mark.parametrize("size", [(16, 16), (16, 12), (11, 17)])
def test_every_augmentation_gives_the_size_that_the_network_sees(
    augment: str, resize: int | None, size: tuple[int, int]
) -> None:
    data = Data(dataset="digits", image_size=size, batch_size=128, resize=resize, augment=augment, channels=1)  # type: ignore[arg-type]
    images = MemoryImages(IMAGES, torch.zeros(64, dtype=torch.int64), channels=1)
    for batches in (train_batches(images, data, seed=0, epoch=0), eval_batches(images, data)):
        assert next(iter(batches))[0].shape == (64, 1, *size)


@pytest.mark.parametrize("augment", ["crop", "crop_flip", "resized_crop"])
@pytest.mark.parametrize("flip", [None, False, True])
def test_flip_decides_whatever_augment_says(augment: str, flip: bool | None) -> None:
    data = Data.model_validate({"dataset": "digits", "image_size": 16, "augment": augment, "flip": flip})
    assert train_geometry(data).flip is (augment != "crop" if flip is None else flip)


def test_the_default_generator_is_restored_after_an_error() -> None:
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError), default_generator_seeded(3):
        torch.rand(1).view(2)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("augment", ["none", "crop", "resized_crop"])
@pytest.mark.parametrize("channels", [1, 3])
def test_rand_augment_changes_training_images_alone_and_alike_for_any_number_of_workers(
    augment: str, channels: int
) -> None:
    settings = {"dataset": "digits", "image_size": 8, "batch_size": 16, "augment": augment, "mean": [0.0], "std": [1.0]}
    plain, changed = (Data.model_validate({**settings, "rand_augment": magnitude}) for magnitude in (0, 15))
    images = MemoryImages(IMAGES[:, :channels, :8, :8].contiguous(), torch.zeros(64, dtype=torch.int64), channels)

    def seen(data: Data, epoch: int = 0) -> torch.Tensor:
        return torch.cat([pixels for pixels, _ in train_batches(images, data, seed=3, epoch=epoch)])

    assert not torch.equal(seen(plain), seen(changed))
    assert torch.equal(seen(changed), seen(changed))
    assert not torch.equal(seen(changed, 0), seen(changed, 1))
    assert torch.equal(seen(changed), seen(changed.model_copy(update={"workers": 2})))
    tested = [torch.cat([pixels for pixels, _ in eval_batches(images, data)]) for data in (plain, changed)]
    assert torch.equal(*tested)


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("changes", [{}, {"resize": 20}, {"augment": "crop", "rand_augment": 9}])
def test_images_in_memory_are_resized_once_if_they_fit(
    channels: int, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = torch.randint(0, 256, (6, channels, 10, 12), dtype=torch.uint8)
    labels = torch.arange(6)
    data = Data.model_validate(
        {"dataset": "digits", "image_size": 16, "batch_size": 3, "mean": [0.0], "std": [1.0], **changes}
    )
    whole = MemoryImages(pixels, labels, channels)
    resized: list[tuple[int, ...]] = []

    def seen(images: MemoryImages) -> torch.Tensor:
        """The tested and the trained images of two epochs."""
        both = [
            eval_batches(images, data),
            *(train_batches(images, data, seed=1, epoch=epoch) for epoch in (0, 1)),
        ]
        return torch.cat([batch for batches in both for batch, _ in batches])

    make = v2.Resize.forward
    monkeypatch.setattr(v2.Resize, "forward", lambda self, image: resized.append(image.size) or make(self, image))
    planes = 1 if channels in PICTURES else channels
    kept = seen(whole)
    assert len(resized) == 6 * planes
    assert not pickle.loads(pickle.dumps(whole)).resized
    reversed_order = seen(whole.subset(torch.arange(5, -1, -1)))
    assert torch.equal(reversed_order[:6], kept[:6].flip(0))
    assert len(resized) == 12 * planes
    monkeypatch.setattr("edcompress.data.images.RESIZED_BYTES", 100)
    large = MemoryImages(pixels, labels, channels)
    assert torch.equal(seen(large), kept)
    assert len(resized) == 30 * planes
    assert not large.resized
