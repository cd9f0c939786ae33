"""Schema of what inspect finds."""

from __future__ import annotations

from typing import Literal

from edcompress.core.frozen import Value
from edcompress.core.results.measures import Size


class GroupSummary(Value):
    """A group of channels that go together, how many layers it touches, and what share of the network's cost those have.

    A channel stands for `block` channels of a layer, or more; `locked` is the reason why none can go, or None.
    """

    name: str
    channels: int
    block: int
    layers: int
    macs: float
    params: float
    locked: str | None


class LayerShare(Value):
    """A layer's share of the network's measured time in onnxruntime, and of its multiply-accumulates; "" is outside all layers."""

    name: str
    time: float
    macs: float


class Inspection(Value):
    """What can be pruned of a network before anything is trained.

    `smallest` holds the least share of macs and of params that the constraints leave; `round_to` is the step of the widths; `layers`
    is empty unless their time was asked for.
    """

    network: str
    size: Size
    groups: tuple[GroupSummary, ...]
    smallest: dict[Literal["macs", "params"], float]
    round_to: int | None
    warnings: tuple[str, ...]
    layers: tuple[LayerShare, ...] = ()
