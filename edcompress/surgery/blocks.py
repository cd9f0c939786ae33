"""Grouped convolutions lose whole groups of theirs, here called blocks.

A dependency graph tells apart what feeds such a convolution and what it gives. To remove a block means to remove its inputs and its
outputs, so both sides become one group of the space, and one channel of that group is one block.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import nn

from edcompress.surgery.layers import CONVS, is_grouped, layer_width
from edcompress.surgery.space import Group, Member

Found = tuple[Group, str | None]
"""A group as it was traced, and a reason to lock it."""


def join_blocks(found: Sequence[Found], layers: Mapping[str, nn.Module]) -> list[Found]:
    """The groups, with those joined to one that grouped convolutions tie together; it has the name of the first in the network."""
    part_of = list(range(len(found)))  # for each group the first of those it is tied to
    first: dict[str, int] = {}
    for place, (group, _) in enumerate(found):
        for name in group.layers:
            if is_grouped(layers[name]):
                one, other = part_of[place], part_of[first.setdefault(name, place)]
                part_of = [min(one, other) if part in (one, other) else part for part in part_of]
    parts: dict[int, list[Found]] = {}
    for part, item in zip(part_of, found, strict=True):
        parts.setdefault(part, []).append(item)
    return [joined for tied in parts.values() for joined in _joined(tied, layers)]


def _joined(tied: list[Found], layers: Mapping[str, nn.Module]) -> list[Found]:
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


def _fault(tied: list[Found], convs: Mapping[str, nn.Module]) -> str | None:
    """Why the blocks cannot go: one side of a convolution is missing, or holds its channels in another order."""
    members = [member for group, _ in tied for member in group.members]
    for name, conv in convs.items():
        sides = {member.side: member for member in members if member.layer == name}
        if not all(_in_order(sides.get(side), layer_width(conv, side)) for side in ("out", "in")):
            return (
                f"{name} is a grouped convolution ({_groups(conv)} groups) with channels that do not go block by block"
            )
    return None


def _in_order(member: Member | None, width: int) -> bool:
    return member is not None and member.positions == member.channels == tuple(range(width))


def _groups(conv: nn.Module) -> int:
    assert isinstance(conv, CONVS)
    return conv.groups
