"""How much each channel matters, and the ranking within its group."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from edcompress.networks.modes import evaluating
from edcompress.surgery.depgraph import differentiable
from edcompress.surgery.space import Member, Space

Batches = Iterable[tuple[Tensor, Tensor]]


@torch.no_grad()
def magnitude(space: Space, network: nn.Module) -> Tensor:
    """Squared L2 norm of all weights that a channel takes part in, float[D] (group magnitude: Fang et al., DepGraph, 2023)."""
    return _per_channel(space, network, lambda weight: weight.detach().float().square())


def taylor(space: Space, network: nn.Module, batches: Batches) -> Tensor:
    """Squared first-order change of the loss when a channel goes, float[D], averaged over batches.

    (sum over the channel's consumer weights of w dL/dw)^2: Molchanov et al., "Importance Estimation for Neural Network Pruning", 2019.
    """
    device = next(network.parameters()).device
    total, count = torch.zeros(space.genes), 0
    with evaluating(network), differentiable(network):
        for images, labels in batches:
            network.zero_grad(set_to_none=True)
            F.cross_entropy(network(images.to(device)), labels.to(device)).backward()  # type: ignore[no-untyped-call]
            total += _per_channel(space, network, _times_gradient, sides=("in",)).square()
            count += 1
    network.zero_grad(set_to_none=True)
    return total / max(count, 1)


def uniform_noise(space: Space, generator: Generator) -> Tensor:
    """Importance without information, float[D]: the control that shows what a ranking is worth."""
    return torch.rand(space.genes, generator=generator)


def ranks(space: Space, importance: Tensor) -> Tensor:
    """Place of each channel in its group as a share of the group, float[D] in [0, 1): 0 is the least important."""
    places = torch.empty(space.genes)
    for group, part in space.slices():
        order = importance[part].argsort(stable=True)
        places[part][order] = torch.arange(group.channels) / group.channels
    return places


def _times_gradient(weight: Tensor) -> Tensor:
    assert weight.grad is not None
    return weight.detach().float() * weight.grad.float()


def _per_channel(space: Space, network: nn.Module, value: object, sides: tuple[str, ...] = ("out", "in")) -> Tensor:
    """Sum of value(weight) over everything that belongs to a channel, float[D] on the CPU."""
    assert callable(value)
    layers = dict(network.named_modules())
    sums = torch.zeros(space.genes)
    for group, part in space.slices():
        for member in group.members:
            weight = getattr(layers[member.layer], "weight", None)
            if member.side in sides and isinstance(weight, Tensor) and weight.dim() >= 2:
                sums[part] += _member_sum(value(weight), member, group.channels)
    return sums


def _member_sum(values: Tensor, member: Member, channels: int) -> Tensor:
    dim = 0 if member.side == "out" else 1
    per_position = values.transpose(0, dim).flatten(1).sum(1).cpu()
    index = torch.tensor(member.channels)
    return torch.zeros(channels).index_add_(0, index, per_position[list(member.positions)])
