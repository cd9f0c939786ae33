"""Proof that two networks give the same outputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from edcompress.core.errors import ProofError
from edcompress.core.results.measures import TOLERANCE, Proof
from edcompress.networks.outputs import named_outputs


def compare_logits(reference: Any, other: Any, of: str) -> Proof:
    """Compare what two networks return, output by output, and return the proof of the output that differs most for its scale.

    Args:
        reference: A tensor, or several (see `named_outputs`), whose largest magnitude is the scale.
        other: The same of the other network.
        of: What is compared, for messages and the report.

    Raises:
        ProofError: The reference holds NaN or infinity, or one of them has other outputs.
    """
    if isinstance(reference, Tensor) and isinstance(other, Tensor):
        return _compare(reference, other, of)
    ours, theirs = named_outputs(reference), named_outputs(other)
    if list(ours) != list(theirs):
        raise ProofError(f"{of}: one gives {', '.join(ours)}, the other {', '.join(theirs)}")
    several = len(ours) > 1
    proofs = [_compare(ours[name], theirs[name], f"{name}, {of}" if several else of) for name in ours]
    worst = max(proofs, key=lambda proof: proof.relative if proof.relative == proof.relative else float("inf"))
    return worst.model_copy(update={"of": f"{of} ({len(proofs)} outputs)"}) if several else worst


def _compare(reference: Tensor, other: Tensor, of: str) -> Proof:
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
