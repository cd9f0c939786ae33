"""Surgery: a plan turns a network into a smaller one; and the proof that two networks are equal."""

from __future__ import annotations

import copy

from torch import nn

from edcompress.core.errors import NetworkError
from edcompress.networks.load_pruned import cut_side
from edcompress.pruning.space.gene_index import padded, side_index
from edcompress.pruning.space.layers import layer_width
from edcompress.pruning.space.plan import Plan, state_of
from edcompress.pruning.space.space import PruningSpace


def remove(network: nn.Module, plan: Plan, space: PruningSpace) -> nn.Module:
    """A copy of `network`, whose space this is, without the channels that the plan drops.

    Raises NetworkError where the plan or the space was made for another network.
    """
    smaller = copy.deepcopy(network)
    _require_fits(smaller, space)
    keep = padded(state_of(plan, space))
    for (name, dim), genes in side_index(space, smaller).items():
        if not keep[genes].all():
            cut_side(smaller.get_submodule(name), dim, keep[genes])
    return smaller


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
