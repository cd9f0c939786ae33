"""The kinds of layers that surgery knows, and how wide they are."""

from __future__ import annotations

from torch import nn

from edcompress.networks.cifar_resnet import PaddedShortcut

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
PER_CHANNEL = (nn.modules.batchnorm._BatchNorm, nn.PReLU, nn.InstanceNorm2d)
ACROSS_CHANNELS = (nn.LayerNorm, nn.GroupNorm)


def is_depthwise(layer: nn.Module) -> bool:
    """Whether a layer is a convolution whose every channel is made from one channel of its own."""
    return isinstance(layer, CONVS) and 1 < layer.groups == layer.in_channels == layer.out_channels


def is_grouped(layer: nn.Module) -> bool:
    """Whether a layer is a convolution that keeps groups of channels apart, of more than one channel each at one of its ends."""
    return isinstance(layer, CONVS) and layer.groups > 1 and not is_depthwise(layer)


def layer_width(layer: nn.Module, side: str) -> int:
    """Positions on the `out` or `in` side of a layer; 0 for a kind that is not cut."""
    if isinstance(layer, CONVS):
        return layer.out_channels if side == "out" else layer.in_channels
    if isinstance(layer, nn.Linear):
        return layer.out_features if side == "out" else layer.in_features
    if isinstance(layer, PaddedShortcut):
        return layer.route.shape[0 if side == "out" else 1]
    if isinstance(layer, PER_CHANNEL):
        return layer.num_parameters if isinstance(layer, nn.PReLU) else layer.num_features
    return 0
