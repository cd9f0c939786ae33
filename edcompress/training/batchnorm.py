"""Batch-norm statistics: of the batch at hand, or recalibrated."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from edcompress.networks.modes import evaluating
from edcompress.training.precision import Precision

RECALIBRATION_BATCHES = 50
"""Batches of training images from which statistics are averaged after surgery and after fine-tuning."""

_BatchNorm = nn.modules.batchnorm._BatchNorm


def _batch_norms(network: nn.Module) -> list[_BatchNorm]:
    return [layer for layer in network.modules() if isinstance(layer, _BatchNorm)]


def running_statistics(network: nn.Module) -> list[Tensor]:
    """Return the running means and variances of the batch-norm layers that keep them."""
    found = (statistic for layer in _batch_norms(network) for statistic in (layer.running_mean, layer.running_var))
    return [statistic for statistic in found if statistic is not None]


@contextmanager
def batch_statistics(network: nn.Module) -> Iterator[None]:
    """Let batch-norm layers normalise by their batch and keep their running statistics; the rest is in eval mode."""
    tracking = {layer: layer.track_running_stats for layer in _batch_norms(network)}
    with evaluating(network):
        try:
            for layer in tracking:
                layer.training, layer.track_running_stats = True, False
            yield
        finally:
            for layer, flag in tracking.items():
                layer.track_running_stats = flag


@torch.no_grad()
def recalibrate_batch_norm(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], precision: Precision) -> None:
    """Set the running statistics to their plain average over `batches`; the weights do not change."""
    momenta = {layer: layer.momentum for layer in _batch_norms(network)}
    with evaluating(network):
        try:
            for layer in momenta:
                layer.reset_running_stats()
                layer.momentum, layer.training = None, True  # None: cumulative average
            for images, _ in batches:
                with precision.autocast():
                    network(precision.images(images))
        finally:
            for layer, momentum in momenta.items():
                layer.momentum = momentum


FULL_MOMENTUM, RENEWALS = 0.1, 20
"""The momentum of short training, and the number of times that the statistics are renewed (by a factor of e) in longer training."""


@contextmanager
def suited_momentum(network: nn.Module, steps: int) -> Iterator[None]:
    """Let running statistics follow the weights within a block of so many training steps: raise a momentum that is too small for it.

    A momentum m forgets in about 1 / m steps. Networks that were trained for hundreds of thousands have m = 0.01 or less.
    """
    momenta = {layer: layer.momentum for layer in _batch_norms(network)}
    suited = min(FULL_MOMENTUM, RENEWALS / max(1, steps))
    try:
        for layer, momentum in momenta.items():
            if momentum is not None:
                layer.momentum = max(momentum, suited)
        yield
    finally:
        for layer, momentum in momenta.items():
            layer.momentum = momentum
