"""Gate limit beside a baseline: by what share pruned.onnx is larger."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edcompress.core.recipe.limit_field import NonNegative
from edcompress.report.gate.figures import Figure
from edcompress.report.gate.limit import RegressionLimit
from edcompress.report.gate.regressions import growth, of_both
from edcompress.report.render.formatting import percentage

if TYPE_CHECKING:
    from edcompress.core.results.report import Report


def figure(report: Report, baseline: Report) -> Figure:
    """Return by what share pruned.onnx is larger than the baseline's."""
    return growth(*of_both(report, baseline, lambda one: one.pruned.size.onnx_bytes, "ONNX file"))


LIMIT = RegressionLimit(
    order=130,
    kind=NonNegative,
    default=0.05,
    description="gate --baseline: by what share pruned.onnx may be larger than the baseline's",
    label="size regression",
    text=percentage,
    figure=figure,
)
