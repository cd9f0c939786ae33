"""Residual networks for small images: He et al., Deep Residual Learning (arXiv:1512.03385), section 4.2.

A 3x3 convolution to 16 channels, three stages of n basic blocks with 16, 32 and 64 channels, global average pooling and
a linear classifier: 6n + 2 weighted layers. Shortcuts have no parameters (the paper's option A): where the shape
changes, every second row and column is taken and the new channels are zero.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CIFAR_RESNETS = {f"resnet{depth}": depth for depth in (8, 20, 32, 44, 56, 110)}
"""Depth by name."""

WIDTHS = (16, 32, 64)


class PaddedShortcut(nn.Module):
    """Option A: subsample by `stride`, and put zero channels before and after those of the input.

    It is computed as a fixed 1x1 convolution, whose weight [out, in, 1, 1] of zeros and ones routes input channels to output channels:
    bit for bit the padding, but surgery can cut it at either end, so that the streams of two stages can differ.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        route, inputs = torch.zeros(out_channels, in_channels, 1, 1), torch.arange(in_channels)
        route[(out_channels - in_channels) // 2 + inputs, inputs] = 1.0
        self.route: Tensor
        self.register_buffer("route", route, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, in_channels, H, W] to [B, out_channels, ceil(H / stride), ceil(W / stride)]."""
        return F.conv2d(x, self.route, stride=self.stride)


class BasicBlock(nn.Module):
    """relu(shortcut(x) + bn(conv(relu(bn(conv(x))))))."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        same = stride == 1 and in_channels == channels
        self.shortcut: nn.Module = nn.Identity() if same else PaddedShortcut(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, in_channels, H, W] to [B, channels, ceil(H / stride), ceil(W / stride)]."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class CifarResNet(nn.Module):
    """The network of `depth` = 6n + 2 layers; its state-dict keys are those of the public CIFAR-10 weights."""

    def __init__(self, depth: int, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"a CIFAR ResNet has 6n + 2 layers, not {depth}")
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(in_channels, WIDTHS[0], 3, 1, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.layer1 = _stage(WIDTHS[0], WIDTHS[0], blocks, stride=1)
        self.layer2 = _stage(WIDTHS[0], WIDTHS[1], blocks, stride=2)
        self.layer3 = _stage(WIDTHS[1], WIDTHS[2], blocks, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(WIDTHS[2], num_classes)
        self.apply(_kaiming)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [B, in_channels, H, W] to logits [B, num_classes]."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(self.pool(x).flatten(1))
        return logits


def _stage(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    rest = [BasicBlock(channels, channels, stride=1) for _ in range(blocks - 1)]
    return nn.Sequential(BasicBlock(in_channels, channels, stride), *rest)


def _kaiming(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight)
