"""Numeric precision and memory layout of training."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import torch
from torch import Tensor, nn

from edcompress.core.system.device_transfer import to_device


def choose_precision(asked: Literal["auto", "fp32", "bf16", "fp16"], device: torch.device) -> Precision:
    """Return the precision asked for; `auto` is bf16 if the device multiplies bf16 in hardware, else fp32.

    A CPU without AMX or AVX-512 BF16 emulates bf16 convolutions, many times slower than fp32.
    """
    if asked != "auto":
        return Precision(asked, device)
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return Precision("bf16" if native else "fp32", device)


@dataclass(frozen=True)
class Precision:
    """The device and number format of training: fp32, or bf16 or fp16 autocast, with channels_last tensors."""

    name: Literal["fp32", "bf16", "fp16"]
    device: torch.device

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context in which forward passes run."""
        if self.name == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16 if self.name == "bf16" else torch.float16)

    def place(self, network: nn.Module) -> nn.Module:
        """Move the network to the device, into the layout in which convolutions train fastest, and return it."""
        network.to(self.device)
        for tensor in chain(network.parameters(), network.buffers()):
            if tensor.dim() == 4:  # other tensors have no such layout
                tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
        return network

    def images(self, images: Tensor) -> Tensor:
        """Return images [N, C, H, W] on the device, in the layout of the network."""
        return to_device(images, self.device).contiguous(memory_format=torch.channels_last)
