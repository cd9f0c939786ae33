"""Surgery: a plan turns a network into a smaller one; and the proof that two networks are equal."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from edcompress.errors import NetworkError, ProofError
from edcompress.results import Proof
from edcompress.surgery.depgraph import prune_channels
from edcompress.surgery.plan import Plan

TOLERANCE = 1e-4
"""Largest difference of two proved models' logits, relative to the logits' largest magnitude."""


def remove(network: nn.Module, plan: Plan, example: Tensor) -> nn.Module:
    """A copy of `network` without the channels that the plan drops; `example` [N, C, H, W] is used for tracing.

    Raises NetworkError where the plan was made for another network.
    """
    layers = dict(network.named_modules())
    for group in plan.groups:
        width = getattr(layers.get(group.name), "out_channels", getattr(layers.get(group.name), "out_features", None))
        if width != group.channels:
            raise NetworkError(f"the plan has {group.name} with {group.channels} channels, the network has {width}")
    smaller = copy.deepcopy(network)
    prune_channels(smaller, example, {group.name: group.dropped for group in plan.groups})
    return smaller


def compare_logits(reference: Tensor, other: Tensor, of: str) -> Proof:
    """The largest absolute difference of two logits tensors [N, classes], and the scale of the first."""
    if not torch.isfinite(reference).all():
        raise ProofError(
            f"{of}: the logits hold NaN or infinity; the weights are broken or the learning rate is too high"
        )
    difference = (reference - other).abs().max().item()
    return Proof(max_abs_diff=difference, scale=reference.abs().max().item(), of=of)


def require_equal(proof: Proof) -> Proof:
    """The proof itself, when it is within TOLERANCE; raises ProofError otherwise."""
    if not proof.relative <= TOLERANCE:
        raise ProofError(
            f"{proof.of}: largest logit difference {proof.max_abs_diff:.3g} at scale {proof.scale:.3g} is above {TOLERANCE:g} relative"
        )
    return proof
