"""Schema of the result of `inspect`."""

from __future__ import annotations

from typing import Literal

from edcompress.core.frozen import Value
from edcompress.core.results.measures import Size


class GroupSummary(Value):
    """A group of channels that are removed together, the number of its layers, and their share of the network's cost.

    Attributes:
        name: The layer that gives the group its name.
        channels: The number of channels that can be removed one by one.
        block: The channels of a layer for which each of them stands, at least.
        layers: The number of layers that the group touches.
        macs: The share of the network's multiply-accumulates in these layers.
        params: The share of the network's parameters in these layers.
        locked: The reason why no channel can be removed; None where they can.
    """

    name: str
    channels: int
    block: int
    layers: int
    macs: float
    params: float
    locked: str | None


class LayerShare(Value):
    """A layer's share of the network's time in onnxruntime, and of its multiply-accumulates; the name "" is for time outside all layers."""

    name: str
    time: float
    macs: float


class Inspection(Value):
    """The parts of a network that can be pruned, found before any training.

    Attributes:
        network: Its name.
        size: Its cost.
        groups: Its groups of channels, those that are locked too.
        smallest: The smallest share of macs and of params that the constraints allow.
        round_to: The multiple to which widths are rounded.
        warnings: Remarks on figures that may mislead.
        layers: The layers' shares of the measured time; empty unless they were measured.
    """

    network: str
    size: Size
    groups: tuple[GroupSummary, ...]
    smallest: dict[Literal["macs", "params"], float]
    round_to: int | None
    warnings: tuple[str, ...]
    layers: tuple[LayerShare, ...] = ()
