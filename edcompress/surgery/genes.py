"""Where the genes of a space sit in the tensors of a network."""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor, nn

from edcompress.surgery.space import Space

GeneIndex = dict[str, dict[int, Tensor]]
"""For each tensor's name and each of its dimensions that genes sit in: the gene of every position, int64[n]; D where there is none."""


def gene_index(space: Space, network: nn.Module) -> GeneIndex:
    """The genes of all parameters, and of the buffers that have channels (batch-norm statistics, fixed weights)."""
    layers = dict(network.named_modules())
    index: GeneIndex = {}
    for group, part in space.slices():
        for member in group.members:
            layer, dim = layers[member.layer], 0 if member.side == "out" else 1
            for name, tensor in chain(layer.named_parameters(recurse=False), layer.named_buffers(recurse=False)):
                if dim >= tensor.dim() or (tensor.dim() == 1 and tensor.numel() == 1):
                    continue
                dims = index.setdefault(f"{member.layer}.{name}", {})
                genes = dims.setdefault(dim, torch.full((tensor.shape[dim],), space.genes))
                genes[member.position_index] = member.channel_index + part.start
    return index


def padded(state: Tensor) -> Tensor:
    """bool[D + 1]: the state, and a last element that is always kept, for positions which belong to no gene."""
    return torch.cat([state, state.new_ones(1)])
