"""The kinds of layers that surgery knows, and how wide they are."""

from __future__ import annotations

from torch import nn

from edcompress.networks.cifar_resnet import PaddedShortcut

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
PER_CHANNEL = (nn.modules.batchnorm._BatchNorm, nn.PReLU, nn.InstanceNorm2d)
ACROSS_CHANNELS = (nn.LayerNorm, nn.GroupNorm)


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
