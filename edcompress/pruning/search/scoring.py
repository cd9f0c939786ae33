"""Energies of many states on one batch, under the present weights of the network."""

from __future__ import annotations

import torch
from torch import Tensor

from edcompress.core.recipe.search import Energy
from edcompress.pruning.search.edropout import ENERGIES
from edcompress.pruning.surgery.sliced_forward import SlicedNetwork
from edcompress.training.batchnorm import batch_statistics
from edcompress.training.precision import Precision


@torch.no_grad()
def score_states(
    sliced: SlicedNetwork,
    states: Tensor,
    images: Tensor,
    labels: Tensor,
    precision: Precision,
    energy: Energy = "margin",
) -> Tensor:
    """Return the energy of each of states bool[S, D] on images [N, C, H, W], float32[S] on the CPU; equal states are scored once.

    Batch-norm layers use the statistics of the batch and keep their own; dropout is off.
    """
    unique, where = torch.unique(states, dim=0, return_inverse=True)
    with batch_statistics(sliced.network), precision.autocast():
        energies = [ENERGIES[energy](sliced.call(state, images), labels) for state in unique]
    return torch.stack(energies).float().cpu()[where]
