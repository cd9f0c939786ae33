"""What inspect found as rows of short texts."""

from __future__ import annotations

from typing import NamedTuple

from edcompress.core.results.inspection import Inspection


class GroupRow(NamedTuple):
    """One group of channels that go together."""

    name: str
    channels: str
    layers: str
    macs: str
    params: str
    state: str


def group_rows(found: Inspection) -> list[GroupRow]:
    """Return a row per group."""
    return [
        GroupRow(
            group.name, str(group.channels) if group.block == 1 else f"{group.channels} x {group.block}", str(group.layers),
            f"{group.macs:.1%}", f"{group.params:.1%}", f"locked: {group.locked}" if group.locked else "free")
        for group in found.groups
    ]  # fmt: skip


def layer_rows(found: Inspection) -> list[tuple[str, str, str]]:
    """Return name, share of the time and share of the multiply-accumulates of each layer."""
    return [(layer.name or "(between layers)", f"{layer.time:.1%}", f"{layer.macs:.1%}") for layer in found.layers]
