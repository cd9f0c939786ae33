"""Multiplications that no counted layer makes, and how they follow the widths of a space's groups.

They are matrix products, recurrent layers, bilinear forms, and convolutions whose weights the network's code computes. Which sizes follow
a group is seen on a copy of the network without one channel of the group.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor, nn

from edcompress.networks.load_pruned import PaddedShortcut
from edcompress.pruning.cost.multiplications import count_multiplications
from edcompress.pruning.space.layers import is_attention
from edcompress.pruning.space.space import PruningSpace
from edcompress.pruning.surgery.remove import remove_channels


class Product(NamedTuple):
    """Multiply-accumulates of a batch, the product of `sizes`; `owner` is the module whose code makes them ("": the network's own)."""

    owner: str
    sizes: tuple[int, ...]


FindProducts = Callable[[nn.Module], list[Product]]
"""Gives the products of a network for one batch."""


def find_products(network: nn.Module, example: Tensor, layers: Mapping[nn.Module, int]) -> list[Product]:
    """Return what a run on `example` [N, ...] multiplies beyond the counted `layers`, given their multiply-accumulates for one image.

    An attention whose heads can be removed owns all that runs in it. A PaddedShortcut only copies.
    """
    names = {module: name for name, module in network.named_modules()}
    found, left = [], {layer: len(example) * macs for layer, macs in layers.items()}
    for stack, sizes in count_multiplications(network, example):
        layer = next((module for module in reversed(stack) if module in left), None)
        if any(isinstance(module, PaddedShortcut) for module in stack):
            continue
        if layer is None:
            owner = next((module for module in stack if is_attention(module)), stack[-1])
            found.append(Product(names[owner], sizes))
        else:
            left[layer] -= math.prod(sizes)
    return found + [Product(names[layer], (-rest,)) for layer, rest in left.items() if rest < 0]


class Products:
    """Multiply-accumulates of one image that no counted layer makes, for each of `owners`, by the widths n [G] of the free groups.

    What follows the heads of an attention, or nothing, is `_affine` float64[owners, G + 1], with its fixed part at the end. Each row of
    `_sizes` float64[rows, factors, G + 1] is a product of sizes that follow groups, and `_counts` float64[rows, owners] is how often an
    image has it.
    """

    def __init__(self, space: PruningSpace, network: nn.Module, images: int, find: FindProducts) -> None:
        """Find the products by `find`, which runs a network on a batch of so many `images`."""
        found, heads = find(network), {name for name, module in network.named_modules() if is_attention(module)}
        self.owners = list(dict.fromkeys(product.owner for product in found))
        loose = [product for product in found if product.owner not in heads]
        sizes = _by_width(space, network, loose, lambda other: [p for p in find(other) if p.owner not in heads])
        follows = (sizes[..., :-1] != 0).flatten(1).any(1)
        owner = torch.tensor([[self.owners.index(product.owner)] for product in loose], dtype=torch.float64)
        rows, counts = _once(torch.cat([sizes.flatten(1), owner.view(-1, 1)], 1)[follows])
        self._sizes = rows[:, :-1].reshape(len(rows), *sizes.shape[1:])
        self._counts = torch.zeros(len(rows), len(self.owners), dtype=torch.float64)
        self._counts[torch.arange(len(rows)), rows[:, -1].long()] = counts.double() / images
        still = [product for product, moves in zip(loose, follows.tolist(), strict=True) if not moves]
        whole = [*still, *(product for product in found if product.owner in heads)]
        self._affine = _affine_parts(space, self.owners, whole, heads) / images

    def macs(self, widths: Tensor) -> Tensor:
        """Return float64[..., owners] at widths [..., G]."""
        sizes = affine(self._sizes.flatten(0, 1), widths)
        products = sizes.reshape(*widths.shape[:-1], *self._sizes.shape[:2]).prod(-1)
        return affine(self._affine, widths) + products @ self._counts


def affine(coefficients: Tensor, widths: Tensor) -> Tensor:
    """Return b + A n, [..., rows], for widths n [..., G] and coefficients [rows, G + 1] whose last column is b."""
    return widths @ coefficients[:, :-1].mT + coefficients[:, -1]


def _once(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return each different row of [rows, n], and how often it is there."""
    once, counts = torch.unique(rows, dim=0, return_counts=True)
    return once, counts


def _affine_parts(space: PruningSpace, owners: Sequence[str], found: Sequence[Product], heads: set[str]) -> Tensor:
    """Return float64[owners, G + 1]: what an attention of `heads` makes follows its heads where they are free; all else is fixed."""
    parts = torch.zeros(len(owners), len(space.free) + 1, dtype=torch.float64)
    positions = {group.name: (index, group.channels) for index, group in enumerate(space.free) if group.name in heads}
    for owner, sizes in found:
        index, channels = positions.get(owner, (-1, 1))
        parts[owners.index(owner), index] += math.prod(sizes) / channels
    return parts


def _by_width(space: PruningSpace, network: nn.Module, found: Sequence[Product], find: FindProducts) -> Tensor:
    """Return float64[products, factors, G + 1]: how the sizes of the dense network's products depend on the widths."""
    factors = max((len(product.sizes) for product in found), default=1)
    dense = _filled(found, factors)
    slopes = torch.zeros(len(found), factors, len(space.free), dtype=torch.float64)
    for index, cut in _changed(space, network, found, find).items():
        if [len(product.sizes) for product in cut] == [len(product.sizes) for product in found]:
            slopes[..., index] = dense - _filled(cut, factors)
    fixed = dense - slopes @ torch.tensor(space.widths, dtype=torch.float64)
    return torch.cat([slopes, fixed.unsqueeze(-1)], -1)


def _filled(found: Sequence[Product], factors: int) -> Tensor:
    """Return float64[products, factors]: the sizes, filled up with ones."""
    return torch.tensor(
        [[*product.sizes, *(factors - len(product.sizes)) * [1]] for product in found], dtype=torch.float64
    ).view(-1, factors)


def _changed(
    space: PruningSpace, network: nn.Module, found: Sequence[Product], find: FindProducts
) -> dict[int, list[Product]]:
    """Return the products without the last channel of a free group, by the index of the group, for groups that make a difference.

    All groups are tried at once, which is enough for most networks, and then half by half.
    """
    ends = list(accumulate(space.widths))
    changed: dict[int, list[Product]] = {}

    def search(indices: Sequence[int]) -> None:
        state = space.full_state()
        state[[ends[index] - 1 for index in indices]] = False
        without = find(remove_channels(network, state, space))
        if without != found and len(indices) == 1:
            changed[indices[0]] = without
        elif without != found:
            search(indices[: len(indices) // 2])
            search(indices[len(indices) // 2 :])

    indices = [index for index, width in enumerate(space.widths) if width > 1]
    if found and indices:
        search(indices)
    return changed
