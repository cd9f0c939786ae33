"""From a stored image to what the network sees: geometry on uint8 images, then one float conversion per batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as v2f

from edcompress.results import Preprocessing
from edcompress.sources import Data

Picture = Tensor | Image.Image


@dataclass(frozen=True)
class Geometry:
    """What is done to uint8 images before the float conversion.

    `fixed` takes a PIL image or a whole batch and draws nothing; `varied` takes one image and draws from torch's
    default generator; `shift` (pixels) and `flip` are drawn for the whole batch from a generator of its own.
    """

    fixed: Callable[[Any], Any] | None
    varied: Callable[[Any], Any] | None = None
    shift: int = 0
    flip: bool = False


def as_tested(data: Data) -> Geometry:
    """Resize(resize) and CenterCrop where the recipe says `resize`, else Resize to the square that the network sees."""
    if data.resize is not None:
        return Geometry(v2.Compose([v2.Resize(data.resize, antialias=True), v2.CenterCrop(data.image_size)]))
    return Geometry(v2.Resize((data.image_size, data.image_size), antialias=True))


def as_told(data: Data, channels: int) -> Preprocessing:
    """What `as_tested` and `normalised` do to images of so many channels, in words and numbers."""
    return Preprocessing(
        channels="L" if channels == 1 else "RGB",
        image_size=data.image_size,
        resize=data.resize,
        crop=None if data.resize is None else "center",
        mean=_per_channel(data.mean, channels),
        std=_per_channel(data.std, channels),
    )


def as_trained(data: Data) -> Geometry:
    """The recipe's augmentation; all but `resized_crop` start from the image as it is tested."""
    tested = as_tested(data).fixed
    match data.augment:
        case "none":
            return Geometry(tested)
        case "crop":
            return Geometry(tested, shift=data.crop_padding)
        case "crop_flip":
            return Geometry(tested, shift=data.crop_padding, flip=True)
        case "resized_crop":
            return Geometry(None, varied=v2.RandomResizedCrop(data.image_size, antialias=True), flip=True)


def with_channels(images: Tensor, channels: int) -> Tensor:
    """uint8 [B, C, H, W] as grey (ITU-R 601 luma) or RGB; unchanged where `channels` is C."""
    if images.shape[1] == channels:
        return images
    grey: Tensor = v2f.rgb_to_grayscale(images, num_output_channels=1) if channels == 1 else images
    return grey.expand(-1, channels, -1, -1)


def shift_and_flip(
    images: Tensor, geometry: Geometry, generator: torch.Generator, whole: int | None = None, part: slice = slice(None)
) -> Tensor:
    """Each image of [B, C, H, W] zero-padded, cropped back to H x W at a random place, and mirrored half of the time.

    out[b, c, y, x] = padded[b, c, top[b] + y, left[b] + (x or W - 1 - x)], copied row by row out of a view of all windows of the
    padded images: more than ten times as fast as torchvision's transforms image by image. The images may be a `part` of a batch of
    `whole`: they then become what they do there.
    """
    (B, _, H, W), p = images.shape, geometry.shift
    if not p and not geometry.flip:
        return images
    whole = B if whole is None else whole
    top, left = torch.randint(0, 2 * p + 1, (2, whole), generator=generator)[:, part][
        :, :B
    ]  # fewer, where broken ones are left out
    mirrored = torch.rand(whole, generator=generator)[part][:B] < (0.5 if geometry.flip else 0.0)
    windows = F.pad(images, (p, p, p, p)).unfold(2, H, 1).unfold(3, W, 1)  # [B, C, 2p + 1, 2p + 1, H, W]
    shifted = windows[torch.arange(B), :, top, left]
    shifted[mirrored] = shifted[mirrored].flip(3)
    return shifted


def normalised(images: Tensor, data: Data) -> Tensor:
    """(pixels / 255 - mean) / std as contiguous float32 [B, C, H, W]."""
    C = images.shape[1]
    mean, std = (_per_channel(values, C) for values in (data.mean, data.std))
    scaled = v2f.to_dtype(images, torch.float32, scale=True)
    result: Tensor = v2f.normalize(scaled, list(mean), list(std), inplace=scaled is not images)
    return result.contiguous()


def _per_channel(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    return values * channels if len(values) == 1 else values


@contextmanager
def default_generator_seeded(seed: int) -> Iterator[None]:
    """Torchvision's random transforms draw from torch's default generator; it gets its state back after the block.

    (`torch.manual_seed` would seed the accelerators, too.)
    """
    state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(state)
