"""Temporary modes of a network, and a copy on the CPU."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put every module into eval mode inside the block, and restore each one's mode afterwards."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def differentiable(network: nn.Module) -> Iterator[None]:
    """Let every parameter require a gradient inside the block, and restore each one's flag afterwards."""
    with _requiring_grad(network, True), torch.enable_grad():
        yield


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Let no parameter require a gradient inside the block, and restore each one's flag afterwards."""
    with _requiring_grad(network, False), torch.no_grad():
        yield


@contextmanager
def _requiring_grad(network: nn.Module, flag: bool) -> Iterator[None]:
    flags = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    network.requires_grad_(flag)
    try:
        yield
    finally:
        for parameter, before in flags:
            parameter.requires_grad_(before)


@torch.no_grad()
def run_once(network: nn.Module, images: Tensor, hooks: Iterable[RemovableHandle]) -> None:
    """Run the network once on images [N, ...] in eval mode for hooks that were registered on its layers, and remove the hooks."""
    try:
        with evaluating(network):
            network(images)
    finally:
        for hook in hooks:
            hook.remove()


def on_cpu(network: nn.Module) -> nn.Module:
    """Return a copy in eval mode on the CPU, in fp32 and contiguous layout: the form in which models are proved and exported."""
    return copy.deepcopy(network).to("cpu", torch.float32, memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload, no-any-return]
