"""Weights that layers compute anew at every call (standardised, normalised, parametrised), written down as plain ones.

Such a weight depends on all its channels at once, so none could be removed. The network with plain weights computes the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode


def with_plain_weights(network: nn.Module) -> nn.Module:
    """The network itself, with plain convolutions for those that compute their weight, and without torch's parametrizations.

    What was changed has an attribute `weight_was_computed`.
    """
    for layer in list(network.modules()):
        for tensor in list(getattr(layer, "parametrizations", ())):
            parametrize.remove_parametrizations(layer, tensor)
            layer.weight_was_computed = True  # type: ignore[assignment]
    for name, layer in list(network.named_modules()):
        if isinstance(layer, nn.Conv2d) and type(layer).forward is not nn.Conv2d.forward:
            network.set_submodule(name, _plain(layer))
    return network


class _Watched(TorchFunctionMode):
    """Notes what the one convolution inside is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, ...]] = []

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func is torch.conv2d:
            self.calls.append(args)
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def _plain(layer: nn.Conv2d) -> nn.Conv2d:
    """The layer itself where it uses its weight as it is, else a plain one with the weight that it uses."""
    with _Watched() as watched:
        images = [_image(layer, more) for more in range(max(layer.stride))]
        for image in images:
            layer(image)
    if any(len(call) != 7 or call[1] is layer.weight for call in watched.calls) or len(watched.calls) != len(images):
        return layer
    as_given = all(call[0].shape == image.shape for call, image in zip(watched.calls, images, strict=True))
    _, weight, bias, stride, padding, dilation, groups = watched.calls[0]
    kind = nn.Conv2d if as_given else _padding_its_input()
    rows, columns = layer.kernel_size
    plain = kind(
        layer.in_channels, layer.out_channels, (rows, columns), stride, padding, dilation, groups, bias is not None
    )
    plain.weight = nn.Parameter(weight.clone())
    if bias is not None:
        plain.bias = nn.Parameter(bias.clone())
    plain.weight_was_computed = True  # type: ignore[assignment]
    return plain.train(layer.training)


def _image(layer: nn.Conv2d, more: int) -> Tensor:
    """Zeros [1, C, H, W] for the layer, `more` pixels larger than they must be: padding may depend on the remainder by the stride."""
    size = (2 * dilation * kernel + more for dilation, kernel in zip(layer.dilation, layer.kernel_size, strict=True))
    return layer.weight.new_zeros(1, layer.in_channels, *size)


def _padding_its_input() -> type[nn.Conv2d]:
    """timm's convolution with TensorFlow's padding; only timm's layers pad their own input."""
    from timm.layers import Conv2dSame  # type: ignore[attr-defined]

    return Conv2dSame
