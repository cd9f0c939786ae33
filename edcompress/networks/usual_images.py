"""The images that a library's networks are usually given: size, resampling and statistics, from the library itself."""

from __future__ import annotations

from typing import NamedTuple

import torchvision

from edcompress.networks.registry import TIMM, torchvision_names


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


def _in_torchvision(arch: str) -> UsualImages:
    first = next(iter(torchvision.models.get_model_weights(arch)))
    prepared = first.transforms()
    (size,), (resize,) = prepared.crop_size, prepared.resize_size
    return UsualImages(size, resize, prepared.interpolation.value, tuple(prepared.mean), tuple(prepared.std))


def _in_timm(name: str) -> UsualImages | None:
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(name)
    if config is None:
        return None
    size = min(config.input_size[1:])
    resize = int(size / config.crop_pct)
    return UsualImages(size, resize, config.interpolation, tuple(config.mean), tuple(config.std))
