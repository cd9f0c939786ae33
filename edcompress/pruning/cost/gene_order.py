"""The order of the genes within their groups, by priority."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from edcompress.core.errors import BudgetError

_MOST_PRIORITY_BITS, _FEWEST_GENE_BITS, _KEY_BITS = 30, 20, 63


class KeyBits(NamedTuple):
    """Bits of an int64 key for the priority and the number of a gene; the others are for its group."""

    priority: int
    gene: int


def key_bits(genes: int, groups: int, widest: int) -> KeyBits:
    """Return how a key is divided for so many genes in so many groups, the `widest` of which has so many channels.

    Raises:
        BudgetError: the bits left for the priority could not tell the channels of the widest group apart.
    """
    gene = max(_FEWEST_GENE_BITS, genes.bit_length())
    priority = min(_MOST_PRIORITY_BITS, _KEY_BITS - gene - groups.bit_length())
    if priority < widest.bit_length():
        raise BudgetError(
            f"{genes} channels in {groups} groups, up to {widest} in one, are too many to rank; lock some with constraints.ignore"
        )
    return KeyBits(priority, gene)


class GeneOrder:
    """Sorts the genes of every group; built once for a space, from the group of each gene, int64[D], and the widths int[G]."""

    def __init__(self, group: Tensor, widths: tuple[int, ...]) -> None:
        self._bits = key_bits(len(group), len(widths), max(widths, default=0))
        self._gene = torch.arange(len(group))
        self._group = group

    def by_priority(self, priority: Tensor) -> Tensor:
        """Return the genes int64[S, D] group by group, those of the highest priority [S, D] in [0, 1) first, equal ones in order.

        Group, priority and gene are packed into one key: numpy sorts whole numbers ten times faster than torch sorts by each in turn.
        """
        highest = (1 << self._bits.priority) - 1
        behind = ((1 - priority.to(torch.float64).clamp(0, 1 - 1e-9)) * highest).long()
        keys = (((self._group << self._bits.priority) + behind) << self._bits.gene) + self._gene
        return torch.from_numpy(np.sort(keys.numpy(), axis=-1)) & ((1 << self._bits.gene) - 1)
