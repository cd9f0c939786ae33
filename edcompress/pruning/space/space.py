"""The pruning space: which channels of a network can be removed together, and which are locked, with the reason.

One gene is one coupled channel: a channel of a producing layer with every batch-norm channel, depthwise filter and consumer
input slice that must be removed with it. The genes of all free groups, in order, are the D bits of a state.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor

from edcompress.core.frozen import Value


class Member(Value):
    """One side of one layer that a group touches: position `positions[i]` of the layer belongs to channel `channels[i]`."""

    layer: str
    side: Literal["out", "in"]
    positions: tuple[int, ...]
    channels: tuple[int, ...]

    @cached_property
    def position_index(self) -> Tensor:
        """`positions` as int64[n]."""
        return torch.tensor(self.positions, dtype=torch.int64)

    @cached_property
    def channel_index(self) -> Tensor:
        """`channels` as int64[n]."""
        return torch.tensor(self.channels, dtype=torch.int64)


class Group(Value):
    """Channels that are coupled across layers; `locked` is the reason why none of them can be removed, or None.

    A channel of the group stands for `block` channels or more of each layer: for one, except in grouped convolutions, group norms and
    attention heads.
    """

    name: str
    channels: int
    members: tuple[Member, ...]
    locked: str | None = None
    block: int = 1

    @model_validator(mode="after")
    def _of_its_channels(self) -> Self:
        for member in self.members:
            if len(member.positions) != len(member.channels) or min(member.positions, default=0) < 0:
                raise ValueError(f"{self.name}: {member.layer} has positions that are not each of one channel")
            if not all(0 <= channel < self.channels for channel in member.channels):
                raise ValueError(f"{self.name}: {member.layer} has channels beyond the {self.channels} of the group")
        return self

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers that the group touches, each once."""
        return tuple(dict.fromkeys(member.layer for member in self.members))


TracedGroup = tuple[Group, str | None]
"""A group as it was traced, and a reason to lock it, or None."""


class PruningSpace(Value):
    """All groups of one network; `free` ones hold the genes."""

    groups: tuple[Group, ...]

    @cached_property
    def free(self) -> tuple[Group, ...]:
        """Groups whose channels may be removed, in the order of their genes."""
        return tuple(group for group in self.groups if group.locked is None)

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """Channels of each free group, int[G]."""
        return tuple(group.channels for group in self.free)

    @property
    def genes(self) -> int:
        """D, the length of a state."""
        return sum(self.widths)

    @cached_property
    def group_of_gene(self) -> Tensor:
        """The index of the free group of each gene, int64[D]."""
        return torch.repeat_interleave(torch.arange(len(self.free)), torch.tensor(self.widths, dtype=torch.int64))

    def slices(self) -> Iterator[tuple[Group, slice]]:
        """Yield each free group with the slice of a state that holds its genes."""
        start = 0
        for group in self.free:
            yield group, slice(start, start + group.channels)
            start += group.channels

    def full_state(self) -> Tensor:
        """Return the state that keeps every channel, bool[D]."""
        return torch.ones(self.genes, dtype=torch.bool)
