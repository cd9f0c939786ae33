"""The positions of a space's genes in the tensors of a network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edcompress.networks.load_pruned import tensors_along
from edcompress.pruning.space.layers import layer_width
from edcompress.pruning.space.space import PruningSpace

GeneIndex = dict[str, dict[int, Tensor]]
"""For each tensor's name and each of its dimensions that genes sit in: the gene of every position, int64[n]; D for no gene."""


def index_genes(space: PruningSpace, network: nn.Module) -> GeneIndex:
    """Return the genes of all parameters and buffers with a value per channel (weights, batch-norm statistics, gains)."""
    layers = dict(network.named_modules())
    index: GeneIndex = {}
    for (name, dim), genes in index_sides(space, network).items():
        for tensor_name, _ in tensors_along(layers[name], dim, len(genes)):
            index.setdefault(f"{name}.{tensor_name}", {})[dim] = genes
    return index


def index_sides(space: PruningSpace, network: nn.Module) -> dict[tuple[str, int], Tensor]:
    """Return for each layer's name and side (0 out, 1 in) that genes sit on the gene of every position, int64[n]; D for no gene."""
    layers = dict(network.named_modules())
    index: dict[tuple[str, int], Tensor] = {}
    for group, part in space.slices():
        for member in group.members:
            width = layer_width(layers[member.layer], member.side)
            side = (member.layer, 0 if member.side == "out" else 1)
            genes = index.setdefault(side, torch.full((width,), space.genes))
            genes[member.position_index] = member.channel_index + part.start
    return index


def pad_state(state: Tensor) -> Tensor:
    """Return bool[D + 1]: the state, and a last element that is always kept, for positions that belong to no gene."""
    return torch.cat([state, state.new_ones(1)])
