"""Networks of the zoo in their chosen states, and the elements of their weights that go."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from zoo import ZOO, images, randomised

from edcompress.networks.load_pruned import tensors_along
from edcompress.pruning.space.layers import layer_width
from edcompress.pruning.space.space import PruningSpace
from edcompress.pruning.tracing.tracing import trace_space


def chosen(name: str) -> tuple[nn.Module, PruningSpace, Tensor]:
    """A network of the zoo with its space and its chosen state."""
    network = randomised(ZOO[name].network())
    space = trace_space(network, images(2))
    state = space.full_state()
    for group, part in space.slices():
        state[part][list(ZOO[name].drops[group.name])] = False
    return network, space, state


def dropped_of(network: nn.Module, space: PruningSpace, state: Tensor) -> list[tuple[nn.Parameter, Tensor]]:
    return [(parameter, dropped) for (_, parameter), dropped in dropped_by_name(network, space, state)]


def dropped_by_name(
    network: nn.Module, space: PruningSpace, state: Tensor
) -> list[tuple[tuple[str, nn.Parameter], Tensor]]:
    """Each parameter of a free group with bool[like the parameter]: the elements that go with dropped channels."""
    found: dict[str, Tensor] = {}
    for group, part in space.slices():
        for member in group.members:
            gone = [p for p, c in zip(member.positions, member.channels, strict=True) if not state[part][c]]
            layer, dim = network.get_submodule(member.layer), 0 if member.side == "out" else 1
            for name, tensor in tensors_along(layer, dim, layer_width(layer, member.side)):
                if isinstance(tensor, nn.Parameter):
                    mask = found.setdefault(f"{member.layer}.{name}", torch.zeros(tensor.shape, dtype=torch.bool))
                    mask.index_fill_(dim, torch.tensor(gone, dtype=torch.int64), True)
    return [((key, network.get_parameter(key)), mask) for key, mask in found.items() if mask.any()]
