"""Eval mode: for a moment, or in a copy."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Inside, every module is in eval mode; afterwards each has its own mode back."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def on_cpu(network: nn.Module) -> nn.Module:
    """A copy in eval mode on the CPU, in fp32 and contiguous layout: the form in which models are proved and exported."""
    return copy.deepcopy(network).to("cpu", torch.float32, memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload, no-any-return]
