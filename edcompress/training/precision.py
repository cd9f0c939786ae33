"""Numeric precision and memory layout of training."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Precision:
    """Where and how a network trains: fp32, or bf16 autocast with channels_last tensors."""

    name: Literal["fp32", "bf16"]
    device: torch.device

    def autocast(self) -> AbstractContextManager[object]:
        """The context in which forward passes run."""
        if self.name == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def place(self, network: nn.Module) -> nn.Module:
        """The network on the device, in the layout that trains fastest there."""
        layout = torch.channels_last if self.name == "bf16" else torch.contiguous_format
        return network.to(device=self.device, memory_format=layout)  # type: ignore[call-overload, no-any-return]

    def images(self, images: Tensor) -> Tensor:
        """Images [N, C, H, W] on the device, in the layout of the network."""
        moved = images.to(self.device, non_blocking=True)
        return moved.contiguous(memory_format=torch.channels_last) if self.name == "bf16" else moved
