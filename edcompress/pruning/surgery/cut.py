"""Cuts: what a state leaves of every tensor of a network, and of every layer's width.

A search cuts for every state, all layers at once and for the time of a call (`StateCutter`); surgery cuts one side of a layer for good
(`networks.load_pruned.cut_side`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edcompress.core.system.device_transfer import to_device
from edcompress.networks.load_pruned import smaller_widths
from edcompress.pruning.space.gene_index import index_genes, index_sides, pad_state
from edcompress.pruning.space.space import PruningSpace


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
                yield from ((layer, *width) for width in smaller_widths(layer, dim, kept, kept + dropped))


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
