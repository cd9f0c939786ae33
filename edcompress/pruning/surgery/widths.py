"""Widths of layers before and after surgery."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from edcompress.pruning.space.plan import Plan
from edcompress.pruning.space.space import PruningSpace


def widths_of(pruned: nn.Module, space: PruningSpace, plan: Plan) -> Iterator[tuple[str, int, int]]:
    """Yield name, kept and former output channels of the convolutions and linear layers of a pruned network, in its order.

    Args:
        pruned: The network that the plan left.
        space: The space of the network before.
        plan: The kept channels by group.
    """
    removed = _removed(space, plan)
    for name, layer in pruned.named_modules():
        kept = getattr(layer, "out_channels", getattr(layer, "out_features", None))
        if isinstance(kept, int) and next(layer.children(), None) is None:
            yield name, kept, kept + removed.get(name, 0)


def _removed(space: PruningSpace, plan: Plan) -> dict[str, int]:
    """Return how many output positions each layer loses, by name."""
    kept = {group.name: set(group.kept) for group in plan.groups}
    found: dict[str, int] = {}
    for group in space.groups:
        channels = kept.get(group.name, set(range(group.channels)))  # a locked group is not in the plan
        for member in group.members:
            if member.side == "out":
                lost = sum(channel not in channels for channel in member.channels)
                found[member.layer] = found.get(member.layer, 0) + lost
    return found
