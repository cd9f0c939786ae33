"""Copies of a network with random weights: a scale of zero, with which blocks often start, hides what the block does."""

from __future__ import annotations

import copy
from contextlib import suppress

import torch
from torch import Generator, Tensor, nn

from edcompress.networks.outputs import joined
from edcompress.networks.torch_private import BatchNorm

MOST_DOUBLES = 100_000_000
"""Parameters of the largest network that is copied to float64."""


@torch.no_grad()
def with_random_weights(network: nn.Module, images: Tensor) -> nn.Module:
    """Return a copy in eval mode with random weights, and batch-norm statistics of the images [N, C, H, W].

    A network without finite logits for these weights is copied with its own.
    """
    copied = copy.deepcopy(network).eval()
    with suppress(Exception):  # whatever a foreign network raises, it does not run with these weights
        _randomise(copied)
        if _with_statistics_of(copied, images).isfinite().all():
            return copied
    return copy.deepcopy(network).eval()


@torch.no_grad()
def in_doubles(network: nn.Module, images: Tensor) -> nn.Module | None:
    """Return a copy in float64, where rounding hides nothing; None where the network is too large, or does not run in float64."""
    if sum(parameter.numel() for parameter in network.parameters()) > MOST_DOUBLES:
        return None
    copied = copy.deepcopy(network).double().eval()
    with suppress(Exception):  # such as for constants in float32 in its forward
        copied(images.double())
        return copied
    return None


def _randomise(network: nn.Module) -> None:
    """Set weights that keep the scale of activations behind a ReLU, scales between 0.5 and 1.5, and small biases."""
    generator = Generator().manual_seed(0)
    for name, parameter in network.named_parameters():
        if not parameter.is_floating_point() or not parameter.numel():
            continue
        if parameter.dim() > 1:
            parameter.normal_(0, (2 / parameter[0].numel()) ** 0.5, generator=generator)
        elif name.endswith("bias"):
            parameter.normal_(0, 0.1, generator=generator)
        else:
            parameter.uniform_(0.5, 1.5, generator=generator)


def _with_statistics_of(network: nn.Module, images: Tensor) -> Tensor:
    """Return the logits for the images, from which batch norms take their statistics, or activations would vanish or explode."""
    norms = [
        layer
        for layer in network.modules()
        if isinstance(layer, BatchNorm)
        and layer.track_running_stats
        and not isinstance(layer, nn.SyncBatchNorm)  # which runs on GPUs alone
    ]
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.momentum = 1.0
        layer.train()
    logits = joined(network(images))
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum
        layer.eval()
        if layer.running_var is not None:
            layer.running_var.clamp_(min=0.01)
    return logits
