"""The images that a library's networks are usually given: size, resampling and statistics, from the library itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

import torchvision

from edcompress.networks.registry import TIMM, torchvision_names
from edcompress.networks.timm_values import offer_of_timm

NORMALISED_INSIDE = ("googlenet", "inception_v3")
"""Networks that torchvision builds with `transform_input` for its weights: from its usual normalisation they make (x - 0.5) / 0.5. Here
they are built without it, and the images are normalised so from the start."""


class UsualImages(NamedTuple):
    """Side and short side before the crop in pixels, Pillow's filter, and statistics per channel of pixels in [0, 1]."""

    image_size: int
    resize: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


def usual_images(arch: str) -> UsualImages | None:
    """Return what the pretrained weights of an architecture take; None where the library has none."""
    if arch.startswith(TIMM):
        return _in_timm(arch.removeprefix(TIMM))
    return _in_torchvision(arch) if arch in torchvision_names() else None


def images_of_torchvision(arch: str, weights: Any) -> UsualImages:
    """Return what an entry of torchvision's weights of a network takes."""
    prepared = weights.transforms()
    (size,), (resize,) = prepared.crop_size, prepared.resize_size
    inside = arch in NORMALISED_INSIDE
    mean, std = ((0.5,), (0.5,)) if inside else (tuple(prepared.mean), tuple(prepared.std))
    return UsualImages(size, resize, prepared.interpolation.value, mean, std)


def images_of_keys(keys: Mapping[str, Any]) -> UsualImages | None:
    """Return the images that keys of a recipe's `data` section describe; None where they are not square, or have no statistics."""
    size = keys.get("image_size")
    if not isinstance(size, int) or not keys.get("mean"):
        return None
    return UsualImages(
        size, keys.get("resize") or size, keys.get("interpolation", "bilinear"), tuple(keys["mean"]), tuple(keys["std"])
    )


def _in_torchvision(arch: str) -> UsualImages:
    return images_of_torchvision(arch, next(iter(torchvision.models.get_model_weights(arch))))


def _in_timm(name: str) -> UsualImages | None:
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(name)
    return None if config is None else images_of_keys(offer_of_timm(TIMM + name, asdict(config), None).values["data"])
