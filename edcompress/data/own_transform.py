"""The user's own transforms of images, in place of the recipe's resizing, cropping and augmentation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from edcompress.core.errors import DataError
from edcompress.core.recipe.data import Data
from edcompress.core.user_code import find_callable, users_code
from edcompress.data.images import ImageSet, ReadImages
from edcompress.data.item_values import image_value
from edcompress.data.opening import Warn
from edcompress.data.seeding import derived_seed, global_generators_seeded
from edcompress.data.transforms import PICTURES, Geometry, eval_geometry, to_channels, to_pil

Transform = Callable[..., Any]
"""Takes a Pillow image, or an array [H, W, C] of other than 1 or 3 channels; returns an image, array or tensor."""


@dataclass(frozen=True)
class OwnGeometry(Geometry):
    """A transform of the user's own in place of the recipe's geometry.

    What it returns is `channels` x `size`, as uint8 pixels or as float32 that the network takes. Pixels of another size get `then`, the
    recipe's own resizing, where that is given. `prepared`: it returns floats; None before the first image.
    """

    transform: Transform = Image.Image.copy
    name: str = ""
    channels: int = 3
    size: tuple[int, int] = (0, 0)
    then: Geometry | None = None
    prepared: bool | None = None

    def keeps(self, images: Tensor) -> bool:  # noqa: ARG002
        """Return False: only the user knows."""
        return False

    def seeded(self, seed: int, index: int) -> AbstractContextManager[None]:
        """Return the context in which all global generators have a seed of the image's own."""
        own = derived_seed(seed, "image", index)
        if set_seed := _own_seed(self.transform):
            set_seed(own % 2**32)
        return global_generators_seeded(own)

    def apply(self, image: Image.Image) -> Tensor:
        """Return what the transform makes of an image, uint8 or float32 [C, H, W]."""
        return self._finished(self._called(image))

    def apply_to_pixels(self, pixels: Tensor) -> Tensor:
        """Return what the transform makes of uint8 pixels [C, H, W]."""
        if len(pixels) in PICTURES:
            return self.apply(to_pil(pixels))
        return self._finished(self._called(pixels.permute(1, 2, 0).contiguous().numpy()))

    def _called(self, image: Any) -> Any:
        with users_code(f"{self.name} failed in your code", DataError):
            if is_albumentations(self.transform):
                return self.transform(image=np.asarray(image))["image"]
            return self.transform(image)

    def _finished(self, returned: Any) -> Tensor:
        wanted = (self.channels, *self.size)
        try:
            pixels = image_value(returned, self.channels)
            if pixels.dtype == torch.uint8:
                pixels = to_channels(pixels.unsqueeze(0), self.channels).squeeze(0)
        except ValueError as error:
            raise DataError(f"{self.name}: {error}") from error
        if self.prepared is not None and self.prepared != pixels.is_floating_point():
            raise DataError(
                f"{self.name}: it returns pixels of some images and floats of others; return one of the two"
            )
        if self.then and pixels.dtype == torch.uint8 and tuple(pixels.shape) != wanted:
            pixels = self.then.apply_to_pixels(pixels)
        if tuple(pixels.shape) != wanted:
            raise DataError(
                f"{self.name}: it returns {list(pixels.shape)}, and the network takes {list(wanted)}; end it with a resize or crop to "
                f"{self.size[0]}x{self.size[1]}, or set data.image_size"
            )
        return pixels


@dataclass(frozen=True, eq=False)
class TransformedImages:
    """Images under a transform of the user's own."""

    images: ImageSet
    geometry: OwnGeometry

    @property
    def prepared(self) -> bool:
        """Whether the transform gives floats."""
        return bool(self.geometry.prepared)

    @property
    def labels(self) -> Tensor | None:
        """int64 [N], or None where only reading shows them."""
        return self.images.labels

    @property
    def channels(self) -> int:
        """The number of channels."""
        return self.images.channels

    @property
    def warn(self) -> Warn:
        """Takes a message for each image that is left out."""
        return self.images.warn

    def __len__(self) -> int:
        return len(self.images)

    def with_warnings_to(self, warn: Warn) -> Self:
        """Return the same images with another `warn`."""
        return replace(self, images=self.images.with_warnings_to(warn))

    def subset(self, indices: Tensor) -> Self:
        """Return the images at `indices` (int64), in that order."""
        return replace(self, images=self.images.subset(indices))

    def repeats(self, *, other_seed: bool) -> bool:
        """Return whether the first image is the same when it is read again, with the same seed or another."""
        first, again = (self.read([0], self.geometry, seed).pixels for seed in (0, int(other_seed)))
        return torch.equal(first, again)

    def read(self, indices: Sequence[int], geometry: Geometry, seed: int = 0) -> ReadImages:  # noqa: ARG002
        """Return the images after the user's transform in place of `geometry`."""
        read = self.images.read(indices, self.geometry, seed)
        return read._replace(finished=True)


def doubt_of(images: TransformedImages, *, trains: bool) -> str:
    """Return what a transform makes impossible: repeating a run, or measuring on unchanged images; "" where it does not."""
    name = images.geometry.name
    if not images.repeats(other_seed=False):
        return (
            f"{name}: an image differs between two reads though torch's, NumPy's and Python's global generators are seeded: it draws from "
            "a generator of its own, so that this run cannot be repeated, nor resumed to the bit"
        )
    if not trains and not images.repeats(other_seed=True):
        return (
            f"{name}: images are changed at random, and accuracies are of changed images; take what is random out of it"
        )
    return ""


def own_transform(key: str, data: Data, *, trust_code: bool) -> Transform | None:
    """Import the transform that a key of `data` names; None where it names none.

    Raises:
        DataError: The code is not trusted, or there is no such callable.
    """
    spec = getattr(data, key)
    if not spec:
        return None
    found = find_callable(f"data.{key}", spec, DataError, trust_code=trust_code)
    return found() if isinstance(found, type) else found


def under_transform(
    images: ImageSet, transform: Transform, name: str, data: Data, *, trains: bool
) -> TransformedImages:
    """Return the images under a transform, tried on the first of them.

    Args:
        images: The images.
        transform: The user's own; an object of albumentations is called as `transform(image=array)`.
        name: What to call it in messages.
        data: The recipe's data section.
        trains: Whether it is for training images, which may have any size, and may vary.

    Raises:
        DataError: It fails, or does not return an image that the network takes.
    """
    if images.prepared:
        raise DataError(
            f"{name}: the data set gives float tensors, which are prepared already; return images or uint8 pixels there"
        )
    then = eval_geometry(data) if trains else None
    geometry = OwnGeometry(None, None, 0, False, None, transform, name, images.channels, data.height_width, then)
    tried = images.read([0], geometry)
    return TransformedImages(images, replace(geometry, prepared=tried.pixels.is_floating_point()))


def is_albumentations(transform: object) -> bool:
    """Return whether this is an object of albumentations, which takes arrays by name and returns a dict."""
    return any(
        kind.__module__.partition(".")[0] in ("albumentations", "albumentationsx") for kind in type(transform).__mro__
    )


def _own_seed(transform: object) -> Callable[[int], None] | None:
    """Return what seeds the generator of an albumentations object; None for others."""
    return getattr(transform, "set_random_seed", None) if is_albumentations(transform) else None
