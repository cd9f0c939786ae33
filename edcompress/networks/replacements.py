"""Marks on layers with which edcompress replaces a network's own, so that load_pruned.json can describe them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from torch import nn

_Layer = TypeVar("_Layer", bound=nn.Module)


def as_replacement(layer: _Layer) -> _Layer:
    """Mark a layer as the replacement of a network's own, and return it."""
    layer.is_replacement = True  # type: ignore[assignment]
    return layer


def replacements(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the marked layers of a network with their names; a layer with several names is yielded for each."""
    for name, layer in network.named_modules(remove_duplicate=False):
        if hasattr(layer, "is_replacement"):
            yield name, layer
