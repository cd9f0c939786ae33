"""Importance of channels, and their ranking within a group."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from edcompress.networks.load_pruned import SelfAttention
from edcompress.networks.modes import differentiable, evaluating, on_cpu
from edcompress.pruning.search.method import SearchProblem
from edcompress.pruning.space.space import PruningSpace

TAYLOR_BATCHES = 16

ElementScore = Callable[[Tensor, slice], Tensor]
"""Gives the importance of each element in some rows of a weight [out, in, ...]."""

_ELEMENTS_AT_ONCE = 1 << 21  # fits a cache and needs no fresh memory


@torch.no_grad()
def magnitude(space: PruningSpace, network: nn.Module) -> Tensor:
    """Return the squared L2 norm of all weights that a channel takes part in, float[D] (group magnitude: Fang et al., DepGraph, 2023)."""
    return _per_channel(space, network, lambda weight, rows: weight.detach()[rows].float().square())


def taylor_of_batches(problem: SearchProblem) -> Tensor:
    """Return `taylor` importance float[D] on the first training batches, computed on the device of the problem."""
    network = on_cpu(problem.network).to(problem.precision.device)
    loss = problem.criterion or F.cross_entropy
    return taylor(problem.space, network, islice(problem.batches(), TAYLOR_BATCHES), loss)


def taylor(
    space: PruningSpace,
    network: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    loss: Callable[[Any, Tensor], Tensor] = F.cross_entropy,
) -> Tensor:
    """Return the squared first-order change of the loss when a channel goes, float[D], averaged over batches.

    (sum over the channel's consumer weights of w dL/dw)^2: Molchanov et al., "Importance Estimation for Neural Network Pruning", 2019.
    """
    device = next(network.parameters()).device
    total, count = torch.zeros(space.genes), 0
    with evaluating(network), differentiable(network):
        for images, labels in batches:
            network.zero_grad(set_to_none=True)
            loss(network(images.to(device)), labels.to(device)).backward()  # type: ignore[no-untyped-call]
            total += _per_channel(space, network, _times_gradient, sides=("in",)).square()
            count += 1
    network.zero_grad(set_to_none=True)
    return total / max(count, 1)


def uniform_noise(space: PruningSpace, generator: Generator) -> Tensor:
    """Return random importance float[D], the control that shows what a ranking is worth."""
    return torch.rand(space.genes, generator=generator)


def channel_ranks(space: PruningSpace, importance: Tensor) -> Tensor:
    """Return the rank of each channel in its group as a share of the group, float[D] in [0, 1): 0 is the least important."""
    group, widths = space.group_of_gene, torch.tensor(space.widths)
    order = importance.argsort(stable=True)
    order = order[group[order].argsort(stable=True)]  # by group, and by importance within it
    rank = torch.arange(space.genes) - (widths.cumsum(0) - widths)[group]
    return torch.empty(space.genes).scatter_(0, order, rank / widths[group])


def _times_gradient(weight: Tensor, rows: slice) -> Tensor:
    assert weight.grad is not None
    return weight.detach()[rows].float() * weight.grad[rows].float()


def _per_channel(
    space: PruningSpace, network: nn.Module, score: ElementScore, sides: tuple[str, ...] = ("out", "in")
) -> Tensor:
    """Return the sum of score(weight, rows) over everything that belongs to a channel, float[D] on the CPU."""
    layers = dict(network.named_modules())
    sums: dict[tuple[str, str], Tensor] = {}
    members = []
    for group, part in space.slices():
        for member in group.members:
            layer = layers[member.layer]
            weight = layer.in_proj_weight if isinstance(layer, SelfAttention) else getattr(layer, "weight", None)
            if member.side in sides and isinstance(weight, Tensor) and weight.dim() >= 2:
                if (member.layer, "out") not in sums:
                    sums[member.layer, "out"], sums[member.layer, "in"] = _sums(weight, score)
                members.append((member, part.start))
    sums = _on_cpu(sums)
    parts = [torch.zeros(0), *(sums[member.layer, member.side][member.position_index] for member, _ in members)]
    genes = [torch.zeros(0, dtype=torch.int64), *(member.channel_index + start for member, start in members)]
    return torch.zeros(space.genes).index_add_(0, torch.cat(genes), torch.cat(parts))


def _on_cpu(vectors: dict[tuple[str, str], Tensor]) -> dict[tuple[str, str], Tensor]:
    """Return the same vectors on the CPU, in one transfer: each transfer waits for the device."""
    if not vectors:
        return vectors
    lengths = [len(vector) for vector in vectors.values()]
    return dict(zip(vectors, torch.split(torch.cat(list(vectors.values())).cpu(), lengths), strict=True))


def _sums(weight: Tensor, score: ElementScore) -> tuple[Tensor, Tensor]:
    """Return the sums of scores over each output float[out] and each input float[in] of a weight [out, in, ...].

    They are computed a few rows at a time.
    """
    rows = max(1, _ELEMENTS_AT_ONCE // weight[0].numel())
    outputs, inputs = [], weight.new_zeros(weight.shape[1], dtype=torch.float32)
    for start in range(0, weight.shape[0], rows):
        values = score(weight, slice(start, start + rows))
        outputs.append(values.sum(tuple(range(1, values.dim()))))
        inputs += values.sum((0, *range(2, values.dim())))
    return torch.cat(outputs), inputs
