"""Gate limit: dense minus pruned value of the recipe's metric."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edcompress.core.recipe.limit_field import NonNegative
from edcompress.report.gate.figures import Figure, metric_drop
from edcompress.report.gate.limit import RunLimit
from edcompress.report.render.formatting import percentage_points

if TYPE_CHECKING:
    from edcompress.core.recipe.gate import Gate
    from edcompress.core.results.report import Report


def figure(report: Report, gate: Gate) -> Figure:
    """Return dense minus pruned value of the metric of the ONNX files."""
    return metric_drop(report, gate.level)


LIMIT = RunLimit(
    order=15,
    kind=NonNegative,
    description="dense minus pruned value of the recipe's metric, absolute (0.01 is one point of a share)",
    label="drop",
    text=percentage_points,
    figure=figure,
)
