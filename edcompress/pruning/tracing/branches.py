"""Branches that meet in a concatenation, which stay independent of each other, even where a wider layer joins them.

`r(x) + cat([p(x), q(x)])` couples the first channels of r with p and the others with q. In one group a state could leave p without any
channel; in two groups each keeps at least one, and has a floor and a rounded width of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from torch import nn

from edcompress.pruning.space.layers import CONVS, layer_width
from edcompress.pruning.space.space import Group, Member, TracedGroup


def split_branches(found: Sequence[TracedGroup], layers: Mapping[str, nn.Module]) -> list[TracedGroup]:
    """Return the groups, split into one for the channels of each branch; those that are locked already stay as they are."""
    return [part for group, reason in found for part in ([(group, reason)] if reason else _parts(group, layers))]


def _parts(group: Group, layers: Mapping[str, nn.Module]) -> list[TracedGroup]:
    """Return the parts of a group, or the group itself where more than one of them has no layer to be named after."""
    parts = [_part(group, channels) for channels in _alike(group)]
    names = [_own_layer(part, layers) or group.name for part in parts]
    if len(parts) == 1 or len(set(names)) < len(names):
        return [(group, None)]
    return [(part.model_copy(update={"name": name}), None) for part, name in zip(parts, names, strict=True)]


def _alike(group: Group) -> list[list[int]]:
    """Return the channels in lists of those that have equally many positions in the same layers."""
    places: list[Counter[tuple[str, str]]] = [Counter() for _ in range(group.channels)]
    for member in group.members:
        for channel in member.channels:
            places[channel][member.layer, member.side] += 1
    alike: dict[frozenset[object], list[int]] = {}
    for channel, counts in enumerate(places):
        alike.setdefault(frozenset(counts.items()), []).append(channel)
    return list(alike.values())


def _part(group: Group, channels: Sequence[int]) -> Group:
    """Return the group of these channels only, numbered from 0."""
    number = {channel: place for place, channel in enumerate(channels)}

    def of(member: Member) -> Member | None:
        pairs = [(p, number[c]) for p, c in zip(member.positions, member.channels, strict=True) if c in number]
        if not pairs:
            return None
        positions, numbers = zip(*pairs, strict=True)
        return member.model_copy(update={"positions": positions, "channels": numbers})

    members = tuple(part for part in map(of, group.members) if part)
    return group.model_copy(update={"channels": len(channels), "members": members})


def _own_layer(part: Group, layers: Mapping[str, nn.Module]) -> str | None:
    """Return the first layer of the network that makes channels of the part and no others, or None."""
    own = {m.layer for m in part.members if m.side == "out" and len(m.positions) == layer_width(layers[m.layer], "out")}
    return next(
        (name for name, layer in layers.items() if name in own and isinstance(layer, (*CONVS, nn.Linear))), None
    )
