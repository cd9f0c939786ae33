"""Energies of many states on one batch, under the present weights of the network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from edcompress.core.recipe.search import Energy
from edcompress.networks.outputs import logits_of
from edcompress.pruning.search.edropout import ENERGIES
from edcompress.pruning.surgery.sliced_forward import SlicedNetwork
from edcompress.training.batchnorm import batch_statistics
from edcompress.training.objective import Criterion
from edcompress.training.precision import Precision

EnergyFunction = Callable[[Any, Tensor], Tensor]
"""Maps what the network returns and labels to an energy, a scalar; lower is better."""


def energy_of(name: Energy, criterion: Criterion | None) -> EnergyFunction:
    """Return the energy that `search.energy` names; where images do not have one class each it is the loss, whatever the name."""
    if criterion is None:
        return ENERGIES[name]
    if not criterion.one_label or (name == "cross_entropy" and not criterion.plain):
        return lambda output, labels: _finite_loss(criterion(output, labels))
    return lambda output, labels: ENERGIES[name](logits_of(output, criterion.output), labels)


def _finite_loss(loss: Tensor) -> Tensor:
    """Return a loss as an energy: +inf where it is not finite."""
    return loss.masked_fill(~loss.isfinite(), torch.inf)


@torch.no_grad()
def score_states(
    sliced: SlicedNetwork,
    states: Tensor,
    images: Tensor,
    labels: Tensor,
    precision: Precision,
    energy: Energy | EnergyFunction = "margin",
) -> Tensor:
    """Return the energy of each of states bool[S, D] on images [N, C, H, W], float32[S] on the CPU; equal states are scored once.

    Batch-norm layers use the statistics of the batch and keep their own; dropout is off.
    """
    measure = energy if callable(energy) else ENERGIES[energy]
    unique, where = torch.unique(states, dim=0, return_inverse=True)
    with batch_statistics(sliced.network), precision.autocast():
        energies = [measure(sliced.call(state, images), labels) for state in unique]
    return torch.stack(energies).float().cpu()[where]
