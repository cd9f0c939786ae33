"""Surgery: a plan turns a network into a smaller one; and the proof that two networks are equal."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from edcompress.errors import NetworkError, ProofError
from edcompress.measures import TOLERANCE, Proof
from edcompress.surgery.cut import cut_side
from edcompress.surgery.genes import padded, side_index
from edcompress.surgery.layers import layer_width
from edcompress.surgery.plan import Plan, state_of
from edcompress.surgery.space import Space


def remove(network: nn.Module, plan: Plan, space: Space) -> nn.Module:
    """A copy of `network`, whose space this is, without the channels that the plan drops.

    Raises NetworkError where the plan or the space was made for another network.
    """
    smaller = copy.deepcopy(network)
    _require_fits(smaller, space)
    keep = padded(state_of(plan, space))
    for (name, dim), genes in side_index(space, smaller).items():
        if not keep[genes].all():
            cut_side(smaller.get_submodule(name), dim, keep[genes])
    return smaller


def _require_fits(network: nn.Module, space: Space) -> None:
    layers = dict(network.named_modules())
    for group in space.free:
        for member in group.members:
            width = layer_width(layers.get(member.layer, nn.Identity()), member.side)
            if max(member.positions) >= width:
                raise NetworkError(
                    f"the pruning space was made for another network: it needs {max(member.positions) + 1} {member.side}put "
                    f"channels of {member.layer}, here are {width}"
                )


def compare_logits(reference: Tensor, other: Tensor, of: str) -> Proof:
    """The largest absolute difference of two logits tensors [N, classes], and the scale of the first."""
    if not torch.isfinite(reference).all():
        raise ProofError(
            f"{of}: the logits hold NaN or infinity; the weights are broken or the learning rate is too high"
        )
    difference = (reference - other).abs().max().item()
    return Proof(max_abs_diff=difference, scale=reference.abs().max().item(), of=of)


def require_equal(proof: Proof, tolerance: float = TOLERANCE) -> Proof:
    """The proof itself, when it is within the relative tolerance; raises ProofError otherwise."""
    if not proof.relative <= tolerance:
        raise ProofError(
            f"{proof.of}: largest logit difference {proof.max_abs_diff:.3g} at scale {proof.scale:.3g} is above {tolerance:g} relative"
        )
    return proof
