"""Gate limit: largest logit difference of pruned.onnx and PyTorch, relative to the scale of the logits."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from edcompress.core.recipe.limit_field import Positive
from edcompress.core.results.measures import TOLERANCE
from edcompress.report.gate.figures import Figure, finite_decimal, measured
from edcompress.report.gate.limit import RunLimit
from edcompress.report.render.formatting import tiny

if TYPE_CHECKING:
    from edcompress.core.recipe.gate import Gate
    from edcompress.core.results.report import Report


def figure(report: Report, _: Gate) -> Figure:
    """Return the largest logit difference of pruned.onnx and PyTorch, relative to their scale."""
    proof = measured(report.proof.pruned_vs_onnx, "ONNX file")
    return Figure(finite_decimal(proof.relative) if math.isfinite(proof.scale) else None)


LIMIT = RunLimit(
    order=100,
    kind=Positive,
    default=TOLERANCE,
    description="largest logit difference of ONNX and PyTorch, relative to their scale",
    label="parity",
    text=tiny,
    figure=figure,
    of_variants=False,  # fp16 and int8 files do not equal the PyTorch network
)
