"""Recipe keys from timm's description of weights (`pretrained_cfg`)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from edcompress.core.errors import WeightsError
from edcompress.core.recipe.weights_name import Offer


def require_timm(name: str) -> None:
    """Raise WeightsError if timm is not installed."""
    try:
        import timm  # noqa: F401
    except ImportError as error:
        raise WeightsError(f"{name} needs timm, which is not installed: pip install 'edcompress[timm]'") from error


def offer_of_timm(arch: str, description: Mapping[str, Any], classes: int | None) -> Offer:
    """Return the recipe keys, and notes on what a recipe cannot express.

    Args:
        arch: The network as `model.arch` names it.
        description: timm's `pretrained_cfg` as plain values.
        classes: The number of classes, where it is not that of the description.
    """
    from timm.data import resolve_data_config  # type: ignore[attr-defined]  # documented there

    found = resolve_data_config(pretrained_cfg=dict(description))  # type: ignore[no-untyped-call]
    channels, height, width = found["input_size"]
    model: dict[str, Any] = {"arch": arch, "in_channels": channels}
    if number := classes or description.get("num_classes"):
        model["num_classes"] = number
    data = {"interpolation": found["interpolation"], "mean": tuple(found["mean"]), "std": tuple(found["std"])}
    if height != width:
        note = f"timm keeps the ratio of an image's sides; here each image is stretched to {height}x{width}"
        return Offer({"model": model, "data": {**data, "image_size": (height, width), "resize": None}}, (note,))
    resize, notes = _geometry(height, found["crop_pct"], found["crop_mode"])
    return Offer({"model": model, "data": {**data, "image_size": height, "resize": resize}}, notes)


def _geometry(size: int, share: float, mode: str) -> tuple[int | None, tuple[str, ...]]:
    """Return `data.resize` for images of which timm crops a share, and a note if that is not quite what timm does."""
    short = math.floor(size / share)
    if mode == "squash" and short == size:
        return None, ()
    if short < size:
        return size, (f"timm puts images of {short} pixels into black borders up to {size}; here they fill the {size}",)
    if mode == "center":
        return short, ()
    return short, (f"timm's crop mode {mode!r} is replaced by a centre crop after resizing the short side",)
