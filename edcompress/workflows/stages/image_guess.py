"""How a network most likely wants its images: size, channels and statistics, from its library, its tensors and the images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from edcompress.core.errors import NetworkError
from edcompress.core.recipe.data import Data
from edcompress.core.recipe.model import Model
from edcompress.data.survey import Survey
from edcompress.data.transforms import normalise
from edcompress.networks.build import example_images
from edcompress.networks.first_statistics import first_misfit
from edcompress.networks.load_weights import load_into
from edcompress.networks.modes import evaluating
from edcompress.networks.registry import CIFAR_RESNETS, build
from edcompress.networks.usual_images import UsualImages, usual_images

SMALL = 64
"""Short side in pixels up to which images of networks without a usual size keep theirs."""

CIFAR_SIDE = 32

STRIDE = 32
"""Pixels of the image per pixel of the last map in most networks."""

CLEARLY_BETTER = 0.9
"""Statistics replace the usual ones where they bring the first batch norm's misfit below this share."""

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation per channel of pixels in [0, 1]."""

IMAGENET: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Guess:
    """Keys of a recipe's `data` section, why its size and statistics are these, and comments on others by key."""

    keys: dict[str, Any]
    why_size: str
    why_statistics: str
    comments: dict[str, str] = field(default_factory=dict)


def guess_images(model: Model, network: nn.Module, found: Survey, at_source: UsualImages | None = None) -> Guess:
    """Return how to prepare the images for a network with its weights; NetworkError where their channels cannot fit.

    Args:
        model: The network.
        network: The same, with its weights.
        found: The user's images.
        at_source: The images of the weights, where their source says it; default: those of the architecture's usual weights.
    """
    usual = at_source or _usual(model)
    keys: dict[str, Any] = _channels(model, found)
    if by_wnid(model, found):
        keys["class_index"] = "imagenet"
    size, why_size = _size(model, network, found, usual)
    keys |= size
    if at_source:
        statistics, why = (at_source.mean, at_source.std), "those of the weights, as their source says"
    else:
        pixels = found.pixels(Data.model_validate({**found.keys, **keys, "skip_broken": True}))
        statistics, why = _statistics(network, pixels, usual)
    keys |= {"mean": statistics[0], "std": statistics[1]}
    return Guess(keys, why_size, why, {"class_index": "the classes are numbered as in ImageNet"})


def by_wnid(model: Model, found: Survey) -> bool:
    """Return whether the classes are a part of ImageNet's 1000, which the network knows by their usual numbers."""
    return model.num_classes == 1000 and found.in_wnids and found.keys["dataset"] == "image_folder"


def rank_by_statistics(models: tuple[Model, ...], tensors: Mapping[str, Tensor], found: Survey) -> tuple[Model, ...]:
    """Return models of the same shapes so that the first one's usual images fit its first batch norm best; ties stay in order."""
    if len(models) < 2:
        return models
    misfits = [_usual_misfit(model, tensors, found) for model in models]
    best = min(range(len(models)), key=misfits.__getitem__)
    if misfits[best] >= CLEARLY_BETTER * misfits[0]:
        return models
    return models[best], *(model for model in models if model != models[best])


def _usual_misfit(model: Model, tensors: Mapping[str, Tensor], found: Survey) -> float:
    network, usual = build(model), _usual(model)
    load_into(network, tensors, source="the weights")
    keys = {**found.keys, **_channels(model, found), **_size(model, network, found, usual)[0], "skip_broken": True}
    pixels = found.pixels(Data.model_validate(keys))
    misfit = _misfit(network, pixels, (usual.mean, usual.std)) if usual else None
    return float("inf") if misfit is None else misfit


def _usual(model: Model) -> UsualImages | None:
    """Return the usual images of the architecture, unless the first layer is made for others."""
    return usual_images(str(model.arch)) if model.in_channels == 3 and model.stem == "imagenet" else None


def _channels(model: Model, found: Survey) -> dict[str, Any]:
    """Return `channels` where images must be converted."""
    as_they_are = 3 if found.keys["dataset"] == "image_folder" else 1 if found.grey else 3
    if model.in_channels == as_they_are:
        return {}
    if model.in_channels in (1, 3):
        return {"channels": model.in_channels}
    raise NetworkError(
        f"the weights take images of {model.in_channels} channels, and image files have 1 or 3; give weights for grey or RGB images"
    )


def _size(model: Model, network: nn.Module, found: Survey, usual: UsualImages | None) -> tuple[dict[str, Any], str]:
    """Return image_size, resize and interpolation, and why."""
    _, side, _ = found.sides
    at_home = side <= SMALL if usual is None else side < usual.image_size / 2
    if at_home and takes(network, model, side):
        return {"image_size": side} | ({} if found.square else {"resize": side}), "the size of the images"
    if usual:
        keys, why = _near_usual(side, usual), f"the usual size for {model.name}"
        if keys["image_size"] < usual.image_size:
            why = f"{why} is {usual.image_size}, but the images are smaller"
        if usual.interpolation != "bilinear":
            keys["interpolation"] = usual.interpolation
        return keys, why
    size = CIFAR_SIDE if model.arch in CIFAR_RESNETS or model.stem == "cifar" else min(side, 224)
    return {
        "image_size": size,
        "resize": size,
    }, f"small, as usual for {model.name}; set the size that it was trained with"


def _near_usual(side: int, usual: UsualImages) -> dict[str, Any]:
    """Return the usual image_size and resize, or smaller ones in the same ratio for images of a smaller side: nothing is enlarged."""
    if side >= usual.image_size:
        return {"image_size": usual.image_size, "resize": max(usual.resize, usual.image_size)}
    size = STRIDE * max(1, round(side * usual.image_size / max(usual.resize, usual.image_size) / STRIDE))
    return {"image_size": size, "resize": max(side, size)}


def takes(network: nn.Module, model: Model, side: int) -> bool:
    """Return whether the network can take square images of a side in pixels."""
    try:
        with evaluating(network), torch.no_grad():
            network(example_images((model.in_channels, side, side)))
    except (RuntimeError, ValueError, AssertionError):
        return False
    return True


def _statistics(network: nn.Module, pixels: Tensor, usual: UsualImages | None) -> tuple[Statistics, str]:
    """Return mean and std per channel, and why: the usual ones or the images' own, unless others fit the first batch norm better."""
    own = _of_pixels(pixels)
    default = (
        ((usual.mean, usual.std), "the usual ones of these networks") if usual else (own, "of the images themselves")
    )
    options: dict[Statistics, str] = {default[0]: default[1]}
    C = pixels.shape[1]
    others: list[Statistics] = [((0.5,) * C, (0.5,) * C), ((0.0,) * C, (1.0,) * C)]
    for other in [*([IMAGENET] if C == 3 else []), *others]:
        options.setdefault(other, "they fit the statistics in the first batch norm best")
    misfits = {statistics: _misfit(network, pixels, statistics) for statistics in options}
    known = {statistics: misfit for statistics, misfit in misfits.items() if misfit is not None}
    best = min(known, key=known.__getitem__, default=default[0])
    if not known or known[best] >= CLEARLY_BETTER * known[default[0]]:
        return default
    return best, options[best]


def _misfit(network: nn.Module, pixels: Tensor, statistics: Statistics) -> float | None:
    mean, std = statistics
    images = Data.model_validate({"dataset": "digits", "image_size": 8, "mean": mean, "std": std})
    return first_misfit(network, normalise(pixels, images))


def _of_pixels(pixels: Tensor) -> Statistics:
    """Return the statistics of uint8 pixels [N, C, H, W], of at least 0.01 for images of one colour."""
    std, mean = torch.std_mean(pixels.float() / 255, dim=(0, 2, 3))
    return tuple(round(m, 4) for m in mean.tolist()), tuple(round(max(s, 0.01), 4) for s in std.tolist())
