"""Surgery: a copy of a network without the channels that a state or a plan drops."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from edcompress.core.errors import NetworkError
from edcompress.networks.load_pruned import cut_side
from edcompress.pruning.space.gene_index import index_sides, pad_state
from edcompress.pruning.space.layers import layer_width
from edcompress.pruning.space.plan import Plan, state_of
from edcompress.pruning.space.space import PruningSpace


def remove_channels(network: nn.Module, state: Tensor, space: PruningSpace) -> nn.Module:
    """Return a copy of a network without the channels that a state drops.

    Args:
        network: the dense network; it stays as it is.
        state: bool[D], true for the channels to keep.
        space: the pruning space of the network.

    Raises:
        NetworkError: the space was made for another network.
        ValueError: the state drops all channels of a group.
    """
    smaller = copy.deepcopy(network)
    _require_fits(smaller, space)
    _require_some_kept(state, space)
    keep = pad_state(state)
    for (name, dim), genes in index_sides(space, smaller).items():
        if not keep[genes].all():
            cut_side(smaller.get_submodule(name), dim, keep[genes])
    return smaller


def apply_plan(network: nn.Module, plan: Plan, space: PruningSpace) -> nn.Module:
    """Return a copy of a network without the channels that a plan drops (see `remove_channels`).

    Raises:
        NetworkError: the plan or the space was made for another network.
    """
    return remove_channels(network, state_of(plan, space), space)


def _require_fits(network: nn.Module, space: PruningSpace) -> None:
    layers = dict(network.named_modules())
    for group in space.free:
        for member in group.members:
            width = layer_width(layers.get(member.layer, nn.Identity()), member.side)
            if max(member.positions) >= width:
                raise NetworkError(
                    f"the pruning space was made for another network: it needs {max(member.positions) + 1} {member.side}put "
                    f"channels of {member.layer}, here are {width}"
                )


def _require_some_kept(state: Tensor, space: PruningSpace) -> None:
    for group, part in space.slices():
        if not state[part].any():
            raise ValueError(f"the state drops all channels of {group.name}; keep at least one")
