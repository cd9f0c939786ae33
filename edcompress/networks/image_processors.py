"""Recipe keys from the description of an image processor of transformers (`preprocessor_config.json`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PIL import Image

WHOLE_FROM = 384
"""The size from which processors with `crop_pct` take the whole image."""


def preprocessing_values(config: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the keys of `data` that a processor's configuration gives, and notes on what it leaves open."""
    if not config:
        return {}, ("it does not say how images are prepared: set data.image_size, resize, mean and std",)
    values = _geometry(config)
    if config.get("do_normalize", True) and "image_mean" in config and "image_std" in config:
        values |= {"mean": tuple(config["image_mean"]), "std": tuple(config["image_std"])}
    elif config.get("do_normalize") is False:
        values |= {"mean": (0.0,), "std": (1.0,)}
    if isinstance(number := config.get("resample"), int) and number in list(Image.Resampling):
        values["interpolation"] = Image.Resampling(number).name.lower()
    notes = () if "image_size" in values else ("its image size is not a square: set data.image_size and resize",)
    return values, notes


def _geometry(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return `image_size` and `resize`; nothing where images are not resized and cropped to a square."""
    size, crop = config.get("size"), config.get("crop_size")
    short = size.get("shortest_edge") if isinstance(size, dict) else size
    if config.get("do_center_crop") and (side := _side(crop)):
        return {"image_size": side, "resize": short if isinstance(short, int) else _side(size)}
    if isinstance(short, int) and isinstance(share := config.get("crop_pct"), float):  # as ConvNext and ResNet have it
        return {"image_size": short, "resize": int(short / share) if short < WHOLE_FROM else None}
    side = _side(size)
    return {"image_size": side, "resize": None} if side else {}


def _side(size: object) -> int | None:
    """Return the side of a square, of a number or of equal height and width; None for anything else."""
    if isinstance(size, dict) and size.get("height") == size.get("width"):
        size = size.get("height")
    return size if isinstance(size, int) else None
