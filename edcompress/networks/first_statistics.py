"""How well images fit a trained network's first batch norm, which remembers the statistics of the images that it was trained on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edcompress.networks.modes import evaluating


class _ReachedError(Exception):
    """Ends a forward at the first batch norm, with its input."""

    def __init__(self, layer: nn.BatchNorm2d, values: Tensor) -> None:
        super().__init__()
        self.layer, self.values = layer, values


def _stop(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    assert isinstance(layer, nn.BatchNorm2d)
    raise _ReachedError(layer, inputs[0])


@torch.no_grad()
def first_misfit(network: nn.Module, images: Tensor) -> float | None:
    """Return how far the first batch norm's input is from its running statistics, in its standard deviations and log ratios.

    Args:
        network: A trained network.
        images: As it takes them, float32 [N, C, H, W].

    Returns:
        The mean over the channels, lower is better; None for a network without such a batch norm.
    """
    layers = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d) and m.running_mean is not None]
    if not layers:
        return None
    handles = [layer.register_forward_pre_hook(_stop) for layer in layers]
    try:
        with evaluating(network):
            network(images)
    except _ReachedError as reached:
        return _distance(reached.layer, reached.values)
    finally:
        for handle in handles:
            handle.remove()
    return None


def _distance(layer: nn.BatchNorm2d, values: Tensor) -> float:
    """Return mean over channels of |m - m'| / s' + |log(s / s')|, with m' and s' of the layer, m and s of values [N, C, H, W]."""
    assert layer.running_mean is not None
    assert layer.running_var is not None
    variance, mean = torch.var_mean(values, dim=(0, 2, 3))
    spread, known = (variance + layer.eps).sqrt(), (layer.running_var + layer.eps).sqrt()
    live = layer.running_var > layer.eps
    distance = (mean - layer.running_mean).abs() / known + (spread / known).log().abs()
    return float(distance[live].mean()) if live.any() else float("inf")
