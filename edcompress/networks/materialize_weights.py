"""Plain weights in place of those that layers compute at every call (standardised, normalised, parametrised).

A computed weight depends on all its channels at once, so that none could be removed. The network with plain weights computes the same.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from edcompress.networks.load_pruned import materialize
from edcompress.networks.replacements import as_replacement


def with_plain_weights(network: nn.Module) -> nn.Module:
    """Replace computed weights by plain ones, in place: torch's parametrizations, norms and masks, and convolutions with their own forward.

    Returns:
        The network itself.
    """
    for layer in list(network.modules()):
        materialize(layer)
    plain: dict[nn.Module, nn.Module] = {}  # one for each layer, whatever names it has in the network
    for name, layer in list(network.named_modules(remove_duplicate=False)):
        if isinstance(layer, nn.Conv2d) and type(layer).forward is not nn.Conv2d.forward:
            if layer not in plain:
                plain[layer] = _plain(layer)
            network.set_submodule(name, plain[layer])
    return network


_CONV2D = {"input": None, "weight": None, "bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}
"""The arguments of torch.conv2d in order, with their defaults."""


class _Watched(TorchFunctionMode):
    """Records the arguments of the convolutions inside the block."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, ...]] = []

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func is torch.conv2d:
            given = dict(zip(_CONV2D, args, strict=False)) | (kwargs or {})
            self.calls.append(tuple((_CONV2D | given).values()))
        return func(*args, **(kwargs or {}))


def _plain(layer: nn.Conv2d) -> nn.Conv2d:
    """Return a plain layer with the weight that this one computes; the layer itself where it computes none, or does more than convolve."""
    with torch.no_grad():
        plain = _convolution_in(layer) if _only_convolves(layer) else None
    return layer if plain is None else plain.train(layer.training)


def _only_convolves(layer: nn.Conv2d) -> bool:
    """Return whether the layer is one convolution of its input; tried with random weights and images, as its own may hide the rest."""
    generator = torch.Generator().manual_seed(0)
    try:
        other = copy.deepcopy(layer)
        for parameter in other.parameters():
            parameter.normal_(generator=generator)
        plain = _convolution_in(other)
        images = [image.normal_(generator=generator) for image in _images(layer)]
        return plain is not None and all(_equal(other(image), plain(image)) for image in images)
    # Whatever a foreign layer raises that wants other arguments than one image, it is not a plain convolution.
    except Exception:
        return False


def _convolution_in(layer: nn.Conv2d) -> nn.Conv2d | None:
    """Return a plain layer with weight and bias of the one convolution that this layer calls; None where they are its own."""
    with _Watched() as watched:
        images = list(_images(layer))
        for image in images:
            layer(image)
    if any(call[1] is layer.weight for call in watched.calls) or len(watched.calls) != len(images):
        return None
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
    return as_replacement(plain)


def _images(layer: nn.Conv2d) -> Iterator[Tensor]:
    """Yield zeros [1, C, H, W] for the layer in several sizes, since padding may depend on the remainder by the stride."""
    for more in range(max(layer.stride)):
        size = (
            2 * dilation * kernel + more for dilation, kernel in zip(layer.dilation, layer.kernel_size, strict=True)
        )
        yield layer.weight.new_zeros(1, layer.in_channels, *size)


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool((one - other).abs().max() <= 1e-4 * one.abs().max())


def _padding_its_input() -> type[nn.Conv2d]:
    """Return timm's convolution with TensorFlow's padding; only timm's layers pad their own input."""
    from timm.layers import Conv2dSame  # type: ignore[attr-defined]

    return Conv2dSame
