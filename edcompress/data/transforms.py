"""From a stored image to what the network sees: geometry on uint8 images, then one float conversion per batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as v2f

from edcompress.core.recipe.data import Data, Interpolation
from edcompress.core.results.report import Preprocessing

OF_DATA_SET = "data set"
"""In place of a transform's name, where a data set of the user's own gives images as the network takes them."""

PICTURES = (1, 3)
"""Numbers of channels that Pillow can hold: grey and RGB."""


@dataclass(frozen=True)
class Geometry:
    """The changes to uint8 images before the float conversion.

    `fixed` takes a Pillow image and draws no random numbers; it leaves images of height and width `kept` unchanged. `random` takes one
    and draws from torch's default generator. `shift` (pixels) and `flip` are drawn for the whole batch from a generator of its own.
    """

    fixed: Callable[[Any], Any] | None
    random: Callable[[Any], Any] | None = None
    shift: int = 0
    flip: bool = False
    kept: tuple[int, int] | None = None

    def keeps(self, images: Tensor) -> bool:
        """Return whether `fixed` and `random` leave images [B, C, H, W] unchanged."""
        of_size = self.fixed is None or tuple(images.shape[2:]) == self.kept
        return of_size and self.random is None

    def seeded(self, seed: int, index: int) -> AbstractContextManager[None]:  # noqa: ARG002
        """Return the context in which the image at an index of its set is changed; own transforms are seeded there."""
        return nullcontext()

    def apply(self, image: Image.Image) -> Tensor:
        """Return the image after `fixed` and `random`, uint8 [C, H, W]."""
        for change in (self.fixed, self.random):
            image = image if change is None else change(image)
        pixels: Tensor = v2f.pil_to_tensor(image)
        return pixels

    def apply_to_pixels(self, pixels: Tensor) -> Tensor:
        """Return uint8 pixels [C, H, W] after the same; channels other than those of pictures (1 or 3) are changed alike, one by one."""
        if len(pixels) in PICTURES:
            return self.apply(to_pil(pixels))
        before, planes = torch.default_generator.get_state(), []
        for plane in torch.split(pixels, 1):
            torch.default_generator.set_state(before)  # so that all are cropped at one place
            planes.append(self.apply(to_pil(plane)))
        return torch.cat(planes)


def eval_geometry(data: Data) -> Geometry:
    """Return the geometry of test images: short side to `resize`, then a centre crop; without `resize` the whole image to the size."""
    return _eval_geometry(data.height_width, data.resize, data.interpolation)


@cache  # so that images that are kept resized are found again
def _eval_geometry(size: tuple[int, int], resize: int | None, interpolation: Interpolation) -> Geometry:
    how = v2.InterpolationMode(interpolation)
    if resize is None:
        return Geometry(v2.Resize(size, how), kept=size)
    steps = v2.Compose([v2.Resize(resize, how), v2.CenterCrop(size)])
    return Geometry(steps, kept=size if resize == min(size) == max(size) else None)


def preprocessing_spec(data: Data, channels: int, *, prepared: bool = False) -> Preprocessing:
    """Describe what is done to test images of so many channels, which are `prepared` where the data set gives them as floats."""
    return Preprocessing(
        channels={1: "L", 3: "RGB"}.get(channels, "stored"),
        image_size=data.image_size,
        resize=data.resize,
        crop=None if data.resize is None else "center",
        interpolation=data.interpolation,
        antialias=data.interpolation != "nearest",
        exif_orientation=data.exif_orientation,
        mean=_per_channel(data.mean, channels),
        std=_per_channel(data.std, channels),
        own=data.eval_transform or (OF_DATA_SET if prepared else None),
    )


def train_geometry(data: Data) -> Geometry:
    """Return the recipe's augmentation; all but `resized_crop` start from the image as `eval_geometry` makes it.

    RandAugment (E. Cubuk et al., 2020) follows the crop of an image, where it is asked for.
    """
    cropped = _cropped(data)
    if data.flip is not None:
        cropped = replace(cropped, flip=data.flip)
    if not data.rand_augment:
        return cropped
    changes = v2.RandAugment(magnitude=data.rand_augment)
    return replace(cropped, random=v2.Compose([cropped.random, changes]) if cropped.random else changes)


def _cropped(data: Data) -> Geometry:
    tested = eval_geometry(data)
    match data.augment:
        case "crop":
            return replace(tested, shift=data.crop_padding)
        case "crop_flip":
            return replace(tested, shift=data.crop_padding, flip=True)
        case "resized_crop":
            how = v2.InterpolationMode(data.interpolation)
            return Geometry(
                None,
                random=v2.RandomResizedCrop(data.height_width, (data.crop_scale, 1.0), interpolation=how),
                flip=True,
            )
        case _:
            return tested


def to_channels(images: Tensor, channels: int) -> Tensor:
    """Turn grey or RGB uint8 images [B, C, H, W] into grey (1) or RGB (3) ones; unchanged where `channels` is C.

    Grey is ITU-R 601-2 luma, bit for bit as Pillow's convert("L") computes it: (19595 R + 38470 G + 7471 B + 2^15) / 2^16, rounded down.
    """
    if images.shape[1] == channels:
        return images
    if channels == 3:
        return images.expand(-1, 3, -1, -1)
    red, green, blue = images.to(torch.int32).unbind(1)
    return ((19595 * red + 38470 * green + 7471 * blue + (1 << 15)) >> 16).to(torch.uint8).unsqueeze(1)


def to_pil(pixels: Tensor) -> Image.Image:
    """Return a Pillow image of uint8 pixels [C, H, W], grey or RGB."""
    return Image.fromarray(
        pixels.squeeze(0).numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).contiguous().numpy()
    )


def shift_and_flip(
    images: Tensor, geometry: Geometry, generator: torch.Generator, whole: int | None = None, part: slice = slice(None)
) -> Tensor:
    """Zero-pad each image, crop it back to its size at a random position, and mirror it with a probability of one half.

    out[b, c, y, x] = padded[b, c, top[b] + y, left[b] + (x or W - 1 - x)], copied row by row out of a view of all windows of the
    padded images: more than ten times as fast as torchvision's transforms image by image.

    Args:
        images: Pixels [B, C, H, W].
        geometry: Its `shift` is the padding in pixels, and with its `flip` images are mirrored.
        generator: Draws the positions and the flips.
        whole: The size of the batch of which these images are a part; B where it is None.
        part: The images of that batch which these are. They come out as they would in the whole batch.
    """
    (B, _, H, W), p = images.shape, geometry.shift
    if not p and not geometry.flip:
        return images
    whole = B if whole is None else whole
    positions = torch.randint(0, 2 * p + 1, (2, whole), generator=generator)
    top, left = positions[:, part][:, :B]  # fewer, where broken images are left out
    mirrored = torch.rand(whole, generator=generator)[part][:B] < (0.5 if geometry.flip else 0.0)
    windows = F.pad(images, (p, p, p, p)).unfold(2, H, 1).unfold(3, W, 1)  # [B, C, 2p + 1, 2p + 1, H, W]
    shifted = windows[torch.arange(B), :, top, left]
    shifted[mirrored] = shifted[mirrored].flip(3)
    return shifted


def normalise(images: Tensor, data: Data) -> Tensor:
    """Return (pixels / 255 - mean) / std of uint8 images [B, C, H, W], as contiguous float32; floats are prepared, and stay."""
    if images.is_floating_point():
        return images.contiguous()
    C = images.shape[1]
    mean, std = (_per_channel(values, C) for values in (data.mean, data.std))
    scaled = v2f.to_dtype(images, torch.float32, scale=True)
    result: Tensor = v2f.normalize(scaled, list(mean), list(std), inplace=scaled is not images)
    return result.contiguous()


def _per_channel(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    return values * channels if len(values) == 1 else values


@contextmanager
def default_generator_seeded(seed: int) -> Iterator[None]:
    """Seed torch's default generator, from which torchvision's random transforms draw, and restore its state after the block.

    `torch.manual_seed` would seed the accelerators too.
    """
    state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(state)
