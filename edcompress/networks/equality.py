"""Proof that two networks give the same logits."""

from __future__ import annotations

import torch
from torch import Tensor

from edcompress.core.errors import ProofError
from edcompress.core.results.measures import TOLERANCE, Proof


def compare_logits(reference: Tensor, other: Tensor, of: str) -> Proof:
    """Compare two logits tensors [N, classes].

    Args:
        reference: The logits whose largest magnitude is the scale.
        other: The logits to compare with them.
        of: What is compared, for messages and the report.

    Raises:
        ProofError: The reference holds NaN or infinity.
    """
    if not torch.isfinite(reference).all():
        raise ProofError(
            f"{of}: the logits hold NaN or infinity; the weights are broken or the learning rate is too high"
        )
    difference = (reference - other).abs().max().item()
    return Proof(max_abs_diff=difference, scale=reference.abs().max().item(), of=of)


def require_equal(proof: Proof, tolerance: float = TOLERANCE) -> Proof:
    """Return the proof itself; ProofError where its difference exceeds the tolerance, which is relative to the scale."""
    if not proof.relative <= tolerance:
        raise ProofError(
            f"{proof.of}: largest logit difference {proof.max_abs_diff:.3g} at scale {proof.scale:.3g} is above {tolerance:g} relative"
        )
    return proof
