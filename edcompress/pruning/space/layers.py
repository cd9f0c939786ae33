"""The kinds of layers that surgery knows, and their widths."""

from __future__ import annotations

from itertools import chain
from typing import Any, TypeGuard

from torch import nn

from edcompress.networks.load_pruned import PaddedShortcut, SelfAttention
from edcompress.pruning.torch_private import BatchNorm

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
PER_CHANNEL = (BatchNorm, nn.PReLU, nn.InstanceNorm2d)
MIXERS = (nn.LocalResponseNorm, nn.CrossMapLRN2d, nn.ChannelShuffle, nn.Softmax2d)
"""Layers without channels of their own whose result depends on all channels together."""


def is_depthwise(layer: nn.Module) -> bool:
    """Return whether a layer is a convolution that makes each channel from one channel of its own."""
    return isinstance(layer, CONVS) and 1 < layer.groups == layer.in_channels == layer.out_channels


def is_grouped(layer: nn.Module) -> bool:
    """Return whether a layer is a convolution in groups of channels, of more than one channel each at one of its ends."""
    return isinstance(layer, CONVS) and layer.groups > 1 and not is_depthwise(layer)


def is_fused_attention(layer: Any) -> TypeGuard[Any]:
    """Return whether a layer has the parts of timm's attention: one linear layer for all projections, and sizes read at each call."""
    heads, width = getattr(layer, "num_heads", None), getattr(layer, "attn_dim", None)
    qkv, proj = getattr(layer, "qkv", None), getattr(layer, "proj", None)
    return (
        isinstance(qkv, nn.Linear)
        and isinstance(proj, nn.Linear)
        and isinstance(heads, int)
        and heads * getattr(layer, "head_dim", 0) == width == proj.in_features
        and qkv.out_features == 3 * width
    )


def is_attention(layer: nn.Module) -> bool:
    """Return whether a layer is an attention whose heads can be removed."""
    return isinstance(layer, SelfAttention) or is_fused_attention(layer)


def own_width(layer: nn.Module) -> int:
    """Return how many channels a layer of other authors holds values for, if every tensor of its own has as many rows; else 0."""
    known = any(base.__module__.startswith("torch.nn.") and base is not nn.Module for base in type(layer).__mro__)
    inner = any(True for child in layer.children() for _ in chain(child.parameters(), child.buffers()))
    if known or inner or isinstance(layer, PaddedShortcut) or is_attention(layer):
        return 0
    own = chain(layer.parameters(recurse=False), layer.buffers(recurse=False))
    widths = {len(tensor) for tensor in own if tensor.numel() > 1}
    return widths.pop() if len(widths) == 1 and 1 not in widths else 0


def layer_width(layer: nn.Module, side: str) -> int:
    """Return the positions on the `out` or `in` side of a layer; 0 for a kind that surgery does not cut."""
    widths: dict[str, int] = {}
    if isinstance(layer, CONVS):
        widths = {"out": layer.out_channels, "in": layer.in_channels}
    elif isinstance(layer, nn.Linear):
        widths = {"out": layer.out_features, "in": layer.in_features}
    elif isinstance(layer, PaddedShortcut):
        widths = {"out": layer.route.shape[0], "in": layer.route.shape[1]}
    elif isinstance(layer, SelfAttention):
        widths = {"out": 3 * layer.num_heads * layer.head_dim}
    elif is_fused_attention(layer):
        widths = {"out": layer.num_heads, "in": layer.num_heads}
    elif isinstance(layer, PER_CHANNEL):
        width = layer.num_parameters if isinstance(layer, nn.PReLU) else layer.num_features
        widths = {"out": width, "in": width}
    elif isinstance(layer, nn.GroupNorm):
        widths = {"out": layer.num_channels, "in": layer.num_channels}
    elif width := own_width(layer):
        widths = {"out": width, "in": width}
    return widths.get(side, 0)
