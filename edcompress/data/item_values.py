"""What the user's own code returns as images and labels, as tensors; ValueError with what it is and the fix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as v2f

from edcompress.core.recipe.data import MOST_CHANNELS
from edcompress.core.user_code import kind_of, kind_with_length
from edcompress.data.decoding import as_grey_or_rgb
from edcompress.data.transforms import PICTURES

IMAGE_NAMES = ("image", "img", "pixel_values", "images", "picture", "photo")
"""Names of the images in an item that is a mapping, and of columns of images."""

LABEL_NAMES = ("label", "labels", "class", "target", "category", "fine_label", "class_id", "y")


def pair_of(item: Any) -> tuple[Any, Any]:
    """Return image and label of an item: a pair, or a mapping with usual names."""
    if isinstance(item, Mapping):
        image, label = (next((name for name in names if name in item), None) for names in (IMAGE_NAMES, LABEL_NAMES))
        if image is None or label is None:
            raise ValueError(f"it is a mapping with {', '.join(map(str, item))}; name its parts image and label")
        return item[image], item[label]
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise ValueError(f"it is a {kind_with_length(item)}, not a pair (image, label); return image, label")
    return item[0], item[1]


def image_value(value: Any, channels: int | None) -> Tensor:
    """Return an image as uint8 [C, H, W], or as float32 [C, H, W] where it is one of floats.

    Args:
        value: A Pillow image, uint8 pixels as an array [H, W], [H, W, C] or a tensor [C, H, W], or floats [C, H, W].
        channels: The number of channels, where it is known. Pillow images are converted, and arrays with it are found.
    """
    if isinstance(value, Image.Image):
        return v2f.pil_to_tensor(picture(value, channels))  # type: ignore[no-any-return]
    if not isinstance(value, Tensor | np.ndarray):
        raise ValueError(f"its image is {kind_of(value)}; return a Pillow image, an array or a tensor")
    is_array = isinstance(value, np.ndarray)
    pixels = torch.from_numpy(np.array(value)) if is_array and str(value.dtype)[0] in "biuf" else value
    if not isinstance(pixels, Tensor) or not (pixels.dtype == torch.uint8 or pixels.is_floating_point()):
        raise ValueError(
            f"its image has values of {value.dtype}; return uint8 pixels, or floats as the network takes them"
        )
    pixels = pixels.detach().cpu()
    pixels = pixels.unsqueeze(0) if pixels.ndim == 2 else pixels
    if pixels.ndim != 3 or 0 in pixels.shape:
        raise ValueError(f"its image has the shape {list(value.shape)}; return one image, [C, H, W] or [H, W, C]")
    if pixels.dtype != torch.uint8:
        return pixels.to(torch.float32)
    if value.ndim == 3 and _channels_last(tuple(pixels.shape), channels, default=is_array):
        pixels = pixels.permute(2, 0, 1).contiguous()
    if len(pixels) > MOST_CHANNELS:
        raise ValueError(f"its image has the shape {list(value.shape)}: more than {MOST_CHANNELS} channels")
    return pixels


def picture(image: Image.Image, channels: int | None) -> Image.Image:
    """Return a Pillow image as grey or RGB; without a number, grey stays grey."""
    wanted = channels or (1 if image.mode in ("1", "L", "LA") else 3)
    if wanted not in PICTURES:
        raise ValueError(
            f"its image is a Pillow image, which cannot have {wanted} channels; return an array [H, W, {wanted}]"
        )
    return as_grey_or_rgb(image, wanted)


def label_value(value: Any, classes: int | None, *, any_labels: bool = False) -> Tensor:
    """Return a label as a tensor: int64 [] for a class; other labels keep their shape, floats as float32.

    Args:
        value: The number of a class, or an array or tensor of numbers.
        classes: How many classes there are, where that is known.
        any_labels: Whether a loss of the user's own takes the labels, so that a single float is one too.
    """
    try:
        label = value.detach().cpu() if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"its label is {kind_of(value)}; return the number of its class") from error
    if label.is_floating_point():
        if label.numel() == 1 and not any_labels:
            raise ValueError(
                f"its label is the float {label.item():g}, and a class is a whole number; return int(label)"
            )
        return label.to(torch.float32)
    if label.is_complex():
        raise ValueError(f"its label is {kind_of(value)}; return the number of its class")
    label = label.to(torch.int64)
    label = label.reshape(()) if label.numel() == 1 else label
    if label.ndim == 0 and not any_labels and (label < 0 or (classes is not None and label >= classes)):
        known = f"0 to {classes - 1} (model.num_classes is {classes})" if classes else "0 on"
        raise ValueError(f"its label is {label.item()}, and classes are numbered from {known}; renumber the labels")
    return label


def _channels_last(shape: tuple[int, ...], channels: int | None, *, default: bool) -> bool:
    """Return whether the last dimension of uint8 pixels is that of the channels, and not the first."""
    first, last = (shape[0] == channels, shape[-1] == channels) if channels else (False, False)
    if first == last:
        first, last = shape[0] <= MOST_CHANNELS, shape[-1] <= MOST_CHANNELS
    return default if first == last else last
