"""Marks on the layers that edcompress puts in the place of a network's own, so that load_pruned.json can name them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from torch import nn

_Layer = TypeVar("_Layer", bound=nn.Module)


def as_replacement(layer: _Layer) -> _Layer:
    """Mark a layer as one that takes the place of a network's own, and return it."""
    layer.is_replacement = True  # type: ignore[assignment]
    return layer


def replacements(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the marked layers of a network with their names; one that the network has by several names comes by each."""
    for name, layer in network.named_modules(remove_duplicate=False):
        if hasattr(layer, "is_replacement"):
            yield name, layer
