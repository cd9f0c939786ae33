"""The space of a network that a plan has made smaller, computed from the space before and the plan, without tracing.

Positions and channels get the numbers that they have in the smaller network; names, and reasons to lock, stay.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict

from edcompress.pruning.space.plan import Plan
from edcompress.pruning.space.space import Group, Member, PruningSpace

Removed = dict[tuple[str, str], list[int]]
"""For each layer and side the positions that were removed, rising."""


def narrow_space(space: PruningSpace, plan: Plan) -> PruningSpace:
    """Return the space of what `plan` leaves of a network with this space; groups of the plan may be locked here, and stay locked."""
    kept = {group.name: group.kept for group in plan.groups}
    removed = _removed(space, kept)
    return PruningSpace(groups=tuple(_renumbered(group, kept.get(group.name), removed) for group in space.groups))


def _removed(space: PruningSpace, kept: dict[str, tuple[int, ...]]) -> Removed:
    removed: Removed = defaultdict(list)
    for group in space.groups:
        stays = set(kept.get(group.name, range(group.channels)))
        for member in group.members:
            pairs = zip(member.positions, member.channels, strict=True)
            removed[member.layer, member.side] += [position for position, channel in pairs if channel not in stays]
    return {side: sorted(positions) for side, positions in removed.items()}


def _renumbered(group: Group, kept: tuple[int, ...] | None, removed: Removed) -> Group:
    new = {channel: number for number, channel in enumerate(range(group.channels) if kept is None else kept)}

    def member_of(member: Member) -> Member:
        before = removed[member.layer, member.side]
        pairs = zip(member.positions, member.channels, strict=True)
        left = [
            (position - bisect_left(before, position), new[channel]) for position, channel in pairs if channel in new
        ]
        positions, channels = zip(*left, strict=True)
        return Member(layer=member.layer, side=member.side, positions=positions, channels=channels)

    members = tuple(member_of(member) for member in group.members)
    return Group(name=group.name, channels=len(new), members=members, locked=group.locked, block=group.block)
