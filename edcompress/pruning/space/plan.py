"""Plans: the kept channels of each free group, as plan.json holds them."""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor

from edcompress.core.errors import NetworkError
from edcompress.core.frozen import Value
from edcompress.pruning.space.space import PruningSpace


class GroupPlan(Value):
    """The kept channels of one group, by the name of its first layer; indices are those of the dense network's channels."""

    name: str
    channels: int
    kept: tuple[int, ...]

    @model_validator(mode="after")
    def _in_range(self) -> Self:
        if (
            sorted(set(self.kept)) != list(self.kept)
            or not self.kept
            or self.kept[-1] >= self.channels
            or self.kept[0] < 0
        ):
            raise ValueError(f"{self.name}: kept must be rising indices below {self.channels}, at least one")
        return self

    @property
    def dropped(self) -> tuple[int, ...]:
        """Indices of the channels that are removed."""
        kept = set(self.kept)
        return tuple(channel for channel in range(self.channels) if channel not in kept)


class Plan(Value):
    """The kept channels of every free group of a space."""

    schema_version: Literal[1] = 1
    groups: tuple[GroupPlan, ...]

    @model_validator(mode="after")
    def _one_each(self) -> Self:
        names = [group.name for group in self.groups]
        if len(set(names)) < len(names):
            raise ValueError(f"{max(names, key=names.count)} is in the plan more than once")
        return self


def plan_of(state: Tensor, space: PruningSpace) -> Plan:
    """Return the plan of a state bool[D]."""
    return Plan(
        groups=tuple(
            GroupPlan(
                name=group.name, channels=group.channels, kept=tuple(torch.nonzero(state[part]).flatten().tolist())
            )
            for group, part in space.slices()
        )
    )


def extend_plan(plan: Plan, space: PruningSpace) -> Plan:
    """Return the plan for every free group of the space: a group that the plan does not name keeps all its channels."""
    known = {group.name: group for group in plan.groups}
    return Plan(
        groups=tuple(
            known.get(g.name, GroupPlan(name=g.name, channels=g.channels, kept=tuple(range(g.channels))))
            for g in space.free
        )
    )


def compose_plans(first: Plan, second: Plan) -> Plan:
    """Return the plan that does at once what `first` does to a network and `second` to the result; `second` may name fewer groups."""
    kept = {group.name: group.kept for group in second.groups}
    groups = (
        group.model_copy(update={"kept": tuple(group.kept[i] for i in kept[group.name])})
        if group.name in kept
        else group
        for group in first.groups
    )
    return Plan(groups=tuple(groups))


def state_of(plan: Plan, space: PruningSpace) -> Tensor:
    """Return the state bool[D] of a plan.

    Raises:
        NetworkError: the plan was made for another space.
    """
    made_for = {group.name: group.channels for group in plan.groups}
    here = {group.name: group.channels for group in space.free}
    if made_for != here:
        wrong = sorted(dict(made_for.items() ^ here.items()))
        raise NetworkError(f"the plan and the network differ in the channels of {', '.join(wrong)}")
    kept = {group.name: group.kept for group in plan.groups}
    state = torch.zeros(space.genes, dtype=torch.bool)
    for group, part in space.slices():
        state[part][list(kept[group.name])] = True
    return state
