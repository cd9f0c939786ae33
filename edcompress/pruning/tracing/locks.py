"""Reasons to lock a group of channels, found without trying a removal.

- It reaches the network's outputs.
- Partial coverage: torch-pruning sees channels padded in a network's own code as element-wise and couples channel i of 16 with
  channel i of 32, leaving channels 16..31 in no group; a layer with channels in no group locks all groups that touch it.
- Channels that the network's own code cuts into fixed parts (chunk, split, a slice): the parts would not follow the removal.
- Norms with statistics over channels, weights of two layers in one, and bare parameters.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from torch import nn

from edcompress.pruning.space.layers import MIXERS, layer_width
from edcompress.pruning.space.space import Group, Member, TracedGroup

Side = tuple[str, str]


class Locks:
    """Finds the reason to lock a group, given all groups of the network."""

    def __init__(
        self, network: nn.Module, found: Sequence[TracedGroup], ignore: Sequence[str], only: Sequence[str]
    ) -> None:
        self._layers, self._ignore, self._only = dict(network.named_modules()), ignore, only
        self._uneven, self._tied = _half_covered(found, self._layers), _tied(network)

    def reason(self, group: Group) -> str | None:
        """Return why the group must stay as it is, or None."""
        return self._excluded(group) or self._fault(group)

    def _excluded(self, group: Group) -> str | None:
        for pattern in self._ignore:
            for name in group.layers:
                if fnmatchcase(name, pattern):
                    return f"constraints.ignore has {pattern!r}, which matches {name}"
        if self._only and not any(fnmatchcase(name, pattern) for pattern in self._only for name in group.layers):
            return "none of its layers is in constraints.only"
        return None

    def _fault(self, group: Group) -> str | None:
        for member in group.members:
            if member.layer in self._tied:
                return f"{member.layer} shares a weight with {self._tied[member.layer]}"
            if reason := _layer_reason(member, self._layers[member.layer]):
                return f"{member.layer} {reason}"
        for member in group.members:
            if (member.layer, member.side) in self._uneven:
                half = f"couples only a part of the {member.side}put channels of {member.layer}"
                return f"{half} (padded, sliced or rearranged by the network's code)"
        return None if any(member.side == "in" for member in group.members) else "feeds the network's outputs"


def _layer_reason(member: Member, layer: nn.Module) -> str | None:
    if isinstance(layer, (nn.LayerNorm, *MIXERS)):
        return f"is a {type(layer).__name__}, whose result depends on all channels at once"
    if not layer_width(layer, member.side):
        return f"is a {type(layer).__name__}, a kind of layer that surgery does not cut"
    if len(set(Counter(member.channels).values())) > 1:
        return "holds its channels in unequal parts"
    return None


def _tied(network: nn.Module) -> dict[str, str]:
    """Return the names of layers that share a parameter, each with the name of another layer that holds it."""
    holders: dict[nn.Parameter, list[str]] = defaultdict(list)
    for name, layer in network.named_modules():
        for parameter in layer.parameters(recurse=False):
            holders[parameter].append(name)
    return {name: other for names in holders.values() for name in names for other in names if other != name}


def _half_covered(found: Sequence[TracedGroup], layers: Mapping[str, nn.Module]) -> set[Side]:
    """Return the sides of layers with channels that belong to no group, or to several."""
    claimed: dict[Side, Counter[int]] = defaultdict(Counter)
    for group, _ in found:
        for member in group.members:
            claimed[member.layer, member.side].update(member.positions)
    return {
        (layer, side)
        for (layer, side), counts in claimed.items()
        if len(counts) != layer_width(layers[layer], side) or max(counts.values()) > 1
    }
