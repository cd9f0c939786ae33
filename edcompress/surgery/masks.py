"""Masks: a network under a state, without touching its weights.

A dropped channel is hidden where it is read: the input slices of every consumer are multiplied by zero. Whatever stands between
producer and consumer (batch-norm bias, activation, depthwise filter) is hidden with it, so the masked network equals the pruned one
in eval mode, and no gradient reaches a dropped channel. Weights are masked, not activations: cheaper, and nothing is copied back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call

from edcompress.surgery.space import Space


class Masks:
    """Where each gene of a space sits in the parameters of one network; built once, on the network's device."""

    def __init__(self, space: Space, network: nn.Module) -> None:
        self._device = next(network.parameters()).device
        self._parameters = dict(network.named_parameters(remove_duplicate=False))
        self._genes = {
            name: {dim: index.to(self._device) for dim, index in dims.items()}
            for name, dims in _gene_index(space, network).items()
        }

    def weights(self, state: Tensor) -> dict[str, Tensor]:
        """The masked consumer weights of a state bool[D], by parameter name; gradients flow to the kept weights alone."""
        keep = self._padded(state)
        return {
            name: self._parameters[name]
            * _along(keep[dims[1]].to(self._parameters[name].dtype), 1, self._parameters[name])
            for name, dims in self._genes.items()
            if 1 in dims
        }

    @contextmanager
    def frozen(self, state: Tensor) -> Iterator[None]:
        """What happens inside leaves every weight of a dropped channel at its value, whatever the optimizer does to it."""
        keep = self._padded(state)
        before = {name: self._parameters[name].detach().clone() for name in self._genes}
        yield
        with torch.no_grad():
            for name, dims in self._genes.items():
                parameter = self._parameters[name]
                for dim, genes in dims.items():
                    parameter.copy_(torch.where(_along(keep[genes], dim, parameter), parameter, before[name]))

    def _padded(self, state: Tensor) -> Tensor:
        """bool[D + 1]: the state and a last element that is always kept, for positions which belong to no gene."""
        return torch.cat([state, state.new_ones(1)]).to(self._device)


def masked_call(network: nn.Module, masks: Masks, state: Tensor, images: Tensor) -> Tensor:
    """Logits [N, classes] of `network` under `state` bool[D] for `images` [N, C, H, W]."""
    logits = functional_call(network, masks.weights(state), (images,))
    assert isinstance(logits, Tensor)
    return logits


def _along(values: Tensor, dim: int, like: Tensor) -> Tensor:
    """`values` [n] shaped to broadcast along dimension `dim` of `like`."""
    shape = [1] * like.dim()
    shape[dim] = -1
    return values.view(shape)


def _gene_index(space: Space, network: nn.Module) -> dict[str, dict[int, Tensor]]:
    """For each parameter and each of its dimensions the gene of every position; D where a position belongs to none."""
    layers = dict(network.named_modules())
    index: dict[str, dict[int, Tensor]] = {}
    for group, part in space.slices():
        for member in group.members:
            for name, parameter in layers[member.layer].named_parameters(recurse=False):
                dim = 0 if member.side == "out" else 1
                if dim >= parameter.dim() or (parameter.dim() == 1 and parameter.numel() == 1):
                    continue
                dims = index.setdefault(f"{member.layer}.{name}", {})
                genes = dims.setdefault(dim, torch.full((parameter.shape[dim],), space.genes))
                genes[list(member.positions)] = torch.tensor(member.channels) + part.start
    return index
