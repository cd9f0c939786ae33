"""Grouped convolutions and group norms, which lose whole groups of theirs, here called blocks.

A dependency graph has separate groups for what feeds such a convolution and what it gives. Removing a block removes its inputs and its
outputs, so that both sides become one group of the space, and one channel of that group is one block.

A group norm takes its statistics over each of its groups separately. Removing one with all its channels changes nothing for the others,
so that these channels become one channel of the group of the space.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence

from torch import nn

from edcompress.pruning.space.layers import CONVS, is_grouped, layer_width
from edcompress.pruning.space.space import Group, Member, TracedGroup


def join_blocks(found: Sequence[TracedGroup], layers: Mapping[str, nn.Module]) -> list[TracedGroup]:
    """Return the groups, with those joined that grouped convolutions tie together, under the name of the first in the network."""
    part_of = list(range(len(found)))  # for each group the first of those it is tied to
    first: dict[str, int] = {}
    for place, (group, _) in enumerate(found):
        for name in group.layers:
            if is_grouped(layers[name]):
                one, other = part_of[place], part_of[first.setdefault(name, place)]
                part_of = [min(one, other) if part in (one, other) else part for part in part_of]
    parts: dict[int, list[TracedGroup]] = {}
    for part, item in zip(part_of, found, strict=True):
        parts.setdefault(part, []).append(item)
    return [joined for tied in parts.values() for joined in _joined(tied, layers)]


def _joined(tied: list[TracedGroup], layers: Mapping[str, nn.Module]) -> list[TracedGroup]:
    convs = {name: layers[name] for group, _ in tied for name in group.layers if is_grouped(layers[name])}
    if not convs:
        return tied
    reason = next((reason for _, reason in tied if reason), None) or _fault(tied, convs)
    if reason:
        return [(group, reason) for group, _ in tied]
    tied = sorted(tied, key=lambda item: list(layers).index(item[0].name))
    blocks = math.gcd(*(_groups(conv) for conv in convs.values()))
    sizes = [group.channels // blocks for group, _ in tied]
    members = [
        member.model_copy(update={"channels": tuple(channel // size for channel in member.channels)})
        for (group, _), size in zip(tied, sizes, strict=True)
        for member in group.members
        if member.side == "out" or member.layer not in convs
    ]
    return [(Group(name=tied[0][0].name, channels=blocks, members=tuple(members), block=min(sizes)), None)]


def _fault(tied: list[TracedGroup], convs: Mapping[str, nn.Module]) -> str | None:
    """Return why the blocks cannot be removed: a side of a convolution is missing, or has its channels in a different order; or None."""
    members = [member for group, _ in tied for member in group.members]
    for name, conv in convs.items():
        sides = {member.side: member for member in members if member.layer == name}
        if not all(_in_order(sides.get(side), layer_width(conv, side)) for side in ("out", "in")):
            return (
                f"{name} is a grouped convolution ({_groups(conv)} groups) with channels that do not go block by block"
            )
    return None


def join_norm_groups(found: Sequence[TracedGroup], layers: Mapping[str, nn.Module]) -> list[TracedGroup]:
    """Return the groups, with the channels joined that lie in one group of a group norm."""
    return [(group, reason) if reason else _normed(group, layers) for group, reason in found]


def _normed(group: Group, layers: Mapping[str, nn.Module]) -> TracedGroup:
    norms = {name: norm for name in group.layers if isinstance(norm := layers[name], nn.GroupNorm)}
    sizes = {name: norm.num_channels // norm.num_groups for name, norm in norms.items()}
    places: list[tuple[Hashable, int]] = []
    for member in group.members:
        if size := sizes.get(member.layer):
            parts = [position // size for position in member.positions]
            if any(count != size for count in Counter(parts).values()):
                return (
                    group,
                    f"{member.layer} is a GroupNorm with groups of {size} channels that lie across several layers",
                )
            places += [((member.layer, part), channel) for part, channel in zip(parts, member.channels, strict=True)]
    part_of = unite(range(group.channels), places)
    left = len(set(part_of.values()))
    if norms and left == 1:
        name, size = next(iter(sizes.items()))
        return group, f"{name} is a GroupNorm with groups of {size} channels, no part of which can be removed"
    members = tuple(
        member.model_copy(update={"channels": tuple(part_of[channel] for channel in member.channels)})
        for member in group.members
    )
    block = group.block * group.channels // left
    return group.model_copy(update={"channels": left, "members": members, "block": block}), None


def unite(channels: Iterable[int], places: Iterable[tuple[Hashable, int]]) -> dict[int, int]:
    """Return for each channel the number of its class, where channels at the same place are in the same class."""
    part_of = {channel: channel for channel in channels}

    def first(channel: int) -> int:
        while part_of[channel] != channel:
            channel = part_of[channel]
        return channel

    at: dict[Hashable, int] = {}
    for place, channel in places:
        one, other = first(channel), first(at.setdefault(place, channel))
        part_of[max(one, other)] = min(one, other)
    numbers = {channel: number for number, channel in enumerate(sorted({first(channel) for channel in part_of}))}
    return {channel: numbers[first(channel)] for channel in part_of}


def _in_order(member: Member | None, width: int) -> bool:
    return member is not None and member.positions == member.channels == tuple(range(width))


def _groups(conv: nn.Module) -> int:
    assert isinstance(conv, CONVS)
    return conv.groups
