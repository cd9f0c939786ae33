"""Cuts: what a state leaves of every tensor of a network, and of every layer's width.

A search cuts anew for every state, all layers at once and for the time of a call (`StateCutter`); surgery cuts one side of a layer for good
(`cut_side`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edcompress.core.system.device_transfer import to_device
from edcompress.pruning.space.gene_index import index_genes, index_sides, pad_state, tensors_along
from edcompress.pruning.space.space import PruningSpace

_WIDTHS = {
    0: ("out_channels", "out_features", "num_features", "num_parameters", "num_heads", "attn_dim", "num_channels", "num_groups",
        "channels"),
    1: ("in_channels", "in_features"),
}  # fmt: skip
"""What layers call the number of positions along each dimension of their weight."""


@dataclass(frozen=True)
class TensorCut:
    """One tensor, with the positions int64[n] that a state keeps and drops along each dimension where it drops some."""

    tensor: Tensor
    kept: dict[int, Tensor]
    dropped: dict[int, Tensor]

    def cut(self) -> Tensor:
        """Return the kept part, through which gradients flow."""
        part = self.tensor
        for dim, positions in self.kept.items():
            part = part.index_select(dim, positions)
        return part


@dataclass(frozen=True)
class StateCut:
    """The effect of a state on a network: the tensors that lose something, by name, and the changed widths (layer, attribute, value)."""

    parts: dict[str, TensorCut]
    widths: list[tuple[nn.Module, str, int]]


class StateCutter:
    """Cuts a network to any state of its space; built once, on the network's device."""

    def __init__(self, space: PruningSpace, network: nn.Module) -> None:
        layers = dict(network.named_modules())
        index, sides = index_genes(space, network), index_sides(space, network)
        self._tensors = {name: _tensor(layers, name) for name in index}
        self._dims = [(name, dim) for name, dims in index.items() for dim in dims]
        self._positions = _Ragged([index[name][dim] for name, dim in self._dims])
        self._sides = [(layers[name], dim) for name, dim in sides]
        self._channels = _Ragged(list(sides.values()))
        self._device = next(network.parameters()).device

    def cut(self, state: Tensor) -> StateCut:
        """Return the cut of a state bool[D]."""
        keep = pad_state(state)
        return StateCut(self._parts(keep), list(self._widths(keep)))

    def _parts(self, keep: Tensor) -> dict[str, TensorCut]:
        flags = keep[self._positions.genes]
        parts: dict[str, TensorCut] = {}
        for (name, dim), kept, dropped in zip(self._dims, self._where(flags), self._where(~flags), strict=True):
            if len(dropped):
                part = parts.setdefault(name, TensorCut(self._tensors[name], {}, {}))
                part.kept[dim], part.dropped[dim] = kept, dropped
        return parts

    def _where(self, flags: Tensor) -> tuple[Tensor, ...]:
        """Return the positions int64[n] with a flag, for each dimension of each tensor; they go to the device in one piece."""
        return torch.split(to_device(self._positions.position[flags], self._device), self._positions.counts(flags))

    def _widths(self, keep: Tensor) -> Iterator[tuple[nn.Module, str, int]]:
        flags = keep[self._channels.genes]
        for (layer, dim), kept, dropped in zip(
            self._sides, self._channels.counts(flags), self._channels.counts(~flags), strict=True
        ):
            if dropped:
                yield from ((layer, *width) for width in _smaller_widths(layer, dim, kept, kept + dropped))


def cut_side(layer: nn.Module, dim: int, keep: Tensor) -> None:
    """Leave of `dim` (0 out, 1 in) of the layer's tensors only the positions that `keep` bool[n] says, and tell the layer its new width."""
    kept = keep.nonzero().flatten()
    for name, tensor in list(tensors_along(layer, dim, len(keep))):
        part = tensor.detach().index_select(dim, kept.to(tensor.device))
        setattr(layer, name, nn.Parameter(part, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else part)
    for attribute, width in list(_smaller_widths(layer, dim, len(kept), len(keep))):
        setattr(layer, attribute, width)


def _smaller_widths(layer: nn.Module, dim: int, kept: int, width: int) -> Iterator[tuple[str, int]]:
    """The layer's own accounts of its widths once `kept` of its `width` positions along `dim` are left."""
    by_blocks = getattr(layer, "groups", 1) > 1  # then the inputs go with the outputs
    for attribute in (*_WIDTHS[0], *_WIDTHS[1], "groups") if by_blocks else _WIDTHS[dim]:
        if hasattr(layer, attribute):
            yield attribute, getattr(layer, attribute) * kept // width


class _Ragged:
    """Vectors of genes, joined: `genes` int64[n], the `position` int64[n] of each in its vector, and the number of the vector."""

    def __init__(self, vectors: list[Tensor]) -> None:
        self.genes = torch.cat([*vectors, torch.zeros(0, dtype=torch.int64)])
        self.position = torch.cat([torch.arange(len(vector)) for vector in vectors] or [self.genes])
        self._vector = torch.repeat_interleave(torch.tensor([len(vector) for vector in vectors], dtype=torch.int64))
        self._vectors = len(vectors)

    def counts(self, flags: Tensor) -> list[int]:
        """Return how many elements of each vector have a flag."""
        counts: list[int] = torch.bincount(self._vector[flags], minlength=self._vectors).tolist()
        return counts


def _tensor(layers: dict[str, nn.Module], name: str) -> Tensor:
    layer, _, tensor = name.rpartition(".")
    found = getattr(layers[layer], tensor)
    assert isinstance(found, Tensor)
    return found
