"""Latency of a network at any widths, predicted from times of its layers that were measured at a few."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from edcompress.core.frozen import Value


class LayerTime(Value):
    """A layer's share of the dense network's time, and the times [inputs, outputs] that it takes at several widths.

    Widths are those of the layer's weight [outputs, inputs, ...], rising to its own; the times may be in any unit. A layer with a single
    time takes time in proportion to inputs x outputs.
    """

    name: str
    share: float
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    times: tuple[tuple[float, ...], ...]


class LatencyTable(Value):
    """A network's median time in onnxruntime, and how much of it each convolution and linear layer takes.

    `lost` is the share of the measurement that waited (see `Latency.lost`).
    """

    layers: tuple[LayerTime, ...]
    milliseconds: float
    lost: float = 0.0


class LatencyModel:
    """The times of a table as functions of the layers' widths: bilinear between the measured ones, and falling to zero below the least.

    The time between the layers is in proportion to the values that they write.
    """

    def __init__(self, table: LatencyTable, pixels: Tensor) -> None:
        """Read a table; `pixels` [L] are the positions that each of its layers is applied to."""
        points = max(len(axis) for layer in table.layers for axis in (layer.inputs, layer.outputs))
        self._inputs = torch.stack([_axis(layer.inputs, points) for layer in table.layers])
        self._outputs = torch.stack([_axis(layer.outputs, points) for layer in table.layers])
        self._times = torch.stack([_surface(layer, points) for layer in table.layers])
        self._pixels, self._rest = pixels, 1 - sum(layer.share for layer in table.layers)
        self._written = (pixels * torch.tensor([layer.outputs[-1] for layer in table.layers])).sum()

    def share(self, inputs: Tensor, outputs: Tensor) -> Tensor:
        """Return the share of the dense network's time, float64[...], for the widths float64[..., L] of all layers."""
        return self.by_layer(inputs, outputs).sum(-1) + self._rest * (outputs @ self._pixels) / self._written

    def by_layer(self, inputs: Tensor, outputs: Tensor) -> Tensor:
        """Return each layer's share of the dense network's time, float64[..., L], for the widths float64[..., L]."""
        layer = torch.arange(inputs.shape[-1])
        i, a = _between(self._inputs, inputs)
        o, b = _between(self._outputs, outputs)
        low = torch.lerp(self._times[layer, i, o], self._times[layer, i, o + 1], b)
        high = torch.lerp(self._times[layer, i + 1, o], self._times[layer, i + 1, o + 1], b)
        return torch.lerp(low, high, a)


def _axis(widths: Sequence[int], points: int) -> Tensor:
    """Return 0, the widths, and larger ones that no layer reaches, float64[points + 1]."""
    beyond = range(widths[-1] + 1, widths[-1] + 1 + points - len(widths))
    return torch.tensor([0, *widths, *beyond], dtype=torch.float64)


def _surface(layer: LayerTime, points: int) -> Tensor:
    """Return the layer's share of the time at each point of both axes, float64[points + 1, points + 1]."""
    times = torch.tensor(layer.times, dtype=torch.float64)
    rows, columns = times.shape
    known = F.pad(times * layer.share / times[-1, -1], (1, 0, 1, 0))
    return F.pad(known[None, None], (0, points - columns, 0, points - rows), mode="replicate")[0, 0]


def _between(axes: Tensor, widths: Tensor) -> tuple[Tensor, Tensor]:
    """Return for widths [..., L] the point of each layer's axis [L, P] before them, int64, and how far they are to the next, in [0, 1]."""
    flat = widths.reshape(-1, widths.shape[-1]).T.contiguous()
    first = (torch.searchsorted(axes, flat) - 1).clamp(0, axes.shape[1] - 2)
    start = axes.gather(1, first)
    share = (flat - start) / (axes.gather(1, first + 1) - start)
    return first.T.reshape(widths.shape), share.T.reshape(widths.shape)
