"""Spaces without a network, and states of any space."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from edcompress.pruning.space.space import Group, Member, PruningSpace


def space_of(*widths: int, block: int = 1) -> PruningSpace:
    """A space of free groups without a network."""
    return PruningSpace(
        groups=tuple(
            Group(
                name=f"g{i}",
                channels=n,
                members=(Member(layer=f"g{i}", side="out", positions=tuple(range(n)), channels=tuple(range(n))),),
                block=block,
            )
            for i, n in enumerate(widths)
        )
    )


def random_state(space: PruningSpace, seed: int) -> Tensor:
    """Every channel kept with a chance of one half; seed 0 keeps one channel per group, seed 1 all but one."""
    generator = Generator().manual_seed(seed)
    state = torch.rand(space.genes, generator=generator) < 0.5
    for _, part in space.slices():
        one = int(torch.randint(part.stop - part.start, (), generator=generator))
        if seed < 2:
            state[part] = seed == 1
        state[part][one] = seed != 1
    return state
